// @ts-check
// Why a corruption cannot be patched, and what can be removed.

import { button, make } from "../../display/static/kit/elements.js";
import { SIDES } from "./state.js";

/** @import { Send } from "./state.js" */

/** @param {HTMLElement} holder @param {Record<string, string>} problems by corruption @param {Send} send */
export function problemLines(holder, problems, send) {
  holder.replaceChildren();
  for (const [corruption, text] of Object.entries(problems)) {
    const part = corruption === "text" ? "prompt" : "image", word = part === "prompt" ? "question" : "image";
    const buttons = make("div", "", make("div", "vt-problem", holder, text));
    for (const side of SIDES) {
      button(buttons, `remove ${side}`, () => send({ do: "remove", part, side }), `remove the ${side} ${word}`);
    }
  }
}
