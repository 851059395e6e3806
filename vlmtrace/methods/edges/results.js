// @ts-check
// Below the graph: what the patched edges do together, and the node that is open.

import { diverging, heat, theme } from "../../display/static/kit/colors.js";
import { button, make, named, shareBar } from "../../display/static/kit/elements.js";
import { percent, signed } from "../../display/static/kit/numbers.js";
import { tokenStrip } from "../../display/static/kit/tokens.js";
import { amountsOf } from "./amounts.js";
import { countEdges, edgeName } from "./state.js";

/** @import { EdgesState, OpenNode, Send } from "./state.js" */

/**
 * @typedef {{root: HTMLElement, parent: HTMLElement, state: EdgesState, send: Send,
 *   toggle: (sender: string, receiver: string) => void, tell: (text: string) => void,
 *   picture: Promise<HTMLImageElement>}} PartOptions
 */

/** @param {PartOptions} options @returns {() => void} what draws it */
export function results({ root, parent, state, send, toggle, tell, picture }) {
  const n = state.chosen.length, edges = n === 1 ? "edge" : "edges";
  make("h4", "", parent, `Patched together: ${n} ${edges}, effect ${signed(state.effect)}`);
  const table = make("table", "", parent);
  make("caption", "vt-label", table, `probability of “${state.answer}”, and LD`);
  for (const { run, p_correct, logit_diff } of state.result) {
    const line = make("tr", "", table);
    make("td", `vt-${run}`, line, run);
    shareBar(line, 92, p_correct, run);
    make("td", "vt-value", line, percent(p_correct)).style.whiteSpace = "nowrap";
    make("td", "vt-value", line, signed(logit_diff));
  }
  const list = make("ol", "vt-list", parent);
  for (const [sender, receiver] of state.chosen) {
    const item = make("li", "", list, `${edgeName(sender, receiver)} `);
    button(item, "×", () => toggle(sender, receiver), "patch this edge no longer");
  }
  named(button(parent, "clear", () => send({ do: "clear", activity: "clear" })), "clear").disabled = !n;
  const drawn = `The ${countEdges(state.edges)} drawn edges as a circuit, all others corrupt`;
  const alone = `${drawn}: effect ${signed(state.alone)}.`;
  make("div", "vt-numbers", parent, alone);
  if (!state.places) return () => {};
  make("h4", "", parent, `Where it acts: ${edgeName(...state.places.of)}`);
  const label = "effect of one position", color = diverging, say = signed;
  return amountsOf(root, parent, state.places, { boxes: state.boxes, label, color, say, tell, picture });
}

/** @param {PartOptions & {node: OpenNode, open: (query: number | null) => void}} options
 * @returns {() => void} what draws it */
export function openNode({ root, parent, state, toggle, tell, picture, node, open }) {
  make("h4", "", parent, `Open: ${node.name}`);
  for (const [title, rows] of /** @type {const} */ ([["reads", node.reads], ["is read by", node.readBy]])) {
    if (!rows.length) continue;
    make("div", "vt-label", parent, `${title}; click to patch:`);
    const part = make("div", "", parent);
    for (const [sender, receiver, effect] of rows) {
      const other = title === "reads" ? `${sender} (${receiver.split(".").pop()})` : receiver;
      button(part, `${other} ${signed(effect)}`, () => toggle(sender, receiver), edgeName(sender, receiver));
    }
  }
  if (node.refused) make("div", "vt-note", parent, node.refused);
  const { attention, query } = node;
  if (!attention) return () => {};
  const from = query === null ? "It looks, mean over all tokens; or only from:" : "It looks from:";
  make("div", "vt-label", parent, from);
  const strip = tokenStrip(root, parent, {
    label: "where the head looks from",
    tokens: attention.queries.map(([position, text]) => ({ text, role: "", title: `position ${position}` })),
    chosen: (i) => attention.queries[i][0] === query, share: () => null, hover: () => {},
    pick: (i) => {
      const [position] = attention.queries[i];
      open(position === query ? null : position);
    },
  });
  const draw = amountsOf(root, parent, attention, {
    boxes: state.boxes, label: "attention", color: (share) => heat(Math.abs(share), theme(root).dark), tell, picture,
    say: (value) => percent(value ?? 0),
  });
  return () => {
    strip.draw();
    draw();
  };
}
