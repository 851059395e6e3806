// Elements of a page, numbers in words, and how a view follows its model. All scripts of views stand behind the kit:
// they are put together in one, nothing is fetched, nothing is built.

const PIXELS = Math.max(1, window.devicePixelRatio || 1);

/** A new element at the end of `parent`.
 * @param {string} tag @param {string} [name] its class @param {Element} [parent] @param {string|number} [text]
 * @returns {any} */
function make(tag, name, parent, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = String(text);
  if (parent) parent.append(node);
  return node;
}

/** Keys are for the view: JupyterLab would take the arrows for its cells.
 * @param {HTMLElement} el */
function begin(el) {
  el.classList.add("vt");
  el.dataset.lmSuppressShortcuts = "true";
}

/** A share in percent. @param {number} share @returns {string} */
function percent(share) {
  const value = 100 * share;
  return (value >= 10 || value === 0 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : "<0.1") + " %";
}

/** A number with its sign and two digits. @param {number|null} value @returns {string} */
function signed(value) {
  return value === null || Number.isNaN(value) ? "–" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
}

/** A box to check. @param {Element} parent @param {string} text @param {boolean} value
 * @param {(value: boolean) => void} change @returns {HTMLInputElement} */
function check(parent, text, value, change) {
  const label = make("label", "vt-check", parent), box = make("input", "", label);
  box.type = "checkbox"; box.checked = value;
  label.append(` ${text}`);
  box.addEventListener("change", () => change(box.checked));
  return box;
}

/** @param {Element} parent @param {string} text @param {(event: Event) => void} act @param {string} [title]
 * @returns {HTMLButtonElement} */
function button(parent, text, act, title) {
  const made = make("button", "vt-button", parent, text);
  made.type = "button";
  if (title) made.title = title;
  made.addEventListener("click", act);
  return made;
}

/** Call `paint` after one of the traits has changed; returns what undoes it. Not at once: where the state comes in the
 * same message, the view is built anew, and what was built for the state before is not painted with the new traits.
 * @param {any} model @param {string[]} traits @param {() => void} paint @returns {() => void} */
function follow(model, traits, paint) {
  const names = traits.map((trait) => `change:${trait}`).join(" ");
  let isFollowing = true, isWaiting = false;
  const later = () => {
    if (isWaiting) return;
    isWaiting = true;
    queueMicrotask(() => { isWaiting = false; if (isFollowing) paint(); });
  };
  model.on(names, later);
  return () => { isFollowing = false; model.off(names, later); };
}

/** Build a view anew whenever its state changes, once the state has what it needs. What was in focus stays in focus: it
 * is found again by its data-name, or its name. `build` returns functions that undo what it set up.
 * @param {any} model @param {HTMLElement} el @param {string} needed
 * @param {(model: any, el: HTMLElement) => (() => void)[]} build @returns {() => void} */
function rebuilt(model, el, needed, build) {
  begin(el);
  let undo = [];
  function start() {
    /** @type {any} */ const focused = el.contains(document.activeElement) ? document.activeElement : null;
    const name = focused ? focused.dataset.name || focused.name : "";
    undo.forEach((act) => act());
    undo = [];
    el.replaceChildren();
    if (!model.get("state")[needed]) { delete el.dataset.drawn; return; }
    undo = build(model, el);
    /** @type {HTMLElement|null} */ const again = name ? el.querySelector(`[data-name="${name}"], [name="${name}"]`) : null;
    again?.focus();
  }
  model.on("change:state", start);
  start();
  return () => { model.off("change:state", start); undo.forEach((act) => act()); };
}

/** @param {any} model @param {Record<string, any>} values of traits, sent to the kernel */
function save(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
  model.save_changes();
}
