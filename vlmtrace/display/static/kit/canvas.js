// @ts-check
// What is drawn on: a canvas, the keys that move in it, and how long a hover takes.

import { make } from "./elements.js";

/** @typedef {CanvasRenderingContext2D} Context */

/** Pixels of the screen for one of the page. */
export const PIXELS = Math.max(1, globalThis.devicePixelRatio || 1);

/** Where the arrow keys lead: [down, right]. @type {Record<string, [number, number] | undefined>} */
export const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** Where the arrow keys lead in a row. @type {Record<string, number | undefined>} */
export const ALONG = { ArrowLeft: -1, ArrowRight: 1 };

/** Draw, and note how long a hover took until it was drawn, and until the next frame began: the browser test reads it.
 * @param {HTMLElement} root @param {Event} event @param {() => void} draw */
export function timed(root, event, draw) {
  draw();
  root.dataset.hoverMs = (performance.now() - event.timeStamp).toFixed(2);
  requestAnimationFrame(() => {
    root.dataset.frameMs = (performance.now() - event.timeStamp).toFixed(2);
  });
}

/** What a canvas is drawn with. @param {HTMLCanvasElement|OffscreenCanvas} canvas @returns {Context} */
export function contextOf(canvas) {
  const context = canvas.getContext("2d");
  if (!context) throw new Error("This browser gives no canvas to draw on: close other pages.");
  return /** @type {Context} */ (context);
}

/** A canvas that keys reach, sharp on any screen.
 * @param {Element} parent @param {number} width @param {number} height @param {string} label */
export function canvasOf(parent, width, height, label) {
  const canvas = make("canvas", "vt-canvas", parent);
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", label);
  canvas.dataset.name = label;
  /** @param {number} w @param {number} h */
  const size = (w, h) => {
    canvas.width = Math.round(w * PIXELS);
    canvas.height = Math.round(h * PIXELS);
    canvas.style.width = `${w}px`;
    canvas.style.height = `${h}px`;
  };
  size(width, height);
  return { canvas, size, context: contextOf(canvas) };
}

/** Empty the canvas, and draw in pixels of the page from now on. @param {Context} context */
export function clear(context) {
  context.setTransform(PIXELS, 0, 0, PIXELS, 0, 0);
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
}

/** The lines around a rectangle.
 * @param {Context} context @param {number} x @param {number} y @param {number} w @param {number} h
 * @param {string} color @param {number} wide */
export function outline(context, x, y, w, h, color, wide) {
  context.strokeStyle = color;
  context.lineWidth = wide;
  context.strokeRect(x, y, w, h);
}
