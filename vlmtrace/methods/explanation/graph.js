// @ts-check
// The causal graph of one head: its tokens in columns by their distance from the answer, and its edges.

import { theme } from "../../display/static/kit/colors.js";
import { contextOf } from "../../display/static/kit/canvas.js";
import { percent } from "../../display/static/kit/numbers.js";
import { hoverable, shape, words } from "../../display/static/kit/svg.js";

/** @import { Box } from "../../display/static/kit/boxes.js" */
/** @import { Theme } from "../../display/static/kit/colors.js" */

/**
 * @typedef {{name: string, token: string, kind: string, cell: number | null, attention: number | null,
 *   distance: number | null}} GraphNode
 * cell: of the image; distance: null: out of reach
 */

/** @typedef {"arrow" | "circle" | "tail"} Mark what stands at an edge's end */

/** @typedef {{nodes: GraphNode[], edges: [number, number, Mark, Mark][], tests: number, samples: number}} CausalGraph */

/** @typedef {[number, number]} Point */

const WIDTH = 640, HEIGHT = 330;

/** More tokens out of reach than this stand in further columns. */
const TALL = 6;

/** What is said of a node. @param {GraphNode} node @returns {string} */
export function nodeSentence({ name, attention, kind, distance }) {
  const seen = attention === null ? "" : `: attention from the answer ${percent(attention)}`;
  const far = kind === "answer" ? "" : distance === null ? ", out of reach" : `, distance ${distance}`;
  return `${name}${seen}${far}`;
}

/** The nodes of each column: the answer, then by distance, then those out of reach, in as many columns as it takes.
 * @param {GraphNode[]} nodes @returns {{title: string, nodes: number[]}[]} */
export function columnsOf(nodes) {
  const far = Math.max(0, ...nodes.map((node) => node.distance || 0));
  /** @param {(node: GraphNode) => boolean} belongs */
  const those = (belongs) => nodes.flatMap((node, i) => (belongs(node) ? [i] : []));
  const found = [{ title: "answer", nodes: those((node) => node.kind === "answer") }];
  for (let distance = 1; distance <= far; distance++) {
    const at = those((node) => node.kind !== "answer" && node.distance === distance);
    found.push({ title: `distance ${distance}`, nodes: at });
  }
  const out = those((node) => node.kind !== "answer" && node.distance === null);
  for (let i = 0; i < out.length; i += TALL) {
    found.push({ title: i ? "" : "out of reach", nodes: out.slice(i, i + TALL) });
  }
  return found;
}

/** Where columns and nodes stand. @param {GraphNode[]} nodes
 * @returns {{titles: {x: number, text: string}[], at: Point[]}} */
export function placesOf(nodes) {
  const columns = columnsOf(nodes), last = Math.max(columns.length - 1, 1);
  /** @type {Point[]} */
  const at = [];
  /** @param {number} column */
  const x = (column) => 44 + (column * (WIDTH - 100)) / last;
  columns.forEach((column, c) =>
    column.nodes.forEach((i, k) => {
      at[i] = [x(c), 40 + ((k + 0.5) * (HEIGHT - 50)) / column.nodes.length];
    })
  );
  const titles = columns.map(({ title, nodes: those }, c) => ({ x: x(c), text: those.length ? title : "" }));
  return { titles, at };
}

/** Half the width and the height of a node. @param {GraphNode} node @returns {Point} */
const halfOf = (node) => (node.cell === null ? [Math.max(18, 4 * node.token.length + 4), 12] : [18, 18]);

/** A part of a picture, small, as an address. @param {HTMLImageElement} picture @param {Box} box */
function thumbnail(picture, [t, l, b, r]) {
  const canvas = document.createElement("canvas"), { width, height } = picture;
  canvas.width = canvas.height = 34;
  const part = [l * width, t * height, (r - l) * width, (b - t) * height];
  contextOf(canvas).drawImage(picture, part[0], part[1], part[2], part[3], 0, 0, 34, 34);
  return canvas.toDataURL();
}

/** @param {SVGElement} svg @param {CausalGraph} graph @param {Point[]} at @param {Theme} colors */
function drawEdges(svg, graph, at, colors) {
  const line = { stroke: colors.soft, "stroke-width": 1.3 };
  for (const [a, b, start, end] of graph.edges) {
    const [x1, y1] = at[a], [x2, y2] = at[b], length = Math.hypot(x2 - x1, y2 - y1) || 1;
    const ux = (x2 - x1) / length, uy = (y2 - y1) / length;
    /** From a node's middle to its rim. @param {number} i */
    const rim = (i) => {
      const [w, h] = halfOf(graph.nodes[i]);
      return 4 + Math.min(w / Math.max(Math.abs(ux), 1e-9), h / Math.max(Math.abs(uy), 1e-9));
    };
    /** @type {Point} */
    const p = [x1 + rim(a) * ux, y1 + rim(a) * uy];
    /** @type {Point} */
    const q = [x2 - rim(b) * ux, y2 - rim(b) * uy];
    shape("line", svg, { x1: p[0], y1: p[1], x2: q[0], y2: q[1], ...line });
    /** @param {Mark} mark @param {Point} place @param {number} sign of the direction in which it points */
    const drawMark = (mark, [x, y], sign) => {
      const [dx, dy] = [sign * ux, sign * uy];
      if (mark === "circle") shape("circle", svg, { cx: x, cy: y, r: 4, fill: colors.panel, ...line });
      if (mark !== "arrow") return;
      const sides = `L${x - 9 * dx - 5 * dy} ${y - 9 * dy + 5 * dx} L${x - 9 * dx + 5 * dy} ${y - 9 * dy - 5 * dx}`;
      shape("path", svg, { d: `M${x} ${y} ${sides} Z`, fill: colors.soft });
    };
    drawMark(start, p, -1);
    drawMark(end, q, 1);
  }
}

/**
 * @param {HTMLElement} root of the view, whose colors are used
 * @param {HTMLElement} parent
 * @param {{boxes: Box[], masked: Set<string>, hover: (node: number | null) => void}} options masked: names of nodes
 */
export function graphDrawing(root, parent, { boxes, masked, hover }) {
  const look = { width: WIDTH, height: HEIGHT, role: "img", "aria-label": "causal graph" };
  const svg = shape("svg", parent, look);

  /** @param {CausalGraph | null} graph @param {HTMLImageElement} picture */
  function draw(graph, picture) {
    svg.replaceChildren();
    if (!graph) return;
    const colors = theme(root), { titles, at } = placesOf(graph.nodes);
    for (const { x, text } of titles) words(svg, text, { x, y: 14, fill: colors.soft, "text-anchor": "middle" });
    drawEdges(svg, graph, at, colors);
    graph.nodes.forEach((node, i) => {
      const [x, y] = at[i], [w, h] = halfOf(node), said = nodeSentence(node), isMasked = masked.has(node.name);
      const group = shape("g", svg, { tabindex: 0, role: "img", "aria-label": said, "data-node": i });
      const frame = { x: x - 17, y: y - 17, width: 34, height: 34, preserveAspectRatio: "none" };
      if (node.cell !== null) shape("image", group, { href: thumbnail(picture, boxes[node.cell]), ...frame });
      const text = node.cell === null ? node.token : "";
      shape("rect", group, {
        x: x - w, y: y - h, width: 2 * w, height: 2 * h, rx: 3, fill: text ? colors.panel : "none",
        stroke: isMasked ? "#d62728" : node.kind === "answer" ? colors.accent : colors.line,
        "stroke-width": isMasked || node.kind === "answer" ? 3 : 1.5,
      });
      if (text) words(group, text, { x, y: y + 4, fill: colors.ink, "font-size": 12, "text-anchor": "middle" });
      shape("title", group, {}).textContent = said;
      hoverable(group, (isAt) => hover(isAt ? i : null));
    });
  }
  /** @param {number | null} node that is hovered */
  const mark = (node) =>
    svg.querySelectorAll("g").forEach((group) => group.classList.toggle("vt-here", Number(group.dataset.node) === node));
  return { draw, mark };
}
