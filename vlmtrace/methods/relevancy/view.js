// @ts-check
// What each token of the answer came from: patches of the image, words of the prompt, and one against the other.

import { HEAT_SCALE, heat, keepDrawn } from "../../display/static/kit/colors.js";
import { check, choice, make, named, note } from "../../display/static/kit/elements.js";
import { follow, rebuilt, save } from "../../display/static/kit/model.js";
import { largest } from "../../display/static/kit/numbers.js";
import { patchImage } from "../../display/static/kit/patch_image.js";
import { pictureOf } from "../../display/static/kit/picture.js";
import { tokenStrip } from "../../display/static/kit/tokens.js";
import { curveSentence, deletionCurve } from "./deletion.js";
import { byWord, shareTable, three, wordTable } from "./words.js";

/** @import { Box } from "../../display/static/kit/boxes.js" */
/** @import { Given, Model } from "../../display/static/kit/model.js" */
/** @import { DeletionCurve } from "./deletion.js" */
/** @import { Shares } from "./words.js" */

/**
 * @typedef {{example: string, ways: Record<string, string>, maps: Record<string, number[][]>, boxes: Record<string, Box[]>,
 *   answer: string[], prompt: (number | undefined)[][], tokens: string[], wordOf: number[], wordNames: string[],
 *   shares: Shares[], refused: string}} RelevancyState
 * maps: by way and token of the answer, of patches; prompt: by token of the answer, of the prompt's tokens
 */

/**
 * @typedef {{state: RelevancyState, picture: DataView<ArrayBuffer>, step: number, way: string, words: boolean,
 *   curve: DeletionCurve}} RelevancyTraits
 */

/** @param {Model<RelevancyTraits>} model @param {HTMLElement} root */
function build(model, root) {
  const state = model.get("state");
  /** @type {{step: number | null, patch: number | null}} */
  const hovered = { step: null, patch: null };
  const step = () => hovered.step ?? model.get("step");
  const way = () => (state.ways[model.get("way")] ? model.get("way") : "image");
  const map = () => state.maps[way()][step()];

  const headline = make("div", "vt-answer", root);
  headline.style.fontSize = "14px";
  headline.style.minHeight = "2.8em";
  headline.setAttribute("role", "status");
  make("h4", "", root, "1 · Token of the answer: hover or click");
  const answer = tokenStrip(root, root, {
    label: "tokens of the answer",
    tokens: state.answer.map((text, i) => ({ text, role: "", title: `token ${i} of the answer` })),
    chosen: (i) => i === model.get("step"), share: () => null, pick: (i) => save(model, { step: i }),
    hover: (i) => {
      hovered.step = i;
      draw();
    },
  });
  const columns = make("div", "vt-columns", root);
  const left = make("div", "", columns), middle = make("div", "", columns), right = make("div", "", columns);
  make("h4", "", left, "2 · Patches");
  const ways = Object.entries(state.ways), controls = make("div", "vt-controls", left);
  const through = named(choice(controls, "through ", ways, way(), (name) => save(model, { way: name })), "way");
  const holder = make("div", "", left), below = make("div", "vt-controls", left);
  make("span", "vt-scale", below).style.background = HEAT_SCALE;
  const top = make("span", "vt-label", below);
  if (state.refused) make("div", "vt-note", left, state.refused);

  make("h4", "", middle, "3 · Does the first answer token need them?");
  const tested = make("div", "vt-numbers vt-two");
  const curve = deletionCurve(root, middle, (text) => {
    tested.textContent = text;
  });
  middle.append(tested);
  const key = "strong line: most relevant first; gray: random orders, mean and 95 % of them";
  tested.style.width = make("div", "vt-label", middle, key).style.width = "300px";
  const drawCurve = () => {
    const given = model.get("curve");
    headline.textContent = curveSentence(given);
    curve.show(given);
    note(root, {
      curve: JSON.stringify((given.points ?? []).map((point) => point.logit_diff)), half: given.half?.[1] ?? "",
    });
  };

  make("h4", "", right, "4 · Words of the prompt");
  const joins = make("div", "vt-controls", right);
  check(joins, "join sub-tokens to words", model.get("words"), (words) => save(model, { words }));
  const table = make("table", "", right);
  make("h4", "", right, "Relevance of image against text");
  const careful = "shares of relevance; how much the answer needs the image is what the curve shows";
  make("div", "vt-label", right, careful).style.width = "300px";
  shareTable(right, state.shares, state.answer);
  const numbers = make("div", "vt-numbers", root);
  numbers.setAttribute("role", "status");

  const ready = pictureOf(model.get("picture"));
  /** The image with the patches of one way: another way has other patches. @param {string} name */
  function imageOf(name) {
    holder.replaceChildren();
    const made = patchImage(root, holder, {
      side: 300, boxes: state.boxes[name], label: "relevance of patches",
      color: (i) => heat(map()[i] / largest(map(), 1e-12)), tell: (i) => `patch ${i}: relevance ${three(map()[i])}`,
      hover: (i) => {
        hovered.patch = i;
        tell();
      },
    });
    ready.then(made.show);
    return { name, made };
  }
  /** @type {ReturnType<typeof imageOf> | null} */
  let image = null;

  function draw() {
    if (image?.name !== way()) image = imageOf(way());
    through.value = way();
    top.textContent = `0 … ${three(Math.max(...map()))} per patch`;
    const values = state.prompt[step()];
    /** @type {[string, number][]} */
    const single = state.tokens.map((text, i) => [text, values[i] || 0]);
    wordTable(table, model.get("words") ? byWord(values, state.wordOf, state.wordNames) : single);
    answer.draw();
    image.made.draw();
    curve.draw();
    tell();
  }

  function tell() {
    const share = state.shares[step()], total = map().reduce((sum, value) => sum + (value || 0), 0), { patch } = hovered;
    const ofImage = `relevance of the image ${three(total)} through ${state.ways[way()]}`;
    const said = `${state.answer[step()]}: ${ofImage}, of the prompt ${three(share.prompt)}`;
    numbers.textContent = patch === null ? said : `${said}; patch ${patch}: ${three(map()[patch])}`;
    note(root, {
      step: step(), way: way(), image: total.toPrecision(6), prompt: share.prompt.toPrecision(6),
      imageShare: share.image_share,
    });
  }
  drawCurve();
  ready.then(() => {
    draw();
    root.dataset.drawn = state.example;
  });
  const stops = [follow(model, ["step", "way", "words"], draw), follow(model, ["curve"], drawCurve)];
  return [...stops, keepDrawn(root, () => image && draw())];
}

/** @param {Given<RelevancyTraits>} given */
const render = ({ model, el }) => rebuilt(model, el, "answer", build);
export default { render };
