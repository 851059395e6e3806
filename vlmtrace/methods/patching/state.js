// @ts-check
// What the view of patches shows, as the kernel says it, and the words of each direction.

/** @import { Box } from "../../display/static/kit/boxes.js" */
/** @import { Step } from "./waterfall.js" */

/**
 * @typedef {{block: string, module: string, layer: number, positions: number[] | null, heads: number[] | null,
 *   text: string, short: string}} Patch
 * positions, heads: null: all
 */

/** @typedef {{token: string, token_id: number, clean: number, corrupt: number, patched: number}} Probabilities */

/**
 * @typedef {{example: string, place: [string, string], places: [string, string, string][], layers: number,
 *   heads: number, effects: (number | null)[][], headEffects: (number | null)[][] | null, positions: number[],
 *   estimated: {tokens: boolean, heads: boolean},
 *   tokens: {token: string, position: number}[], inImage: number[], boxes: Box[], patches: Patch[],
 *   direction: "denoising" | "noising", corruption: string, corruptions: Record<string, string>, keeps: boolean,
 *   away: {n: number, name: string} | null, carried: {name: string, effect: number, left: string[]} | null,
 *   effect: number | null, distribution: Probabilities[], options: (number | null)[],
 *   answers: Record<string, string>, logitDiff: Record<string, number>, waterfall: Step[], draws: number,
 *   canUndo: boolean, nRefused?: number}} PatchState
 * estimated: whether effects at image tokens, and of heads, are estimates
 * place: block and module; effects: layers × positions; headEffects: layers × heads; inImage: positions of patches;
 * nRefused: how many changes could not be made since, each of which draws this state anew
 */

/** @typedef {{state: PatchState, picture: DataView<ArrayBuffer>}} PatchTraits */

/** @typedef {(message: {do: string, [key: string]: unknown}) => void} Send */

/** What is copied where, and what an effect of 0 and of 1 says. */
export const DIRECTION_WORDS = {
  denoising: {
    name: "clean → corrupt (denoising)", run: "corrupt",
    note: "The corrupt run gets the chosen activations of the clean run, all at once: are they enough? " +
      "Effect 0: nothing happens; 1: the clean answer is back.",
  },
  noising: {
    name: "corrupt → clean (noising)", run: "clean",
    note: "The clean run gets the chosen activations of the corrupt run, all at once: does its answer need them? " +
      "Effect 0: nothing is lost; 1: as much is lost as the corruption takes.",
  },
};

/** Whether exactly these positions and heads of a layer are patched.
 * @param {Patch[]} patches of the module that is shown
 * @param {number} layer @param {number[] | null} positions @param {number[] | null} heads @returns {boolean} */
export function isPatched(patches, layer, positions, heads) {
  const wanted = JSON.stringify([layer, positions, heads]);
  return patches.some((patch) => JSON.stringify([patch.layer, patch.positions, patch.heads]) === wanted);
}

/** The heads that restore something and are not patched yet, the strongest first.
 * @param {(number | null)[][]} effects layers × heads @param {(layer: number, head: number) => boolean} patched
 * @returns {{value: number, layer: number, head: number}[]} */
export function strongestLeft(effects, patched) {
  return effects
    .flatMap((row, layer) => row.map((value, head) => ({ value: value ?? 0, layer, head })))
    .filter(({ value, layer, head }) => value > 0 && !patched(layer, head))
    .sort((a, b) => b.value - a.value);
}
