// @ts-check
// The answer from corrupt over patched to clean.

import { make } from "../../display/static/kit/elements.js";
import { percent, signed } from "../../display/static/kit/numbers.js";

/** @import { RailState } from "./state.js" */

/** Where the gauge shows an effect, as a share of its width: corrupt (0) and clean (1) stand at a sixth from its ends.
 * @param {number} effect @returns {number} */
export function onGauge(effect) {
  return (Math.min(Math.max(effect, -0.24), 1.24) + 0.25) / 1.5;
}

/** @param {Element} parent @returns {(state: RailState) => void} what paints it */
export function gauge(parent) {
  const box = make("div", "vt-gauge", parent), track = make("div", "vt-track", box);
  box.setAttribute("role", "img");
  /** @param {string} run @param {number} effect */
  const marked = (run, effect) => {
    const mark = make("span", `vt-mark vt-${run}`, track);
    mark.style.left = `${100 * onGauge(effect)}%`;
    return mark;
  };
  marked("corrupt", 0);
  marked("clean", 1);
  const mark = marked("patched", 0);
  const ends = make("div", "vt-ends", box);
  const corrupt = make("span", "vt-corrupt", ends), clean = make("span", "vt-clean", ends);
  const told = make("div", "vt-told", box);
  return (state) => {
    const { effect, probability, said, corruption, correct, answer, text } = state.gauge;
    const share = (/** @type {string} */ run) => (run in probability ? ` ${percent(probability[run])}` : "");
    mark.hidden = effect === null;
    track.classList.toggle("vt-off", !corruption);
    if (effect !== null) mark.style.left = `${100 * onGauge(effect)}%`;
    corrupt.textContent = corruption ? `${state.answers[corruption] ?? "–"}${share("corrupt")}` : "";
    clean.textContent = `${state.answers.clean}${share("clean")}`;
    corrupt.title = clean.title = correct ? `probability of “${correct}”` : "";
    told.textContent = said || (effect === null ? "nothing is patched" : `${answer} ${signed(effect)}: ${text}`);
    told.title = told.textContent;
    told.classList.toggle("vt-patched", effect !== null && !said);
    const ofBoth = `corrupt ${corrupt.textContent}, clean ${clean.textContent}`;
    box.setAttribute("aria-label", `answer: ${ofBoth}, ${told.textContent}`);
  };
}
