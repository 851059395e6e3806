// Where each head looks: tokens, the image, a map of heads, a gallery of one layer. All attention is here once, as
// 16-bit steps, so that a hover asks nobody.
function build(model, root) {
  const { regions, layers, heads, queries, keys, patches, boxes, scale, steps, words, matrices, through } = model.get("state");
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
  const share = (layer, head, list) => mean(chosenQueries(), (query) => onPatches(layer, head, query, list));
  const peak = (layer, head) => Math.max(...patches.map((_, i) => mean(chosenQueries(), (query) => onPatch(layer, head, query, i))));
  // What heads are colored and ordered by: attention to the chosen patches where there are any.
  const score = (layer, head) => (reverse() ? share(layer, head, get("patches")) : get("measure") === "peak" ? peak(layer, head) : share(layer, head, watched()));

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
  const left = make("div", "", columns), middle = make("div", "", columns), right = make("div", "", columns);

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
  for (const [name, list] of Object.entries(regions)) button(below, name, () => save(model, { patches: list }), `choose the patches of the ${name}`);
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
    hover: (cell) => { hovered.head = cell; draw(false); }, pick: (layer, head) => save(model, { layer, head }),
  });
  middle.style.maxWidth = "330px"; // else a long line on hover would push the next column away
  const numbers = make("div", "vt-numbers vt-two", middle);
  numbers.setAttribute("role", "status");
  const list = make("div", "", middle);

  make("h4", "", right, "What the answer reads in this layer (mean over heads)");
  const answer = steps.length ? heatMap(root, right, {
    rows: steps.length, columns: words.length, labels: words, width: 290, largest: 26, rowLabels: steps, label: "question to answer",
    value: (step, word) => small[(get("layer") * steps.length + step) * words.length + word], color: heat, marked: () => false,
    tell: (step, word) => `${steps[step]} from ${words[word]}`, pick: () => {},
    hover: (cell) => { said.textContent = cell ? `${steps[cell[0]]} ← ${words[cell[1]]}: ${percent(small[(get("layer") * steps.length + cell[0]) * words.length + cell[1]])}` : `answer: ${steps.join(" ")}`; },
  }) : null;
  const said = make("div", "vt-numbers", right, `answer: ${steps.join(" ")}`);
  const offset = layers * steps.length * words.length;
  const toAnswer = (step, i) => small[offset + (get("layer") * steps.length + step) * patches.length + i];
  make("div", "vt-label", right, through ? "image → answer, by way of the question:" : "image → answer:");
  const strip = make("div", "vt-gallery", right);
  const pictures = steps.map((step, s) => patchImage(root, make("div", "", strip), {
    side: 84, boxes, label: `image to ${step}`, tell: (i) => `patch ${i}: ${percent(toAnswer(s, i))}`,
    color: (i) => heat(toAnswer(s, i) / Math.max(...patches.map((_, j) => toAnswer(s, j)))),
    hover: (i) => { said.textContent = i === null ? `answer: ${steps.join(" ")}` : `${step} ← patch ${i}: ${percent(toAnswer(s, i))}`; },
  }));

  const controls = make("div", "vt-controls", root);
  const label = make("label", "", controls, "3 · layer "), slider = make("input", "", label);
  Object.assign(slider, { type: "range", min: 0, max: layers - 1, value: get("layer") });
  slider.setAttribute("aria-label", "layer");
  const which = make("span", "vt-label", controls);
  slider.addEventListener("input", () => save(model, { layer: Number(slider.value) }));
  const gallery = make("div", "vt-gallery", root);
  let order = Array.from({ length: heads }, (_, head) => head);
  const tiles = Array.from({ length: heads }, (_, place) => {
    const tile = make("button", "vt-tile", gallery);
    tile.type = "button";
    const picture = patchImage(root, tile, { side: 84, boxes, label: "thumbnail", color: (i) => heat(mean(chosenQueries(), (q) => onPatch(get("layer"), order[place], q, i)) / limit), tell: () => "" });
    picture.canvas.tabIndex = -1; picture.canvas.style.pointerEvents = "none";
    tile.addEventListener("click", () => save(model, { head: order[place] }));
    return { tile, picture, text: make("span", "", tile) };
  });

  function tell() {
    const [layer, head] = chosenHead(), names = chosenQueries().map((i) => queries[i].text).join(" + ");
    const image = share(layer, head, patches.map((_, i) => i)), text = [`head ${layer}.${head} from ${names}: ${percent(image)} on the image`];
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

  function draw(all = true) {
    const layer = get("layer"), everywhere = patches.map((_, i) => i);
    order = Array.from({ length: heads }, (_, head) => head).sort((a, b) => score(layer, b) - score(layer, a));
    const scores = Array.from({ length: layers * heads }, (_, i) => score(Math.floor(i / heads), i % heads));
    ceiling = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8].find((step) => Math.max(...scores) <= step) || 1;
    limit = Math.max(1e-6, ...order.map((head) => Math.max(...everywhere.map((i) => mean(chosenQueries(), (q) => onPatch(layer, head, q, i))))));
    const [l, h] = chosenHead();
    if (l !== layer) limit = Math.max(1e-6, ...everywhere.map((i) => mean(chosenQueries(), (q) => onPatch(l, h, q, i))));
    top.textContent = `0 … ${percent(limit)} per patch`;
    mapTitle.textContent = `${reverse() ? "Heads: attention to the chosen patches" : "Heads"} (colors 0 … ${percent(ceiling)})`;
    by.value = get("measure"); by.parentElement.hidden = reverse();
    clear.disabled = !reverse();
    tokens.draw(); image.draw(); map.draw(); tell();
    if (!all) return;
    slider.value = layer; which.textContent = `layer ${layer}, heads in the order of their ${reverse() ? "attention to the chosen patches" : by.selectedOptions[0].textContent}`;
    tiles.forEach(({ tile, picture, text }, place) => {
      tile.setAttribute("aria-pressed", order[place] === get("head"));
      picture.draw(); text.textContent = `${layer}.${order[place]} · ${percent(score(layer, order[place]))}`;
    });
    root.dataset.gallery = order.join(",");
    if (answer) answer.draw();
    pictures.forEach((picture) => picture.draw());
  }
  const paint = () => {
    // What comes from the kernel meanwhile must not undo what is being dragged.
    if (!image.isDragged()) image.options.selected = new Set(get("patches"));
    draw(); who();
  };
  pictureOf(get("picture")).then((picture) => {
    image.show(picture); tiles.forEach((tile) => tile.picture.show(picture)); pictures.forEach((p) => p.show(picture));
    paint();
    root.dataset.drawn = get("state").example;
  });
  return [follow(model, ["layer", "head", "queries", "patches", "grid", "measure"], paint), keepDrawn(root, paint)];
}
export default { render: ({ model, el }) => rebuilt(model, el, "queries", build) };
