// The card of a head: where it looks, what it does here and over the run, and what becomes of the answer without it.

/**
 * @typedef {{effects?: Record<string, number | null>, rank?: number | null, nHeads?: number, corruption?: string,
 *   module?: string, ofBlock?: string, hereRefused?: string, runRefused?: string, run?: string, means?: any[],
 *   functions?: any[], pairs?: any[], knockedOut?: {before: number, after: number, pCorrect: number,
 *   effect: number | null}}} HeadNumbers
 */

const CORRUPTED = { image: "other image", text: "other question" };

/** A number with its interval. */
const rounded = (value) => (value !== null && Math.abs(value) < 0.005 ? "0.00" : signed(value));
const between = (value, low, high) => `${rounded(value)} [${rounded(low)}, ${rounded(high)}]`;

/**
 * The numbers below the pictures.
 * @param {HTMLElement} holder
 * @param {HeadNumbers} found
 * @param {(message: object) => void} send
 */
function cardNumbers(holder, found, send) {
  holder.replaceChildren();
  const line = (text, parent = holder) => make("div", "", parent, text), title = (text) => make("h4", "", holder, text);
  title("In this pair");
  if (found.hereRefused) make("div", "vt-note", holder, found.hereRefused);
  else if (found.effects) {
    line(`patched into the corrupt run: effect ${rounded(found.effects.denoising)}`);
    line(`taken from the corrupt run: ${rounded(found.effects.noising)} of the clean answer lost`);
    if (found.rank) make("div", "vt-label", holder, `rank ${found.rank} of ${found.nHeads} in ${found.module} of the ${found.ofBlock}; ${CORRUPTED[found.corruption]}`);
  } else make("div", "vt-label", holder, "computing …");
  if (found.knockedOut) {
    const { before, after, effect } = found.knockedOut;
    line(`knocked out (zeros in its place): LD ${signed(before)} → ${signed(after)}, ${signed(effect)} of the gap`).dataset.name = "knocked out";
  }
  const acts = make("div", "vt-controls", holder), act = (text, message, hint) => { const made = button(acts, text, () => send(message), hint); made.dataset.name = message.do; return made; };
  act("patch it", { do: "patch", activity: "patching" }, "add it to what is patched, in Patch");
  act("knock it out", { do: "knock out", activity: "knocking out" }, "the clean answer with zeros in place of what this head writes").disabled = Boolean(found.hereRefused);
  act("in Attention", { do: "attention", activity: "attention" }, "look at it in Attention");
  title(`Over the run${found.run && !found.runRefused ? ` ${found.run}` : ""}`);
  if (found.runRefused) { make("div", "vt-note", holder, found.runRefused); return; }
  if (!found.means) { make("div", "vt-label", holder, "reading …"); return; }
  const table = make("table", "vt-card-table", holder);
  table.style.whiteSpace = "nowrap"; table.style.fontSize = "12px";
  for (const row of found.means) {
    const cells = make("tr", "", table);
    make("td", "", cells, `${row.task.replace(/^rendered_/, "").replaceAll("_", " ")}, ${row.corruption}`);
    make("td", "vt-value", cells, between(row.mean_effect, row.ci_low, row.ci_high)).title = `mean effect over ${row.n_units} units, 95 % interval (${row.table})`;
    make("td", "vt-label", cells, `${row.rank} of ${row.n_heads}`).title = "rank by absolute mean effect";
  }
  if (!found.means.length) make("div", "vt-label", holder, "no effects of this head in the run");
  const known = found.functions.filter((row) => row.function && row.function !== "none");
  if (found.functions.length) {
    line(`function: ${known.length ? [...new Set(known.map((row) => row.function))].join(", ") : "none"}`);
    for (const row of found.functions) if (row.ratio !== null) make("div", "vt-label", holder, `${row.region}: ${row.ratio.toFixed(2)} [${row.ratio_low.toFixed(2)}, ${row.ratio_high.toFixed(2)}] × its area`);
  }
  if (!found.pairs.length) return;
  make("div", "vt-label", holder, "where it matters most (click opens the pair):");
  const list = make("div", "", holder);
  for (const row of found.pairs) {
    const made = button(list, `${row.sample_id} ${rounded(row.patching_effect)}`, () => send({ do: "pair", pair: row.opens, activity: "pair" }), row.opens ? `${row.task}, ${row.corruption}` : "not among the pairs that the explorer offers");
    made.disabled = !row.opens;
  }
}

function build(model, el) {
  const s = model.get("state");
  if (s.say) { make("div", "vt-note", el, s.say); el.dataset.drawn = "none"; return []; }
  make("h4", "", el, `${s.title}, ${s.block}`).style.fontSize = "15px";
  const draws = [], n = s.queries.length, keys = s.keys.length, bytes = model.get("weights");
  const inImage = new Set(s.patches), words = s.keys.map((_, i) => i).filter((i) => !inImage.has(i));
  let hovered = null;
  const said = make("div", "vt-numbers vt-two");
  // What the head does stands before where it looks in all detail.
  const holder = make("div", ""), detail = make("div", "");
  if (s.refused) make("div", "vt-note", el, s.refused);
  else {
    const weights = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    const at = (query, key) => weights[query * keys + key];
    const chosen = () => (hovered !== null ? hovered : model.get("query"));
    const all = Array.from({ length: n }, (_, i) => i);
    // The mean over all tokens where none is chosen.
    const from = (key) => (chosen() < 0 ? all.reduce((sum, query) => sum + at(query, key), 0) / n : at(chosen(), key));
    const onImage = (query) => s.patches.reduce((sum, key) => sum + at(query, key), 0);
    const name = () => (chosen() < 0 ? "mean over tokens" : s.queries[chosen()]);
    // Colors keep their scale while one hovers: it is that of the largest weight of all.
    const limit = Math.max(1e-9, ...s.patches.map((key) => Math.max(...all.map((query) => at(query, key)))));
    const tell = (text) => { said.textContent = text || `${name()}: ${s.patches.length ? `${percent(s.patches.reduce((sum, key) => sum + from(key), 0))} on the image; colors 0 … ${percent(limit)}` : "looks at words only"}`; };
    const again = () => { draws.forEach((draw) => draw()); tell(); };
    if (s.patches.length) {
      const image = patchImage(el, el, {
        side: 190, boxes: s.boxes, label: "attention of the head", color: (i) => heat(from(s.patches[i]) / limit),
        tell: (i) => `patch ${i}: ${percent(from(s.patches[i]))}`, hover: (i) => tell(i === null ? "" : `${name()} → patch ${i}: ${percent(from(s.patches[i]))}`),
      });
      pictureOf(model.get("picture")).then((picture) => image.show(picture));
      draws.push(image.draw);
    }
    el.append(said);
    make("div", "vt-label", el, "from each token (hover, click to keep):");
    const strip = tokenStrip(el, el, {
      label: "tokens that look", tokens: s.queries.map((text, i) => ({ text, role: "", title: s.patches.length ? `${percent(onImage(i))} on the image` : `token ${i}` })),
      chosen: (i) => i === model.get("query"), share: (i) => (s.patches.length ? Math.min(1, onImage(i)) : null),
      hover: (i) => { hovered = i; again(); }, pick: (i) => { save(model, { query: model.get("query") === i ? -1 : i }); again(); },
    });
    draws.push(strip.draw);
    if (words.length > 2 && words.length <= 40) {
      const most = Math.max(1e-9, ...all.flatMap((query) => words.map((key) => at(query, key))));
      make("div", "vt-label", detail, `token → token (colors 0 … ${percent(most)})`);
      const row = (i) => n - 1 - i; // the first token stands on top
      const map = heatMap(el, detail, {
        rows: n, columns: words.length, labels: words.map((key) => s.keys[key]), rowLabels: all.map((i) => s.queries[row(i)]), width: 296, largest: 22, label: "token to token",
        value: (r, c) => at(row(r), words[c]), color: (value, dark) => heat(value / most, dark), marked: (r) => row(r) === model.get("query"),
        tell: (r, c) => `${s.queries[row(r)]} → ${s.keys[words[c]]}: ${percent(at(row(r), words[c]))}`,
        hover: (cell) => tell(cell && `${s.queries[row(cell[0])]} → ${s.keys[words[cell[1]]]}: ${percent(at(row(cell[0]), words[cell[1]]))}`),
        pick: (r) => { save(model, { query: row(r) }); again(); },
      });
      draws.push(map.draw);
    }
    again();
  }
  el.append(holder, detail);
  const paint = () => {
    const found = model.get("numbers");
    cardNumbers(holder, found, (message) => model.send(message));
    Object.assign(el.dataset, { head: s.label, denoising: found.effects ? found.effects.denoising : "", knockedOut: found.knockedOut ? found.knockedOut.after : "", computed: String(Boolean(found.effects || found.hereRefused)) });
  };
  paint();
  el.dataset.drawn = s.example;
  return [follow(model, ["numbers"], paint), keepDrawn(el, () => draws.forEach((draw) => draw()))];
}
export default { render: ({ model, el }) => rebuilt(model, el, "title", build) };
