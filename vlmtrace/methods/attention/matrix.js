// @ts-check
// From token to token: one head, all rows.

import { heat } from "../../display/static/kit/colors.js";
import { make } from "../../display/static/kit/elements.js";
import { heatMap } from "../../display/static/kit/heat_map.js";
import { percent } from "../../display/static/kit/numbers.js";

/** @import { Cell } from "../../display/static/kit/heat_map.js" */
/** @import { Weights } from "./weights.js" */

/** With more tokens a map would be too fine to read. */
const MOST_TOKENS = 60;

/**
 * @param {HTMLElement} root of the view
 * @param {HTMLElement} parent
 * @param {{weights: Weights, head: () => Cell, limit: () => number, chosen: () => number[],
 *   tell: (text: string) => unknown, pick: (query: number) => void}} options limit: of the colors; chosen: queries
 * @returns {{draw: () => void}}
 */
export function matrixOf(root, parent, { weights, head, limit, chosen, tell, pick }) {
  const { queries, keyTokens } = weights.state, { texts } = weights, n = queries.length;
  if (texts.length <= 2 || texts.length > MOST_TOKENS || n > MOST_TOKENS) return { draw: () => {} };
  const part = make("div", "", parent), title = make("h4", "", part);
  /** The first token stands on top. @param {number} row */
  const query = (row) => n - 1 - row;
  /** @param {number} row @param {number} column */
  const value = (row, column) => weights.at(...head(), query(row), texts[column]);
  /** @param {number} row @param {number} column */
  const said = (row, column) =>
    `${queries[query(row)].text} → ${keyTokens[texts[column]]}: ${percent(value(row, column))}`;
  const map = heatMap(root, part, {
    rows: n, columns: texts.length, width: 310, largest: 24, label: "token to token",
    labels: texts.map((key) => keyTokens[key]), rowLabels: queries.map((_, row) => queries[query(row)].text),
    value, color: (share, dark) => heat(share / limit(), dark), marked: (row) => chosen().includes(query(row)),
    tell: said, hover: (cell) => tell(cell ? `head ${head().join(".")}: ${said(...cell)}` : ""),
    pick: (row) => pick(query(row)),
  });
  return {
    draw: () => {
      title.textContent = `Token → token, head ${head().join(".")} (colors 0 … ${percent(limit())})`;
      map.draw();
    },
  };
}
