// What all views are drawn with: heat maps, an image with patches, a strip of tokens, bars. Every view's script is put
// behind this one. Nothing is fetched, nothing is built.

const PIXELS = Math.max(1, window.devicePixelRatio || 1);

function make(tag, name, parent, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

// Keys are for the view: JupyterLab would take the arrows for its cells.
function begin(el) {
  el.classList.add("vt");
  el.dataset.lmSuppressShortcuts = "true";
}

function percent(share) {
  const value = 100 * share;
  return (value >= 10 || value === 0 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : "<0.1") + " %";
}

function signed(value) {
  return value === null || Number.isNaN(value) ? "–" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
}

// Colors: those of the page's theme where it has any.

const probe = document.createElement("canvas").getContext("2d");

// 0 … 1, of a color in any notation.
function lightness(color) {
  probe.fillStyle = "#000"; probe.fillStyle = color;
  const numbers = probe.fillStyle.startsWith("#") ? probe.fillStyle.match(/[0-9a-f]{2}/g).map((part) => parseInt(part, 16)) : probe.fillStyle.match(/[0-9.]+/g).slice(0, 3).map(Number);
  return numbers.reduce((sum, part) => sum + part, 0) / 765;
}

function theme(node) {
  const style = getComputedStyle(node);
  const of = (name) => style.getPropertyValue(name).trim();
  return { ink: of("--vt-ink"), soft: of("--vt-soft"), line: of("--vt-line"), panel: of("--vt-panel"), accent: of("--vt-accent"), clean: of("--vt-clean"), corrupt: of("--vt-corrupt"), patched: of("--vt-patched"), dark: lightness(of("--vt-ink")) > 0.5 };
}

// Draw again when the theme changes, and when `root` comes to be seen: colors are known only then.
function keepDrawn(root, draw) {
  const later = () => requestAnimationFrame(draw);
  const themes = new MutationObserver(later), sizes = new ResizeObserver(later);
  themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
  sizes.observe(root);
  const media = window.matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", later);
  return () => { themes.disconnect(); sizes.disconnect(); media.removeEventListener("change", later); };
}

const HEAT = [[255, 217, 51, 0], [255, 166, 0, 0.75], [191, 25, 25, 0.9], [89, 0, 64, 1]];

// The same on a dark ground, where more must be lighter.
const HEAT_IN_THE_DARK = [[255, 140, 0, 0], [230, 110, 0, 0.65], [255, 190, 60, 0.95], [255, 250, 215, 1]];

// The color of a share of the largest value, transparent at 0, so that the image shows where nothing looks.
function heat(share, dark = false) {
  const scale = dark ? HEAT_IN_THE_DARK : HEAT, place = Math.min(Math.max(share, 0), 1) * (scale.length - 1);
  const low = Math.min(Math.floor(place), scale.length - 2);
  const [r, g, b, a] = scale[low].map((value, i) => value + (place - low) * (scale[low + 1][i] - value));
  return `rgba(${r.toFixed(0)},${g.toFixed(0)},${b.toFixed(0)},${a.toFixed(3)})`;
}

// Blue below 0, red above, transparent at 0.
function diverging(share) {
  const strength = Math.min(Math.abs(share), 1);
  return share < 0 ? `rgba(33,102,172,${strength.toFixed(3)})` : `rgba(190,24,38,${strength.toFixed(3)})`;
}

// How long a hover took until it was drawn, and until the next frame began; read by the browser test.
function timed(root, event, draw) {
  draw();
  root.dataset.hoverMs = (performance.now() - event.timeStamp).toFixed(2);
  requestAnimationFrame(() => { root.dataset.frameMs = (performance.now() - event.timeStamp).toFixed(2); });
}

function canvasOf(parent, width, height, label) {
  const canvas = make("canvas", "vt-canvas", parent);
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", label);
  canvas.dataset.name = label;
  const size = (w, h) => {
    canvas.width = Math.round(w * PIXELS); canvas.height = Math.round(h * PIXELS);
    canvas.style.width = `${w}px`; canvas.style.height = `${h}px`;
  };
  size(width, height);
  return { canvas, size, context: canvas.getContext("2d") };
}

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

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

function pictureOf(bytes) {
  const url = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  const picture = new Image();
  return new Promise((resolve, reject) => {
    picture.onload = () => { URL.revokeObjectURL(url); resolve(picture); };
    picture.onerror = () => reject(new Error("the image could not be drawn"));
    picture.src = url;
  });
}

// Tokens in a row, to hover and to click; one tab stop, arrow keys go along. options: tokens [{text, role}], chosen(i),
// share(i) or null (drawn as a bar in the token), hover(i or null), pick(i, event)
function tokenStrip(root, parent, options) {
  const strip = make("div", "vt-tokens", parent);
  strip.setAttribute("role", "group");
  strip.setAttribute("aria-label", options.label);
  const buttons = options.tokens.map((token, i) => {
    const button = make("button", "vt-token", strip);
    button.type = "button";
    button.tabIndex = i ? -1 : 0;
    button.title = token.title;
    if (token.gap) button.classList.add("vt-gap");
    make("span", "vt-bar", button);
    make("span", "vt-text", button, token.text);
    make("span", "vt-role", button, token.role);
    button.addEventListener("pointerenter", (event) => timed(root, event, () => options.hover(i)));
    button.addEventListener("pointerleave", () => options.hover(null));
    button.addEventListener("focus", () => { if (button.matches(":focus-visible")) options.hover(i); });
    button.addEventListener("blur", () => options.hover(null));
    button.addEventListener("click", (event) => options.pick(i, event));
    return button;
  });
  strip.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], now = buttons.indexOf(document.activeElement);
    if (!step || now < 0) return;
    event.preventDefault();
    const next = buttons[Math.min(Math.max(now + step, 0), buttons.length - 1)];
    buttons.forEach((button) => { button.tabIndex = -1; });
    next.tabIndex = 0;
    next.focus();
  });
  function draw() {
    buttons.forEach((button, i) => {
      button.setAttribute("aria-pressed", options.chosen(i));
      const share = options.share(i);
      button.firstChild.style.height = share === null ? "0" : `${(100 * share).toFixed(1)}%`;
    });
  }
  return { draw, strip };
}

function check(parent, text, value, change) {
  const label = make("label", "vt-check", parent), box = make("input", "", label);
  box.type = "checkbox"; box.checked = value;
  label.append(` ${text}`);
  box.addEventListener("change", () => change(box.checked));
  return box;
}

function button(parent, text, act, title) {
  const made = make("button", "vt-button", parent, text);
  made.type = "button";
  if (title) made.title = title;
  made.addEventListener("click", act);
  return made;
}

// Draw `paint` once now and again whenever one of the traits changes; returns what undoes it.
function follow(model, traits, paint) {
  const names = traits.map((trait) => `change:${trait}`).join(" ");
  model.on(names, paint);
  return () => model.off(names, paint);
}

// Build a view anew whenever its state changes, once the state has what it needs. What was in focus stays in focus: it
// is found again by its data-name, or its name. `build` returns functions that undo what it set up.
function rebuilt(model, el, needed, build) {
  begin(el);
  let undo = [];
  function start() {
    const focused = el.contains(document.activeElement) ? document.activeElement : null;
    const name = focused ? focused.dataset.name || focused.name : "";
    undo.forEach((act) => act());
    undo = [];
    el.replaceChildren();
    if (!model.get("state")[needed]) { delete el.dataset.drawn; return; }
    undo = build(model, el);
    if (name) el.querySelector(`[data-name="${name}"], [name="${name}"]`)?.focus();
  }
  const stop = follow(model, ["state"], start);
  start();
  return () => { stop(); undo.forEach((act) => act()); };
}

function save(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
  model.save_changes();
}
