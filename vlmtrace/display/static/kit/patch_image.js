// An image with its patches. options: side (largest, in pixels), boxes (top, left, bottom, right, in fractions),
// color(patch) or null, grid(), selected (a Set), tell(patch), hover(patch or null), change(Set) on click, drag, keys
function patchImage(root, parent, options) {
  const { canvas, size, context } = canvasOf(parent, options.side, options.side, options.label || "image");
  let image = null, at = null, from = null, before = null, adds = true;

  function show(picture) {
    image = picture;
    const scale = options.side / Math.max(picture.width, picture.height);
    size(picture.width * scale, picture.height * scale);
    draw();
  }
  const extent = () => [canvas.width / PIXELS, canvas.height / PIXELS];
  /** @returns {[number, number, number, number]} */
  const box = (i) => { const [w, h] = extent(), [t, l, b, r] = options.boxes[i]; return [l * w, t * h, (r - l) * w, (b - t) * h]; };

  function draw() {
    if (!image) return;
    const colors = theme(root), [width, height] = extent();
    context.setTransform(PIXELS, 0, 0, PIXELS, 0, 0);
    context.imageSmoothingEnabled = image.width > 2 * width;
    context.filter = options.color ? "grayscale(1)" : "none";
    context.drawImage(image, 0, 0, width, height);
    context.filter = "none";
    if (options.color) {
      context.fillStyle = "rgba(255,255,255,0.35)"; context.fillRect(0, 0, width, height);
      options.boxes.forEach((_, i) => { context.fillStyle = options.color(i); context.fillRect(...box(i)); });
    }
    if (options.grid && options.grid()) {
      context.strokeStyle = "rgba(255,255,255,0.7)"; context.lineWidth = 1.5;
      options.boxes.forEach((_, i) => context.strokeRect(...box(i)));
      context.strokeStyle = "rgba(0,0,0,0.6)"; context.lineWidth = 0.6;
      options.boxes.forEach((_, i) => context.strokeRect(...box(i)));
    }
    for (const i of options.selected || []) frame(box(i), "#ffffff", "#000000");
    if (at !== null) frame(box(at), colors.accent, "#ffffff");
  }

  function frame([x, y, w, h], inner, outer) {
    context.strokeStyle = outer; context.lineWidth = 4; context.strokeRect(x + 2, y + 2, w - 4, h - 4);
    context.strokeStyle = inner; context.lineWidth = 2; context.strokeRect(x + 2, y + 2, w - 4, h - 4);
  }

  function patch(event) {
    const [w, h] = extent(), x = event.offsetX / w, y = event.offsetY / h;
    const found = options.boxes.findIndex(([t, l, b, r]) => x >= l && x < r && y >= t && y < b);
    return found < 0 ? null : found;
  }

  // All patches whose middle lies in the rectangle between two patches.
  function between(a, b) {
    const [t1, l1, b1, r1] = options.boxes[a], [t2, l2, b2, r2] = options.boxes[b];
    const [t, l, d, r] = [Math.min(t1, t2), Math.min(l1, l2), Math.max(b1, b2), Math.max(r1, r2)];
    return options.boxes.map((_, i) => i).filter((i) => {
      const [bt, bl, bb, br] = options.boxes[i], y = (bt + bb) / 2, x = (bl + br) / 2;
      return y >= t && y <= d && x >= l && x <= r;
    });
  }

  function go(next) {
    at = next;
    if (at !== null) canvas.setAttribute("aria-label", `${options.label}: ${options.tell(at)}`);
    if (options.hover) options.hover(at);
    draw();
  }

  function drag(to) {
    options.selected = new Set(before);
    for (const i of between(from, to)) adds ? options.selected.add(i) : options.selected.delete(i);
  }

  canvas.addEventListener("pointermove", (event) => {
    const next = patch(event);
    if (next === at) return;
    if (from !== null && next !== null) drag(next);
    timed(root, event, () => go(next));
  });
  canvas.addEventListener("pointerleave", () => { if (from === null) go(null); });
  canvas.addEventListener("blur", () => go(null));
  if (options.change) {
    canvas.addEventListener("pointerdown", (event) => {
      const found = patch(event);
      if (found === null) return;
      canvas.setPointerCapture(event.pointerId);
      from = found; before = new Set(options.selected); adds = !before.has(found);
      drag(found); draw();
    });
    canvas.addEventListener("pointerup", () => { if (from !== null) { from = null; options.change(options.selected); } });
  }
  canvas.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (step) timed(root, event, () => go(at === null ? 0 : neighbor(at, step)));
    else if ((event.key === "Enter" || event.key === " ") && at !== null && options.change) {
      const next = new Set(options.selected);
      next.has(at) ? next.delete(at) : next.add(at);
      options.selected = next; options.change(next); draw();
    } else return;
    event.preventDefault();
  });

  function neighbor(i, [down, right]) {
    const middle = ([t, l, b, r]) => [(t + b) / 2, (l + r) / 2], [y, x] = middle(options.boxes[i]);
    let best = i, least = Infinity;
    options.boxes.forEach((other, j) => {
      const [oy, ox] = middle(other), along = (oy - y) * down + (ox - x) * right, across = Math.abs((oy - y) * right) + Math.abs((ox - x) * down);
      if (along > 1e-6 && along + 3 * across < least) { least = along + 3 * across; best = j; }
    });
    return best;
  }
  return { show, draw, canvas, options, isDragged: () => from !== null };
}

/** @param {BlobPart} bytes of a PNG @returns {Promise<HTMLImageElement>} */
function pictureOf(bytes) {
  const url = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  const picture = new Image();
  return new Promise((resolve, reject) => {
    picture.onload = () => { URL.revokeObjectURL(url); resolve(picture); };
    picture.onerror = () => reject(new Error("the image could not be drawn"));
    picture.src = url;
  });
}
