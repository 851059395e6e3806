// @ts-check
// The numbers of a head's card: what it does here and over the run, and what becomes of the answer without it.

import { button, make, named } from "../../display/static/kit/elements.js";
import { rounded, signed, within } from "../../display/static/kit/numbers.js";

/**
 * @typedef {{task: string, corruption: string, mean_effect: number, ci_low: number, ci_high: number, n_units: number,
 *   table: string, rank: number, n_heads: number}} MeanRow
 * @typedef {{function: string, region: string, ratio: number | null, ratio_low: number | null,
 *   ratio_high: number | null}} FunctionRow
 * @typedef {{sample_id: string, patching_effect: number, opens: string | null, task: string,
 *   corruption: string}} PairRow
 */

/**
 * @typedef {{effects?: Record<string, number | null>, rank?: number | null, nHeads?: number, corruption?: string,
 *   module?: string, ofBlock?: string, hereRefused?: string, runRefused?: string, run?: string, means?: MeanRow[],
 *   functions?: FunctionRow[], pairs?: PairRow[], knockedOut?: {before: number, after: number, pCorrect: number,
 *   effect: number | null}}} HeadNumbers
 */

/** @typedef {(message: {do: string, [key: string]: unknown}) => void} Send */

/** @type {Record<string, string>} */
const CORRUPTED = { image: "other image", text: "other question" };

/**
 * @typedef {{effects?: Record<string, number | null>, rank?: number | null, corruption?: string, hereRefused?: string,
 *   knockedOut?: {before: number, after: number, effect: number | null}}} PairNumbers of a head or a module
 */

/** What it does in this pair. @param {HTMLElement} holder @param {PairNumbers} found @param {string} title
 * @param {string} among what it is ranked with */
export function inThisPair(holder, found, title, among) {
  make("h4", "", holder, title);
  if (found.hereRefused) make("div", "vt-note", holder, found.hereRefused);
  else if (found.effects) {
    const { denoising, noising } = found.effects;
    make("div", "", holder, `patched into the corrupt run: effect ${rounded(denoising)}`);
    make("div", "", holder, `taken from the corrupt run: ${rounded(noising)} of the clean answer lost`);
    if (found.rank) {
      make("div", "vt-label", holder, `rank ${found.rank} of ${among}; ${CORRUPTED[found.corruption ?? ""]}`);
    }
  } else make("div", "vt-label", holder, "computing …");
  if (found.knockedOut) {
    const { before, after, effect } = found.knockedOut;
    const change = `LD ${signed(before)} → ${signed(after)}, ${signed(effect)} of the gap`;
    named(make("div", "", holder, `knocked out (zeros in its place): ${change}`), "knocked out");
  }
}

/** @param {HTMLElement} holder @param {HeadNumbers} found @param {Send} send */
function acts(holder, found, send) {
  const row = make("div", "vt-controls", holder);
  /** @param {string} text @param {{do: string, activity: string}} message @param {string} hint */
  const act = (text, message, hint) => named(button(row, text, () => send(message), hint), message.do);
  act("patch it", { do: "patch", activity: "patching" }, "add it to what is patched, in Patch");
  const hint = "the clean answer with zeros in place of what this head writes";
  act("knock it out", { do: "knock out", activity: "knocking out" }, hint).disabled = Boolean(found.hereRefused);
  act("in Attention", { do: "attention", activity: "attention" }, "look at it in Attention");
}

/** @param {HTMLElement} holder @param {MeanRow[]} means */
function meanTable(holder, means) {
  const table = make("table", "vt-card-table", holder);
  table.style.whiteSpace = "nowrap";
  table.style.fontSize = "12px";
  for (const row of means) {
    const cells = make("tr", "", table), task = row.task.replace(/^rendered_/, "").replaceAll("_", " ");
    make("td", "", cells, `${task}, ${row.corruption}`);
    const effect = make("td", "vt-value", cells, within(row.mean_effect, row.ci_low, row.ci_high));
    effect.title = `mean effect over ${row.n_units} units, 95 % interval (${row.table})`;
    make("td", "vt-label", cells, `${row.rank} of ${row.n_heads}`).title = "rank by absolute mean effect";
  }
  if (!means.length) make("div", "vt-label", holder, "no effects of this head in the run");
}

/** How much denser attention is on a region than its area explains; few pairs give no interval.
 * @param {FunctionRow} row @returns {string} empty: not known */
export function densityInWords({ region, ratio, ratio_low, ratio_high }) {
  if (ratio === null) return "";
  const isSure = ratio_low !== null && ratio_high !== null;
  const interval = isSure ? ` [${ratio_low.toFixed(2)}, ${ratio_high.toFixed(2)}]` : "";
  return `${region}: ${ratio.toFixed(2)}${interval} × its area`;
}

/** @param {HTMLElement} holder @param {FunctionRow[]} functions */
function functionLines(holder, functions) {
  if (!functions.length) return;
  const known = functions.map((row) => row.function).filter((name) => name && name !== "none");
  make("div", "", holder, `function: ${known.length ? [...new Set(known)].join(", ") : "none"}`);
  for (const said of functions.map(densityInWords)) {
    if (said) make("div", "vt-label", holder, said);
  }
}

/** @param {HTMLElement} holder @param {PairRow[]} pairs @param {Send} send @param {string} title */
export function pairButtons(holder, pairs, send, title) {
  if (!pairs.length) return;
  make("div", "vt-label", holder, title);
  const list = make("div", "", holder);
  for (const { sample_id, patching_effect, opens, task, corruption } of pairs) {
    const hint = opens ? `${task}, ${corruption}` : "not among the pairs that the explorer offers";
    const open = () => send({ do: "pair", pair: opens, activity: "pair" });
    button(list, `${sample_id} ${rounded(patching_effect)}`, open, hint).disabled = !opens;
  }
}

/** The numbers below the pictures. @param {HTMLElement} holder @param {HeadNumbers} found @param {Send} send */
export function cardNumbers(holder, found, send) {
  holder.replaceChildren();
  const among = `${found.nHeads} in ${found.module} of the ${found.ofBlock}`;
  inThisPair(holder, found, "In this pair", among);
  acts(holder, found, send);
  make("h4", "", holder, `Over the run${found.run && !found.runRefused ? ` ${found.run}` : ""}`);
  if (found.runRefused) make("div", "vt-note", holder, found.runRefused);
  else if (!found.means) make("div", "vt-label", holder, "reading …");
  else {
    meanTable(holder, found.means);
    functionLines(holder, found.functions ?? []);
    pairButtons(holder, found.pairs ?? [], send, "where it matters most (click opens the pair):");
  }
}
