// @ts-check
// The answer's logit difference as image tokens are replaced: in the order of relevance, and in random orders.

import { ALONG, canvasOf, clear } from "../../display/static/kit/canvas.js";
import { theme } from "../../display/static/kit/colors.js";
import { signed } from "../../display/static/kit/numbers.js";

/** @import { Theme } from "../../display/static/kit/colors.js" */

/** So many tokens are too few, and so many enough: a curve has no points between. @typedef {[number, number]} Span */

/**
 * @typedef {{n_replaced: number, share: number, logit_diff: number, random_mean: number, random_low: number,
 *   random_high: number}} CurvePoint
 * @typedef {{points?: CurvePoint[], half?: Span | null, halfRandom?: Span | null, draws?: number, options?: string[],
 *   by?: string, refused?: string}} DeletionCurve
 */

/** How many tokens do not do half of it yet, where that says more. @param {Span} span @returns {string} */
const short = ([few, enough]) => (few && enough - few > 1 ? ` (${few} do not)` : "");

/** What the curve says, in a sentence. @param {DeletionCurve} curve @returns {string} */
export function curveSentence({ points, refused, by, options, half, halfRandom }) {
  if (!points) return refused || "computing what the answer does without the image …";
  const first = points[0], last = points[points.length - 1];
  const way = `LD (${(options ?? []).join(" − ")}) goes from ${signed(first.logit_diff)} to ${signed(last.logit_diff)}`;
  const all = `With all ${last.n_replaced} image tokens replaced by ${by}, ${way}`;
  if (!half || Math.abs(last.logit_diff - first.logit_diff) < 0.1) {
    return `${all}: the answer hardly depends on the image.`;
  }
  const random = halfRandom ? `; in random order ${halfRandom[1]} do${short(halfRandom)}` : "";
  return `${all}. The ${half[1]} most relevant do half of it${short(half)}${random}.`;
}

/** The range of the axis: 0 and all that is drawn. @param {CurvePoint[]} points @returns {[number, number]} */
export function spanOf(points) {
  const all = points.flatMap((point) => [point.logit_diff, point.random_low, point.random_high]);
  return [Math.min(0, ...all), Math.max(0, ...all)];
}

/**
 * @param {HTMLElement} root of the view, whose colors are used
 * @param {HTMLElement} parent
 * @param {(text: string) => void} tell what is hovered
 * @returns {{show: (curve: DeletionCurve) => void, draw: () => void}}
 */
export function deletionCurve(root, parent, tell) {
  const width = 300, height = 210, left = 40, bottom = 34, top = 8, right = 10;
  const { canvas, size, context } = canvasOf(parent, width, height, "deletion curve");
  /** @type {CurvePoint[]} */
  let points = [];
  /** @type {number | null} */
  let at = null;
  size(width, height);
  /** Few tokens do most: the axis of tokens is that of a root. @param {number} share */
  const x = (share) => left + (width - left - right) * Math.sqrt(share);
  /** @param {number} value */
  const y = (value) => {
    const [low, high] = spanOf(points);
    return top + ((height - top - bottom) * (high - value)) / (high - low || 1);
  };

  /** @param {(point: CurvePoint) => number} value @param {string} color @param {number} wide */
  function line(value, color, wide) {
    context.strokeStyle = color;
    context.lineWidth = wide;
    context.beginPath();
    points.forEach((point) => context.lineTo(x(point.share), y(value(point))));
    context.stroke();
  }
  /** Where 95 % of random orders lie. @param {Theme} colors */
  function band(colors) {
    context.fillStyle = colors.line;
    context.globalAlpha = 0.6;
    context.beginPath();
    points.forEach((point) => context.lineTo(x(point.share), y(point.random_high)));
    [...points].reverse().forEach((point) => context.lineTo(x(point.share), y(point.random_low)));
    context.fill();
    context.globalAlpha = 1;
  }
  /** @param {Theme} colors */
  function axes(colors) {
    const [low, high] = spanOf(points);
    context.fillStyle = colors.soft;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const value of new Set([high, 0, low])) {
      context.fillText(value.toFixed(Math.abs(value) < 10 && value ? 1 : 0), left - 6, y(value));
    }
    context.textAlign = "center";
    for (const share of [0.01, 0.1, 0.25, 0.5, 1]) {
      context.fillText(`${Math.round(100 * share)}`, x(share), height - bottom + 12);
    }
    context.fillText("image tokens replaced, %", left + (width - left) / 2, height - 8);
  }

  function draw() {
    const colors = theme(root);
    clear(context);
    if (!points.length) return;
    context.font = "11px sans-serif";
    band(colors);
    context.strokeStyle = colors.line;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(left, y(0));
    context.lineTo(width - right, y(0));
    context.stroke();
    line((point) => point.random_mean, colors.soft, 1.5);
    line((point) => point.logit_diff, colors.accent, 2.5);
    context.fillStyle = colors.accent;
    points.forEach((point, i) => {
      context.beginPath();
      context.arc(x(point.share), y(point.logit_diff), i === at ? 5 : 3, 0, 7);
      context.fill();
    });
    axes(colors);
  }
  /** @param {number | null} next */
  const go = (next) => {
    if (next === at || !points.length) return;
    at = next;
    draw();
    if (at === null) {
      tell("");
      return;
    }
    const { n_replaced, logit_diff, random_mean, random_low, random_high } = points[at];
    const random = `${signed(random_mean)} [${signed(random_low)}, ${signed(random_high)}]`;
    tell(`${n_replaced} replaced: LD ${signed(logit_diff)}; in random order ${random}`);
  };
  canvas.addEventListener("pointermove", (event) => {
    const far = points.map((point) => Math.abs(x(point.share) - event.offsetX));
    if (far.length) go(far.indexOf(Math.min(...far)));
  });
  for (const kind of ["pointerleave", "blur"]) canvas.addEventListener(kind, () => go(null));
  canvas.addEventListener("keydown", (event) => {
    const step = ALONG[event.key];
    if (!step || !points.length) return;
    go(at === null ? 0 : Math.min(Math.max(at + step, 0), points.length - 1));
    event.preventDefault();
  });
  /** @param {DeletionCurve} curve */
  const show = (curve) => {
    points = curve.points ?? [];
    at = null;
    draw();
  };
  return { show, draw };
}
