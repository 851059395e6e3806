// @ts-check
// The card of a module of a layer: where it acts, what it does here and over the run, and the answer without it.

import { diverging, keepDrawn } from "../../display/static/kit/colors.js";
import { make, note } from "../../display/static/kit/elements.js";
import { follow, rebuilt } from "../../display/static/kit/model.js";
import { largest, rounded } from "../../display/static/kit/numbers.js";
import { patchImage } from "../../display/static/kit/patch_image.js";
import { pictureOf } from "../../display/static/kit/picture.js";
import { moduleNumbers } from "./module_numbers.js";

/** @import { Box } from "../../display/static/kit/boxes.js" */
/** @import { Given, Model } from "../../display/static/kit/model.js" */
/** @import { ModuleNumbers } from "./module_numbers.js" */

/**
 * @typedef {{example: string, title: string, block: string, label: string, say?: string, at: string[],
 *   patches: (number | null)[], words: [string, number | null][], boxes: Box[]}} ModuleState
 * say: why there is nothing to show; at: the tokens that are patched, none: all; patches, words: effects of one position
 */

/** @typedef {{state: ModuleState, picture: DataView<ArrayBuffer>, numbers: ModuleNumbers}} ModuleTraits */

/** How many words have a bar. */
const MOST_WORDS = 8;

/** Effects of the strongest words, as bars. @param {HTMLElement} el @param {ModuleState["words"]} words
 * @param {number} most */
function wordBars(el, words, most) {
  const size = (/** @type {[string, number | null]} */ one) => Math.abs(one[1] ?? 0);
  const strongest = words.filter(([, value]) => value !== null).sort((a, b) => size(b) - size(a));
  const table = make("table", "", el);
  for (const [token, value] of strongest.slice(0, MOST_WORDS)) {
    const row = make("tr", "", table);
    make("td", "", row, token);
    const cell = make("td", "", row), bar = make("span", "vt-share", cell);
    cell.style.width = "100px";
    bar.style.width = `${((92 * Math.abs(value ?? 0)) / most).toFixed(1)}px`;
    bar.style.background = diverging(Math.sign(value ?? 0));
    make("td", "vt-value", row, rounded(value));
  }
}

/** @param {Model<ModuleTraits>} model @param {HTMLElement} el @returns {(() => void)[]} */
function build(model, el) {
  const state = model.get("state");
  /** @type {(() => void)[]} */
  const draws = [];
  if (state.say) {
    make("div", "vt-note", el, state.say);
    el.dataset.drawn = "none";
    return [];
  }
  make("h4", "", el, `${state.title}, ${state.block}`).style.fontSize = "15px";
  const holder = make("div", "", el), all = [...state.patches, ...state.words.map(([, value]) => value)];
  const most = largest(all, 0.01);
  if (all.length) make("h4", "", el, `Where it acts: one position at a time (colors ±${most.toFixed(2)})`);
  if (state.patches.length) {
    const image = patchImage(el, el, {
      side: 190, boxes: state.boxes, label: "effects of the module at patches",
      color: (i) => diverging((state.patches[i] ?? 0) / most),
      tell: (i) => `patch ${i}: effect ${rounded(state.patches[i])}`, hover: () => {},
    });
    pictureOf(model.get("picture")).then(image.show);
    draws.push(image.draw);
  }
  wordBars(el, state.words, most);
  const paint = () => {
    const found = model.get("numbers");
    moduleNumbers(holder, found, state.at, (message) => model.send(message));
    note(el, {
      module: state.label, denoising: found.effects ? found.effects.denoising : "",
      knockedOut: found.knockedOut ? found.knockedOut.after : "", computed: Boolean(found.effects || found.hereRefused),
    });
  };
  paint();
  el.dataset.drawn = state.example;
  return [follow(model, ["numbers"], paint), keepDrawn(el, () => draws.forEach((draw) => draw()))];
}

/** @param {Given<ModuleTraits>} given */
const render = ({ model, el }) => rebuilt(model, el, "title", build);
export default { render };
