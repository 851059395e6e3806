// What is drawn on: a canvas, the keys that move in it, and how long a hover takes.

/** Draw, and note how long a hover took until it was drawn, and until the next frame began: the browser test reads it.
 * @param {HTMLElement} root @param {Event} event @param {() => void} draw */
function timed(root, event, draw) {
  draw();
  root.dataset.hoverMs = (performance.now() - event.timeStamp).toFixed(2);
  requestAnimationFrame(() => { root.dataset.frameMs = (performance.now() - event.timeStamp).toFixed(2); });
}

/** A canvas that keys reach, sharp on any screen.
 * @param {Element} parent @param {number} width @param {number} height @param {string} label */
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
