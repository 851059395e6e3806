// Effect maps to click on; what is clicked is patched, all of it together, in one run.
// The words of each direction: what is copied where, and what an effect of 0 and of 1 says.
const DIRECTION_WORDS = {
  denoising: {
    name: "clean → corrupt (denoising)", run: "corrupt",
    note: "The corrupt run gets the chosen activations of the clean run, all at once: are they enough? Effect 0: nothing happens; 1: the clean answer is back.",
  },
  noising: {
    name: "corrupt → clean (noising)", run: "clean",
    note: "The clean run gets the chosen activations of the corrupt run, all at once: does its answer need them? Effect 0: nothing is lost; 1: as much is lost as the corruption takes.",
  },
};

function render({ model, el }) {
  let layer = 0, kept = { picture: null, bytes: null };
  const send = (message) => model.send(message);

  function build() {
    const s = model.get("state"), [block, module] = s.place;
    layer = Math.min(layer, s.layers - 1);
    const words = s.tokens.filter((token) => !s.inImage.includes(token.position));
    const limitOf = (rows) => { const most = Math.max(0, ...rows.flat().map((value) => Math.abs(value || 0))); return [0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 3, 5, 10].find((step) => most <= step) || most; };
    const limit = limitOf(s.effects), color = (value) => diverging(value / limit), headLimit = limitOf(s.headEffects || [[]]);
    const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
    const here = s.patches.filter((patch) => patch.block === block && patch.module === module);
    const patched = (l, positions, heads) => here.some((p) => p.layer === l && same(p.positions, positions) && same(p.heads, heads));
    const named = (node, name) => { node.dataset.name = name; return node; };

    const said = DIRECTION_WORDS[s.direction];
    make("div", "vt-note", el, `${said.note} A head is patched at all positions at once, unless you choose some.`);
    const first = make("div", "vt-controls", el);
    const ways = named(make("select", "", make("label", "", first, "copy: ")), "direction");
    for (const [name, { name: text }] of Object.entries(DIRECTION_WORDS)) make("option", "", ways, text).value = name;
    ways.value = s.direction;
    ways.addEventListener("change", () => send({ do: "choose", direction: ways.value, activity: "effect maps" }));
    const which = named(make("select", "", make("label", "", first, "corrupt run: ")), "corruption");
    for (const [name, text] of Object.entries(s.corruptions)) make("option", "", which, text).value = name;
    which.value = s.corruption;
    which.addEventListener("change", () => send({ do: "choose", corruption: which.value, activity: "effect maps" }));
    const place = named(make("select", "", make("label", "", first, "module: ")), "place");
    s.places.forEach(([, , text], i) => { make("option", "", place, text).value = i; });
    place.value = s.places.findIndex(([b, m]) => b === block && m === module);
    place.addEventListener("change", () => send({ do: "choose", place: s.places[place.value].slice(0, 2), activity: "effect maps" }));
    const scale = make("span", "vt-scale", first);
    scale.style.background = `linear-gradient(to right, ${[-1, -0.5, 0, 0.5, 1].map(diverging).join(",")})`;
    make("span", "vt-label", first, "effect: blue below 0, red above");
    named(check(first, "keep patches for the next pair", s.keeps, (on) => send({ do: "keep", on, activity: "keeping patches" })), "keep");
    if (s.away) {
      const line = make("div", "vt-controls", el), many = s.away.n === 1 ? "The patch" : `The ${s.away.n} patches`;
      make("span", "vt-label", line, `${many} of ${s.away.name} ${s.away.n === 1 ? "was" : "were"} put away.`);
      named(button(line, "do they transfer? patch them here", () => send({ do: "carry", activity: "carrying patches over" })), "carry");
    }
    if (s.carried) {
      const left = s.carried.left.length ? ` Left behind, for lack of such a token here: ${s.carried.left.join("; ")}.` : "";
      const line = make("div", "vt-answer", el, `Carried over from ${s.carried.name}: effect ${signed(s.carried.effect)} there, ${signed(s.effect)} here with what is patched now.${left}`);
      line.style.fontSize = "14px"; line.dataset.name = "carried";
    }

    const columns = make("div", "vt-columns", el);
    const draws = [], hint = make("div", "vt-numbers");
    hint.setAttribute("role", "status");
    const tell = (text) => { hint.textContent = text || "Hover a cell for its effect; a click patches it, and opens its card."; };
    tell();

    if (s.headEffects) {
      const part = make("div", "", columns);
      part.style.maxWidth = "310px";
      make("h4", "", part, `Single heads: click one (colors ±${headLimit})`);
      const where = s.positions.length ? s.positions : null;
      const at = where ? `at ${where.map((i) => s.tokens[i].token).join(", ")}` : "at all positions";
      const map = heatMap(el, part, {
        rows: s.layers, columns: s.heads, width: 300, label: "heads", color: (value) => diverging(value / headLimit),
        value: (l, h) => s.headEffects[l][h], marked: (l, h) => patched(l, where, [h]),
        tell: (l, h) => `head ${l}.${h} ${at}: effect ${signed(s.headEffects[l][h])}`,
        hover: (cell) => tell(cell && `head ${cell[0]}.${cell[1]} ${at}: effect ${signed(s.headEffects[cell[0]][cell[1]])}`),
        pick: (l, h) => send({ do: "toggle", layer: l, heads: [h], positions: where, activity: `head ${l}.${h}` }),
      });
      draws.push(map.draw);
      const left = s.headEffects.flatMap((row, l) => row.map((value, h) => [value, l, h])).filter(([value, l, h]) => value > 0 && !patched(l, where, [h])).sort((a, b) => b[0] - a[0]);
      const strongest = named(button(part, left.length ? `patch the strongest too: ${left[0][1]}.${left[0][2]}` : "no head left", () => send({ do: "toggle", layer: left[0][1], heads: [left[0][2]], positions: where, activity: `head ${left[0][1]}.${left[0][2]}` })), "strongest");
      strongest.disabled = !left.length;
      make("div", "vt-label", part, `patched ${at}; or only at:`);
      const strip = tokenStrip(el, part, {
        label: "positions of heads", tokens: words.map((token) => ({ text: token.token, role: "", title: `position ${token.position}` })),
        chosen: (i) => s.positions.includes(words[i].position), share: () => null, hover: () => {},
        pick: (i) => { const p = words[i].position; send({ do: "at", positions: s.positions.includes(p) ? s.positions.filter((q) => q !== p) : [...s.positions, p], activity: "effects of heads" }); },
      });

      draws.push(strip.draw);
    }
    if (words.length && words.length < s.tokens.length + 1 && !(words.length === 1 && s.inImage.length)) {
      const part = make("div", "", columns);
      make("h4", "", part, `Whole module at a token (colors ±${limit})`);
      const map = heatMap(el, part, {
        rows: s.layers, columns: words.length, labels: words.map((token) => token.token), width: 300, label: "tokens", color,
        value: (l, c) => s.effects[l][words[c].position], marked: (l, c) => patched(l, [words[c].position], null),
        tell: (l, c) => `layer ${l} at ${words[c].token}: effect ${signed(s.effects[l][words[c].position])}`,
        hover: (cell) => tell(cell && `layer ${cell[0]} at ${words[cell[1]].token}: effect ${signed(s.effects[cell[0]][words[cell[1]].position])}`),
        pick: (l, c) => send({ do: "toggle", layer: l, heads: null, positions: [words[c].position], activity: `layer ${l} at ${words[c].token}` }),
      });
      draws.push(map.draw);
    }
    if (s.inImage.length) {
      const part = make("div", "", columns), title = make("h4", "", part);
      const chosen = () => here.find((p) => p.layer === layer && p.heads === null && p.positions && p.positions.every((i) => s.inImage.includes(i)) && p.positions.length);
      const image = patchImage(el, part, {
        side: 200, boxes: s.boxes, label: "image", selected: new Set(), grid: () => true,
        color: (i) => { const value = s.effects[layer][s.inImage[i]]; return value === null ? "rgba(0,0,0,0)" : color(value); },
        tell: (i) => `patch ${i}, layer ${layer}: effect ${signed(s.effects[layer][s.inImage[i]])}`,
        hover: (i) => tell(i !== null && `patch ${i}, layer ${layer}: effect ${signed(s.effects[layer][s.inImage[i]])}`), change: () => { send_.disabled = !image.options.selected.size; },
      });
      const below = make("div", "vt-controls", part), label = make("label", "", below, "layer "), slider = named(make("input", "", label), "layer");
      Object.assign(slider, { type: "range", min: 0, max: s.layers - 1, value: layer });
      slider.style.width = "90px";
      const send_ = button(below, "patch these", () => send({ do: "toggle", layer, heads: null, positions: [...image.options.selected].sort((a, b) => a - b).map((i) => s.inImage[i]), activity: "patches of the image" }));
      send_.disabled = true;
      const paint = () => { title.textContent = `Image patches, layer ${layer}: drag (colors ±${limit})`; const p = chosen(); if (p && !image.options.selected.size) image.options.selected = new Set(p.positions.map((i) => s.inImage.indexOf(i))); image.draw(); };
      slider.addEventListener("input", () => { layer = Number(slider.value); image.options.selected = new Set(); paint(); });
      draws.push(paint);
      const bytes = model.get("picture");
      if (kept.bytes !== bytes) kept = { bytes, picture: pictureOf(bytes) };
      kept.picture.then((picture) => { image.show(picture); paint(); });
    }
    const result = make("div", "vt-columns", el), numbers = make("div", "", result), steps = make("div", "", result);
    numbers.style.maxWidth = steps.style.maxWidth = "306px";
    make("div", "vt-label vt-patched", numbers, `${said.run} run, patched (${s.patches.length}): effect ${signed(s.effect)}`);
    const body = make("table", "", numbers);
    make("caption", "vt-label", body, "first answer token");
    for (const row of s.distribution) {
      ["clean", "corrupt", "patched"].forEach((run, i) => {
        const line = make("tr", "", body), role = s.options.indexOf(row.token_id);
        make("td", "", line, i === 0 ? row.token + (role < 0 ? "" : role ? " (incorrect)" : " (correct)") : "");
        make("td", `vt-${run}`, line, run);
        const cell = make("td", "", line), bar = make("span", `vt-share ${run}`, cell);
        cell.style.width = "66px"; bar.style.width = `${(60 * row[run]).toFixed(1)}px`;
        make("td", "vt-value", line, percent(row[run])).style.whiteSpace = "nowrap";
      });
    }
    make("div", "vt-numbers", numbers, `LD clean ${signed(s.logitDiff.clean)}, corrupt ${signed(s.logitDiff.corrupt)}, patched ${signed(s.logitDiff.patched)}`);
    columns.before(hint);
    if (!s.waterfall.length) make("div", "vt-label", steps, "Patch something: here stands what each patch adds, against as many at random.").style.maxWidth = "300px";
    if (s.waterfall.length) {
      const part = steps, last = s.waterfall[s.waterfall.length - 1];
      make("h4", "", part, "What each patch adds, in this order");
      const names = s.patches.map((patch) => patch.short);
      draws.push(waterfall(el, part, { steps: s.waterfall, names, draws: s.draws, tell }).draw);
      const random = Math.round(last.random_share * s.draws);
      make("div", "vt-label", part, `${random} of ${s.draws} draws of as many at random do as much or more.`);
    }
    const below = make("div", "vt-controls", el);
    make("h4", "", below, "Patched together:");
    const undoing = named(button(below, "undo", () => send({ do: "undo", activity: "undo" })), "undo"), clearing = named(button(below, "clear", () => send({ do: "clear", activity: "clear" })), "clear");
    undoing.disabled = !s.canUndo; clearing.disabled = !s.patches.length;
    if (!s.patches.length) make("span", "vt-label", below, "nothing yet: click a cell of a map");
    const list = make("ol", "vt-list", el);
    s.patches.forEach((patch, index) => { const item = make("li", "", list, `${patch.text} `); button(item, "×", () => send({ do: "remove", index, activity: "taking out a patch" }), "take this patch out"); });
    draws.forEach((draw) => draw());
    Object.assign(el.dataset, { effect: s.effect, patches: s.patches.length, answer: s.answers.patched, corruption: s.corruption, direction: s.direction, carried: s.carried ? s.carried.name : "", steps: JSON.stringify(s.waterfall.map((step) => step.patching_effect)), place: s.place.join(" "), drawn: s.example, effects: JSON.stringify(s.headEffects), tokenEffects: JSON.stringify(s.effects) });
    return [keepDrawn(el, () => draws.forEach((draw) => draw()))];
  }
  return rebuilt(model, el, "places", build);
}
export default { render };
