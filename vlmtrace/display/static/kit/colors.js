// @ts-check
// Colors: those of the page's theme where it has any.

import { contextOf } from "./canvas.js";

/**
 * @typedef {{ink: string, soft: string, line: string, panel: string, accent: string, clean: string, corrupt: string,
 *   patched: string, dark: boolean}} Theme
 */

/** @type {CanvasRenderingContext2D | null} */
let probe = null;

/** 0 … 1, of a color in any notation. @param {string} color @returns {number} */
export function lightness(color) {
  probe = probe ?? contextOf(document.createElement("canvas"));
  probe.fillStyle = "#000";
  probe.fillStyle = color;
  return meanOfChannels(probe.fillStyle);
}

/** 0 … 1, of a color as a canvas says it: #rrggbb, or rgba(r, g, b, a). @param {string} color @returns {number} */
export function meanOfChannels(color) {
  const found = color.startsWith("#")
    ? (color.match(/[0-9a-f]{2}/g) ?? []).map((part) => parseInt(part, 16))
    : (color.match(/[0-9.]+/g) ?? []).slice(0, 3).map(Number);
  return found.reduce((sum, part) => sum + part, 0) / 765;
}

/** The colors of the page that `node` stands in. @param {Element} node @returns {Theme} */
export function theme(node) {
  const style = getComputedStyle(node);
  const of = (/** @type {string} */ name) => style.getPropertyValue(`--vt-${name}`).trim();
  return {
    ink: of("ink"), soft: of("soft"), line: of("line"), panel: of("panel"), accent: of("accent"),
    clean: of("clean"), corrupt: of("corrupt"), patched: of("patched"), dark: lightness(of("ink")) > 0.5,
  };
}

/** Draw again when the theme changes, and when `root` comes to be seen: colors are known only then.
 * @param {Element} root @param {() => void} draw @returns {() => void} what undoes it */
export function keepDrawn(root, draw) {
  const later = () => requestAnimationFrame(draw);
  const themes = new MutationObserver(later), sizes = new ResizeObserver(later);
  const attributeFilter = ["data-jp-theme-light", "data-jp-theme-name", "class"];
  themes.observe(document.body, { attributes: true, attributeFilter });
  sizes.observe(root);
  const media = globalThis.matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", later);
  return () => { themes.disconnect(); sizes.disconnect(); media.removeEventListener("change", later); };
}

const HEAT = [[255, 217, 51, 0], [255, 166, 0, 0.75], [191, 25, 25, 0.9], [89, 0, 64, 1]];

// The same on a dark ground, where more must be lighter.
const HEAT_IN_THE_DARK = [[255, 140, 0, 0], [230, 110, 0, 0.65], [255, 190, 60, 0.95], [255, 250, 215, 1]];

/** The color of a share of the largest value, transparent at 0, so that the image shows where nothing looks. What is no
 * number is transparent, too: while a view's parts arrive one after the other, some are not there yet.
 * @param {number} share @param {boolean} [dark] @returns {string} */
export function heat(share, dark = false) {
  const scale = dark ? HEAT_IN_THE_DARK : HEAT, place = Math.min(Math.max(share || 0, 0), 1) * (scale.length - 1);
  const low = Math.min(Math.floor(place), scale.length - 2);
  const [r, g, b, a] = scale[low].map((value, i) => value + (place - low) * (scale[low + 1][i] - value));
  return `rgba(${r.toFixed(0)},${g.toFixed(0)},${b.toFixed(0)},${a.toFixed(3)})`;
}

/** Blue below 0, red above, transparent at 0. @param {number} share −1 … 1 @returns {string} */
export function diverging(share) {
  const strength = Math.min(Math.abs(share), 1);
  return share < 0 ? `rgba(33,102,172,${strength.toFixed(3)})` : `rgba(190,24,38,${strength.toFixed(3)})`;
}

/** What a bar beside a picture shows: the colors of `heat` from 0 to the limit. */
export const HEAT_SCALE = `linear-gradient(to right, ${[0, 0.33, 0.67, 1].map((at) => heat(at)).join(",")}), #cfcfcf`;

/** The same of `diverging`. */
export const SIGNED_SCALE = `linear-gradient(to right, ${[-1, -0.5, 0, 0.5, 1].map(diverging).join(",")})`;
