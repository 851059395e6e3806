// Choose a pair, or open an image and type a question; the image as the model sees it, and what it answers.
function render({ model, el }) {
  let grid = false;

  function build() {
    const state = model.get("state"), rows = make("div", "", el);
    const send = (message, buffers) => model.send(message, undefined, buffers);
    const first = make("div", "vt-controls", rows);
    const select = make("select", "", make("label", "", first, "pair "));
    select.name = "pair";
    select.style.maxWidth = "38em";
    if (state.chosen === null) make("option", "", select, "your own").value = "";
    for (const [id, question] of state.pairs) make("option", "", select, `${id}: ${question}`).value = id;
    select.value = state.chosen ?? "";
    const choose = (id) => send({ do: "choose", sample_id: id, activity: `choosing ${id}` });
    select.addEventListener("change", () => select.value && choose(select.value));
    const ids = state.pairs.map(([id]) => id), now = ids.indexOf(state.chosen);
    const previous = button(first, "‹ previous", () => choose(ids[Math.max(0, now - 1)])), next = button(first, "next ›", () => choose(ids[Math.min(ids.length - 1, now + 1)]));
    previous.name = "previous"; next.name = "next"; previous.disabled = now === 0; next.disabled = now === ids.length - 1;

    const second = make("div", "vt-controls", rows);
    const question = make("input", "", make("label", "", second, "question "));
    Object.assign(question, { type: "text", value: state.question, name: "question", size: 46, maxLength: 2000 });
    const put = (run) => send({ do: "ask", question: question.value, run, activity: "asking" });
    question.addEventListener("keydown", (event) => { if (event.key === "Enter") put("clean"); event.stopPropagation(); });
    button(second, "ask", () => put("clean"), "ask this question about the image");
    button(second, "use as corrupt question", () => put("text"), "what the run that is patched into is asked");
    const file = make("input", "", make("label", "", second, "open "));
    Object.assign(file, { type: "file", accept: "image/png,image/jpeg,image/webp,image/gif,image/bmp,image/tiff", name: "file" });
    file.style.width = "13em";
    const as = make("select", "", second);
    as.setAttribute("aria-label", "use the file as");
    make("option", "", as, "as the image").value = "clean"; make("option", "", as, "as the corrupt image").value = "image";
    // In the explorer the rail has all this.
    first.hidden = second.hidden = !state.alone;
    const trouble = make("div", "vt-error", rows);
    trouble.hidden = true;
    file.addEventListener("change", async () => {
      const chosen = file.files[0];
      trouble.hidden = true;
      if (!chosen) return;
      if (chosen.size > state.largest) {
        trouble.textContent = `The file has ${(chosen.size / 2 ** 20).toFixed(1)} MB, more than ${state.largest / 2 ** 20}: save the image smaller.`;
        trouble.hidden = false;
        return;
      }
      send({ do: "open", run: as.value, activity: `opening ${chosen.name}` }, [await chosen.arrayBuffer()]);
    });

    const columns = make("div", "vt-columns", el), left = make("div", "", columns), right = make("div", "", columns);
    make("h4", "", left, "What the model sees");
    const [down, across] = state.grid, boxes = [];
    for (let r = 0; r < down; r++) for (let c = 0; c < across; c++) boxes.push([r / down, c / across, (r + 1) / down, (c + 1) / across]);
    const sized = `${state.size[0]} × ${state.size[1]} pixels, ${state.grid[0]} × ${state.grid[1]} patches`;
    const words = make("div", "vt-numbers"), name = (i) => `patch ${i}: row ${Math.floor(i / across)}, column ${i % across}`;
    const image = patchImage(el, left, { side: 270, boxes, grid: () => grid, label: "the image as the model sees it", tell: name, hover: (i) => { words.textContent = i === null ? sized : name(i); } });
    const below = make("div", "vt-controls", left);
    check(below, "patch grid", grid, (value) => { grid = value; image.draw(); });
    const run = make("select", "", make("label", "", below, "run "));
    run.name = "run";
    for (const [key, text] of Object.entries(state.runs)) make("option", "", run, text).value = key;
    run.value = state.run;
    run.addEventListener("change", () => send({ do: "run", run: run.value, activity: `the ${state.runs[run.value]} run` }));
    words.textContent = sized;
    left.append(words);

    make("div", "vt-label", right, state.question);
    make("div", "vt-answer", right, state.answer || "(no answer)");
    make("h4", "", right, "First answer token: the ten most probable");
    const body = make("table", "", right);
    for (const row of state.top) {
      const line = make("tr", "", body), role = Object.entries(state.options).find(([, id]) => id === row.token_id);
      make("td", "", line, row.token);
      const cell = make("td", "", line), bar = make("span", "vt-share", cell);
      cell.style.width = "190px"; bar.style.width = `${(180 * row.probability).toFixed(1)}px`;
      make("td", "vt-value", line, percent(row.probability));
      make("td", "vt-role", line, role ? role[0] : "");
    }
    Object.assign(el.dataset, { answer: state.answer, top: `${state.top[0].token} ${state.top[0].probability.toFixed(5)}`, question: state.question });
    pictureOf(model.get("picture")).then((picture) => { image.show(picture); el.dataset.drawn = state.example; });
    return [keepDrawn(el, image.draw)];
  }
  return rebuilt(model, el, "pairs", build);
}
export default { render };
