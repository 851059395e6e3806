// @ts-check
// The numbers of a module's card: what it does here and over the run, and what becomes of the answer without it.

import { button, make, named } from "../../display/static/kit/elements.js";
import { within } from "../../display/static/kit/numbers.js";
import { inThisPair, pairButtons } from "./card_numbers.js";

/** @import { PairRow, Send } from "./card_numbers.js" */

/**
 * @typedef {{task: string, corruption: string, token_role: string, mean_effect: number, ci_low: number, ci_high: number,
 *   n_units: number, rank: number, n_layers: number}} RoleRow
 * @typedef {{effects?: Record<string, number | null>, rank?: number | null, nHeads?: number, corruption?: string,
 *   module?: string, ofBlock?: string, hereRefused?: string, runRefused?: string, run?: string, means?: RoleRow[],
 *   pairs?: PairRow[], knockedOut?: {before: number, after: number, effect: number | null}}} ModuleNumbers
 */

/** How many tokens are named. */
const MOST_TOKENS = 6;

/** @param {HTMLElement} holder @param {ModuleNumbers} found @param {Send} send */
function moduleActs(holder, found, send) {
  const row = make("div", "vt-controls", holder);
  /** @param {string} text @param {{do: string, activity: string}} message @param {string} hint */
  const act = (text, message, hint) => {
    named(button(row, text, () => send(message), hint), message.do).disabled = Boolean(found.hereRefused);
  };
  act("patch it", { do: "patch", activity: "patching" }, "add it to what is patched, in Patch");
  const hint = "the clean answer with zeros in place of what this module gives";
  act("knock it out", { do: "knock out", activity: "knocking out" }, hint);
}

/** @param {HTMLElement} holder @param {RoleRow[]} means */
function roleTable(holder, means) {
  const table = make("table", "vt-card-table", holder);
  table.style.whiteSpace = "nowrap";
  table.style.fontSize = "11.5px";
  for (const row of means) {
    const cells = make("tr", "", table), task = row.task.replace(/^rendered_/, "").replaceAll("_", " ");
    make("td", "", cells, `${task}, ${row.corruption}: ${row.token_role}`);
    const effect = make("td", "vt-value", cells, within(row.mean_effect, row.ci_low, row.ci_high));
    effect.title = `mean effect at tokens of this role over ${row.n_units} units, 95 % interval`;
    const rank = make("td", "vt-label", cells, `${row.rank}/${row.n_layers}`);
    rank.title = "rank by absolute mean effect among the layers";
  }
}

/** The numbers of the card. @param {HTMLElement} holder @param {ModuleNumbers} found @param {string[]} at
 * @param {Send} send */
export function moduleNumbers(holder, found, at, send) {
  holder.replaceChildren();
  const tokens = `at ${at.slice(0, MOST_TOKENS).join(", ")}${at.length > MOST_TOKENS ? " …" : ""}`;
  const among = `the ${found.nHeads} layers' ${found.module} in the ${found.ofBlock}`;
  inThisPair(holder, found, `In this pair, ${at.length ? tokens : "at all positions"}`, among);
  moduleActs(holder, found, send);
  make("h4", "", holder, `Over the run${found.run && !found.runRefused ? ` ${found.run}` : ""}`);
  if (found.runRefused) make("div", "vt-note", holder, found.runRefused);
  else if (!found.means) make("div", "vt-label", holder, "reading …");
  else {
    roleTable(holder, found.means);
    pairButtons(holder, found.pairs ?? [], send, "where one token matters most (click opens the pair):");
  }
}
