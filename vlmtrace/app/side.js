// @ts-check
// What is selected, above the card that shows it.

import { begin, button, make } from "../display/static/kit/elements.js";
import { follow } from "../display/static/kit/model.js";

/** @import { Given } from "../display/static/kit/model.js" */

/** @typedef {{selected: string, short: string, hint: string}} SideTraits */

/** @param {Given<SideTraits>} given */
function render({ model, el }) {
  begin(el);
  el.classList.add("vt-side-in");
  const head = make("div", "vt-row", el), name = make("span", "vt-selected", head);
  const close = button(head, "×", () => model.send({ do: "deselect" }), "select nothing");
  close.classList.add("vt-remove");
  close.name = "deselect";
  const hint = make("p", "vt-hint", el);
  function paint() {
    const selected = model.get("selected");
    name.textContent = selected || "nothing selected";
    name.title = selected;
    close.hidden = !selected;
    hint.textContent = model.get("hint");
    hint.hidden = !model.get("hint");
    el.dataset.selected = selected;
  }
  const stop = follow(model, ["selected", "hint"], paint);
  paint();
  return stop;
}
export default { render };
