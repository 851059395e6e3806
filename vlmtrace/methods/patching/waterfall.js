// @ts-check
// What each patch adds in the order in which patches were chosen, beside as many patches at random.

import { theme } from "../../display/static/kit/colors.js";
import { roundLimit, signed } from "../../display/static/kit/numbers.js";
import { hoverable, shape, words } from "../../display/static/kit/svg.js";

/**
 * @typedef {{step: number, patch: string, patching_effect: number | null, added: number | null, random_mean: number,
 *   random_low: number, random_high: number, random_share: number}} Step
 */

/** The range of the axis: 0 and all that is drawn. Effects that are far from 1 are drawn larger, and the axis says so.
 * @param {Step[]} steps @returns {{low: number, high: number}} */
export function axisOf(steps) {
  const values = steps.flatMap((step) => [step.patching_effect || 0, step.random_low || 0, step.random_high || 0]);
  const most = Math.max(...values);
  return { low: Math.min(0, ...values), high: roundLimit(most, [0.1, 0.2, 0.5], Math.max(1, most)) };
}

/**
 * Bars from the effect before a patch to the effect with it, and for each step where 95 % of random draws lie.
 * @param {HTMLElement} root of the view, whose colors are used
 * @param {HTMLElement} parent
 * @param {{steps: Step[], names: string[], draws: number, tell: (text: string) => void}} options names of the patches
 * @returns {{draw: () => void}}
 */
export function waterfall(root, parent, options) {
  const { steps, names, draws, tell } = options, row = 24, left = 112, width = 140;
  const height = row * (steps.length - 1) + 40, bottom = row * (steps.length - 1) + 6;
  const look = { width: left + width + 52, height, role: "img", "aria-label": "what each patch adds" };
  const svg = shape("svg", parent, look), { low, high } = axisOf(steps);
  /** @param {number} value */
  const x = (value) => left + (width * (value - low)) / (high - low);
  /** Where a bar between two values lies. @param {number} a @param {number} b */
  const between = (a, b) => ({ x: Math.min(x(a), x(b)), width: Math.max(1.5, Math.abs(x(b) - x(a))) });

  function draw() {
    const colors = theme(root);
    svg.replaceChildren();
    for (const value of [0, Math.min(1, high)]) {
      const dashes = { stroke: colors.soft, "stroke-width": 0.8, "stroke-dasharray": value ? "3 3" : "none" };
      shape("line", svg, { x1: x(value), x2: x(value), y1: 2, y2: bottom, ...dashes });
      words(svg, String(value), { x: x(value), y: bottom + 14, fill: colors.soft, "text-anchor": "middle" });
    }
    steps.slice(1).forEach((step, i) => {
      const y = 4 + row * i, before = steps[i].patching_effect || 0, now = step.patching_effect || 0;
      const random = `${signed(step.random_mean)} [${signed(step.random_low)}, ${signed(step.random_high)}]`;
      const adds = `${names[i]} adds ${signed(step.added)}: effect ${signed(now)} of ${i + 1}`;
      const said = `${adds}; ${draws} draws of as many at random: ${random}`;
      const group = shape("g", svg, { tabindex: 0, role: "img", "aria-label": said });
      shape("rect", group, { x: 0, y, width: left + width + 50, height: row - 2, fill: "transparent" });
      words(group, names[i], { x: left - 6, y: y + 14, fill: colors.ink, "text-anchor": "end" });
      const chance = { ...between(step.random_low, step.random_high), fill: colors.line, "fill-opacity": 0.75 };
      shape("rect", group, { ...chance, y: y + 3, height: row - 9 });
      shape("rect", group, { ...between(before, now), y: y + 6, height: row - 15, fill: colors.patched });
      for (const [value, color, wide, end] of /** @type {[number, string, number, number][]} */ ([
        [now, colors.patched, 2.5, 4], [step.random_mean, colors.soft, 1.5, 6],
      ])) {
        const line = { y1: y + 2, y2: y + row - end, stroke: color, "stroke-width": wide };
        shape("line", group, { x1: x(value), x2: x(value), ...line });
      }
      words(group, signed(now), { x: left + width + 6, y: y + 14, fill: colors.ink });
      hoverable(group, (isAt) => tell(isAt ? said : ""));
    });
    const axis = `effect; gray: 95 % of ${draws} draws at random`;
    words(svg, axis, { x: left + width / 2, y: bottom + 28, fill: colors.soft, "text-anchor": "middle" });
  }
  return { draw };
}
