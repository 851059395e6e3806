// @ts-check
// What the answer reads in one layer, the mean over its heads: from words, and from patches of the image.

import { heat } from "../../display/static/kit/colors.js";
import { make } from "../../display/static/kit/elements.js";
import { heatMap } from "../../display/static/kit/heat_map.js";
import { percent, range } from "../../display/static/kit/numbers.js";
import { patchImage } from "../../display/static/kit/patch_image.js";
import { copied } from "../../display/static/kit/picture.js";

/** @import { AttentionState } from "./weights.js" */

/** @param {HTMLElement} root of the view @param {HTMLElement} parent @param {AttentionState} state
 * @param {DataView} bytes layers × steps × words, then layers × steps × patches @param {() => number} layer
 * @returns {{draw: () => void, show: (picture: HTMLImageElement) => void}} */
export function answerReads(root, parent, state, bytes, layer) {
  const { steps, words, boxes, layers } = state, n = state.patches.length;
  if (!steps.length) {
    make("div", "vt-numbers", parent);
    return { draw: () => {}, show: () => {} };
  }
  const small = new Float32Array(copied(bytes)), offset = layers * steps.length * words.length;
  /** @param {number} step @param {number} word */
  const fromWord = (step, word) => small[(layer() * steps.length + step) * words.length + word];
  /** @param {number} step @param {number} i */
  const fromPatch = (step, i) => small[offset + (layer() * steps.length + step) * n + i];

  make("h4", "", parent, "What the answer reads in this layer (mean over heads)");
  const whole = `answer: ${steps.join(" ")}`;
  const map = heatMap(root, parent, {
    rows: steps.length, columns: words.length, labels: words, width: 290, largest: 26, rowLabels: steps,
    label: "question to answer", value: fromWord, color: heat, marked: () => false,
    tell: (step, word) => `${steps[step]} from ${words[word]}`, pick: () => {},
    hover: (cell) => {
      said.textContent = cell ? `${steps[cell[0]]} ← ${words[cell[1]]}: ${percent(fromWord(...cell))}` : whole;
    },
  });
  const said = make("div", "vt-numbers", parent, whole);
  const way = state.through ? "image → answer, by way of the question:" : "image → answer:";
  make("div", "vt-label", parent, way);
  const strip = make("div", "vt-gallery", parent);
  const pictures = steps.map((step, s) =>
    patchImage(root, make("div", "", strip), {
      side: 84, boxes, label: `image to ${step}`, tell: (i) => `patch ${i}: ${percent(fromPatch(s, i))}`,
      color: (i) => heat(fromPatch(s, i) / Math.max(...range(n).map((j) => fromPatch(s, j)))),
      hover: (i) => {
        said.textContent = i === null ? whole : `${step} ← patch ${i}: ${percent(fromPatch(s, i))}`;
      },
    })
  );
  return {
    draw: () => {
      map.draw();
      pictures.forEach((picture) => picture.draw());
    },
    show: (picture) => pictures.forEach((one) => one.show(picture)),
  };
}
