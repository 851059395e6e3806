// The graph of one head's attention around the answer, where its patches lie, and what masking tokens does.
const SVG = "http://www.w3.org/2000/svg";

function shape(tag, parent, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (parent) parent.append(node);
  return node;
}

function build(model, root) {
  const s = model.get("state"), send = (settings) => model.send(settings);
  const controls = make("div", "vt-controls", root);
  const choose = (label, name, values, value, texts) => {
    const select = make("select", "", make("label", "", controls, `${label} `));
    select.dataset.name = name;
    values.forEach((option, i) => { make("option", "", select, texts ? texts[i] : String(option)).value = i; });
    select.value = values.indexOf(value);
    select.addEventListener("change", () => send({ [name]: values[Number(select.value)] }));
  };
  const slide = (label, name, values, value) => {
    const holder = make("label", "", controls, `${label} `), slider = make("input", "", holder), shown = make("span", "", holder, ` ${value}`);
    Object.assign(slider, { type: "range", min: 0, max: values.length - 1, value: Math.max(0, values.indexOf(value)) });
    slider.dataset.name = name; slider.style.width = "90px";
    slider.addEventListener("input", () => { shown.textContent = ` ${values[slider.value]}`; });
    slider.addEventListener("change", () => send({ [name]: values[slider.value] }));
  };
  choose("answer token", "step", s.answer.map((_, i) => i), s.step, s.answer);
  slide("layer", "layer", Array.from({ length: s.layers }, (_, i) => i), s.layer);
  slide("level α", "alpha", s.alphas, s.alpha);
  slide("attention ≥", "threshold", s.thresholds, s.threshold);
  slide("radius", "radius", s.radii, s.radius);

  const columns = make("div", "vt-columns", root), left = make("div", "", columns), right = make("div", "vt-rest", columns);
  make("h4", "", left, "Tokens of the graph in the image");
  let hovered = null;
  const graph = () => (s.graphs ? s.graphs[model.get("head")] || Object.values(s.graphs)[0] : null);
  const masked = new Set(s.masked || []);
  const image = patchImage(root, left, {
    side: 230, boxes: s.boxes, label: "tokens of the graph in the image", tell: (i) => name(i), selected: new Set(),
    hover: (i) => { hovered = i === null ? null : nodeOf(i); mark(); },
  });
  const nodeOf = (cell) => { const found = graph() ? graph().nodes.findIndex((node) => node.cell === cell) : -1; return found < 0 ? null : found; };
  const name = (cell) => { const i = nodeOf(cell); return i === null ? `patch ${cell}: not in the graph` : tell(i); };
  const tell = (i) => { const node = graph().nodes[i]; return `${node.name}${node.attention === null ? "" : `: attention from the answer ${percent(node.attention)}`}${node.kind === "answer" ? "" : node.distance === null ? ", out of reach" : `, distance ${node.distance}`}`; };
  left.style.maxWidth = "290px";
  const words = make("div", "vt-numbers vt-two", left);
  make("div", "vt-label", left, "white: in the graph; red in the graph: masked");

  const heads = make("div", "vt-controls", right);
  const buttons = s.graphs ? Object.keys(s.graphs).map((head) => {
    const made = button(heads, `head ${s.layer}.${head}`, () => save(model, { head: Number(head) }), `${s.graphs[head].nodes.length} tokens, ${s.graphs[head].edges.length} edges`);
    made.dataset.name = `head ${head}`;
    return [head, made];
  }) : [];
  const svg = shape("svg", right, { width: 640, height: 330, role: "img", "aria-label": "causal graph" });
  const legend = make("div", "vt-label", right);
  const result = make("div", "", root);
  if (s.waits) {
    const start = button(right, "compute the graphs and the search", () => { start.disabled = true; send({ do: "compute" }); }, "takes some seconds");
    start.dataset.name = "compute";
    make("div", "vt-label", right, "Takes some seconds; nothing is computed until you ask, or change a setting.");
  } else if (!s.graphs) make("div", "vt-label", right, "computing the graphs of all heads and the search …");
  else {
    make("div", "vt-answer", result, s.sentence);
    const table = make("table", "", result), line = (text, value, note) => { const row = make("tr", "", table); make("td", "", row, text); const cell = make("td", "", row), bar = make("span", "vt-share", cell); cell.style.width = "190px"; bar.style.width = `${180 * value}px`; make("td", "vt-value", row, percent(value)); make("td", "vt-role", row, note); };
    make("caption", "vt-label", table, `probability of ${s.answer[s.step]}`);
    line("nothing masked", s.probability, "");
    if (s.nearest) line(s.nearest.tokens, s.nearest.probability, "the nearest: masked, and the answer stays");
    if (s.after !== null) line(s.masked.join(", "), s.after, `masked: ${s.becomes}`);
    if (s.randomMean !== null) line(`as many others, mean of ${s.random} draws`, s.randomMean, `${s.randomChanged} of ${s.random} change the answer`);
    if (s.minimal.length > 1) make("div", "vt-label", result, `All sets of this size within reach that change the answer: ${s.minimal.join("; ")}.`);
    for (const [head, why] of Object.entries(s.refused)) make("div", "vt-note", result, `Head ${s.layer}.${head} has no graph: ${why}`);
  }

  function mark() {
    const g = graph();
    image.options.selected = new Set(g ? g.nodes.filter((node) => node.cell !== null).map((node) => node.cell) : []);
    image.draw();
    words.textContent = hovered !== null && g ? tell(hovered) : "";
    svg.querySelectorAll("g").forEach((node) => node.classList.toggle("vt-here", Number(node.dataset.node) === hovered));
  }

  // Half the width and the height of a node.
  const half = (node) => (node.cell === null ? [Math.max(18, 4 * node.token.length + 4), 12] : [18, 18]);

  function draw(picture) {
    const g = graph(), colors = theme(root);
    svg.replaceChildren();
    buttons.forEach(([head, made]) => made.setAttribute("aria-pressed", Number(head) === model.get("head")));
    if (!g) { image.draw(); return; }
    const far = Math.max(0, ...g.nodes.map((node) => node.distance || 0)), rows = new Map();
    g.nodes.forEach((node, i) => { const column = node.kind === "answer" ? 0 : node.distance === null ? far + 1 : node.distance; if (!rows.has(column)) rows.set(column, []); rows.get(column).push(i); });
    // Those out of reach stand in as many columns as it takes.
    const out = rows.get(far + 1) || [], tall = 6;
    out.forEach((i, k) => { const column = far + 1 + Math.floor(k / tall); if (column > far + 1) { rows.set(far + 1, rows.get(far + 1).filter((j) => j !== i)); rows.set(column, [...(rows.get(column) || []), i]); } });
    const at = [], width = 640, height = 330, last = Math.max(...rows.keys(), 1);
    for (const [column, list] of rows) list.forEach((i, k) => { at[i] = [44 + (column * (width - 100)) / last, 40 + ((k + 0.5) * (height - 50)) / list.length]; });
    const title = (x, text) => { shape("text", svg, { x, y: 14, fill: colors.soft, "font-size": 11, "text-anchor": "middle" }).textContent = text; };
    for (const column of rows.keys()) title(44 + (column * (width - 100)) / last, column === 0 ? "answer" : column <= far ? `distance ${column}` : column === far + 1 ? "out of reach" : "");
    for (const [a, b, start, end] of g.edges) {
      const [x1, y1] = at[a], [x2, y2] = at[b], length = Math.hypot(x2 - x1, y2 - y1) || 1, ux = (x2 - x1) / length, uy = (y2 - y1) / length;
      const away = (i) => { const [w, h] = half(g.nodes[i]); return 4 + Math.min(w / Math.max(Math.abs(ux), 1e-9), h / Math.max(Math.abs(uy), 1e-9)); };
      const p = [x1 + away(a) * ux, y1 + away(a) * uy], q = [x2 - away(b) * ux, y2 - away(b) * uy];
      shape("line", svg, { x1: p[0], y1: p[1], x2: q[0], y2: q[1], stroke: colors.soft, "stroke-width": 1.3 });
      for (const [kind, [x, y], sign] of [[start, p, -1], [end, q, 1]]) {
        if (kind === "circle") shape("circle", svg, { cx: x, cy: y, r: 4, fill: colors.panel, stroke: colors.soft, "stroke-width": 1.3 });
        if (kind === "arrow") { const [dx, dy] = [sign * ux, sign * uy]; shape("path", svg, { d: `M${x} ${y} L${x - 9 * dx - 5 * dy} ${y - 9 * dy + 5 * dx} L${x - 9 * dx + 5 * dy} ${y - 9 * dy - 5 * dx} Z`, fill: colors.soft }); }
      }
    }
    g.nodes.forEach((node, i) => {
      const [x, y] = at[i], group = shape("g", svg, { tabindex: 0, role: "img", "aria-label": tell(i), "data-node": i });
      if (node.cell !== null && picture) shape("image", group, { href: thumbnail(picture, s.boxes[node.cell]), x: x - 17, y: y - 17, width: 34, height: 34, preserveAspectRatio: "none" });
      const text = node.cell === null ? node.token : "", [w, h] = half(node);
      shape("rect", group, { x: x - w, y: y - h, width: 2 * w, height: 2 * h, rx: 3, fill: text ? colors.panel : "none", stroke: masked.has(node.name) ? "#d62728" : node.kind === "answer" ? colors.accent : colors.line, "stroke-width": masked.has(node.name) || node.kind === "answer" ? 3 : 1.5 });
      if (text) shape("text", group, { x, y: y + 4, fill: colors.ink, "font-size": 12, "text-anchor": "middle" }).textContent = text;
      shape("title", group, {}).textContent = tell(i);
      for (const [kind, value] of [["pointerenter", i], ["focus", i], ["pointerleave", null], ["blur", null]]) group.addEventListener(kind, () => { hovered = value; mark(); });
    });
    legend.textContent = `${g.nodes.length} tokens, ${g.edges.length} edges, ${g.tests} tests with ${g.samples} − (tokens given) − 3 degrees of freedom. Ends: arrow: effect; circle: either; both arrows: a common cause outside.`;
    mark();
    Object.assign(root.dataset, { head: model.get("head"), layer: s.layer, alpha: s.alpha, nodes: g.nodes.length, edges: g.edges.length, masked: s.masked.join(", "), becomes: s.becomes || "", sentence: s.sentence, tried: s.tried });
  }

  function thumbnail(picture, [t, l, b, r]) {
    const canvas = document.createElement("canvas"), { width, height } = picture;
    canvas.width = 34; canvas.height = 34;
    canvas.getContext("2d").drawImage(picture, l * width, t * height, (r - l) * width, (b - t) * height, 0, 0, 34, 34);
    return canvas.toDataURL();
  }
  const ready = pictureOf(model.get("picture"));
  ready.then((picture) => { image.show(picture); draw(picture); root.dataset.drawn = s.example; root.dataset.computed = String(Boolean(s.graphs)); });
  return [follow(model, ["head"], () => ready.then(draw)), keepDrawn(root, () => ready.then(draw))];
}
export default { render: ({ model, el }) => rebuilt(model, el, "boxes", build) };
