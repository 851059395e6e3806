// @ts-check
// A heat map of rows × columns, row 0 at the bottom (layers upwards, as information flows).

import { canvasOf, clear, outline, STEPS, timed } from "./canvas.js";
import { theme } from "./colors.js";

/** @import { Theme } from "./colors.js" */

/** @typedef {[number, number]} Cell a row and a column */

/**
 * @typedef {{
 *   rows: number,
 *   columns: number,
 *   width: number,
 *   label: string,
 *   labels?: string[],
 *   rowLabels?: string[],
 *   columnName?: string,
 *   largest?: number,
 *   value: (row: number, column: number) => number | null,
 *   color: (value: number, dark: boolean) => string,
 *   marked: (row: number, column: number) => boolean,
 *   tell: (row: number, column: number) => string,
 *   hover: (cell: Cell | null) => void,
 *   pick: (row: number, column: number, event: Event) => void,
 * }} HeatMapOptions
 * labels: of columns; rowLabels: without them, rows are layers with their numbers; largest: width of a cell in pixels
 */

/** The cell under a place, or null where there is none.
 * @param {number} x @param {number} y in pixels of the map
 * @param {{left: number, top: number, side: [number, number], rows: number, columns: number}} grid
 * @returns {Cell | null} */
export function cellAt(x, y, { left, top, side, rows, columns }) {
  const column = Math.floor((x - left) / side[0]), row = rows - 1 - Math.floor((y - top) / side[1]);
  return row >= 0 && row < rows && column >= 0 && column < columns ? [row, column] : null;
}

/** The cell that an arrow key leads to; the first, where there was none. Upwards is to later rows.
 * @param {Cell | null} at @param {[number, number]} step down and right @param {number} rows @param {number} columns
 * @returns {Cell} */
export function steppedCell(at, step, rows, columns) {
  if (!at) return [0, 0];
  return [
    Math.min(Math.max(at[0] - step[0], 0), rows - 1),
    Math.min(Math.max(at[1] + step[1], 0), columns - 1),
  ];
}

/** @param {HTMLElement} root of the view, whose colors are used @param {Element} parent @param {HeatMapOptions} options */
export function heatMap(root, parent, options) {
  const { rows, columns, labels, rowLabels } = options, top = 6, font = "11px sans-serif";
  const { canvas, size, context } = canvasOf(parent, 10, 10, options.label);
  context.font = font;
  /** @param {string[]} texts */
  const widest = (texts) => Math.max(...texts.map((text) => context.measureText(text).width));
  const long = Boolean(labels && labels.some((text) => text.length > 2));
  const left = rowLabels ? 8 + Math.min(90, widest(rowLabels)) : 34;
  const width = Math.max(7, Math.min(options.largest || 34, (options.width - left - 4) / columns));
  /** @type {[number, number]} */
  const side = [width, Math.max(9, Math.min(26, 240 / rows, Math.max(width, 16)))];
  const grid = { left, top, side, rows, columns };
  size(
    left + side[0] * columns + 6 + (long ? 14 : 0),
    top + side[1] * rows + (labels && long ? 14 + 0.75 * widest(labels) : 32),
  );
  /** @type {Cell | null} */
  let at = null;

  /** @param {number} row @param {number} column @returns {[number, number]} */
  const place = (row, column) => [left + column * side[0], top + (rows - 1 - row) * side[1]];
  /** @param {Cell} cell @param {string} color @param {number} wide */
  const frame = ([row, column], color, wide) => {
    const [x, y] = place(row, column);
    outline(context, x + 0.5, y + 0.5, side[0] - 2, side[1] - 2, color, wide);
  };
  /** @param {(row: number, column: number) => void} act */
  const each = (act) => {
    for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) act(row, column);
  };

  function draw() {
    const colors = theme(root);
    clear(context);
    each((row, column) => {
      const [x, y] = place(row, column), value = options.value(row, column);
      context.fillStyle = colors.panel;
      context.fillRect(x, y, side[0] - 1, side[1] - 1);
      if (value === null || Number.isNaN(value)) return;
      context.fillStyle = options.color(value, colors.dark);
      context.fillRect(x, y, side[0] - 1, side[1] - 1);
    });
    context.font = font;
    context.textBaseline = "middle";
    drawRowNames(colors);
    drawColumnNames(colors);
    each((row, column) => {
      if (options.marked(row, column)) frame([row, column], colors.ink, 2);
    });
    if (at) frame(at, colors.accent, 3);
  }

  /** @param {Theme} colors */
  function drawRowNames(colors) {
    context.fillStyle = colors.soft;
    context.textAlign = "right";
    for (let row = 0; row < rows; row += Math.ceil(rows / 12)) {
      context.fillText(rowLabels ? rowLabels[row] : String(row), left - 6, place(row, 0)[1] + side[1] / 2);
    }
    if (rowLabels) return;
    context.save();
    context.translate(9, top + (rows * side[1]) / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText("layer", 0, 0);
    context.restore();
  }

  /** @param {Theme} colors */
  function drawColumnNames(colors) {
    const y = top + rows * side[1] + 4;
    context.fillStyle = colors.soft;
    for (let column = 0; column < columns; column++) {
      if (!long && side[0] < 14 && column % Math.ceil(14 / side[0])) continue;
      context.save();
      context.translate(left + (column + 0.5) * side[0], y + 4);
      if (long) context.rotate(-Math.PI / 4);
      context.textAlign = long ? "right" : "center";
      context.fillText(labels ? labels[column] : String(column), 0, 2);
      context.restore();
    }
    if (long) return;
    context.textAlign = "center";
    context.fillText(options.columnName || "head", left + (columns * side[0]) / 2, y + 22);
  }

  /** @param {Cell | null} cell */
  function go(cell) {
    at = cell;
    if (at) canvas.setAttribute("aria-label", `${options.label}: ${options.tell(...at)}`);
    options.hover(at);
    draw();
  }
  canvas.addEventListener("pointermove", (event) => {
    const next = cellAt(event.offsetX, event.offsetY, grid);
    if (String(next) !== String(at)) timed(root, event, () => go(next));
  });
  for (const kind of ["pointerleave", "blur"]) canvas.addEventListener(kind, () => go(null));
  canvas.addEventListener("click", (event) => {
    const found = cellAt(event.offsetX, event.offsetY, grid);
    if (found) options.pick(...found, event);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (step) timed(root, event, () => go(steppedCell(at, step, rows, columns)));
    else if ((event.key === "Enter" || event.key === " ") && at) options.pick(...at, event);
    else return;
    event.preventDefault();
  });
  return { draw, canvas };
}
