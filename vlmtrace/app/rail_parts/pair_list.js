// @ts-check
// The run's pairs with their pictures, one tab stop, arrow keys. Pictures are asked for when a row comes to be seen.

import { make } from "../../display/static/kit/elements.js";

/** Rows that a key goes on by. @type {Record<string, number | undefined>} */
const KEYS = { ArrowDown: 1, ArrowUp: -1, PageDown: 6, PageUp: -6, Home: -Infinity, End: Infinity };

/** So many pictures are asked for at a time. */
const AT_ONCE = 40;

/** Whether a text holds each word of a search, in upper or lower case.
 * @param {string} text @param {string} search @returns {boolean} */
export function matches(text, search) {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean), held = text.toLowerCase();
  return words.every((word) => held.includes(word));
}

/** @param {Element} parent @param {(id: string) => void} choose @param {(ids: string[]) => void} ask for pictures */
export function pairList(parent, choose, ask) {
  const head = make("div", "vt-row", parent), counted = make("span", "vt-label", head);
  const search = make("input", "", head), list = make("div", "vt-pairs", parent);
  Object.assign(search, { type: "search", placeholder: "search", name: "search" });
  search.setAttribute("aria-label", "search the pairs");
  list.tabIndex = 0;
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "pairs");
  list.dataset.name = "pairs";
  /** @type {Map<string, {row: HTMLElement, thumbs: HTMLElement}>} */
  let rows = new Map();
  /** @type {Set<string>} */
  let wanted = new Set();
  let chosen = "", timer = 0;

  function askForWanted() {
    const names = [...wanted];
    wanted = new Set();
    for (let i = 0; i < names.length; i += AT_ONCE) ask(names.slice(i, i + AT_ONCE));
  }
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const row = /** @type {HTMLElement} */ (entry.target);
      if (entry.isIntersecting && !row.dataset.asked) {
        row.dataset.asked = "1";
        wanted.add(row.dataset.id ?? "");
      }
    }
    clearTimeout(timer);
    timer = setTimeout(askForWanted, 80);
  }, { root: list, rootMargin: "120px" });

  /** @param {[string, string][]} pairs id and question @param {[string, string][]} owns examples of one's own */
  function fill(pairs, owns) {
    seen.disconnect();
    rows = new Map();
    list.replaceChildren();
    for (const [id, question] of [...owns, ...pairs]) {
      const row = make("div", "vt-pair", list), own = owns.some(([name]) => name === id);
      row.setAttribute("role", "option");
      row.dataset.id = id;
      row.id = `vt-pair-${rows.size}`;
      const thumbs = make("span", "vt-thumbs", row);
      make("span", "vt-text", row, own ? `${id}: ${question}` : question);
      row.title = `${id}: ${question}`;
      row.addEventListener("click", () => choose(id));
      rows.set(id, { row, thumbs });
      if (!own) seen.observe(row);
    }
    counted.textContent = `${pairs.length} pairs`;
    filter();
  }
  function filter() {
    for (const { row } of rows.values()) row.hidden = !matches(row.title, search.value);
  }
  search.addEventListener("input", filter);
  search.addEventListener("keydown", (event) => event.stopPropagation());
  list.addEventListener("keydown", (event) => {
    const step = KEYS[event.key];
    if (!step) return;
    event.preventDefault();
    const ids = [...rows].filter(([, { row }]) => !row.hidden).map(([id]) => id), now = ids.indexOf(chosen);
    const next = ids[Math.min(Math.max(now + step, 0), ids.length - 1)];
    if (next !== undefined && next !== chosen) {
      mark(next);
      choose(next);
    }
  });

  /** @param {string} id of the pair that is shown */
  function mark(id) {
    rows.get(chosen)?.row.removeAttribute("aria-selected");
    chosen = id;
    const row = rows.get(id)?.row;
    if (!row) {
      list.removeAttribute("aria-activedescendant");
      return;
    }
    row.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", row.id);
    const top = row.offsetTop - list.offsetTop;
    if (top < list.scrollTop || top + row.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top - 60;
  }

  /** @param {[string, number][]} told whose pictures came, and how many @param {DataView<ArrayBuffer>[]} buffers */
  function pictures(told, buffers) {
    let at = 0;
    for (const [id, n] of told) {
      const thumbs = rows.get(id)?.thumbs;
      for (const buffer of buffers.slice(at, at + n)) {
        if (!thumbs) continue;
        const image = make("img", "", thumbs), url = URL.createObjectURL(new Blob([buffer], { type: "image/png" }));
        image.alt = "";
        image.src = url;
        image.addEventListener("load", () => URL.revokeObjectURL(url));
      }
      at += n;
    }
  }
  return { fill, mark, pictures, stop: () => seen.disconnect() };
}
