// @ts-check
// The line above a view: what it shows, what it computes and for how long, what went wrong, and the exports.

import { begin, button, make } from "./kit/elements.js";
import { follow, save } from "./kit/model.js";

/** @import { Given } from "./kit/model.js" */

/** @typedef {{view: string, about: string, doing: string, done: string, error: string, code: string}} FrameTraits */

/** What each file holds. */
const KINDS = {
  png: "the picture", csv: "the numbers as CSV", parquet: "the numbers as parquet",
  code: "the code that gives the numbers",
};

/** @param {Given<FrameTraits>} given */
function render({ model, el }) {
  begin(el);
  const line = make("div", "vt-frame", el);
  const about = make("span", "vt-about", line), status = make("span", "vt-status", line);
  status.setAttribute("role", "status");
  const exports = make("span", "vt-exports", line);
  make("span", "vt-label", exports, "export:");
  for (const [kind, title] of Object.entries(KINDS)) button(exports, kind, () => model.send({ export: kind }), title);
  const error = make("p", "vt-error", el);
  error.setAttribute("role", "alert");
  const code = make("div", "vt-code", el), text = make("pre", "", code);
  text.tabIndex = 0;
  const bar = make("div", "", code);
  const select = () => getSelection()?.selectAllChildren(text);
  button(bar, "copy", () => navigator.clipboard.writeText(model.get("code")).catch(select));
  button(bar, "close", () => save(model, { code: "" }));
  let since = 0, timer = 0;

  function paint() {
    const doing = model.get("doing");
    Object.assign(el.dataset, { view: model.get("view"), error: model.get("error"), busy: String(Boolean(doing)) });
    about.textContent = model.get("about");
    error.textContent = model.get("error");
    error.hidden = !model.get("error");
    text.textContent = model.get("code");
    code.hidden = !model.get("code");
    clearInterval(timer);
    if (!doing) {
      status.textContent = model.get("done");
      return;
    }
    since = performance.now();
    const tell = () => {
      status.textContent = `computing ${doing} … ${((performance.now() - since) / 1000).toFixed(0)} s`;
    };
    timer = setInterval(tell, 500);
    tell();
  }

  /** @param {{file?: string}} message @param {DataView<ArrayBuffer>[]} buffers */
  function receive(message, buffers) {
    if (!message.file) return;
    const url = URL.createObjectURL(new Blob([buffers[0]])), link = make("a", "", el);
    link.href = url;
    link.download = message.file;
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
  model.on("msg:custom", receive);
  const stop = follow(model, ["view", "about", "doing", "done", "error", "code"], paint);
  paint();
  return () => {
    stop();
    model.off("msg:custom", receive);
    clearInterval(timer);
  };
}
export default { render };
