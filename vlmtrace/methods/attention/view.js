// Where each head looks: tokens, the image, a map of heads, a gallery of one layer. All attention is here once, as
// 16-bit steps, so that a hover asks nobody.
function build(model, root) {
  const { regions, layers, heads, queries, keys, patches, boxes, scale, steps, words, through, keyTokens } = model.get("state"), s = model.get("state");
  const bytes = model.get("weights");
  const weights = new Uint16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const flat = model.get("matrices");
  const small = new Float32Array(flat.buffer.slice(flat.byteOffset, flat.byteOffset + flat.byteLength));
  const n = queries.length;
  let hovered = { query: null, head: null, patch: null };
  const get = (name) => model.get(name);
  const at = (layer, head, query, key) => weights[((layer * heads + head) * n + query) * keys + key] * scale;
  const chosenQueries = () => (hovered.query !== null ? [hovered.query] : get("queries"));
  const chosenHead = () => (hovered.head !== null ? hovered.head : [get("layer"), get("head")]);
  const reverse = () => get("patches").length > 0;
  const watched = () => (reverse() ? get("patches") : patches.map((_, i) => i));
  const mean = (list, f) => list.reduce((sum, item) => sum + f(item), 0) / Math.max(1, list.length);
  const onPatch = (layer, head, query, i) => at(layer, head, query, patches[i]);
  const onPatches = (layer, head, query, list) => list.reduce((sum, i) => sum + onPatch(layer, head, query, i), 0);
  // Keys that are words: all but the patches.
  const inImage = new Set(patches), texts = Array.from({ length: keys }, (_, key) => key).filter((key) => !inImage.has(key));
  const select = (layer, head) => { save(model, { layer, head }); model.send({ do: "select", place: `${s.place}.${layer}.${head}` }); };
  const share = (layer, head, list) => mean(chosenQueries(), (query) => onPatches(layer, head, query, list));
  const peak = (layer, head) => (patches.length ? Math.max(...patches.map((_, i) => mean(chosenQueries(), (query) => onPatch(layer, head, query, i)))) : Math.max(...texts.map((key) => mean(chosenQueries(), (query) => at(layer, head, query, key)))));
  // What heads are colored and ordered by: attention to the chosen patches where there are any.
  const score = (layer, head) => (reverse() ? share(layer, head, get("patches")) : get("measure") === "peak" ? peak(layer, head) : share(layer, head, watched()));

  const whose = make("select", "", make("label", "", make("div", "vt-controls", root), "attention of "));
  whose.dataset.name = "place";
  for (const [name, text] of s.places) make("option", "", whose, text).value = name;
  whose.value = s.place;
  whose.addEventListener("change", () => model.send({ do: "place", place: whose.value }));
  make("h4", "", root, "1 · Token that looks: hover or click (Shift adds more)");
  const tokens = tokenStrip(root, root, {
    label: "tokens that look", tokens: queries, chosen: (i) => get("queries").includes(i),
    share: (i) => (reverse() ? Math.min(1, onPatches(...chosenHead(), i, get("patches"))) : null),
    hover: (i) => { hovered.query = i; draw(); },
    pick: (i, event) => {
      let next = [i];
      if (event.shiftKey || event.ctrlKey || event.metaKey) next = get("queries").includes(i) ? get("queries").filter((q) => q !== i) : [...get("queries"), i].sort((a, b) => a - b);
      if (next.length) save(model, { queries: next });
    },
  });
  const columns = make("div", "vt-columns", root);
  const left = make("div", "", columns), middle = make("div", "", columns);
  // All heads at a glance come next, then what there is for reading closely.
  const overview = make("div", "", root), details = make("div", "vt-columns", root), right = make("div", "", details);

  make("h4", "", left, "2 · Who looks where? Click or drag");
  let limit = 1;
  const image = patchImage(root, left, {
    side: 248, boxes, label: "image", grid: () => get("grid"), selected: new Set(get("patches")),
    color: (i) => heat(mean(chosenQueries(), (query) => onPatch(...chosenHead(), query, i)) / limit),
    tell: (i) => `patch ${i}`, hover: (i) => { hovered.patch = i; tell(); },
    change: (set) => save(model, { patches: [...set].sort((a, b) => a - b) }),
  });
  const below = make("div", "vt-controls", left);
  left.style.maxWidth = "270px";
  check(below, "grid", get("grid"), (value) => save(model, { grid: value }));
  for (const [name, list] of Object.entries(regions)) button(below, name, () => save(model, { patches: list }), `choose all patches that show any of the ${name}`);
  const clear = button(below, "clear", () => save(model, { patches: [] }));
  const bar = make("span", "vt-scale", below), top = make("span", "vt-label", below);
  bar.style.background = `linear-gradient(to right, ${[0, 0.33, 0.67, 1].map((share) => heat(share)).join(",")}), #cfcfcf`;

  const mapTitle = make("h4", "", middle), by = make("select", "", make("label", "", middle, "heads by "));
  by.dataset.name = "measure";
  make("option", "", by, "attention to the image").value = "image"; make("option", "", by, "attention to the strongest patch").value = "peak";
  by.addEventListener("change", () => save(model, { measure: by.value }));
  let ceiling = 1;
  const map = heatMap(root, middle, {
    rows: layers, columns: heads, width: 300, label: "heads", color: (value, dark) => heat(value / ceiling, dark),
    value: score, marked: (layer, head) => layer === get("layer") && head === get("head"),
    tell: (layer, head) => `head ${layer}.${head}: ${percent(score(layer, head))}`,
    hover: (cell) => { hovered.head = cell; draw(false); }, pick: select,
  });
  middle.style.maxWidth = "330px"; // else a long line on hover would push the next column away
  const numbers = make("div", "vt-numbers vt-two", middle);
  numbers.setAttribute("role", "status");
  const list = make("div", "", middle);

  if (steps.length) make("h4", "", right, "What the answer reads in this layer (mean over heads)");
  const answer = steps.length ? heatMap(root, right, {
    rows: steps.length, columns: words.length, labels: words, width: 290, largest: 26, rowLabels: steps, label: "question to answer",
    value: (step, word) => small[(get("layer") * steps.length + step) * words.length + word], color: heat, marked: () => false,
    tell: (step, word) => `${steps[step]} from ${words[word]}`, pick: () => {},
    hover: (cell) => { said.textContent = cell ? `${steps[cell[0]]} ← ${words[cell[1]]}: ${percent(small[(get("layer") * steps.length + cell[0]) * words.length + cell[1]])}` : `answer: ${steps.join(" ")}`; },
  }) : null;
  const said = make("div", "vt-numbers", right, steps.length ? `answer: ${steps.join(" ")}` : "");
  const offset = layers * steps.length * words.length;
  const toAnswer = (step, i) => small[offset + (get("layer") * steps.length + step) * patches.length + i];
  if (steps.length) make("div", "vt-label", right, through ? "image → answer, by way of the question:" : "image → answer:");
  const strip = make("div", "vt-gallery", right);
  const pictures = steps.map((step, s) => patchImage(root, make("div", "", strip), {
    side: 84, boxes, label: `image to ${step}`, tell: (i) => `patch ${i}: ${percent(toAnswer(s, i))}`,
    color: (i) => heat(toAnswer(s, i) / Math.max(...patches.map((_, j) => toAnswer(s, j)))),
    hover: (i) => { said.textContent = i === null ? `answer: ${steps.join(" ")}` : `${step} ← patch ${i}: ${percent(toAnswer(s, i))}`; },
  }));

  // From token to token: the chosen head, all rows.
  const matrixPart = make("div", "", details), matrixTitle = make("h4", "", matrixPart), top2 = (r) => n - 1 - r;
  let most = 1;
  const fits = texts.length > 2 && texts.length <= 60 && n <= 60;
  const matrix = fits ? heatMap(root, matrixPart, {
    rows: n, columns: texts.length, labels: texts.map((key) => keyTokens[key]), rowLabels: Array.from({ length: n }, (_, r) => queries[top2(r)].text), width: 310, largest: 24, label: "token to token",
    value: (r, c) => at(...chosenHead(), top2(r), texts[c]), color: (value, dark) => heat(value / most, dark), marked: (r) => get("queries").includes(top2(r)),
    tell: (r, c) => `${queries[top2(r)].text} → ${keyTokens[texts[c]]}: ${percent(at(...chosenHead(), top2(r), texts[c]))}`,
    hover: (cell) => { if (cell) numbers.textContent = matrixSaid(cell); else tell(); }, pick: (r) => save(model, { queries: [top2(r)] }),
  }) : null;
  const matrixSaid = ([r, c]) => `head ${chosenHead().join(".")}: ${queries[top2(r)].text} → ${keyTokens[texts[c]]}: ${percent(at(...chosenHead(), top2(r), texts[c]))}`;
  if (!fits) matrixPart.remove();

  make("h4", "", overview, "3 · All heads at a glance, layers upwards (same colors everywhere; click a head for its card)");
  let picture = null;
  const all = glance(root, overview, {
    layers, heads, boxes, rows: n, columns: texts.length, width: 640, chosen: () => [get("layer"), get("head")],
    patch: (layer, head, i) => mean(get("queries"), (query) => onPatch(layer, head, query, i)),
    cell: (layer, head, row, column) => at(layer, head, row, texts[column]),
    tell: (cell) => { hovered.head = cell; draw(false); }, pick: select,
  });

  function tell() {
    const [layer, head] = chosenHead(), names = chosenQueries().map((i) => queries[i].text).join(" + ");
    const image = share(layer, head, patches.map((_, i) => i)), text = [patches.length ? `head ${layer}.${head} from ${names}: ${percent(image)} on the image` : `head ${layer}.${head} from ${names}: it looks at words`];
    if (reverse()) text.push(`${percent(share(layer, head, get("patches")))} on the ${get("patches").length} chosen patches`);
    if (hovered.patch !== null) text.push(`patch ${hovered.patch}: ${percent(mean(chosenQueries(), (q) => onPatch(layer, head, q, hovered.patch)))}`);
    numbers.textContent = text.join("; ");
    Object.assign(root.dataset, { layer, head, queries: chosenQueries().join(","), patches: get("patches").join(","), imageAttention: image.toFixed(5), patchAttention: share(layer, head, watched()).toFixed(5) });
  }

  function who() {
    list.replaceChildren();
    if (!reverse()) return;
    const found = [];
    for (let layer = 0; layer < layers; layer++) for (let head = 0; head < heads; head++) for (let q = 0; q < n; q++) found.push([onPatches(layer, head, q, get("patches")), layer, head, q]);
    found.sort((a, b) => b[0] - a[0]);
    make("div", "vt-label", list, "who looks there most (click to go there):");
    const items = make("ol", "vt-list", list);
    for (const [value, layer, head, q] of found.slice(0, 5)) button(make("li", "", items), `${queries[q].text} by ${layer}.${head}: ${percent(value)}`, () => save(model, { layer, head, queries: [q] }));
    root.dataset.strongest = found.slice(0, 5).map(([value, layer, head, q]) => `${layer}.${head}.${q}.${value.toFixed(4)}`).join(" ");
  }

  // Limits of colors follow what is chosen, never what is hovered: one sees what is more and what is less.
  function limits() {
    const chosen = get("queries"), every = [];
    let peakAll = 1e-6, words = 1e-6;
    for (let layer = 0; layer < layers; layer++) for (let head = 0; head < heads; head++) {
      for (let i = 0; i < patches.length; i++) peakAll = Math.max(peakAll, mean(chosen, (query) => onPatch(layer, head, query, i)));
      for (let q = 0; q < n; q++) for (const key of texts) words = Math.max(words, at(layer, head, q, key));
      const kept = hovered; hovered = { query: null, head: null, patch: null };
      every.push(score(layer, head)); hovered = kept;
    }
    limit = peakAll; most = words;
    ceiling = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8].find((step) => Math.max(...every) <= step) || 1;
  }

  function draw(everything = true) {
    const layer = get("layer");
    if (everything) limits();
    top.textContent = patches.length ? `0 … ${percent(limit)} per patch` : "looks at words only";
    mapTitle.textContent = `${reverse() ? "Heads: attention to the chosen patches" : "Heads"} (colors 0 … ${percent(ceiling)})`;
    matrixTitle.textContent = `Token → token, head ${chosenHead().join(".")} (colors 0 … ${percent(most)})`;
    by.value = get("measure"); by.parentElement.hidden = reverse() || !patches.length;
    clear.disabled = !reverse();
    tokens.draw(); image.draw(); map.draw(); if (matrix) matrix.draw(); tell();
    if (!everything) return;
    all.draw(patches.length ? limit : most, picture);
    Object.assign(root.dataset, { limit: limit.toFixed(5), place: s.place, layer });
    if (answer) answer.draw();
    pictures.forEach((picture) => picture.draw());
  }
  const paint = () => {
    // What comes from the kernel meanwhile must not undo what is being dragged.
    if (!image.isDragged()) image.options.selected = new Set(get("patches"));
    draw(); who();
  };
  pictureOf(get("picture")).then((loaded) => {
    picture = loaded;
    image.show(picture); pictures.forEach((p) => p.show(picture));
    paint();
    root.dataset.drawn = get("state").example;
  });
  return [follow(model, ["layer", "head", "queries", "patches", "grid", "measure"], paint), keepDrawn(root, paint)];
}
export default { render: ({ model, el }) => rebuilt(model, el, "queries", build) };
