// @ts-check
// The graph of one head's attention around the answer, where its patches lie, and what masking tokens does.

import { keepDrawn } from "../../display/static/kit/colors.js";
import { button, choice, make, named, note, shareBar } from "../../display/static/kit/elements.js";
import { follow, rebuilt, save } from "../../display/static/kit/model.js";
import { percent, range } from "../../display/static/kit/numbers.js";
import { patchImage } from "../../display/static/kit/patch_image.js";
import { pictureOf } from "../../display/static/kit/picture.js";
import { graphDrawing, nodeSentence } from "./graph.js";

/** @import { Box } from "../../display/static/kit/boxes.js" */
/** @import { Given, Model } from "../../display/static/kit/model.js" */
/** @import { CausalGraph } from "./graph.js" */

/**
 * @typedef {{waits?: boolean, graphs: Record<string, CausalGraph> | null, refused: Record<string, string>,
 *   sentence: string, masked: string[], becomes: string | null, after: number | null, probability: number,
 *   nearest: {tokens: string, probability: number} | null, randomMean: number | null, randomChanged: number,
 *   random: number, minimal: string[], tried: number}} Search
 * What the search for tokens to mask has found; nothing of it before it is asked for.
 */

/**
 * @typedef {Search & {example: string, boxes: Box[], answer: string[], step: number, layers: number, layer: number,
 *   alphas: number[], alpha: number, thresholds: number[], threshold: number, radii: number[],
 *   radius: number}} ExplanationState
 */

/** @typedef {{state: ExplanationState, picture: DataView<ArrayBuffer>, head: number}} ExplanationTraits */

/** @param {HTMLElement} root @param {ExplanationState} state @param {(message: Record<string, unknown>) => void} send */
function settings(root, state, send) {
  const controls = make("div", "vt-controls", root);
  /** @type {[string, string][]} */
  const answer = state.answer.map((text, i) => [String(i), text]);
  const choose = (/** @type {string} */ step) => send({ step: Number(step) });
  named(choice(controls, "answer token ", answer, String(state.step), choose), "step");
  /** @param {string} label @param {string} name @param {number[]} values @param {number} value */
  const slide = (label, name, values, value) => {
    const holder = make("label", "", controls, `${label} `), slider = named(make("input", "", holder), name);
    const shown = make("span", "", holder, ` ${value}`);
    Object.assign(slider, { type: "range", min: 0, max: values.length - 1, value: Math.max(0, values.indexOf(value)) });
    slider.style.width = "90px";
    slider.addEventListener("input", () => {
      shown.textContent = ` ${values[Number(slider.value)]}`;
    });
    slider.addEventListener("change", () => send({ [name]: values[Number(slider.value)] }));
  };
  slide("layer", "layer", range(state.layers), state.layer);
  slide("level α", "alpha", state.alphas, state.alpha);
  slide("attention ≥", "threshold", state.thresholds, state.threshold);
  slide("radius", "radius", state.radii, state.radius);
}

/** What masking does. @param {HTMLElement} parent @param {ExplanationState} state */
function masking(parent, state) {
  make("div", "vt-answer", parent, state.sentence);
  const table = make("table", "", parent), { nearest, after, randomMean, random } = state;
  /** @param {string} text @param {number} value @param {string} note */
  const line = (text, value, note) => {
    const row = make("tr", "", table);
    make("td", "", row, text);
    shareBar(row, 180, value);
    make("td", "vt-value", row, percent(value));
    make("td", "vt-role", row, note);
  };
  make("caption", "vt-label", table, `probability of ${state.answer[state.step]}`);
  line("nothing masked", state.probability, "");
  if (nearest) line(nearest.tokens, nearest.probability, "the nearest: masked, and the answer stays");
  if (after !== null) line(state.masked.join(", "), after, `masked: ${state.becomes}`);
  if (randomMean !== null) {
    const changed = `${state.randomChanged} of ${random} change the answer`;
    line(`as many others, mean of ${random} draws`, randomMean, changed);
  }
  if (state.minimal.length > 1) {
    const sets = state.minimal.join("; ");
    make("div", "vt-label", parent, `All sets of this size within reach that change the answer: ${sets}.`);
  }
  for (const [head, why] of Object.entries(state.refused)) {
    make("div", "vt-note", parent, `Head ${state.layer}.${head} has no graph: ${why}`);
  }
}

/** @param {Model<ExplanationTraits>} model @param {HTMLElement} root */
function build(model, root) {
  const state = model.get("state"), { graphs } = state;
  settings(root, state, (message) => model.send(message));
  const columns = make("div", "vt-columns", root);
  const left = make("div", "", columns), right = make("div", "vt-rest", columns);
  make("h4", "", left, "Tokens of the graph in the image");
  /** @type {number | null} */
  let hovered = null;
  const graph = () => (graphs ? graphs[model.get("head")] ?? Object.values(graphs)[0] ?? null : null);
  /** @param {number} cell of the image */
  const nodeOf = (cell) => {
    const found = graph()?.nodes.findIndex((node) => node.cell === cell) ?? -1;
    return found < 0 ? null : found;
  };
  /** @param {number | null} node */
  const hover = (node) => {
    hovered = node;
    mark();
  };
  /** @param {number} cell */
  const name = (cell) => {
    const node = graph()?.nodes.find((one) => one.cell === cell);
    return node ? nodeSentence(node) : `patch ${cell}: not in the graph`;
  };
  const image = patchImage(root, left, {
    side: 230, boxes: state.boxes, label: "tokens of the graph in the image", tell: name,
    hover: (cell) => hover(cell === null ? null : nodeOf(cell)),
  });
  left.style.maxWidth = "290px";
  const said = make("div", "vt-numbers vt-two", left);
  make("div", "vt-label", left, "white: in the graph; red in the graph: masked");

  const heads = make("div", "vt-controls", right);
  const buttons = Object.entries(graphs ?? {}).map(([head, { nodes, edges }]) => {
    const size = `${nodes.length} tokens, ${edges.length} edges`;
    const made = button(heads, `head ${state.layer}.${head}`, () => save(model, { head: Number(head) }), size);
    return { head: Number(head), made: named(made, `head ${head}`) };
  });
  const drawing = graphDrawing(root, right, { boxes: state.boxes, masked: new Set(state.masked), hover });
  const legend = make("div", "vt-label", right), result = make("div", "", root);
  if (state.waits) {
    const start = button(right, "compute the graphs and the search", () => {
      start.disabled = true;
      model.send({ do: "compute" });
    }, "takes some seconds");
    named(start, "compute");
    const hint = "Takes some seconds; nothing is computed until you ask, or change a setting.";
    make("div", "vt-label", right, hint);
  } else if (!graphs) make("div", "vt-label", right, "computing the graphs of all heads and the search …");
  else masking(result, state);

  function mark() {
    const nodes = graph()?.nodes ?? [];
    image.selected = new Set(nodes.flatMap((node) => (node.cell === null ? [] : [node.cell])));
    image.draw();
    said.textContent = hovered !== null && nodes[hovered] ? nodeSentence(nodes[hovered]) : "";
    drawing.mark(hovered);
  }

  /** @param {HTMLImageElement} picture */
  function draw(picture) {
    const shown = graph();
    for (const { head, made } of buttons) made.setAttribute("aria-pressed", String(head === model.get("head")));
    drawing.draw(shown, picture);
    mark();
    if (!shown) return;
    const { nodes, edges, tests, samples } = shown;
    const counted = `${nodes.length} tokens, ${edges.length} edges, ${tests} tests`;
    const ends = "Ends: arrow: effect; circle: either; both arrows: a common cause outside.";
    legend.textContent = `${counted} with ${samples} − (tokens given) − 3 degrees of freedom. ${ends}`;
    note(root, {
      head: model.get("head"), layer: state.layer, alpha: state.alpha, nodes: nodes.length, edges: edges.length,
      masked: state.masked.join(", "), becomes: state.becomes || "", sentence: state.sentence, tried: state.tried,
    });
  }
  const ready = pictureOf(model.get("picture"));
  ready.then((picture) => {
    image.show(picture);
    draw(picture);
    note(root, { drawn: state.example, computed: Boolean(graphs) });
  });
  const again = () => {
    ready.then(draw);
  };
  return [follow(model, ["head"], again), keepDrawn(root, again)];
}

/** @param {Given<ExplanationTraits>} given */
const render = ({ model, el }) => rebuilt(model, el, "boxes", build);
export default { render };
