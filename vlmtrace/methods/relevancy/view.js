// What each token of the answer came from: patches of the image, words of the prompt, and one against the other.
function build(model, root) {
  const s = model.get("state"), get = (name) => model.get(name), sum = (list) => list.reduce((a, b) => a + (b || 0), 0);
  let hovered = null, patch = null, word = null, image = null, places = null, prompt = null, drawn = null;
  const step = () => (hovered !== null ? hovered : get("step")), way = () => (s.ways[get("way")] ? get("way") : "image");
  const map = () => s.maps[way()][step()];
  const number = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));

  const headline = make("div", "vt-answer", root);
  headline.style.fontSize = "14px"; headline.style.minHeight = "2.8em"; headline.setAttribute("role", "status");
  make("h4", "", root, "1 · Token of the answer: hover or click");
  const answer = tokenStrip(root, root, {
    label: "tokens of the answer", tokens: s.answer.map((text, i) => ({ text, role: "", title: `token ${i} of the answer` })),
    chosen: (i) => i === get("step"), share: () => null, hover: (i) => { hovered = i; draw(); }, pick: (i) => save(model, { step: i }),
  });
  const columns = make("div", "vt-columns", root), left = make("div", "", columns), middle = make("div", "", columns), right = make("div", "", columns);
  make("h4", "", left, "2 · Patches");
  const controls = make("div", "vt-controls", left), through = make("select", "", make("label", "", controls, "through "));
  through.dataset.name = "way";
  for (const [key, text] of Object.entries(s.ways)) make("option", "", through, text).value = key;
  through.addEventListener("change", () => save(model, { way: through.value }));
  const holder = make("div", "", left), below = make("div", "vt-controls", left), bar = make("span", "vt-scale", below), top = make("span", "vt-label", below);
  bar.style.background = `linear-gradient(to right, ${[0, 0.33, 0.67, 1].map((share) => heat(share)).join(",")}), #cfcfcf`;
  if (s.refused) make("div", "vt-note", left, s.refused);

  make("h4", "", middle, "3 · Does the first answer token need them?");
  const tested = make("div", "vt-numbers vt-two");
  const curve = deletionCurve(root, middle, (text) => { tested.textContent = text; });
  tested.style.width = "300px"; middle.append(tested);
  const legend = make("div", "vt-label", middle, "strong line: most relevant first; gray: random orders, mean and 95 % of them");
  legend.style.width = "300px";
  const drawCurve = () => { const given = get("curve"); headline.textContent = curveSentence(given); curve.show(given); Object.assign(root.dataset, { curve: JSON.stringify(given.points ? given.points.map((point) => point.logit_diff) : []), half: given.half ?? "" }); };

  make("h4", "", right, "4 · Words of the prompt");
  check(make("div", "vt-controls", right), "join sub-tokens to words", get("words"), (value) => save(model, { words: value }));
  const table = make("table", "", right);
  make("h4", "", right, "Relevance of image against text");
  make("div", "vt-label", right, "shares of relevance; how much the answer needs the image is what the curve shows").style.width = "300px";
  const against = make("table", "", right);
  s.shares.forEach((share, i) => {
    const line = make("tr", "", against), cell = make("td", "");
    make("td", "", line, s.answer[i]); line.append(cell);
    for (const [name, kind] of [["image", "patched"], ["prompt", "corrupt"], ["answer", "clean"]]) {
      const part = make("span", `vt-share ${kind}`, cell), total = share.image + share.prompt + share.answer || 1;
      part.style.width = `${(200 * share[name]) / total}px`; part.title = `${name}: ${percent(share[name] / total)}`;
    }
    make("td", "", line, share.image_share === null ? "nothing was relevant" : `image ${percent(share.image_share)}`);
  });
  const key = make("div", "vt-label", right);
  for (const [name, kind] of [["image", "patched"], ["prompt", "corrupt"], ["earlier answer", "clean"]]) { make("span", `vt-share ${kind}`, key).style.width = "10px"; key.append(` ${name}   `); }
  const numbers = make("div", "vt-numbers", root);
  numbers.setAttribute("role", "status");

  function groups() {
    const values = s.prompt[step()];
    if (!get("words")) return s.tokens.map((text, i) => [text, values[i] || 0]);
    const found = new Map();
    s.wordOf.forEach((index, i) => { const [text, value] = found.get(index) || [s.wordNames[i], 0]; found.set(index, [text, value + (values[i] || 0)]); });
    return [...found.values()];
  }

  function drawWords() {
    const list = groups(), most = Math.max(1e-9, ...list.map(([, value]) => value));
    table.replaceChildren();
    for (const [text, value] of list) {
      const line = make("tr", "", table);
      make("td", "", line, text);
      const cell = make("td", "", line);
      cell.style.width = "190px"; make("span", "vt-share", cell).style.width = `${((180 * value) / most).toFixed(1)}px`;
      make("td", "vt-value", line, number(value));
    }
  }

  function draw() {
    if (drawn !== way()) {
      drawn = way(); places = s.boxes[drawn]; holder.replaceChildren();
      image = patchImage(root, holder, {
        side: 300, boxes: places, label: "relevance of patches", color: (i) => heat(map()[i] / Math.max(1e-12, ...map())),
        tell: (i) => `patch ${i}: relevance ${number(map()[i])}`, hover: (i) => { patch = i; tell(); },
      });
      ready.then((picture) => image.show(picture));
    }
    through.value = way(); top.textContent = `0 … ${number(Math.max(...map()))} per patch`;
    answer.draw(); image.draw(); drawWords(); curve.draw(); tell();
  }

  function tell() {
    const share = s.shares[step()], total = sum(map());
    numbers.textContent = `${s.answer[step()]}: relevance of the image ${number(total)} through ${s.ways[way()]}, of the prompt ${number(share.prompt)}` + (patch === null ? "" : `; patch ${patch}: ${number(map()[patch])}`);
    Object.assign(root.dataset, { step: step(), way: way(), image: total.toPrecision(6), prompt: share.prompt.toPrecision(6), imageShare: share.image_share });
  }
  const ready = pictureOf(get("picture"));
  drawCurve();
  ready.then(() => { draw(); root.dataset.drawn = s.example; });
  return [follow(model, ["step", "way", "words"], () => draw()), follow(model, ["curve"], drawCurve), keepDrawn(root, () => image && draw())];
}
export default { render: ({ model, el }) => rebuilt(model, el, "answer", build) };
