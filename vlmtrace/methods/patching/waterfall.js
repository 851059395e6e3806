// What each patch adds in the order in which patches were chosen, beside as many patches at random.
const WATERFALL_SVG = "http://www.w3.org/2000/svg";

/**
 * @typedef {{step: number, patch: string, patching_effect: number | null, added: number | null, random_mean: number,
 *   random_low: number, random_high: number, random_share: number}} Step
 */

/**
 * Bars from the effect before a patch to the effect with it, and for each step where 95 % of random draws lie.
 * @param {HTMLElement} root of the view, whose colors are used
 * @param {HTMLElement} parent
 * @param {{steps: Step[], names: string[], draws: number, tell: (text: string) => void}} options names of the patches
 * @returns {{draw: () => void}}
 */
function waterfall(root, parent, options) {
  const { steps, names } = options, row = 24, left = 112, width = 140, height = row * (steps.length - 1) + 40;
  const node = (tag, holder, attributes) => {
    const made = document.createElementNS(WATERFALL_SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
    holder.append(made);
    return made;
  };
  const svg = node("svg", parent, { width: left + width + 52, height, role: "img", "aria-label": "what each patch adds" });
  const values = steps.flatMap((step) => [step.patching_effect || 0, step.random_low || 0, step.random_high || 0]);
  const most = Math.max(...values), low = Math.min(0, ...values);
  // Effects that are far from 1 are drawn larger, and the axis says so.
  const high = [0.1, 0.2, 0.5].find((step) => most <= step) || Math.max(1, most), end = Math.min(1, high), x = (value) => left + (width * (value - low)) / (high - low);

  function draw() {
    const colors = theme(root), patched = getComputedStyle(root).getPropertyValue("--vt-patched").trim();
    svg.replaceChildren();
    const bottom = row * (steps.length - 1) + 6;
    for (const value of [0, end]) {
      node("line", svg, { x1: x(value), x2: x(value), y1: 2, y2: bottom, stroke: colors.soft, "stroke-width": 0.8, "stroke-dasharray": value ? "3 3" : "none" });
      node("text", svg, { x: x(value), y: bottom + 14, fill: colors.soft, "font-size": 11, "text-anchor": "middle" }).textContent = String(value);
    }
    steps.slice(1).forEach((step, i) => {
      const y = 4 + row * i, before = steps[i].patching_effect || 0, now = step.patching_effect || 0;
      const said = `${names[i]} adds ${signed(step.added)}: effect ${signed(now)} of ${i + 1}; ${options.draws} draws of as many at random: ${signed(step.random_mean)} [${signed(step.random_low)}, ${signed(step.random_high)}]`;
      const group = node("g", svg, { tabindex: 0, role: "img", "aria-label": said });
      node("rect", group, { x: 0, y, width: left + width + 50, height: row - 2, fill: "transparent" });
      node("text", group, { x: left - 6, y: y + 14, fill: colors.ink, "font-size": 11, "text-anchor": "end" }).textContent = names[i];
      node("rect", group, { x: x(step.random_low), y: y + 3, width: Math.max(1.5, x(step.random_high) - x(step.random_low)), height: row - 9, fill: colors.line, "fill-opacity": 0.75 });
      node("rect", group, { x: Math.min(x(before), x(now)), y: y + 6, width: Math.max(1.5, Math.abs(x(now) - x(before))), height: row - 15, fill: patched });
      node("line", group, { x1: x(now), x2: x(now), y1: y + 2, y2: y + row - 4, stroke: patched, "stroke-width": 2.5 });
      node("line", group, { x1: x(step.random_mean), x2: x(step.random_mean), y1: y + 3, y2: y + row - 6, stroke: colors.soft, "stroke-width": 1.5 });
      node("text", group, { x: left + width + 6, y: y + 14, fill: colors.ink, "font-size": 11 }).textContent = signed(now);
      for (const [kind, text] of [["pointerenter", said], ["focus", said], ["pointerleave", ""], ["blur", ""]]) group.addEventListener(kind, () => options.tell(text));
    });
    node("text", svg, { x: left + width / 2, y: bottom + 28, fill: colors.soft, "font-size": 11, "text-anchor": "middle" }).textContent = `effect; gray: 95 % of ${options.draws} draws at random`;
  }
  return { draw };
}

