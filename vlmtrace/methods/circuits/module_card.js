// The card of a module of a layer: where it acts, what it does here and over the run, and the answer without it.

const ELSE = { image: "other image", text: "other question" };
const near = (value) => (value !== null && Math.abs(value) < 0.005 ? "0.00" : signed(value));

function moduleNumbers(holder, found, at, send) {
  holder.replaceChildren();
  const line = (text) => make("div", "", holder, text), small = (text) => make("div", "vt-label", holder, text);
  make("h4", "", holder, `In this pair, ${at.length ? `at ${at.slice(0, 6).join(", ")}${at.length > 6 ? " …" : ""}` : "at all positions"}`);
  if (found.hereRefused) make("div", "vt-note", holder, found.hereRefused);
  else if (found.effects) {
    line(`patched into the corrupt run: effect ${near(found.effects.denoising)}`);
    line(`taken from the corrupt run: ${near(found.effects.noising)} of the clean answer lost`);
    if (found.rank) small(`rank ${found.rank} of the ${found.nHeads} layers' ${found.module} in the ${found.ofBlock}; ${ELSE[found.corruption]}`);
  } else small("computing …");
  if (found.knockedOut) line(`knocked out (zeros in its place): LD ${signed(found.knockedOut.before)} → ${signed(found.knockedOut.after)}, ${signed(found.knockedOut.effect)} of the gap`).dataset.name = "knocked out";
  const acts = make("div", "vt-controls", holder);
  for (const [text, message, hint] of [["patch it", { do: "patch", activity: "patching" }, "add it to what is patched, in Patch"], ["knock it out", { do: "knock out", activity: "knocking out" }, "the clean answer with zeros in place of what this module gives"]]) {
    const made = button(acts, text, () => send(message), hint);
    made.dataset.name = message.do; made.disabled = Boolean(found.hereRefused);
  }
  make("h4", "", holder, `Over the run${found.run && !found.runRefused ? ` ${found.run}` : ""}`);
  if (found.runRefused) { make("div", "vt-note", holder, found.runRefused); return; }
  if (!found.means) { small("reading …"); return; }
  const table = make("table", "vt-card-table", holder);
  table.style.whiteSpace = "nowrap"; table.style.fontSize = "11.5px";
  for (const row of found.means) {
    const cells = make("tr", "", table);
    make("td", "", cells, `${row.task.replace(/^rendered_/, "").replaceAll("_", " ")}, ${row.corruption}: ${row.token_role}`);
    make("td", "vt-value", cells, `${near(row.mean_effect)} [${near(row.ci_low)}, ${near(row.ci_high)}]`).title = `mean effect at tokens of this role over ${row.n_units} units, 95 % interval`;
    make("td", "vt-label", cells, `${row.rank}/${row.n_layers}`).title = "rank by absolute mean effect among the layers";
  }
  if (!found.pairs.length) return;
  small("where one token matters most (click opens the pair):");
  const list = make("div", "", holder);
  for (const row of found.pairs) button(list, `${row.sample_id} ${near(row.patching_effect)}`, () => send({ do: "pair", pair: row.opens, activity: "pair" }), row.opens ? `${row.task}, ${row.corruption}` : "not among the pairs that the explorer offers").disabled = !row.opens;
}

function buildModule(model, el) {
  const s = model.get("state"), draws = [];
  if (s.say) { make("div", "vt-note", el, s.say); el.dataset.drawn = "none"; return []; }
  make("h4", "", el, `${s.title}, ${s.block}`).style.fontSize = "15px";
  const holder = make("div", "", el), all = [...s.patches, ...s.words.map(([, value]) => value)].map((value) => Math.abs(value || 0)), most = Math.max(0.01, ...all);
  if (all.length) make("h4", "", el, `Where it acts: one position at a time (colors ±${most.toFixed(2)})`);
  if (s.patches.length) {
    const image = patchImage(el, el, {
      side: 190, boxes: s.boxes, label: "effects of the module at patches", color: (i) => diverging((s.patches[i] || 0) / most),
      tell: (i) => `patch ${i}: effect ${near(s.patches[i])}`, hover: () => {},
    });
    pictureOf(model.get("picture")).then((picture) => image.show(picture));
    draws.push(image.draw);
  }
  const strongest = s.words.filter(([, value]) => value !== null).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 8);
  const table = make("table", "", el);
  for (const [token, value] of strongest) {
    const row = make("tr", "", table);
    make("td", "", row, token);
    const cell = make("td", "", row), bar = make("span", "vt-share", cell);
    cell.style.width = "100px"; bar.style.width = `${((92 * Math.abs(value)) / most).toFixed(1)}px`; bar.style.background = diverging(Math.sign(value));
    make("td", "vt-value", row, near(value));
  }
  const paint = () => {
    const found = model.get("numbers");
    moduleNumbers(holder, found, s.at, (message) => model.send(message));
    Object.assign(el.dataset, { module: s.label, denoising: found.effects ? found.effects.denoising : "", knockedOut: found.knockedOut ? found.knockedOut.after : "", computed: String(Boolean(found.effects || found.hereRefused)) });
  };
  paint();
  el.dataset.drawn = s.example;
  return [follow(model, ["numbers"], paint), keepDrawn(el, () => draws.forEach((draw) => draw()))];
}
export default { render: ({ model, el }) => rebuilt(model, el, "title", buildModule) };
