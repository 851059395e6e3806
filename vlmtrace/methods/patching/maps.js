// @ts-check
// Effect maps to click on: single heads, whole modules at a token, patches of the image.

import { diverging } from "../../display/static/kit/colors.js";
import { button, make, named } from "../../display/static/kit/elements.js";
import { heatMap } from "../../display/static/kit/heat_map.js";
import { largest, roundLimit, signed } from "../../display/static/kit/numbers.js";
import { patchImage } from "../../display/static/kit/patch_image.js";
import { tokenStrip } from "../../display/static/kit/tokens.js";
import { isPatched, strongestLeft } from "./state.js";

/** @import { Patch, PatchState, Send } from "./state.js" */

/**
 * What each map needs besides the state.
 * @typedef {{root: HTMLElement, parent: HTMLElement, state: PatchState, here: Patch[], send: Send,
 *   tell: (text: string) => void}} MapOptions
 * here: patches of the module that is shown
 */

/** @param {(number | null)[][]} rows @returns {number} where the colors of a map end */
export function limitOf(rows) {
  const most = largest(rows.flat());
  return roundLimit(most, [0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 3, 5, 10], most);
}

/** @param {PatchState} state @returns {PatchState["tokens"]} that are words */
export function wordsOf({ tokens, inImage }) {
  return tokens.filter((token) => !inImage.includes(token.position));
}

/** Said of effects that too many patches would have to be run for; what is clicked is patched exactly.
 * @param {boolean} estimated @returns {string} */
const guess = (estimated) => estimated ? " (estimated from a gradient)" : "";

/** @param {MapOptions & {effects: (number | null)[][]}} options @returns {() => void} what draws it */
export function headsMap({ root, parent, state, here, send, tell, effects }) {
  const limit = limitOf(effects), words = wordsOf(state), part = make("div", "", parent);
  part.style.maxWidth = "310px";
  make("h4", "", part, `Single heads${guess(state.estimated.heads)}: click one (colors ±${limit})`);
  const where = state.positions.length ? state.positions : null;
  const at = where ? `at ${where.map((i) => state.tokens[i].token).join(", ")}` : "at all positions";
  /** @param {number} layer @param {number} head */
  const patched = (layer, head) => isPatched(here, layer, where, [head]);
  /** @param {number} layer @param {number} head */
  const said = (layer, head) =>
    `head ${layer}.${head} ${at}: effect${guess(state.estimated.heads)} ${signed(effects[layer][head])}`;
  /** @param {number} layer @param {number} head */
  const toggle = (layer, head) =>
    send({ do: "toggle", layer, heads: [head], positions: where, activity: `head ${layer}.${head}` });
  const map = heatMap(root, part, {
    rows: state.layers, columns: state.heads, width: 300, label: "heads", color: (value) => diverging(value / limit),
    value: (layer, head) => effects[layer][head], marked: patched, tell: said,
    hover: (cell) => tell(cell ? said(...cell) : ""), pick: toggle,
  });
  const [best] = strongestLeft(effects, patched);
  const text = best ? `patch the strongest too: ${best.layer}.${best.head}` : "no head left";
  named(button(part, text, () => toggle(best.layer, best.head)), "strongest").disabled = !best;
  make("div", "vt-label", part, `patched ${at}; or only at:`);
  const strip = tokenStrip(root, part, {
    label: "positions of heads",
    tokens: words.map(({ token, position }) => ({ text: token, role: "", title: `position ${position}` })),
    chosen: (i) => state.positions.includes(words[i].position), share: () => null, hover: () => {},
    pick: (i) => {
      const { position } = words[i], kept = state.positions.filter((other) => other !== position);
      const positions = kept.length < state.positions.length ? kept : [...kept, position];
      send({ do: "at", positions, activity: "effects of heads" });
    },
  });
  return () => {
    map.draw();
    strip.draw();
  };
}

/** @param {MapOptions} options @returns {() => void} what draws it */
export function tokensMap({ root, parent, state, here, send, tell }) {
  const { effects } = state, limit = limitOf(effects), words = wordsOf(state), part = make("div", "", parent);
  make("h4", "", part, `Whole module at a token (colors ±${limit})`);
  /** @param {number} layer @param {number} column */
  const effect = (layer, column) => effects[layer][words[column].position];
  /** @param {number} layer @param {number} column */
  const name = (layer, column) => `layer ${layer} at ${words[column].token}`;
  /** @param {number} layer @param {number} column */
  const said = (layer, column) => `${name(layer, column)}: effect ${signed(effect(layer, column))}`;
  return heatMap(root, part, {
    rows: state.layers, columns: words.length, labels: words.map((token) => token.token), width: 300, label: "tokens",
    color: (value) => diverging(value / limit), value: effect,
    marked: (layer, column) => isPatched(here, layer, [words[column].position], null), tell: said,
    hover: (cell) => tell(cell ? said(...cell) : ""),
    pick: (layer, column) => {
      const positions = [words[column].position];
      send({ do: "toggle", layer, heads: null, positions, activity: name(layer, column) });
    },
  }).draw;
}

/** @param {MapOptions & {layer: number, show: (layer: number) => void}} options layer: the one that is shown first
 * @returns {{draw: () => void, show: (picture: HTMLImageElement) => void}} */
export function imageMap({ root, parent, state, here, send, tell, layer, show }) {
  const { effects, inImage } = state, limit = limitOf(effects), part = make("div", "", parent);
  const title = make("h4", "", part);
  /** @param {number} i */
  const said = (i) =>
    `patch ${i}, layer ${layer}: effect${guess(state.estimated.tokens)} ${signed(effects[layer][inImage[i]])}`;
  const image = patchImage(root, part, {
    side: 200, boxes: state.boxes, label: "image", grid: () => true, tell: said,
    color: (i) => {
      const value = effects[layer][inImage[i]];
      return value === null ? "rgba(0,0,0,0)" : diverging(value / limit);
    },
    hover: (i) => tell(i === null ? "" : said(i)),
    change: (selected) => {
      act.disabled = !selected.size;
    },
  });
  const below = make("div", "vt-controls", part);
  const slider = named(make("input", "", make("label", "", below, "layer ")), "layer");
  Object.assign(slider, { type: "range", min: 0, max: state.layers - 1, value: layer });
  slider.style.width = "90px";
  const act = button(below, "patch these", () => {
    const positions = [...image.selected].sort((a, b) => a - b).map((i) => inImage[i]);
    send({ do: "toggle", layer, heads: null, positions, activity: "patches of the image" });
  });
  act.disabled = true;
  function draw() {
    title.textContent = `Image patches, layer ${layer}${guess(state.estimated.tokens)}: drag (colors ±${limit})`;
    const found = here.find((patch) => patch.layer === layer && patch.heads === null && isOfImage(patch.positions));
    if (found && !image.selected.size) {
      image.selected = new Set((found.positions ?? []).map((position) => inImage.indexOf(position)));
    }
    image.draw();
  }
  /** @param {number[] | null} positions */
  const isOfImage = (positions) => Boolean(positions?.length) && (positions ?? []).every((p) => inImage.includes(p));
  slider.addEventListener("input", () => {
    layer = Number(slider.value);
    show(layer);
    image.selected = new Set();
    draw();
  });
  return { draw, show: image.show };
}
