// @ts-check
// Where nodes stand and how edges bend.

/** @typedef {[number, number]} Point */

/** How an edge bends, by what of the receiver it goes into. @type {Record<string, number | undefined>} */
const BENDS = { query: -0.3, key: -0.12, value: 0.12, input: 0.2 };

export const MARGIN = 108, WIDTH = 440;

/** All rows fit on the screen: pixels from one to the next. @param {number} rows */
export function stepOf(rows) {
  return Math.max(26, Math.min(44, 500 / rows));
}

/** @param {number} rows @returns {number} of the whole drawing */
export function heightOf(rows) {
  return stepOf(rows) * rows + 44;
}

/** @param {number} x 0 … 1 in its row @param {number} row @param {number} rows @returns {Point} */
export function placeOf(x, row, rows) {
  return [MARGIN + 20 + x * (WIDTH - MARGIN - 50), heightOf(rows) - 50 - stepOf(rows) * row];
}

/** The line of an edge, which ends at the rim of the node, and its tip there.
 * @param {Point} from @param {Point} to @param {string} input into which it goes @param {number} wide
 * @param {number} step pixels between rows @returns {{line: string, tip: string}} as paths */
export function curveOf([x1, y1], [x2, y2], input, wide, step) {
  const side = x1 <= x2 ? 1 : -1, far = Math.abs(y1 - y2) > step ? 1 : 0.5, bend = (BENDS[input] ?? 0) * side * far;
  const cx = (x1 + x2) / 2 - bend * (y2 - y1), cy = (y1 + y2) / 2 + bend * (x2 - x1);
  const length = Math.hypot(x2 - cx, y2 - cy) || 1, ux = (x2 - cx) / length, uy = (y2 - cy) / length;
  const rim = step > 34 ? 19 : 16, ex = x2 - rim * ux, ey = y2 - rim * uy;
  const tip = 5 + wide / 2, half = tip * 0.6, bx = ex - tip * ux, by = ey - tip * uy;
  const base = `L${bx - half * uy} ${by + half * ux} L${bx + half * uy} ${by - half * ux}`;
  return { line: `M${x1} ${y1} Q${cx} ${cy} ${ex} ${ey}`, tip: `M${ex + 3 * ux} ${ey + 3 * uy} ${base} Z` };
}

/** The name of a row, as short as the margin asks for. @param {string} text */
export function shortRow(text) {
  const short = text.replace("encoder", "enc.").replace("decoder", "dec.");
  return short.replace("language model", "LM").replace("-attention", "");
}
