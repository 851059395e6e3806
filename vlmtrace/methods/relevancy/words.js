// @ts-check
// How relevant the words of the prompt are, and the shares of image, prompt and earlier answer.

import { make, shareBar } from "../../display/static/kit/elements.js";
import { largest, percent } from "../../display/static/kit/numbers.js";

/** @typedef {{image: number, prompt: number, answer: number, image_share: number | null}} Shares */

/** Which part of the input has which color. @type {["image" | "prompt" | "answer", string, string][]} */
const PARTS = [["image", "image", "patched"], ["prompt", "prompt", "corrupt"], ["answer", "earlier answer", "clean"]];

/** A relevance in three digits. @param {number} value @returns {string} */
export function three(value) {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/** Values of tokens, added up to words.
 * @param {(number | undefined)[]} values of the tokens @param {number[]} wordOf the word of each token
 * @param {string[]} names of the words, at each of their tokens @returns {[string, number][]} in their order */
export function byWord(values, wordOf, names) {
  /** @type {Map<number, [string, number]>} */
  const found = new Map();
  wordOf.forEach((word, i) => {
    const [name, sum] = found.get(word) ?? [names[i], 0];
    found.set(word, [name, sum + (values[i] || 0)]);
  });
  return [...found.values()];
}

/** @param {HTMLElement} table @param {[string, number][]} list */
export function wordTable(table, list) {
  const most = largest(list.map(([, value]) => value), 1e-9);
  table.replaceChildren();
  for (const [text, value] of list) {
    const line = make("tr", "", table);
    make("td", "", line, text);
    shareBar(line, 180, value / most);
    make("td", "vt-value", line, three(value));
  }
}

/** @param {HTMLElement} parent @param {Shares[]} shares @param {string[]} answer its tokens */
export function shareTable(parent, shares, answer) {
  const table = make("table", "", parent);
  shares.forEach((share, i) => {
    const line = make("tr", "", table), total = share.image + share.prompt + share.answer || 1;
    make("td", "", line, answer[i]);
    const cell = make("td", "", line);
    for (const [name, , kind] of PARTS) {
      const part = make("span", `vt-share ${kind}`, cell);
      part.style.width = `${(200 * share[name]) / total}px`;
      part.title = `${name}: ${percent(share[name] / total)}`;
    }
    make("td", "", line, share.image_share === null ? "nothing was relevant" : `image ${percent(share.image_share)}`);
  });
  const key = make("div", "vt-label", parent);
  for (const [, text, kind] of PARTS) {
    make("span", `vt-share ${kind}`, key).style.width = "10px";
    key.append(` ${text}   `);
  }
}
