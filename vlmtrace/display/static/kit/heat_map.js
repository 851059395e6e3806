// A heat map of rows × columns, row 0 at the bottom (layers upwards, as information flows).
// options: rows, columns, labels (of columns), value(row, column), color(value), marked(row, column), tell(row, column),
// hover(row, column or null), pick(row, column), rowLabels (of rows; default: numbers of layers), columnName, width
function heatMap(root, parent, options) {
  const top = 6;
  let left = 34;
  const { canvas, size, context } = canvasOf(parent, 10, 10, options.label);
  let at = null, side = [20, 20], bottom = 20;

  function layout() {
    const long = options.labels && options.labels.some((text) => text.length > 2);
    context.font = "11px sans-serif";
    if (options.rowLabels) left = 8 + Math.min(90, Math.max(...options.rowLabels.map((text) => context.measureText(text).width)));
    bottom = long ? 14 + 0.75 * Math.max(...options.labels.map((text) => context.measureText(text).width)) : 32;
    const width = Math.max(7, Math.min(options.largest || 34, (options.width - left - 4) / options.columns));
    side = [width, Math.max(9, Math.min(26, 240 / options.rows, Math.max(width, 16)))];
    size(left + side[0] * options.columns + 6 + (long ? 14 : 0), top + side[1] * options.rows + bottom);
  }

  function place(row, column) { return [left + column * side[0], top + (options.rows - 1 - row) * side[1]]; }

  function draw() {
    const colors = theme(root);
    context.setTransform(PIXELS, 0, 0, PIXELS, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (let row = 0; row < options.rows; row++) for (let column = 0; column < options.columns; column++) {
      const [x, y] = place(row, column), value = options.value(row, column);
      context.fillStyle = colors.panel;
      context.fillRect(x, y, side[0] - 1, side[1] - 1);
      if (value !== null && !Number.isNaN(value)) {
        context.fillStyle = options.color(value, colors.dark);
        context.fillRect(x, y, side[0] - 1, side[1] - 1);
      }
    }
    context.fillStyle = colors.soft; context.font = "11px sans-serif"; context.textBaseline = "middle"; context.textAlign = "right";
    const every = Math.ceil(options.rows / 12);
    for (let row = 0; row < options.rows; row += every) context.fillText(options.rowLabels ? options.rowLabels[row] : row, left - 6, place(row, 0)[1] + side[1] / 2);
    if (!options.rowLabels) { context.save(); context.translate(9, top + options.rows * side[1] / 2); context.rotate(-Math.PI / 2);
    context.textAlign = "center"; context.fillText("layer", 0, 0); context.restore(); }
    drawColumns(colors);
    for (let row = 0; row < options.rows; row++) for (let column = 0; column < options.columns; column++) {
      if (options.marked(row, column)) outline(...place(row, column), colors.ink, 2);
    }
    if (at) outline(...place(...at), colors.accent, 3);
  }

  function drawColumns(colors) {
    const y = top + options.rows * side[1] + 4, long = bottom > 32 || (options.labels && options.labels.some((t) => t.length > 2));
    context.fillStyle = colors.soft;
    for (let column = 0; column < options.columns; column++) {
      const x = left + (column + 0.5) * side[0];
      if (!long && side[0] < 14 && column % Math.ceil(14 / side[0])) continue;
      context.save(); context.translate(x, y + 4);
      if (long) { context.rotate(-Math.PI / 4); context.textAlign = "right"; } else { context.textAlign = "center"; }
      context.fillText(options.labels ? options.labels[column] : column, 0, 2); context.restore();
    }
    if (!long) { context.textAlign = "center"; context.fillText(options.columnName || "head", left + options.columns * side[0] / 2, y + 22); }
  }

  function outline(x, y, color, width) {
    context.strokeStyle = color; context.lineWidth = width;
    context.strokeRect(x + 0.5, y + 0.5, side[0] - 2, side[1] - 2);
  }

  function cell(event) {
    const column = Math.floor((event.offsetX - left) / side[0]);
    const row = options.rows - 1 - Math.floor((event.offsetY - top) / side[1]);
    return row >= 0 && row < options.rows && column >= 0 && column < options.columns ? [row, column] : null;
  }

  function go(cell) {
    at = cell;
    if (at) canvas.setAttribute("aria-label", `${options.label}: ${options.tell(...at)}`);
    options.hover(at);
    draw();
  }
  canvas.addEventListener("pointermove", (event) => {
    const next = cell(event);
    if (String(next) !== String(at)) timed(root, event, () => go(next));
  });
  canvas.addEventListener("pointerleave", () => go(null));
  canvas.addEventListener("blur", () => go(null));
  canvas.addEventListener("click", (event) => { const found = cell(event); if (found) options.pick(...found, event); });
  canvas.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (step) {
      const [row, column] = at || [0, 0];
      const next = at ? [Math.min(Math.max(row - step[0], 0), options.rows - 1), Math.min(Math.max(column + step[1], 0), options.columns - 1)] : [0, 0];
      timed(root, event, () => go(next));
    } else if ((event.key === "Enter" || event.key === " ") && at) options.pick(...at, event);
    else return;
    event.preventDefault();
  });
  layout();
  return { draw, canvas, place: (row, column) => { const [x, y] = place(row, column); return [x + side[0] / 2, y + side[1] / 2]; } };
}
