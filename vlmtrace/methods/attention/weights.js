// @ts-check
// All attention of the module that is looked at, as 16-bit steps, so that a hover asks nobody.

import { mean, range } from "../../display/static/kit/numbers.js";
import { copied } from "../../display/static/kit/picture.js";

/** @import { Box } from "../../display/static/kit/boxes.js" */
/** @import { Token } from "../../display/static/kit/tokens.js" */

/**
 * @typedef {{example: string, place: string, places: [string, string][], regions: Record<string, number[]>,
 *   layers: number, heads: number, queries: Token[], keys: number, patches: number[], boxes: Box[], scale: number,
 *   steps: string[], words: string[], through: boolean, keyTokens: string[]}} AttentionState
 * keys: how many positions are looked at; patches: those of the image's patches; scale: of one step of the weights
 */

/**
 * @typedef {{state: AttentionState, weights: DataView, matrices: DataView, picture: DataView<ArrayBuffer>, layer: number,
 *   head: number, queries: number[], patches: number[], grid: boolean, measure: string}} AttentionTraits
 */

/** What the attention weights say, by layer, head, query and key. */
export class Weights {
  /** @param {AttentionState} state @param {DataView} bytes */
  constructor(state, bytes) {
    this.state = state;
    this.values = new Uint16Array(copied(bytes));
    const inImage = new Set(state.patches);
    /** Keys that are words: all but the patches. */
    this.texts = range(state.keys).filter((key) => !inImage.has(key));
    this.allPatches = range(state.patches.length);
  }
  /** @param {number} layer @param {number} head @param {number} query @param {number} key */
  at(layer, head, query, key) {
    const { heads, queries, keys, scale } = this.state;
    return this.values[((layer * heads + head) * queries.length + query) * keys + key] * scale;
  }
  /** Of one patch. @param {number} layer @param {number} head @param {number} query @param {number} i */
  onPatch(layer, head, query, i) {
    return this.at(layer, head, query, this.state.patches[i]);
  }
  /** Of several patches together.
   * @param {number} layer @param {number} head @param {number} query @param {number[]} list */
  onPatches(layer, head, query, list) {
    return list.reduce((sum, i) => sum + this.onPatch(layer, head, query, i), 0);
  }
  /** The mean over queries, of several patches together.
   * @param {number} layer @param {number} head @param {number[]} queries @param {number[]} list */
  share(layer, head, queries, list) {
    return mean(queries, (query) => this.onPatches(layer, head, query, list));
  }
  /** The most that one patch gets, or, without an image, one word; the mean over queries.
   * @param {number} layer @param {number} head @param {number[]} queries */
  peak(layer, head, queries) {
    const keys = this.state.patches.length ? this.state.patches : this.texts;
    return Math.max(...keys.map((key) => mean(queries, (query) => this.at(layer, head, query, key))));
  }
  /** Which heads look at some patches most, from which token.
   * @param {number[]} list of patches
   * @returns {{value: number, layer: number, head: number, query: number}[]} the strongest first */
  lookers(list) {
    const { layers, heads, queries } = this.state;
    return range(layers * heads * queries.length).map((i) => {
      const query = i % queries.length, head = Math.floor(i / queries.length) % heads;
      const layer = Math.floor(i / (queries.length * heads));
      return { value: this.onPatches(layer, head, query, list), layer, head, query };
    }).sort((a, b) => b.value - a.value);
  }
  /** The largest values there are, which colors range to.
   * @param {number[]} queries whose mean is drawn on patches
   * @returns {{patch: number, word: number}} */
  limits(queries) {
    const { layers, heads, queries: all } = this.state;
    let patch = 1e-6, word = 1e-6;
    for (let layer = 0; layer < layers; layer++) {
      for (let head = 0; head < heads; head++) {
        for (const i of this.allPatches) patch = Math.max(patch, mean(queries, (q) => this.onPatch(layer, head, q, i)));
        for (let q = 0; q < all.length; q++) {
          for (const key of this.texts) word = Math.max(word, this.at(layer, head, q, key));
        }
      }
    }
    return { patch, word };
  }
}
