// @ts-check
// One question, asked by Enter or the button.

import { button, make } from "../../display/static/kit/elements.js";

/** @import { Send, Side } from "./state.js" */

/** @param {Element} parent @param {Side} side @param {Send} send */
export function questionField(parent, side, send) {
  const row = make("div", "vt-question", parent), head = make("div", "vt-row", row);
  make("span", `vt-side vt-${side}`, head, `${side} question`);
  const ask = button(head, "ask", () => send({ do: "ask", question: area.value, side }), `ask it (Enter)`);
  const remove = button(
    head, "×", () => send({ do: "remove", part: "prompt", side }), `remove the ${side} question`,
  );
  const area = make("textarea", "", row);
  Object.assign(area, { rows: 2, name: `question-${side}`, maxLength: 2000, spellcheck: false });
  area.setAttribute("aria-label", `${side} question`);
  area.placeholder = side === "corrupt" ? "the same question" : "";
  ask.name = `ask-${side}`;
  remove.name = `remove-question-${side}`;
  remove.classList.add("vt-remove");
  area.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    if (!ask.disabled) ask.click();
  });
  return { area, ask, remove };
}
