// All heads at a glance: a small picture for each head, layer by layer, all with the same colors.

/**
 * @typedef {{layers: number, heads: number, boxes: number[][], rows: number, columns: number,
 *   patch: (layer: number, head: number, i: number) => number, cell: (layer: number, head: number, row: number,
 *   column: number) => number, chosen: () => number[], tell: (cell: number[] | null) => void,
 *   pick: (layer: number, head: number) => void, width: number}} GlanceOptions
 */

/** More rectangles than this are not drawn at each hover. */
const MOST_RECTANGLES = 80000;

/**
 * @param {HTMLElement} root of the view, whose colors are used
 * @param {HTMLElement} parent
 * @param {GlanceOptions} options boxes: of patches; without any, rows × columns are drawn by `cell`
 * @returns {{draw: (limit: number, picture: HTMLImageElement | null) => void, limit: () => number}}
 */
function glance(root, parent, options) {
  const { layers, heads, boxes } = options, left = 26, gap = 3, below = 16;
  const side = Math.max(14, Math.min(72, (options.width - left) / heads - gap));
  const { canvas, size, context } = canvasOf(parent, 10, 10, "all heads");
  size(left + heads * (side + gap), layers * (side + gap) + below);
  let at = null, last = [1, null];
  const parts = boxes.length || options.rows * options.columns, every = Math.max(1, Math.ceil((layers * heads * parts) / MOST_RECTANGLES));
  const place = (layer, head) => [left + head * (side + gap), (layers - 1 - layer) * (side + gap)];

  function draw(limit, picture) {
    last = [limit, picture];
    const colors = theme(root), [chosenLayer, chosenHead] = options.chosen();
    context.setTransform(PIXELS, 0, 0, PIXELS, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.font = "11px sans-serif"; context.textBaseline = "middle";
    for (let layer = 0; layer < layers; layer++) {
      context.fillStyle = colors.soft; context.textAlign = "right";
      context.fillText(String(layer), left - 6, place(layer, 0)[1] + side / 2);
      for (let head = 0; head < heads; head++) {
        const [x, y] = place(layer, head);
        context.fillStyle = colors.panel; context.fillRect(x, y, side, side);
        if (boxes.length) {
          if (picture) { context.filter = "grayscale(1)"; context.globalAlpha = 0.5; context.drawImage(picture, x, y, side, side); context.filter = "none"; context.globalAlpha = 1; }
          // With too many patches every second, third, … stands for its neighbors.
          for (let i = 0; i < boxes.length; i += every) {
            const [t, l, b, r] = boxes[i];
            context.fillStyle = heat(options.patch(layer, head, i) / limit, colors.dark);
            context.fillRect(x + l * side, y + t * side, (r - l) * side * every, (b - t) * side);
          }
        } else {
          const w = side / options.columns, h = side / options.rows;
          for (let row = 0; row < options.rows; row++) for (let column = 0; column < options.columns; column++) {
            context.fillStyle = heat(options.cell(layer, head, row, column) / limit, colors.dark);
            context.fillRect(x + column * w, y + row * h, w, h);
          }
        }
        if (layer === chosenLayer && head === chosenHead) { context.strokeStyle = colors.accent; context.lineWidth = 3; context.strokeRect(x + 1, y + 1, side - 2, side - 2); }
        if (at && at[0] === layer && at[1] === head) { context.strokeStyle = colors.ink; context.lineWidth = 2; context.strokeRect(x + 1, y + 1, side - 2, side - 2); }
      }
    }
    context.fillStyle = colors.soft; context.textAlign = "center";
    for (let head = 0; head < heads; head++) if (side > 18 || head % 4 === 0) context.fillText(String(head), left + head * (side + gap) + side / 2, layers * (side + gap) + 6);
  }
  const go = (cell) => {
    if (String(cell) === String(at)) return;
    at = cell;
    if (at) canvas.setAttribute("aria-label", `all heads: head ${at[0]}.${at[1]}`);
    options.tell(at);
    draw(...last);
  };
  canvas.addEventListener("pointermove", (event) => {
    const head = Math.floor((event.offsetX - left) / (side + gap)), layer = layers - 1 - Math.floor(event.offsetY / (side + gap));
    go(head >= 0 && head < heads && layer >= 0 && layer < layers ? [layer, head] : null);
  });
  for (const kind of ["pointerleave", "blur"]) canvas.addEventListener(kind, () => go(null));
  canvas.addEventListener("click", () => { if (at) options.pick(...at); });
  canvas.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (step) go(at ? [Math.min(Math.max(at[0] - step[0], 0), layers - 1), Math.min(Math.max(at[1] + step[1], 0), heads - 1)] : [0, 0]);
    else if ((event.key === "Enter" || event.key === " ") && at) options.pick(...at);
    else return;
    event.preventDefault();
  });
  return { draw, limit: () => last[0] };
}

