// @ts-check
// An image with its patches, to hover, and, where they can be chosen, to click and to drag over.

import { boxAt, boxesBetween, neighborOf } from "./boxes.js";
import { canvasOf, clear, outline, PIXELS, STEPS, timed } from "./canvas.js";
import { theme } from "./colors.js";

/** @import { Box } from "./boxes.js" */

/**
 * @typedef {{
 *   side: number,
 *   boxes: Box[],
 *   label: string,
 *   tell: (patch: number) => string,
 *   color?: (patch: number) => string,
 *   grid?: () => boolean,
 *   selected?: Set<number>,
 *   hover?: (patch: number | null) => void,
 *   change?: (selected: Set<number>) => void,
 * }} PatchImageOptions
 * side: the longer one, in pixels; change: patches can be chosen, and it is told which are
 */

/** @param {HTMLElement} root of the view, whose colors are used @param {Element} parent
 * @param {PatchImageOptions} options */
export function patchImage(root, parent, options) {
  const { canvas, size, context } = canvasOf(parent, options.side, options.side, options.label), { boxes } = options;
  /** @type {HTMLImageElement | null} */
  let image = null;
  /** @type {number | null} */
  let at = null;
  /** Where a drag began, what was chosen before, and whether it adds.
   * @type {{from: number, before: Set<number>, adds: boolean} | null} */
  let drag = null;
  /** The patches that are chosen; a view may put others in its place. */
  const made = { show, draw, canvas, selected: options.selected ?? new Set(), isDragged: () => drag !== null };

  /** @param {HTMLImageElement} picture */
  function show(picture) {
    image = picture;
    const scale = options.side / Math.max(picture.width, picture.height);
    size(picture.width * scale, picture.height * scale);
    draw();
  }
  const extent = () => [canvas.width / PIXELS, canvas.height / PIXELS];
  /** @param {number} i @returns {[number, number, number, number]} */
  const box = (i) => {
    const [w, h] = extent(), [t, l, b, r] = boxes[i];
    return [l * w, t * h, (r - l) * w, (b - t) * h];
  };

  function draw() {
    if (!image) return;
    const colors = theme(root), [width, height] = extent(), { color } = options;
    clear(context);
    context.imageSmoothingEnabled = image.width > 2 * width;
    context.filter = color ? "grayscale(1)" : "none";
    context.drawImage(image, 0, 0, width, height);
    context.filter = "none";
    if (color) {
      context.fillStyle = "rgba(255,255,255,0.35)";
      context.fillRect(0, 0, width, height);
      boxes.forEach((_, i) => {
        context.fillStyle = color(i);
        context.fillRect(...box(i));
      });
    }
    if (options.grid && options.grid()) {
      boxes.forEach((_, i) => outline(context, ...box(i), "rgba(255,255,255,0.7)", 1.5));
      boxes.forEach((_, i) => outline(context, ...box(i), "rgba(0,0,0,0.6)", 0.6));
    }
    for (const i of made.selected) frame(i, "#ffffff", "#000000");
    if (at !== null) frame(at, colors.accent, "#ffffff");
  }

  /** @param {number} i @param {string} inner @param {string} outer */
  function frame(i, inner, outer) {
    const [x, y, w, h] = box(i);
    outline(context, x + 2, y + 2, w - 4, h - 4, outer, 4);
    outline(context, x + 2, y + 2, w - 4, h - 4, inner, 2);
  }

  /** @param {MouseEvent} event */
  const under = (event) => boxAt(boxes, event.offsetX / extent()[0], event.offsetY / extent()[1]);

  /** @param {number | null} next */
  function go(next) {
    at = next;
    if (at !== null) canvas.setAttribute("aria-label", `${options.label}: ${options.tell(at)}`);
    if (options.hover) options.hover(at);
    draw();
  }

  /** @param {number} to */
  function dragTo(to) {
    if (!drag) return;
    const next = new Set(drag.before);
    for (const i of boxesBetween(boxes, drag.from, to)) {
      if (drag.adds) next.add(i);
      else next.delete(i);
    }
    made.selected = next;
  }

  canvas.addEventListener("pointermove", (event) => {
    const next = under(event);
    if (next === at) return;
    if (next !== null) dragTo(next);
    timed(root, event, () => go(next));
  });
  canvas.addEventListener("pointerleave", () => {
    if (!drag) go(null);
  });
  canvas.addEventListener("blur", () => go(null));
  const { change } = options;
  if (change) {
    canvas.addEventListener("pointerdown", (event) => {
      const found = under(event);
      if (found === null) return;
      canvas.setPointerCapture(event.pointerId);
      drag = { from: found, before: new Set(made.selected), adds: !made.selected.has(found) };
      dragTo(found);
      draw();
    });
    canvas.addEventListener("pointerup", () => {
      if (!drag) return;
      drag = null;
      change(made.selected);
    });
  }
  canvas.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (step) timed(root, event, () => go(at === null ? 0 : neighborOf(boxes, at, step)));
    else if ((event.key === "Enter" || event.key === " ") && at !== null && change) {
      const next = new Set(made.selected);
      if (!next.delete(at)) next.add(at);
      made.selected = next;
      change(next);
      draw();
    } else return;
    event.preventDefault();
  });
  return made;
}
