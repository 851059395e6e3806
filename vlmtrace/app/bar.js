// The row of view names, and the page's address: in the app it is read and written, in a notebook it is left alone.

/** Whether this is the app's own page. */
const isApp = () => document.documentElement.dataset.vlmtraceApp === "true";

function render({ model, el }) {
  begin(el);
  el.classList.add("vt-bar-in");
  const row = make("div", "vt-tabs", el), said = make("div", "vt-toast", el);
  row.setAttribute("role", "tablist"); row.setAttribute("aria-label", "views");
  said.setAttribute("role", "alert");
  /** @type {HTMLButtonElement[]} */ let tabs = [];
  const send = (message) => model.send(message);

  function open(title) {
    mark(title);
    send({ do: "open", title });
  }
  function mark(title) {
    const chosen = tabs.find((tab) => tab.dataset.title === title);
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === (chosen ?? tabs[0]) ? 0 : -1;
    }
    el.dataset.view = title;
  }
  function build() {
    row.replaceChildren();
    const main = model.get("views").filter(([, more]) => !more), more = model.get("views").filter(([, rest]) => rest);
    tabs = [];
    const add = (title, name) => {
      const tab = button(row, title, () => open(title), `open ${title}`);
      tab.className = `vt-tab ${name}`; tab.setAttribute("role", "tab"); tab.dataset.title = title;
      tabs.push(tab);
    };
    for (const [title] of main) add(title, "");
    if (more.length) make("span", "vt-label vt-more", row, "more:").setAttribute("aria-hidden", "true");
    for (const [title] of more) add(title, "vt-less");
    if (isApp()) {
      const link = button(row, "copy link", copy, "copy the address of what is shown, without the token");
      link.classList.add("vt-link"); link.dataset.name = "link";
    }
    mark(model.get("chosen"));
  }
  row.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], now = tabs.findIndex((tab) => tab === document.activeElement);
    if (!step || now < 0) return;
    event.preventDefault();
    const next = tabs[(now + step + tabs.length) % tabs.length];
    for (const tab of tabs) tab.tabIndex = tab === next ? 0 : -1;
    next.focus();
  });

  const link = () => `${location.origin}${location.pathname}#${model.get("address")}`;
  function copy() {
    const button = row.querySelector("[data-name=link]"), done = (text) => { button.textContent = text; setTimeout(() => { button.textContent = "copy link"; }, 1500); };
    navigator.clipboard.writeText(link()).then(() => { done("copied"); tell(model.get("left_out")); }, () => tell([link(), model.get("left_out")].filter(Boolean).join(" — ")));
  }
  function tell(text) {
    said.replaceChildren();
    said.hidden = !text;
    if (!text) return;
    make("span", "", said, text);
    button(said, "×", () => { said.hidden = true; }, "close").classList.add("vt-remove");
  }
  function write() {
    if (!isApp() || !model.get("address")) return;
    history.replaceState(null, "", `${location.pathname}${location.search}#${model.get("address")}`);
    el.dataset.address = model.get("address");
  }
  const read = () => { const asked = location.hash.slice(1); if (asked !== model.get("address")) send({ do: "follow", address: asked }); };
  const stops = [follow(model, ["views"], build), follow(model, ["chosen"], () => mark(model.get("chosen"))), follow(model, ["address"], write), follow(model, ["said"], () => tell(model.get("said")))];
  build(); tell(model.get("said"));
  if (isApp()) {
    // The kernel waits for this before it computes anything.
    send({ do: "follow", address: location.hash.slice(1) });
    window.addEventListener("hashchange", read);
  }
  return () => { stops.forEach((stop) => stop()); window.removeEventListener("hashchange", read); };
}
export default { render };
