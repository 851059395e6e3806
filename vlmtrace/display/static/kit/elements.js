// @ts-check
// Elements of a page: whatever a view puts into it goes in as text, never as markup.

/** A new element at the end of `parent`.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {string} [name] its class @param {Element} [parent] @param {string|number} [text]
 * @returns {HTMLElementTagNameMap[K]} */
export function make(tag, name, parent, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = String(text);
  if (parent) parent.append(node);
  return node;
}

/** Keys are for the view: JupyterLab would take the arrows for its cells.
 * @param {HTMLElement} el */
export function begin(el) {
  el.classList.add("vt");
  el.dataset.lmSuppressShortcuts = "true";
}

/** Numbers and words that a test or a stylesheet reads off an element.
 * @param {HTMLElement} el @param {Record<string, string|number|boolean|null|undefined>} values */
export function note(el, values) {
  for (const [name, value] of Object.entries(values)) el.dataset[name] = String(value);
}

/** The element, named for tests and for the focus that is kept.
 * @template {HTMLElement|SVGElement} E
 * @param {E} node @param {string} name @returns {E} */
export function named(node, name) {
  node.dataset.name = name;
  return node;
}

/** A box to check. @param {Element} parent @param {string} text @param {boolean} value
 * @param {(value: boolean) => void} change @returns {HTMLInputElement} */
export function check(parent, text, value, change) {
  const label = make("label", "vt-check", parent), box = make("input", "", label);
  box.type = "checkbox";
  box.checked = value;
  label.append(` ${text}`);
  box.addEventListener("change", () => change(box.checked));
  return box;
}

/** @param {Element} parent @param {string} text @param {(event: Event) => void} act @param {string} [title]
 * @returns {HTMLButtonElement} */
export function button(parent, text, act, title) {
  const made = make("button", "vt-button", parent, text);
  made.type = "button";
  if (title) made.title = title;
  made.addEventListener("click", act);
  return made;
}

/** A list to choose from, with its label in front.
 * @param {Element} parent @param {string} label @param {(readonly [string, string])[]} options value and text of each
 * @param {string} value @param {(value: string) => void} change @returns {HTMLSelectElement} */
export function choice(parent, label, options, value, change) {
  const select = make("select", "", make("label", "", parent, label));
  for (const [key, text] of options) make("option", "", select, text).value = key;
  select.value = value;
  select.addEventListener("change", () => change(select.value));
  return select;
}

/** A bar in a table's cell, as long as a share of `width`.
 * @param {Element} row @param {number} width in pixels @param {number} share 0 … 1 @param {string} [kind] its class
 * @returns {HTMLElement} the bar */
export function shareBar(row, width, share, kind = "") {
  const cell = make("td", "", row), bar = make("span", `vt-share ${kind}`.trim(), cell);
  cell.style.width = `${width + 8}px`;
  bar.style.width = `${(width * share).toFixed(1)}px`;
  return bar;
}
