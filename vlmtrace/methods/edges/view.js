// The strongest edges as a graph. A click on an edge patches it, several act together; a click on a node opens it.
const SVG = "http://www.w3.org/2000/svg";

function shape(tag, parent, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (parent) parent.append(node);
  return node;
}

// Red and blue as effects have everywhere; lighter on a dark ground.
const towards = (dark) => (dark ? "#ff7a85" : "#be1826"), against = (dark) => (dark ? "#6cb8f0" : "#2166ac");
const tint = diverging;
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
  const of = make("select", "", make("label", "", first, "effects: "));
  of.dataset.name = "scope";
  for (const [key, text] of [["pair", "this pair"], ["run", "mean over the run"]]) make("option", "", of, text).value = key;
  of.value = s.scope;
  of.addEventListener("change", () => send({ do: "choose", scope: of.value, activity: of.value === "run" ? "edges over pairs" : "edges" }));
  const label = make("label", "", first, "edges: "), many = make("input", "", label), shown = make("span", "", label, ` ${s.n}`);
  Object.assign(many, { type: "range", min: 5, max: 80, step: 5, value: s.n });
  many.dataset.name = "n"; many.style.width = "90px";
  many.addEventListener("input", () => { shown.textContent = ` ${many.value}`; });
  many.addEventListener("change", () => send({ do: "choose", n: Number(many.value), activity: "edges" }));
  make("span", "vt-label", first, `of ${s.nEdges.toLocaleString("en")}${s.source ? `, ${s.source}` : ""}; dashed: into a key, dotted: into a query; below a node: the token at which it does most`);

  const hint = make("div", "vt-numbers", el);
  hint.setAttribute("role", "status");
  const tell = (text) => { hint.textContent = text || "Hover an edge for its effect, a head for where it looks; click an edge to patch it, a node to open it."; };
  tell();

  const columns = make("div", "vt-columns", el), left = make("div", "", columns), right = make("div", "", columns);
  const below = make("div", "vt-columns", el), results = make("div", "", below), opened = make("div", "", below);
  results.style.width = opened.style.width = "308px";
  right.style.width = "186px";
  // All rows fit on the screen.
  const step = Math.max(26, Math.min(44, 500 / s.rows.length)), short = (text) => text.replace("encoder", "enc.").replace("decoder", "dec.").replace("language model", "LM").replace("-attention", "");
  const margin = 108, width = 440, height = step * s.rows.length + 44;
  const svg = shape("svg", left, { width, height, role: "group", "aria-label": "graph of edges" });
  const pictures = pictureOf(model.get("picture"));

  function draw() {
    const colors = theme(el), focused = svg.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    svg.replaceChildren();
    const at = new Map(s.nodes.map((node) => [node.node, [margin + 20 + node.x * (width - margin - 50), height - 50 - step * node.row]]));
    const nodes = new Map(s.nodes.map((node) => [node.node, node]));
    // A word of the question is a node where the other question has another one there.
    const spoken = ({ text, instead }) => `“${text}”${instead ? ` in place of “${instead}”` : ""}`;
    const most = Math.max(...s.edges.map((edge) => Math.abs(edge.effect)), 1e-9);
    s.rows.forEach((text, row) => {
      const y = height - 50 - step * row;
      shape("line", svg, { x1: margin, x2: width, y1: y, y2: y, stroke: colors.line, "stroke-width": 0.4 });
      shape("text", svg, { x: margin - 8, y: y + 4, fill: colors.soft, "font-size": 11, "text-anchor": "end" }).textContent = short(text);
    });
    // The strongest lie on top.
    for (const edge of [...s.edges].reverse()) {
      const [x1, y1] = at.get(edge.sender_node), [x2, y2] = at.get(edge.receiver_node), side = x1 <= x2 ? 1 : -1;
      const far = Math.abs(y1 - y2) > step ? 1 : 0.5, bend = BENDS[edge.receiver_input] * side * far;
      const cx = (x1 + x2) / 2 - bend * (y2 - y1), cy = (y1 + y2) / 2 + bend * (x2 - x1);
      // It ends at the node's rim, where the arrow stands.
      const length = Math.hypot(x2 - cx, y2 - cy) || 1, ux = (x2 - cx) / length, uy = (y2 - cy) / length;
      const [ex, ey] = [x2 - (step > 34 ? 19 : 16) * ux, y2 - (step > 34 ? 19 : 16) * uy], path = `M${x1} ${y1} Q${cx} ${cy} ${ex} ${ey}`;
      const color = edge.effect < 0 ? against(colors.dark) : towards(colors.dark), wide = 0.8 + 6 * (Math.abs(edge.effect) / most);
      const from = nodes.get(edge.sender_node), said = `${name(from.kind === "token" ? spoken(from) : edge.sender, edge.receiver)}: effect ${signed(edge.effect)}`;
      const group = shape("g", svg, {});
      if (isChosen(edge)) shape("path", group, { d: path, fill: "none", stroke: colors.accent, "stroke-width": wide + 7, "stroke-opacity": 0.35 });
      shape("path", group, { d: path, fill: "none", stroke: color, "stroke-width": wide, "stroke-opacity": 0.85, "stroke-dasharray": DASHES[edge.receiver_input] || "none" });
      const tip = 5 + wide / 2, back = [ex - tip * ux, ey - tip * uy];
      shape("path", group, { d: `M${ex + 3 * ux} ${ey + 3 * uy} L${back[0] - tip * 0.6 * uy} ${back[1] + tip * 0.6 * ux} L${back[0] + tip * 0.6 * uy} ${back[1] - tip * 0.6 * ux} Z`, fill: color });
      // A thin line is hard to hit.
      shape("path", group, { d: path, fill: "none", stroke: "transparent", "stroke-width": Math.max(12, wide) });
      group.dataset.name = `edge ${name(edge.sender_node, edge.receiver)}`;
      group.setAttribute("aria-pressed", isChosen(edge));
      clickable(group, said, () => toggle(edge.sender, edge.receiver));
      for (const [kind, text] of [["pointerenter", said], ["focus", said], ["pointerleave", ""], ["blur", ""]]) group.addEventListener(kind, () => tell(text));
    }
    for (const node of s.nodes) {
      const [x, y] = at.get(node.node), opened = s.node && s.node.name === node.opens, called = node.kind === "token" ? spoken(node) : node.node;
      const text = node.kind === "output" ? s.answer : node.text, half = node.kind === "head" ? Math.min(15, step / 2 - 1) : Math.max(15, 3.5 * text.length + 5);
      const group = shape("g", svg, {}), look = { fill: colors.dark ? "#222222" : "#ffffff", stroke: opened ? colors.accent : colors.ink, "stroke-width": opened ? 3 : 1 };
      if (node.kind === "image" && picture) {
        shape("image", group, { href: picture, x: x - 22, y: y - 12, width: 44, height: 44, preserveAspectRatio: "none" });
        shape("rect", group, { x: x - 22, y: y - 12, width: 44, height: 44, ...look, fill: "none" });
      } else {
        if (node.kind === "head") shape("circle", group, { cx: x, cy: y, r: half, ...look });
        else shape("rect", group, { x: x - half, y: y - 13, width: 2 * half, height: 26, rx: 3, ...look });
        shape("text", group, { x, y: y + 4, fill: colors.ink, "font-size": 11, "text-anchor": "middle" }).textContent = text;
      }
      // Under a node the token at which what it sends does most.
      if (s.at[node.node]) shape("text", group, { x, y: y + half + (node.kind === "head" ? 10 : 8), fill: colors.soft, stroke: colors.dark ? "#111111" : "#ffffff", "stroke-width": 3, "paint-order": "stroke", "font-size": 10, "text-anchor": "middle" }).textContent = s.at[node.node];
      group.dataset.name = `node ${node.node}`;
      clickable(group, `open ${called}`, () => open(opened ? "" : node.opens));
      for (const [kind, said] of [["pointerenter", node.node], ["focus", node.node], ["pointerleave", ""], ["blur", ""]]) group.addEventListener(kind, () => { tell(said && `${called}${s.at[said] ? `: does most at “${s.at[said]}”` : ""}${s.attention[said] ? "; where it looks is at the right" : ""}`); lookFrom(said); });
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

  // At the right: what each patch of the image does, and where the head that is hovered looks.
  let hovered = "";
  const about = make("h4", "", right), image = s.boxes.length ? patchImage(el, right, {
    side: 184, boxes: s.boxes, label: "patches of the image", selected: new Set(s.image.chosen), grid: () => !hovered,
    color: (i) => (looking() && looking().patches.length ? heat((looking().patches[i] || 0) / sight) : s.image.effects.length ? tint((s.image.effects[i] || 0) / strongest) : "rgba(0,0,0,0)"),
    tell: (i) => (s.image.effects.length ? `patch ${i} from the clean image: effect ${signed(s.image.effects[i])}` : `patch ${i}`),
    hover: (i) => tell(i === null ? "" : image.options.tell(i)),
    change: (set) => send({ do: "patch image", patches: [...set].sort((a, b) => a - b), activity: "patches of the image" }),
  }) : null;
  const strongest = Math.max(0.05, ...s.image.effects.map((value) => Math.abs(value || 0)));
  // One scale for all heads: a hover changes no color limit.
  const sight = Math.max(1e-9, ...Object.values(s.attention).flatMap((found) => found.patches.map((value) => value || 0)));
  const looking = () => s.attention[hovered] || null, words = make("div", "vt-numbers", right);
  words.style.minHeight = "5.6em"; words.style.whiteSpace = "normal";
  function lookFrom(node) {
    hovered = node && s.attention[node] ? node : "";
    const found = looking();
    about.textContent = found ? `${node.split(".").slice(-2).join(".")} looks` : s.image.effects.length ? `Patches: click, drag (±${strongest.toFixed(2)})` : "The image";
    if (found) {
      const most = [...found.words].sort((a, b) => b[1] - a[1]).slice(0, 4).map(([token, value]) => `${token} ${percent(value)}`);
      const seen = found.patches.reduce((sum, value) => sum + (value || 0), 0);
      words.textContent = `${found.patches.length ? `image ${percent(seen)}; ` : ""}${most.join(", ")} (mean over tokens)`;
    } else words.textContent = s.image.effects.length ? "Effect of each patch by itself, put from the clean image into the corrupt run behind the vision encoder." : "Put into the corrupt run by patch where the images differ.";
    if (image) image.draw();
  }
  if (image) pictures.then((loaded) => { image.show(loaded); lookFrom(""); });
  if (s.image.outcome) {
    const line = make("div", "vt-patched", right, `${s.image.chosen.length} ${s.image.chosen.length === 1 ? "patch" : "patches"}: effect ${signed(s.image.outcome.effect)}, answer ${s.image.outcome.answer}`);
    line.dataset.name = "patches"; line.style.fontWeight = 600;
    button(right, "no patches", () => send({ do: "patch image", patches: [], activity: "patches of the image" })).dataset.name = "no patches";
  }
  make("h4", "", results, `Patched together: ${s.chosen.length} ${s.chosen.length === 1 ? "edge" : "edges"}, effect ${signed(s.effect)}`);
  const table = make("table", "", results);
  make("caption", "vt-label", table, `probability of “${s.answer}”, and LD`);
  for (const row of s.result) {
    const line = make("tr", "", table);
    make("td", `vt-${row.run}`, line, row.run);
    const cell = make("td", "", line), bar = make("span", `vt-share ${row.run}`, cell);
    cell.style.width = "100px"; bar.style.width = `${(92 * row.p_correct).toFixed(1)}px`;
    make("td", "vt-value", line, percent(row.p_correct)).style.whiteSpace = "nowrap"; make("td", "vt-value", line, signed(row.logit_diff));
  }
  const list = make("ol", "vt-list", results);
  for (const [sender, receiver] of s.chosen) { const item = make("li", "", list, `${name(sender, receiver)} `); button(item, "×", () => toggle(sender, receiver), "patch this edge no longer"); }
  const clearing = button(results, "clear", () => send({ do: "clear", activity: "clear" }));
  clearing.dataset.name = "clear"; clearing.disabled = !s.chosen.length;
  make("div", "vt-numbers", results, `The ${new Set(s.edges.map((edge) => name(edge.sender, edge.receiver))).size} drawn edges as a circuit, all others corrupt: effect ${signed(s.alone)}.`);
  if (s.places) {
    make("h4", "", results, `Where it acts: ${name(...s.places.of)}`);
    amounts(results, s.places, "effect of one position", tint, signed);
  }
  if (s.node) {
    make("h4", "", opened, `Open: ${s.node.name}`);
    for (const [title, rows] of [["reads", s.node.reads], ["is read by", s.node.readBy]]) {
      if (!rows.length) continue;
      make("div", "vt-label", opened, `${title}; click to patch:`);
      const part = make("div", "", opened);
      for (const [sender, receiver, effect] of rows) button(part, `${title === "reads" ? `${sender} (${receiver.split(".").pop()})` : receiver} ${signed(effect)}`, () => toggle(sender, receiver), name(sender, receiver));
    }
    const attention = s.node.attention;
    if (s.node.refused) make("div", "vt-note", opened, s.node.refused);
    if (attention) {
      make("div", "vt-label", opened, s.node.query === null ? "It looks, mean over all tokens; or only from:" : "It looks from:");
      const strip = tokenStrip(el, opened, {
        label: "where the head looks from", tokens: attention.queries.map(([position, text]) => ({ text, role: "", title: `position ${position}` })),
        chosen: (i) => attention.queries[i][0] === s.node.query, share: () => null, hover: () => {},
        pick: (i) => { const position = attention.queries[i][0]; open(s.node.name, position === s.node.query ? null : position); },
      });
      draws.push(strip.draw);
      amounts(opened, attention, "attention", (share) => heat(Math.abs(share), theme(el).dark), percent);
    }
  }

  let picture = null;
  const all = () => { draw(); if (image && !image.isDragged()) image.draw(); draws.forEach((one) => one()); };
  pictures.then((loaded) => {
    const canvas = document.createElement("canvas");
    canvas.width = 88; canvas.height = 88;
    canvas.getContext("2d").drawImage(loaded, 0, 0, 88, 88);
    picture = canvas.toDataURL();
    all();
    Object.assign(el.dataset, { effect: s.effect, chosen: s.chosen.length, edges: s.edges.length, node: s.node ? s.node.name : "", corruption: s.corruption, scope: s.scope, imageEffect: s.image.outcome ? s.image.outcome.effect : "", alone: s.alone, drawn: s.example });
  });
  return [keepDrawn(el, all)];
}
export default { render: ({ model, el }) => rebuilt(model, el, "edges", build) };
