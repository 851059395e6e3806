// The strongest edges as a graph. A click on an edge patches it, several act together; a click on a node opens it.
const SVG = "http://www.w3.org/2000/svg";

function shape(tag, parent, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (parent) parent.append(node);
  return node;
}

// Orange and blue as in the figure; lighter on a dark ground.
const towards = (dark) => (dark ? "#ff9f4a" : "#d55e00"), against = (dark) => (dark ? "#6cb8f0" : "#0072b2");
const tint = (share) => (share < 0 ? `rgba(0,114,178,${Math.min(-share, 1).toFixed(3)})` : `rgba(213,94,0,${Math.min(share, 1).toFixed(3)})`);
const DASHES = { query: "2 4", key: "8 5" }, BENDS = { query: -0.3, key: -0.12, value: 0.12, input: 0.2 };
const name = (sender, receiver) => `${sender} → ${receiver}`;

// What is clicked: by pointer or keys.
function clickable(node, label, act) {
  node.setAttribute("tabindex", 0); node.setAttribute("role", "button"); node.setAttribute("aria-label", label);
  node.style.cursor = "pointer";
  node.addEventListener("click", act);
  node.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(); } });
}

function build(model, el) {
  const s = model.get("state"), send = (message) => model.send(message);
  const isChosen = (edge) => s.chosen.some(([a, b]) => a === edge.sender && b === edge.receiver);
  const toggle = (sender, receiver) => send({ do: "toggle", sender, receiver, activity: name(sender, receiver) });
  const open = (node, query) => send({ do: "open", node, query, activity: node || "edges" });

  const first = make("div", "vt-controls", el);
  const which = make("select", "", make("label", "", first, "corrupt run: "));
  which.dataset.name = "corruption";
  for (const [key, text] of Object.entries(s.corruptions)) make("option", "", which, text).value = key;
  which.value = s.corruption;
  which.addEventListener("change", () => send({ do: "choose", corruption: which.value, activity: "edges" }));
  const label = make("label", "", first, "edges: "), many = make("input", "", label), shown = make("span", "", label, ` ${s.n}`);
  Object.assign(many, { type: "range", min: 5, max: 80, step: 5, value: s.n });
  many.dataset.name = "n"; many.style.width = "110px";
  many.addEventListener("input", () => { shown.textContent = ` ${many.value}`; });
  many.addEventListener("change", () => send({ do: "choose", n: Number(many.value), activity: "edges" }));
  make("span", "vt-label", first, `the strongest of ${s.nEdges.toLocaleString("en")}; dashed: into a key, dotted: into a query`);

  const hint = make("div", "vt-numbers", el);
  hint.setAttribute("role", "status");
  const tell = (text) => { hint.textContent = text || "Hover an edge for its effect; click it to patch it. Click a node to open it."; };
  tell();

  const columns = make("div", "vt-columns", el), left = make("div", "", columns), right = make("div", "vt-rest", columns);
  right.style.maxWidth = "420px";
  const margin = 190, width = 760, height = 44 * s.rows.length + 44;
  const svg = shape("svg", left, { width, height, role: "group", "aria-label": "graph of edges" });
  const pictures = pictureOf(model.get("picture"));

  function draw() {
    const colors = theme(el), focused = svg.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    svg.replaceChildren();
    const at = new Map(s.nodes.map((node) => [node.node, [margin + 20 + node.x * (width - margin - 50), height - 50 - 44 * node.row]]));
    const most = Math.max(...s.edges.map((edge) => Math.abs(edge.effect)), 1e-9);
    s.rows.forEach((text, row) => {
      const y = height - 50 - 44 * row;
      shape("line", svg, { x1: margin, x2: width, y1: y, y2: y, stroke: colors.line, "stroke-width": 0.4 });
      shape("text", svg, { x: margin - 8, y: y + 4, fill: colors.soft, "font-size": 11, "text-anchor": "end" }).textContent = text;
    });
    // The strongest lie on top.
    for (const edge of [...s.edges].reverse()) {
      const [x1, y1] = at.get(edge.sender_node), [x2, y2] = at.get(edge.receiver_node), side = x1 <= x2 ? 1 : -1;
      const far = Math.abs(y1 - y2) > 44 ? 1 : 0.5, bend = BENDS[edge.receiver_input] * side * far;
      const cx = (x1 + x2) / 2 - bend * (y2 - y1), cy = (y1 + y2) / 2 + bend * (x2 - x1);
      // It ends at the node's rim, where the arrow stands.
      const length = Math.hypot(x2 - cx, y2 - cy) || 1, ux = (x2 - cx) / length, uy = (y2 - cy) / length;
      const [ex, ey] = [x2 - 19 * ux, y2 - 19 * uy], path = `M${x1} ${y1} Q${cx} ${cy} ${ex} ${ey}`;
      const color = edge.effect < 0 ? against(colors.dark) : towards(colors.dark), wide = 0.8 + 6 * (Math.abs(edge.effect) / most);
      const said = `${name(edge.sender, edge.receiver)}: effect ${signed(edge.effect)}`;
      const group = shape("g", svg, {});
      if (isChosen(edge)) shape("path", group, { d: path, fill: "none", stroke: colors.accent, "stroke-width": wide + 7, "stroke-opacity": 0.35 });
      shape("path", group, { d: path, fill: "none", stroke: color, "stroke-width": wide, "stroke-opacity": 0.85, "stroke-dasharray": DASHES[edge.receiver_input] || "none" });
      const tip = 5 + wide / 2, back = [ex - tip * ux, ey - tip * uy];
      shape("path", group, { d: `M${ex + 3 * ux} ${ey + 3 * uy} L${back[0] - tip * 0.6 * uy} ${back[1] + tip * 0.6 * ux} L${back[0] + tip * 0.6 * uy} ${back[1] - tip * 0.6 * ux} Z`, fill: color });
      // A thin line is hard to hit.
      shape("path", group, { d: path, fill: "none", stroke: "transparent", "stroke-width": Math.max(12, wide) });
      group.dataset.name = `edge ${name(edge.sender, edge.receiver)}`;
      group.setAttribute("aria-pressed", isChosen(edge));
      clickable(group, said, () => toggle(edge.sender, edge.receiver));
      for (const [kind, text] of [["pointerenter", said], ["focus", said], ["pointerleave", ""], ["blur", ""]]) group.addEventListener(kind, () => tell(text));
    }
    for (const node of s.nodes) {
      const [x, y] = at.get(node.node), opened = s.node && s.node.name === node.node;
      const text = node.kind === "output" ? s.answer : node.text, half = node.kind === "head" ? 15 : Math.max(15, 3.5 * text.length + 5);
      const group = shape("g", svg, {}), look = { fill: colors.dark ? "#222222" : "#ffffff", stroke: opened ? colors.accent : colors.ink, "stroke-width": opened ? 3 : 1 };
      if (node.kind === "image" && picture) {
        shape("image", group, { href: picture, x: x - 22, y: y - 12, width: 44, height: 44, preserveAspectRatio: "none" });
        shape("rect", group, { x: x - 22, y: y - 12, width: 44, height: 44, ...look, fill: "none" });
      } else {
        if (node.kind === "head") shape("circle", group, { cx: x, cy: y, r: half, ...look });
        else shape("rect", group, { x: x - half, y: y - 13, width: 2 * half, height: 26, rx: 3, ...look });
        shape("text", group, { x, y: y + 4, fill: colors.ink, "font-size": 11, "text-anchor": "middle" }).textContent = text;
      }
      group.dataset.name = `node ${node.node}`;
      clickable(group, `open ${node.node}`, () => open(opened ? "" : node.node));
      for (const [kind, said] of [["pointerenter", node.node], ["focus", node.node], ["pointerleave", ""], ["blur", ""]]) group.addEventListener(kind, () => tell(said));
    }
    if (focused) svg.querySelector(`[data-name="${CSS.escape(focused)}"]`)?.focus();
  }

  // A map on the image and bars for words: amounts that have a place.
  const draws = [];
  function amounts(parent, found, label, color, say) {
    const most = Math.max(...found.patches.map((value) => Math.abs(value || 0)), 1e-9), words = Math.max(...found.words.map(([, value]) => Math.abs(value || 0)), 1e-9);
    const line = make("div", "vt-columns", parent);
    if (found.patches.length) {
      const image = patchImage(el, make("div", "", line), {
        side: 170, boxes: s.boxes, label, selected: new Set(), color: (i) => color((found.patches[i] || 0) / most),
        tell: (i) => `patch ${i}: ${say(found.patches[i])}`, hover: (i) => tell(i === null ? "" : `patch ${i}: ${say(found.patches[i])}`),
      });
      pictures.then((loaded) => image.show(loaded));
      draws.push(image.draw);
    }
    if (found.words.length) {
      const table = make("table", "", line);
      make("caption", "vt-label", table, label);
      for (const [token, value] of found.words) {
        const row = make("tr", "", table);
        make("td", "", row, token);
        const cell = make("td", "", row), bar = make("span", "vt-share", cell);
        cell.style.width = "90px"; bar.style.width = `${(80 * Math.abs(value || 0) / words).toFixed(1)}px`; bar.style.background = color(Math.sign(value || 0));
        make("td", "vt-value", row, say(value));
      }
    }
  }

  make("h4", "", right, `Patched together: ${s.chosen.length} ${s.chosen.length === 1 ? "edge" : "edges"}, effect ${signed(s.effect)}`);
  const table = make("table", "", right);
  make("caption", "vt-label", table, `probability of “${s.answer}”, and LD`);
  for (const row of s.result) {
    const line = make("tr", "", table);
    make("td", `vt-${row.run}`, line, row.run);
    const cell = make("td", "", line), bar = make("span", `vt-share ${row.run}`, cell);
    cell.style.width = "130px"; bar.style.width = `${(120 * row.p_correct).toFixed(1)}px`;
    make("td", "vt-value", line, percent(row.p_correct)); make("td", "vt-value", line, signed(row.logit_diff));
  }
  const list = make("ol", "vt-list", right);
  for (const [sender, receiver] of s.chosen) { const item = make("li", "", list, `${name(sender, receiver)} `); button(item, "×", () => toggle(sender, receiver), "patch this edge no longer"); }
  const clearing = button(right, "clear", () => send({ do: "clear", activity: "clear" }));
  clearing.dataset.name = "clear"; clearing.disabled = !s.chosen.length;
  make("div", "vt-numbers", right, `The ${s.edges.length} drawn edges as a circuit, all others corrupt: effect ${signed(s.alone)}.`);
  if (s.places) {
    make("h4", "", right, `Where it acts: ${name(...s.places.of)}`);
    amounts(right, s.places, "effect of one position", tint, signed);
  }
  if (s.node) {
    make("h4", "", right, `Open: ${s.node.name}`);
    for (const [title, rows] of [["reads", s.node.reads], ["is read by", s.node.readBy]]) {
      if (!rows.length) continue;
      make("div", "vt-label", right, `${title}; click to patch:`);
      const part = make("div", "", right);
      for (const [sender, receiver, effect] of rows) button(part, `${title === "reads" ? `${sender} (${receiver.split(".").pop()})` : receiver} ${signed(effect)}`, () => toggle(sender, receiver), name(sender, receiver));
    }
    const attention = s.node.attention;
    if (s.node.refused) make("div", "vt-note", right, s.node.refused);
    if (attention) {
      make("div", "vt-label", right, s.node.query === null ? "It looks, mean over all tokens; or only from:" : "It looks from:");
      const strip = tokenStrip(el, right, {
        label: "where the head looks from", tokens: attention.queries.map(([position, text]) => ({ text, role: "", title: `position ${position}` })),
        chosen: (i) => attention.queries[i][0] === s.node.query, share: () => null, hover: () => {},
        pick: (i) => { const position = attention.queries[i][0]; open(s.node.name, position === s.node.query ? null : position); },
      });
      draws.push(strip.draw);
      amounts(right, attention, "attention", (share) => heat(Math.abs(share), theme(el).dark), percent);
    }
  }

  let picture = null;
  const all = () => { draw(); draws.forEach((one) => one()); };
  pictures.then((loaded) => {
    const canvas = document.createElement("canvas");
    canvas.width = 88; canvas.height = 88;
    canvas.getContext("2d").drawImage(loaded, 0, 0, 88, 88);
    picture = canvas.toDataURL();
    all();
    Object.assign(el.dataset, { effect: s.effect, chosen: s.chosen.length, edges: s.edges.length, node: s.node ? s.node.name : "", corruption: s.corruption, alone: s.alone, drawn: s.example });
  });
  return [keepDrawn(el, all)];
}
export default { render: ({ model, el }) => rebuilt(model, el, "edges", build) };
