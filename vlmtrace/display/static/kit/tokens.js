// @ts-check
// Tokens in a row, to hover and to click; one tab stop, arrow keys go along.

import { ALONG, timed } from "./canvas.js";
import { make } from "./elements.js";

/** @typedef {{text: string, role: string, title?: string, gap?: boolean}} Token gap: a space in front of it */

/**
 * @typedef {{
 *   tokens: Token[],
 *   label: string,
 *   chosen: (i: number) => boolean,
 *   share: (i: number) => number | null,
 *   hover: (i: number | null) => void,
 *   pick: (i: number, event: MouseEvent) => void,
 * }} TokenStripOptions
 * share: drawn as a bar in the token; null: none
 */

/** @param {HTMLElement} root @param {Element} parent @param {TokenStripOptions} options */
export function tokenStrip(root, parent, options) {
  const strip = make("div", "vt-tokens", parent);
  strip.setAttribute("role", "group");
  strip.setAttribute("aria-label", options.label);
  const parts = options.tokens.map((token, i) => {
    const button = make("button", "vt-token", strip);
    button.type = "button";
    button.tabIndex = i ? -1 : 0;
    button.title = String(token.title);
    if (token.gap) button.classList.add("vt-gap");
    const bar = make("span", "vt-bar", button);
    make("span", "vt-text", button, token.text);
    make("span", "vt-role", button, token.role);
    button.addEventListener("pointerenter", (event) => timed(root, event, () => options.hover(i)));
    button.addEventListener("pointerleave", () => options.hover(null));
    button.addEventListener("focus", () => {
      if (button.matches(":focus-visible")) options.hover(i);
    });
    button.addEventListener("blur", () => options.hover(null));
    button.addEventListener("click", (event) => options.pick(i, event));
    return { button, bar };
  });
  strip.addEventListener("keydown", (event) => {
    const step = ALONG[event.key], now = parts.findIndex(({ button }) => button === document.activeElement);
    if (!step || now < 0) return;
    event.preventDefault();
    for (const { button } of parts) button.tabIndex = -1;
    const next = parts[Math.min(Math.max(now + step, 0), parts.length - 1)].button;
    next.tabIndex = 0;
    next.focus();
  });
  function draw() {
    parts.forEach(({ button, bar }, i) => {
      button.setAttribute("aria-pressed", String(options.chosen(i)));
      const share = options.share(i);
      bar.style.height = share === null ? "0" : `${(100 * share).toFixed(1)}%`;
    });
  }
  return { draw, strip };
}
