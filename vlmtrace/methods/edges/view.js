// @ts-check
// The strongest edges as a graph. A click on an edge patches it, several act together; a click on a node opens it.

import { contextOf } from "../../display/static/kit/canvas.js";
import { keepDrawn } from "../../display/static/kit/colors.js";
import { choice, make, named, note } from "../../display/static/kit/elements.js";
import { rebuilt } from "../../display/static/kit/model.js";
import { pictureOf } from "../../display/static/kit/picture.js";
import { edgeGraph } from "./graph.js";
import { imagePane } from "./image_pane.js";
import { openNode, results } from "./results.js";
import { edgeName } from "./state.js";

/** @import { Given, Model } from "../../display/static/kit/model.js" */
/** @import { EdgesState, EdgesTraits, Send } from "./state.js" */

/** @type {[string, string][]} */
const SCOPES = [["pair", "this pair"], ["run", "mean over the run"]];

/** @param {HTMLElement} el @param {EdgesState} state @param {Send} send */
function controls(el, state, send) {
  const first = make("div", "vt-controls", el), runs = Object.entries(state.corruptions);
  const corrupted = (/** @type {string} */ corruption) => send({ do: "choose", corruption, activity: "edges" });
  named(choice(first, "corrupt run: ", runs, state.corruption, corrupted), "corruption");
  const scoped = (/** @type {string} */ scope) =>
    send({ do: "choose", scope, activity: scope === "run" ? "edges over pairs" : "edges" });
  named(choice(first, "effects: ", SCOPES, state.scope, scoped), "scope");
  const label = make("label", "", first, "edges: "), many = named(make("input", "", label), "n");
  const shown = make("span", "", label, ` ${state.n}`);
  Object.assign(many, { type: "range", min: 5, max: 80, step: 5, value: state.n });
  many.style.width = "90px";
  many.addEventListener("input", () => {
    shown.textContent = ` ${many.value}`;
  });
  many.addEventListener("change", () => send({ do: "choose", n: Number(many.value), activity: "edges" }));
  const of = `of ${state.nEdges.toLocaleString("en")}${state.source ? `, ${state.source}` : ""}`;
  const key = "dashed: into a key, dotted: into a query; below a node: the token at which it does most";
  make("span", "vt-label", first, `${of}; ${key}`);
}

/** A picture as an address, small, as the graph shows it. @param {HTMLImageElement} picture */
function addressOfPicture(picture) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 88;
  contextOf(canvas).drawImage(picture, 0, 0, 88, 88);
  return canvas.toDataURL();
}

/** @param {Model<EdgesTraits>} model @param {HTMLElement} el */
function build(model, el) {
  const state = model.get("state");
  /** @type {Send} */
  const send = (message) => model.send(message);
  /** @param {string} sender @param {string} receiver */
  const toggle = (sender, receiver) =>
    send({ do: "toggle", sender, receiver, activity: edgeName(sender, receiver) });
  /** @param {string} node @param {number | null} [query] */
  const open = (node, query) => send({ do: "open", node, query, activity: node || "edges" });
  controls(el, state, send);
  const hint = make("div", "vt-numbers", el);
  hint.setAttribute("role", "status");
  const usual = "Hover an edge for its effect, a head for where it looks; click an edge to patch it, a node to open it.";
  /** @param {string} text */
  const tell = (text) => {
    hint.textContent = text || usual;
  };
  tell("");

  const columns = make("div", "vt-columns", el), left = make("div", "", columns), right = make("div", "", columns);
  const below = make("div", "vt-columns", el), together = make("div", "", below), opened = make("div", "", below);
  together.style.width = opened.style.width = "308px";
  right.style.width = "186px";
  const picture = pictureOf(model.get("picture"));
  const pane = imagePane(el, right, state, send, tell, picture);
  const acts = {
    toggle: (/** @type {{sender: string, receiver: string}} */ edge) => toggle(edge.sender, edge.receiver), open, tell,
    look: pane.look,
  };
  const drawGraph = edgeGraph(el, left, state, acts), options = { root: el, state, send, toggle, tell, picture };
  const draws = [results({ ...options, parent: together }), pane.draw];
  const { node } = state;
  if (node) draws.push(openNode({ ...options, parent: opened, node, open: (query) => open(node.name, query) }));

  let address = "";
  const draw = () => {
    drawGraph(address);
    draws.forEach((one) => one());
  };
  picture.then((loaded) => {
    address = addressOfPicture(loaded);
    draw();
    note(el, {
      effect: state.effect, chosen: state.chosen.length, edges: state.edges.length, node: node ? node.name : "",
      corruption: state.corruption, scope: state.scope, alone: state.alone, drawn: state.example,
      imageEffect: state.image.outcome ? state.image.outcome.effect : "",
    });
  });
  return [keepDrawn(el, draw)];
}

/** @param {Given<EdgesTraits>} given */
const render = ({ model, el }) => rebuilt(model, el, "edges", build);
export default { render };
