// @ts-check
// The row of view names, and the page's address: in the app it is read and written, in a notebook it is left alone.

import { ALONG } from "../display/static/kit/canvas.js";
import { begin, button, make, named } from "../display/static/kit/elements.js";
import { follow } from "../display/static/kit/model.js";

/** @import { Given } from "../display/static/kit/model.js" */

/**
 * @typedef {{views: [string, boolean][], chosen: string, address: string, said: string, left_out: string}} BarTraits
 * left_out: what of what is shown is in no address
 */

/** Whether this is the app's own page. */
const isApp = () => document.documentElement.dataset.vlmtraceApp === "true";

/** The page's address for what is shown: without what stands behind the question mark, which may be the token.
 * @param {{origin: string, pathname: string}} place @param {string} shown @returns {string} */
export function addressOf({ origin, pathname }, shown) {
  return `${origin}${pathname}#${shown}`;
}

/** @param {Given<BarTraits>} given */
function render({ model, el }) {
  begin(el);
  el.classList.add("vt-bar-in");
  const row = make("div", "vt-tabs", el), said = make("div", "vt-toast", el);
  row.setAttribute("role", "tablist");
  row.setAttribute("aria-label", "views");
  said.setAttribute("role", "alert");
  /** @type {HTMLButtonElement[]} */
  let tabs = [];

  /** @param {string} title */
  function open(title) {
    mark(title);
    model.send({ do: "open", title });
  }
  /** @param {string} title */
  function mark(title) {
    const chosen = tabs.find((tab) => tab.dataset.title === title);
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === (chosen ?? tabs[0]) ? 0 : -1;
    }
    el.dataset.view = title;
  }
  /** @param {string} title @param {string} kind */
  function add(title, kind) {
    const tab = button(row, title, () => open(title), `open ${title}`);
    tab.className = `vt-tab ${kind}`;
    tab.setAttribute("role", "tab");
    tab.dataset.title = title;
    tabs.push(tab);
  }
  function build() {
    row.replaceChildren();
    tabs = [];
    const views = model.get("views"), less = views.filter(([, isLess]) => isLess);
    for (const [title, isLess] of views) if (!isLess) add(title, "");
    if (less.length) make("span", "vt-label vt-more", row, "more:").setAttribute("aria-hidden", "true");
    for (const [title] of less) add(title, "vt-less");
    if (isApp()) {
      const link = button(row, "copy link", () => copy(link), "copy the address of what is shown, without the token");
      named(link, "link").classList.add("vt-link");
    }
    mark(model.get("chosen"));
  }
  row.addEventListener("keydown", (event) => {
    const step = ALONG[event.key], now = tabs.findIndex((tab) => tab === document.activeElement);
    if (!step || now < 0) return;
    event.preventDefault();
    const next = tabs[(now + step + tabs.length) % tabs.length];
    for (const tab of tabs) tab.tabIndex = tab === next ? 0 : -1;
    next.focus();
  });

  /** @param {HTMLButtonElement} link */
  function copy(link) {
    const address = addressOf(location, model.get("address")), leftOut = model.get("left_out");
    const done = () => {
      link.textContent = "copied";
      tell(leftOut);
      setTimeout(() => {
        link.textContent = "copy link";
      }, 1500);
    };
    navigator.clipboard.writeText(address).then(done, () => tell([address, leftOut].filter(Boolean).join(" — ")));
  }
  /** @param {string} text */
  function tell(text) {
    said.replaceChildren();
    said.hidden = !text;
    if (!text) return;
    make("span", "", said, text);
    const close = () => {
      said.hidden = true;
    };
    button(said, "×", close, "close").classList.add("vt-remove");
  }
  function write() {
    if (!isApp() || !model.get("address")) return;
    history.replaceState(null, "", `${location.pathname}${location.search}#${model.get("address")}`);
    el.dataset.address = model.get("address");
  }
  const read = () => {
    const asked = location.hash.slice(1);
    if (asked !== model.get("address")) model.send({ do: "follow", address: asked });
  };
  const stops = [
    follow(model, ["views"], build), follow(model, ["chosen"], () => mark(model.get("chosen"))),
    follow(model, ["address"], write), follow(model, ["said"], () => tell(model.get("said"))),
  ];
  build();
  tell(model.get("said"));
  if (isApp()) {
    // The kernel waits for this before it computes anything.
    model.send({ do: "follow", address: location.hash.slice(1) });
    globalThis.addEventListener("hashchange", read);
  }
  return () => {
    stops.forEach((stop) => stop());
    globalThis.removeEventListener("hashchange", read);
  };
}
export default { render };
