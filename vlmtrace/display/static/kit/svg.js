// @ts-check
// Shapes of a drawing that the page can point at: SVG.

const SVG = "http://www.w3.org/2000/svg";

/** A new shape at the end of `parent`.
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag @param {Element|null} parent @param {Record<string, string|number>} attributes
 * @returns {SVGElementTagNameMap[K]} */
export function shape(tag, parent, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  if (parent) parent.append(node);
  return node;
}

/** Words in a drawing.
 * @param {Element} parent @param {string} text @param {Record<string, string|number>} attributes */
export function words(parent, text, attributes) {
  shape("text", parent, { "font-size": 11, ...attributes }).textContent = text;
}

/** Let a shape be clicked, by pointer or keys.
 * @param {SVGElement} node @param {string} label @param {() => void} act */
export function clickable(node, label, act) {
  node.setAttribute("tabindex", "0");
  node.setAttribute("role", "button");
  node.setAttribute("aria-label", label);
  node.style.cursor = "pointer";
  node.addEventListener("click", act);
  node.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      act();
    }
  });
}

/** Tell when a shape is pointed at or has the focus, and when it is left.
 * @param {SVGElement} node @param {(isAt: boolean) => void} tell */
export function hoverable(node, tell) {
  for (const kind of ["pointerenter", "focus"]) node.addEventListener(kind, () => tell(true));
  for (const kind of ["pointerleave", "blur"]) node.addEventListener(kind, () => tell(false));
}
