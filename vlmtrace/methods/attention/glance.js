// @ts-check
// All heads at a glance: a small picture for each head, layer by layer, all with the same colors.

import { canvasOf, clear, outline, STEPS } from "../../display/static/kit/canvas.js";
import { heat, theme } from "../../display/static/kit/colors.js";
import { cellAt, steppedCell } from "../../display/static/kit/heat_map.js";

/** @import { Box } from "../../display/static/kit/boxes.js" */
/** @import { Theme } from "../../display/static/kit/colors.js" */
/** @import { Cell } from "../../display/static/kit/heat_map.js" */

/**
 * @typedef {{layers: number, heads: number, boxes: Box[], rows: number, columns: number,
 *   patch: (layer: number, head: number, i: number) => number,
 *   cell: (layer: number, head: number, row: number, column: number) => number, chosen: () => number[],
 *   tell: (cell: Cell | null) => void, pick: (layer: number, head: number) => void, width: number}} GlanceOptions
 * boxes: of patches; without any, rows × columns are drawn by `cell`
 */

/** More rectangles than this are not drawn at each hover. */
const MOST_RECTANGLES = 80000;

/** @param {HTMLElement} root of the view, whose colors are used @param {HTMLElement} parent
 * @param {GlanceOptions} options
 * @returns {{draw: (limit: number, picture: HTMLImageElement | null) => void, limit: () => number}} */
export function glance(root, parent, options) {
  const { layers, heads, boxes } = options, left = 26, gap = 3, below = 16;
  const side = Math.max(14, Math.min(72, (options.width - left) / heads - gap)), pitch = side + gap;
  const { canvas, size, context } = canvasOf(parent, 10, 10, "all heads");
  size(left + heads * pitch, layers * pitch + below);
  /** @type {Cell | null} */
  let at = null;
  /** @type {[number, HTMLImageElement | null]} */
  let last = [1, null];
  const parts = boxes.length || options.rows * options.columns;
  const every = Math.max(1, Math.ceil((layers * heads * parts) / MOST_RECTANGLES));
  /** @param {number} layer @param {number} head @returns {[number, number]} */
  const place = (layer, head) => [left + head * pitch, (layers - 1 - layer) * pitch];

  /** @param {Cell} cell @param {number} limit @param {HTMLImageElement | null} picture @param {Theme} colors */
  function drawPatches([layer, head], limit, picture, colors) {
    const [x, y] = place(layer, head);
    if (picture) {
      context.filter = "grayscale(1)";
      context.globalAlpha = 0.5;
      context.drawImage(picture, x, y, side, side);
      context.filter = "none";
      context.globalAlpha = 1;
    }
    // With too many patches every second, third, … stands for its neighbors.
    for (let i = 0; i < boxes.length; i += every) {
      const [t, l, b, r] = boxes[i];
      context.fillStyle = heat(options.patch(layer, head, i) / limit, colors.dark);
      context.fillRect(x + l * side, y + t * side, (r - l) * side * every, (b - t) * side);
    }
  }

  /** @param {Cell} cell @param {number} limit @param {Theme} colors */
  function drawMatrix([layer, head], limit, colors) {
    const [x, y] = place(layer, head), w = side / options.columns, h = side / options.rows;
    for (let row = 0; row < options.rows; row++) {
      for (let column = 0; column < options.columns; column++) {
        context.fillStyle = heat(options.cell(layer, head, row, column) / limit, colors.dark);
        context.fillRect(x + column * w, y + row * h, w, h);
      }
    }
  }

  /** @param {number} limit @param {HTMLImageElement | null} picture */
  function draw(limit, picture) {
    last = [limit, picture];
    const colors = theme(root), chosen = String(options.chosen());
    clear(context);
    context.font = "11px sans-serif";
    context.textBaseline = "middle";
    for (let layer = 0; layer < layers; layer++) {
      context.fillStyle = colors.soft;
      context.textAlign = "right";
      context.fillText(String(layer), left - 6, place(layer, 0)[1] + side / 2);
      for (let head = 0; head < heads; head++) {
        const [x, y] = place(layer, head), name = String([layer, head]);
        context.fillStyle = colors.panel;
        context.fillRect(x, y, side, side);
        if (boxes.length) drawPatches([layer, head], limit, picture, colors);
        else drawMatrix([layer, head], limit, colors);
        if (name === chosen) outline(context, x + 1, y + 1, side - 2, side - 2, colors.accent, 3);
        if (name === String(at)) outline(context, x + 1, y + 1, side - 2, side - 2, colors.ink, 2);
      }
    }
    context.fillStyle = colors.soft;
    context.textAlign = "center";
    for (let head = 0; head < heads; head += side > 18 ? 1 : 4) {
      context.fillText(String(head), left + head * pitch + side / 2, layers * pitch + 6);
    }
  }
  /** @param {Cell | null} cell */
  const go = (cell) => {
    if (String(cell) === String(at)) return;
    at = cell;
    if (at) canvas.setAttribute("aria-label", `all heads: head ${at.join(".")}`);
    options.tell(at);
    draw(...last);
  };
  const grid = { left, top: 0, side: /** @type {[number, number]} */ ([pitch, pitch]), rows: layers, columns: heads };
  canvas.addEventListener("pointermove", (event) => go(cellAt(event.offsetX, event.offsetY, grid)));
  for (const kind of ["pointerleave", "blur"]) canvas.addEventListener(kind, () => go(null));
  canvas.addEventListener("click", () => {
    if (at) options.pick(...at);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (step) go(steppedCell(at, step, layers, heads));
    else if ((event.key === "Enter" || event.key === " ") && at) options.pick(...at);
    else return;
    event.preventDefault();
  });
  return { draw, limit: () => last[0] };
}
