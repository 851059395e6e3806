// The answer's logit difference as image tokens are replaced: in the order of relevance, and in random orders.

/**
 * @typedef {{n_replaced: number, share: number, logit_diff: number, random_mean: number, random_low: number,
 *   random_high: number}} CurvePoint
 * @typedef {{points?: CurvePoint[], half?: number | null, halfRandom?: number | null, draws?: number,
 *   options?: string[], by?: string, refused?: string}} DeletionCurve
 */

/**
 * What the curve says, in a sentence.
 * @param {DeletionCurve} curve
 * @returns {string}
 */
function curveSentence(curve) {
  if (!curve.points) return curve.refused || "computing what the answer does without the image …";
  const first = curve.points[0], last = curve.points[curve.points.length - 1], n = last.n_replaced;
  const all = `With all ${n} image tokens replaced by ${curve.by}, LD (${curve.options.join(" − ")}) goes from ${signed(first.logit_diff)} to ${signed(last.logit_diff)}`;
  if (curve.half === null || Math.abs(last.logit_diff - first.logit_diff) < 0.1) return `${all}: the answer hardly depends on the image.`;
  return `${all}. The ${curve.half} most relevant do half of it; in random order it takes ${curve.halfRandom}.`;
}

/**
 * @param {HTMLElement} root of the view, whose colors are used
 * @param {HTMLElement} parent
 * @param {(text: string) => void} tell what is hovered
 * @returns {{show: (curve: DeletionCurve) => void, draw: () => void}}
 */
function deletionCurve(root, parent, tell) {
  const width = 300, height = 210, left = 40, bottom = 34, top = 8, right = 10;
  const { canvas, size, context } = canvasOf(parent, width, height, "deletion curve");
  /** @type {DeletionCurve} */
  let curve = {};
  let at = null;
  size(width, height);
  // Few tokens do most: the axis of tokens is that of a root.
  const x = (share) => left + (width - left - right) * Math.sqrt(share);
  const span = () => {
    const all = curve.points.flatMap((point) => [point.logit_diff, point.random_low, point.random_high]);
    return [Math.min(0, ...all), Math.max(0, ...all)];
  };

  function draw() {
    const colors = theme(root);
    context.setTransform(PIXELS, 0, 0, PIXELS, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!curve.points) return;
    const points = curve.points, [low, high] = span(), y = (value) => top + ((height - top - bottom) * (high - value)) / (high - low || 1);
    context.font = "11px sans-serif";
    context.fillStyle = colors.line;
    context.globalAlpha = 0.6;
    context.beginPath();
    points.forEach((point, i) => context[i ? "lineTo" : "moveTo"](x(point.share), y(point.random_high)));
    [...points].reverse().forEach((point) => context.lineTo(x(point.share), y(point.random_low)));
    context.fill();
    context.globalAlpha = 1;
    context.strokeStyle = colors.line; context.lineWidth = 1;
    context.beginPath(); context.moveTo(left, y(0)); context.lineTo(width - right, y(0)); context.stroke();
    for (const [key, color, wide] of [["random_mean", colors.soft, 1.5], ["logit_diff", colors.accent, 2.5]]) {
      context.strokeStyle = color; context.lineWidth = wide; context.beginPath();
      points.forEach((point, i) => context[i ? "lineTo" : "moveTo"](x(point.share), y(point[key])));
      context.stroke();
    }
    context.fillStyle = colors.accent;
    points.forEach((point, i) => { context.beginPath(); context.arc(x(point.share), y(point.logit_diff), i === at ? 5 : 3, 0, 7); context.fill(); });
    context.fillStyle = colors.soft; context.textAlign = "right"; context.textBaseline = "middle";
    for (const value of new Set([high, 0, low])) context.fillText(value.toFixed(Math.abs(value) < 10 && value ? 1 : 0), left - 6, y(value));
    context.textAlign = "center";
    for (const share of [0.01, 0.1, 0.25, 0.5, 1]) context.fillText(`${Math.round(100 * share)}`, x(share), height - bottom + 12);
    context.fillText("image tokens replaced, %", left + (width - left) / 2, height - 8);
  }
  const say = () => {
    const point = at === null ? null : curve.points[at];
    tell(point ? `${point.n_replaced} replaced: LD ${signed(point.logit_diff)}; in random order ${signed(point.random_mean)} [${signed(point.random_low)}, ${signed(point.random_high)}]` : "");
  };
  const go = (next) => { if (next !== at) { at = next; draw(); say(); } };
  canvas.addEventListener("pointermove", (event) => {
    if (!curve.points) return;
    const far = curve.points.map((point) => Math.abs(x(point.share) - event.offsetX));
    go(far.indexOf(Math.min(...far)));
  });
  for (const kind of ["pointerleave", "blur"]) canvas.addEventListener(kind, () => { if (curve.points) go(null); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !curve.points) return;
    go(at === null ? 0 : Math.min(Math.max(at + step, 0), curve.points.length - 1));
    event.preventDefault();
  });
  return { show: (given) => { curve = given; at = null; draw(); }, draw };
}

