// @ts-check
// Where each head looks: tokens, the image, a map of heads, a gallery of all. A click chooses, a hover shows.

import { HEAT_SCALE, heat, keepDrawn } from "../../display/static/kit/colors.js";
import { button, check, choice, make, named, note } from "../../display/static/kit/elements.js";
import { heatMap } from "../../display/static/kit/heat_map.js";
import { follow, rebuilt, save } from "../../display/static/kit/model.js";
import { mean, percent, range, roundLimit } from "../../display/static/kit/numbers.js";
import { patchImage } from "../../display/static/kit/patch_image.js";
import { pictureOf } from "../../display/static/kit/picture.js";
import { tokenStrip } from "../../display/static/kit/tokens.js";
import { answerReads } from "./answer_reads.js";
import { glance } from "./glance.js";
import { matrixOf } from "./matrix.js";
import { Weights } from "./weights.js";

/** @import { Cell } from "../../display/static/kit/heat_map.js" */
/** @import { Given, Model } from "../../display/static/kit/model.js" */
/** @import { AttentionTraits } from "./weights.js" */

/** Limits of the map of heads. */
const CEILINGS = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8];

/** @param {number[]} list */
const ordered = (list) => [...list].sort((a, b) => a - b);

/** @param {Model<AttentionTraits>} model @param {HTMLElement} root */
function build(model, root) {
  const state = model.get("state"), { layers, heads, queries, patches, boxes, places } = state, n = queries.length;
  const weights = new Weights(state, model.get("weights")), { texts, allPatches } = weights;
  /** @type {{query: number | null, head: Cell | null, patch: number | null}} */
  const hovered = { query: null, head: null, patch: null };
  const seenQueries = () => (hovered.query !== null ? [hovered.query] : model.get("queries"));
  /** @returns {Cell} */
  const seenHead = () => hovered.head ?? [model.get("layer"), model.get("head")];
  // Where patches are chosen, heads are colored and ordered by attention to them.
  const reverse = () => model.get("patches").length > 0;
  const watched = () => (reverse() ? model.get("patches") : allPatches);
  /** @param {number} layer @param {number} head @param {number[]} from */
  const score = (layer, head, from) =>
    !reverse() && model.get("measure") === "peak"
      ? weights.peak(layer, head, from)
      : weights.share(layer, head, from, watched());
  /** @param {number} layer @param {number} head */
  const select = (layer, head) => {
    save(model, { layer, head });
    model.send({ do: "select", place: `${state.place}.${layer}.${head}` });
  };
  let limit = 1, ceiling = 1, most = 1;

  const whose = make("div", "vt-controls", root);
  named(choice(whose, "attention of ", places, state.place, (place) => model.send({ do: "place", place })), "place");
  make("h4", "", root, "1 · Token that looks: hover or click (Shift adds more)");
  const tokens = tokenStrip(root, root, {
    label: "tokens that look", tokens: queries, chosen: (i) => model.get("queries").includes(i),
    share: (i) => (reverse() ? Math.min(1, weights.onPatches(...seenHead(), i, model.get("patches"))) : null),
    hover: (i) => {
      hovered.query = i;
      draw();
    },
    pick: (i, event) => {
      const kept = model.get("queries"), adds = event.shiftKey || event.ctrlKey || event.metaKey;
      const next = !adds ? [i] : kept.includes(i) ? kept.filter((q) => q !== i) : ordered([...kept, i]);
      if (next.length) save(model, { queries: next });
    },
  });
  const columns = make("div", "vt-columns", root);
  const left = make("div", "", columns), middle = make("div", "", columns);
  // All heads at a glance come next, then what there is for reading closely.
  const overview = make("div", "", root), details = make("div", "vt-columns", root), right = make("div", "", details);

  make("h4", "", left, "2 · Who looks where? Click or drag");
  const image = patchImage(root, left, {
    side: 248, boxes, label: "image", grid: () => model.get("grid"), selected: new Set(model.get("patches")),
    color: (i) => heat(mean(seenQueries(), (query) => weights.onPatch(...seenHead(), query, i)) / limit),
    tell: (i) => `patch ${i}`,
    hover: (i) => {
      hovered.patch = i;
      tell();
    },
    change: (set) => save(model, { patches: ordered([...set]) }),
  });
  const below = make("div", "vt-controls", left);
  left.style.maxWidth = "270px";
  check(below, "grid", model.get("grid"), (grid) => save(model, { grid }));
  for (const [name, list] of Object.entries(state.regions)) {
    button(below, name, () => save(model, { patches: list }), `choose all patches that show any of the ${name}`);
  }
  const clear = button(below, "clear", () => save(model, { patches: [] }));
  make("span", "vt-scale", below).style.background = HEAT_SCALE;
  const top = make("span", "vt-label", below);

  const mapTitle = make("h4", "", middle);
  /** @type {[string, string][]} */
  const measures = [["image", "attention to the image"], ["peak", "attention to the strongest patch"]];
  const by = choice(middle, "heads by ", measures, model.get("measure"), (measure) => save(model, { measure }));
  named(by, "measure");
  const map = heatMap(root, middle, {
    rows: layers, columns: heads, width: 300, label: "heads", color: (value, dark) => heat(value / ceiling, dark),
    value: (layer, head) => score(layer, head, seenQueries()),
    marked: (layer, head) => layer === model.get("layer") && head === model.get("head"),
    tell: (layer, head) => `head ${layer}.${head}: ${percent(score(layer, head, seenQueries()))}`,
    hover: hoverHead, pick: select,
  });
  middle.style.maxWidth = "330px"; // else a long line on hover would push the next column away
  const numbers = make("div", "vt-numbers vt-two", middle);
  numbers.setAttribute("role", "status");
  const list = make("div", "", middle);
  const reads = answerReads(root, right, state, model.get("matrices"), () => model.get("layer"));
  const matrix = matrixOf(root, details, {
    weights, head: seenHead, limit: () => most, chosen: () => model.get("queries"),
    tell: (text) => (text ? numbers.textContent = text : tell()), pick: (query) => save(model, { queries: [query] }),
  });

  make(
    "h4", "", overview, "3 · All heads at a glance, layers upwards (same colors everywhere; click a head for its card)",
  );
  /** @type {HTMLImageElement | null} */
  let picture = null;
  const all = glance(root, overview, {
    layers, heads, boxes, rows: n, columns: texts.length, width: 640,
    chosen: () => [model.get("layer"), model.get("head")],
    patch: (layer, head, i) => mean(model.get("queries"), (query) => weights.onPatch(layer, head, query, i)),
    cell: (layer, head, row, column) => weights.at(layer, head, row, texts[column]), tell: hoverHead, pick: select,
  });

  /** @param {Cell | null} cell */
  function hoverHead(cell) {
    hovered.head = cell;
    draw(false);
  }

  function tell() {
    const [layer, head] = seenHead(), from = seenQueries(), { patch } = hovered, chosen = model.get("patches");
    const names = `head ${layer}.${head} from ${from.map((i) => queries[i].text).join(" + ")}`;
    const onImage = weights.share(layer, head, from, allPatches);
    const said = [`${names}: ${patches.length ? `${percent(onImage)} on the image` : "it looks at words"}`];
    if (reverse()) {
      said.push(`${percent(weights.share(layer, head, from, chosen))} on the ${chosen.length} chosen patches`);
    }
    if (patch !== null) said.push(`patch ${patch}: ${percent(weights.share(layer, head, from, [patch]))}`);
    numbers.textContent = said.join("; ");
    note(root, {
      layer, head, queries: from.join(","), patches: chosen.join(","), imageAttention: onImage.toFixed(5),
      patchAttention: weights.share(layer, head, from, watched()).toFixed(5),
    });
  }

  function who() {
    list.replaceChildren();
    if (!reverse()) return;
    const found = weights.lookers(model.get("patches")).slice(0, 5);
    make("div", "vt-label", list, "who looks there most (click to go there):");
    const items = make("ol", "vt-list", list);
    for (const { value, layer, head, query } of found) {
      const said = `${queries[query].text} by ${layer}.${head}: ${percent(value)}`;
      button(make("li", "", items), said, () => save(model, { layer, head, queries: [query] }));
    }
    const strongest = found.map((one) => [one.layer, one.head, one.query, one.value.toFixed(4)].join("."));
    root.dataset.strongest = strongest.join(" ");
  }

  function draw(everything = true) {
    const layer = model.get("layer");
    if (everything) {
      // Limits of colors follow what is chosen, never what is hovered: one sees what is more and what is less.
      const from = model.get("queries"), largest = weights.limits(from);
      [limit, most] = [largest.patch, largest.word];
      const scores = range(layers * heads).map((i) => score(Math.floor(i / heads), i % heads, from));
      ceiling = roundLimit(Math.max(...scores), CEILINGS, 1);
    }
    top.textContent = patches.length ? `0 … ${percent(limit)} per patch` : "looks at words only";
    const title = reverse() ? "Heads: attention to the chosen patches" : "Heads";
    mapTitle.textContent = `${title} (colors 0 … ${percent(ceiling)})`;
    by.value = model.get("measure");
    if (by.parentElement) by.parentElement.hidden = reverse() || !patches.length;
    clear.disabled = !reverse();
    for (const part of [tokens, image, map, matrix]) part.draw();
    tell();
    if (!everything) return;
    all.draw(patches.length ? limit : most, picture);
    note(root, { limit: limit.toFixed(5), place: state.place, layer });
    reads.draw();
  }
  const paint = () => {
    // What comes from the kernel meanwhile must not undo what is being dragged.
    if (!image.isDragged()) image.selected = new Set(model.get("patches"));
    draw();
    who();
  };
  pictureOf(model.get("picture")).then((loaded) => {
    picture = loaded;
    image.show(loaded);
    reads.show(loaded);
    paint();
    root.dataset.drawn = model.get("state").example;
  });
  return [follow(model, ["layer", "head", "queries", "patches", "grid", "measure"], paint), keepDrawn(root, paint)];
}

/** @param {Given<AttentionTraits>} given */
const render = ({ model, el }) => rebuilt(model, el, "queries", build);
export default { render };
