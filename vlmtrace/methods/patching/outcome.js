// @ts-check
// What comes of all patches together: the answer's probabilities, what each patch adds, and the list of them.

import { button, make, named, shareBar } from "../../display/static/kit/elements.js";
import { percent, signed } from "../../display/static/kit/numbers.js";
import { DIRECTION_WORDS } from "./state.js";
import { waterfall } from "./waterfall.js";

/** @import { PatchState, Probabilities, Send } from "./state.js" */

/** The runs, in the order in which they are compared. @type {("clean" | "corrupt" | "patched")[]} */
const RUNS = ["clean", "corrupt", "patched"];

/** @param {HTMLElement} parent @param {Probabilities} row @param {(number | null)[]} options correct and incorrect */
function probabilityLines(parent, row, options) {
  const role = ["", " (correct)", " (incorrect)"][options.indexOf(row.token_id) + 1];
  RUNS.forEach((run, i) => {
    const line = make("tr", "", parent);
    make("td", "", line, i === 0 ? row.token + role : "");
    make("td", `vt-${run}`, line, run);
    shareBar(line, 60, row[run], run);
    make("td", "vt-value", line, percent(row[run])).style.whiteSpace = "nowrap";
  });
}

/** @param {HTMLElement} root of the view @param {PatchState} state @param {(text: string) => void} tell
 * @returns {() => void} what draws it */
export function outcome(root, state, tell) {
  const result = make("div", "vt-columns", root), numbers = make("div", "", result), steps = make("div", "", result);
  numbers.style.maxWidth = steps.style.maxWidth = "306px";
  const { run } = DIRECTION_WORDS[state.direction], n = state.patches.length;
  make("div", "vt-label vt-patched", numbers, `${run} run, patched (${n}): effect ${signed(state.effect)}`);
  const body = make("table", "", numbers);
  make("caption", "vt-label", body, "first answer token");
  for (const row of state.distribution) probabilityLines(body, row, state.options);
  make("div", "vt-numbers", numbers, `LD ${RUNS.map((name) => `${name} ${signed(state.logitDiff[name])}`).join(", ")}`);
  if (!state.waterfall.length) {
    const hint = "Patch something: here stands what each patch adds, against as many at random.";
    make("div", "vt-label", steps, hint).style.maxWidth = "300px";
    return () => {};
  }
  make("h4", "", steps, "What each patch adds, in this order");
  const names = state.patches.map((patch) => patch.short);
  const drawn = waterfall(root, steps, { steps: state.waterfall, names, draws: state.draws, tell });
  const random = Math.round(state.waterfall[state.waterfall.length - 1].random_share * state.draws);
  make("div", "vt-label", steps, `${random} of ${state.draws} draws of as many at random do as much or more.`);
  return drawn.draw;
}

/** @param {HTMLElement} parent @param {PatchState} state @param {Send} send */
export function patchList(parent, state, send) {
  const below = make("div", "vt-controls", parent);
  make("h4", "", below, "Patched together:");
  named(button(below, "undo", () => send({ do: "undo", activity: "undo" })), "undo").disabled = !state.canUndo;
  const clear = named(button(below, "clear", () => send({ do: "clear", activity: "clear" })), "clear");
  clear.disabled = !state.patches.length;
  if (!state.patches.length) make("span", "vt-label", below, "nothing yet: click a cell of a map");
  const list = make("ol", "vt-list", parent);
  state.patches.forEach((patch, index) => {
    const item = make("li", "", list, `${patch.text} `);
    button(item, "×", () => send({ do: "remove", index, activity: "taking out a patch" }), "take this patch out");
  });
}
