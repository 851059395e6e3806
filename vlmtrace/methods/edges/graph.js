// @ts-check
// The strongest edges as a graph, layers upwards.

import { theme } from "../../display/static/kit/colors.js";
import { named } from "../../display/static/kit/elements.js";
import { largest, signed } from "../../display/static/kit/numbers.js";
import { clickable, hoverable, shape, words } from "../../display/static/kit/svg.js";
import { curveOf, heightOf, MARGIN, placeOf, shortRow, stepOf, WIDTH } from "./curves.js";
import { edgeName, spoken } from "./state.js";

/** @import { Theme } from "../../display/static/kit/colors.js" */
/** @import { Point } from "./curves.js" */
/** @import { Edge, EdgesState, PlacedNode } from "./state.js" */

/** Lines into queries are dotted, into keys dashed. @type {Record<string, string | undefined>} */
const DASHES = { query: "2 4", key: "8 5" };

/** Red and blue as effects have everywhere; lighter on a dark ground. @param {number} effect @param {boolean} dark */
function colorOf(effect, dark) {
  if (effect < 0) return dark ? "#6cb8f0" : "#2166ac";
  return dark ? "#ff7a85" : "#be1826";
}

/**
 * @param {HTMLElement} root of the view, whose colors are used
 * @param {HTMLElement} parent
 * @param {EdgesState} state
 * @param {{toggle: (edge: Edge) => void, open: (node: string) => void, tell: (text: string) => void,
 *   look: (node: string) => void}} acts open: "": none; look: where a node that is hovered looks; "": none is
 * @returns {(picture: string) => void} what draws it, with the image as an address
 */
export function edgeGraph(root, parent, state, { toggle, open, tell, look }) {
  const n = state.rows.length, step = stepOf(n), height = heightOf(n);
  const svg = shape("svg", parent, { width: WIDTH, height, role: "group", "aria-label": "graph of edges" });
  /** @type {Map<string, Point>} */
  const at = new Map(state.nodes.map(({ node, x, row }) => [node, placeOf(x, row, n)]));
  const placed = new Map(state.nodes.map((one) => [one.node, one]));
  const most = largest(state.edges.map((edge) => edge.effect), 1e-9);

  /** @param {Theme} colors */
  function drawRows(colors) {
    state.rows.forEach((text, row) => {
      const [, y] = placeOf(0, row, n), line = { stroke: colors.line, "stroke-width": 0.4 };
      shape("line", svg, { x1: MARGIN, x2: WIDTH, y1: y, y2: y, ...line });
      words(svg, shortRow(text), { x: MARGIN - 8, y: y + 4, fill: colors.soft, "text-anchor": "end" });
    });
  }

  /** @param {Edge} edge @param {Theme} colors */
  function drawEdge(edge, colors) {
    const from = at.get(edge.sender_node), to = at.get(edge.receiver_node);
    if (!from || !to) return;
    const color = colorOf(edge.effect, colors.dark), wide = 0.8 + 6 * (Math.abs(edge.effect) / most);
    const { line, tip } = curveOf(from, to, edge.receiver_input, wide, step);
    const sender = placed.get(edge.sender_node), word = sender?.kind === "token" ? spoken(sender) : "";
    const said = `${edgeName(word || edge.sender, edge.receiver)}: effect ${signed(edge.effect)}`;
    const isChosen = state.chosen.some(([a, b]) => a === edge.sender && b === edge.receiver);
    const group = named(shape("g", svg, {}), `edge ${edgeName(edge.sender_node, edge.receiver)}`);
    /** @param {string} stroke @param {number} width @param {number} opacity @param {string} [dashes] */
    const stroke = (stroke, width, opacity, dashes = "none") => {
      const look = { stroke, "stroke-width": width, "stroke-opacity": opacity, "stroke-dasharray": dashes };
      shape("path", group, { d: line, fill: "none", ...look });
    };
    if (isChosen) stroke(colors.accent, wide + 7, 0.35);
    stroke(color, wide, 0.85, DASHES[edge.receiver_input]);
    shape("path", group, { d: tip, fill: color });
    // A thin line is hard to hit.
    stroke("transparent", Math.max(12, wide), 1);
    group.setAttribute("aria-pressed", String(isChosen));
    clickable(group, said, () => toggle(edge));
    hoverable(group, (isAt) => tell(isAt ? said : ""));
  }

  /** @param {PlacedNode} placedNode @param {Theme} colors @param {string} picture */
  function drawNode(placedNode, colors, picture) {
    const { node, kind, opens } = placedNode, name = spoken(placedNode);
    const [x, y] = at.get(node) ?? [0, 0], isOpen = state.node?.name === opens, isHead = kind === "head";
    const text = kind === "output" ? state.answer : placedNode.text;
    const half = isHead ? Math.min(15, step / 2 - 1) : Math.max(15, 3.5 * text.length + 5);
    const rim = { stroke: isOpen ? colors.accent : colors.ink, "stroke-width": isOpen ? 3 : 1 };
    const inside = { fill: colors.dark ? "#222222" : "#ffffff", ...rim };
    const group = named(shape("g", svg, {}), `node ${node}`);
    if (kind === "image" && picture) {
      const frame = { x: x - 22, y: y - 12, width: 44, height: 44 };
      shape("image", group, { href: picture, ...frame, preserveAspectRatio: "none" });
      shape("rect", group, { ...frame, ...rim, fill: "none" });
    } else {
      if (isHead) shape("circle", group, { cx: x, cy: y, r: half, ...inside });
      else shape("rect", group, { x: x - half, y: y - 13, width: 2 * half, height: 26, rx: 3, ...inside });
      words(group, text, { x, y: y + 4, fill: colors.ink, "text-anchor": "middle" });
    }
    // Under a node the token at which what it sends does most.
    const token = state.at[node] ?? "";
    if (token) {
      const ground = { stroke: colors.dark ? "#111111" : "#ffffff", "stroke-width": 3, "paint-order": "stroke" };
      const place = { x, y: y + half + (isHead ? 10 : 8), "text-anchor": "middle" };
      words(group, token, { ...place, ...ground, fill: colors.soft, "font-size": 10 });
    }
    clickable(group, `open ${name}`, () => open(isOpen ? "" : opens));
    const does = token ? `: does most at “${token}”` : "";
    const said = `${name}${does}${state.attention[node] ? "; where it looks is at the right" : ""}`;
    hoverable(group, (isAt) => {
      tell(isAt ? said : "");
      look(isAt ? node : "");
    });
  }

  return (picture) => {
    const colors = theme(root), focused = document.activeElement;
    const again = focused instanceof SVGElement && svg.contains(focused) ? focused.dataset.name : undefined;
    svg.replaceChildren();
    drawRows(colors);
    // The strongest lie on top.
    for (const edge of [...state.edges].reverse()) drawEdge(edge, colors);
    for (const node of state.nodes) drawNode(node, colors, picture);
    if (!again) return;
    const found = svg.querySelector(`[data-name="${CSS.escape(again)}"]`);
    if (found instanceof SVGElement) found.focus();
  };
}
