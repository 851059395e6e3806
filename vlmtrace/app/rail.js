// The rail: which model, which pair, both images and questions, the answer between corrupt and clean, the run's pairs.

/** @typedef {{name: string, isOwn: boolean, owns: string[][], questions: Record<string, string>,
 *   has: Record<string, boolean>, same: boolean, answers: Record<string, string>, problems: Record<string, string>,
 *   gauge: {corruption: string, effect: number|null, answer: string, text: string, correct?: string, said: string,
 *   probability: Record<string, number>}, largest: number}} RailState */

/** No side of a picture is sent longer: models see far fewer pixels. */
const LONGEST_SIDE = 2048;

/** A file as it is sent: as it is, or reduced where it is larger than what is taken.
 * @param {File} file @param {number} largest in bytes @returns {Promise<ArrayBuffer>} */
async function reduced(file, largest) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  const megabytes = (/** @type {number} */ bytes) => (bytes / 2 ** 20).toFixed(1);
  if (!bitmap) {
    // What the browser cannot decode the kernel may; it says so otherwise.
    if (file.size > largest) throw new Error(`The file has ${megabytes(file.size)} MB and cannot be reduced here: save it as PNG or JPEG of at most ${megabytes(largest)} MB.`);
    return file.arrayBuffer();
  }
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && file.size <= largest) return file.arrayBuffer();
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale)); canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  /** @type {(kind: string) => Promise<Blob|null>} */
  const blob = (kind) => new Promise((done) => canvas.toBlob(done, kind, 0.95));
  let made = await blob("image/png");
  if (!made || made.size > largest) made = await blob("image/jpeg");
  if (!made) throw new Error("The image is too large for this browser to reduce: save it smaller.");
  return made.arrayBuffer();
}

/** Where the gauge shows an effect, as a share of its width: corrupt (0) and clean (1) stand at a sixth from its ends.
 * @param {number} effect @returns {number} */
function onGauge(effect) {
  return (Math.min(Math.max(effect, -0.24), 1.24) + 0.25) / 1.5;
}

/** Texts that were typed and not asked yet, by example: none is thrown away. */
class Drafts {
  constructor() {
    /** @type {Map<string, Record<string, string>>} */ this.kept = new Map();
    this.asked = "";
  }
  /** @param {string} name @param {string} side */
  of(name, side) { return this.kept.get(name)?.[side]; }
  /** @param {string} name @param {string} side @param {string} text */
  put(name, side, text) { this.kept.set(name, { ...this.kept.get(name), [side]: text }); }
  /** The example `name` was asked; what is typed beside it goes along to the one that is made of it.
   * @param {string} name */
  ask(name) { this.asked = name; }
  /** Another state is shown. @param {string} name @param {Record<string, string>} questions */
  shown(name, questions) {
    if (this.asked && this.asked !== name && this.kept.has(this.asked)) {
      this.kept.set(name, this.kept.get(this.asked));
      this.kept.delete(this.asked);
    }
    this.asked = "";
    const texts = this.kept.get(name);
    for (const side of Object.keys(texts ?? {})) if (texts[side].trim() === questions[side]) delete texts[side];
  }
}

/** One image: a picture, a place to drop a file on, and a button that removes it. */
function imageZone(parent, side, send, fail, largest) {
  const zone = make("div", "vt-zone", parent), label = make("label", "vt-drop", zone);
  make("span", `vt-side vt-${side}`, label, side);
  const frame = make("span", "vt-picture", label), picture = make("img", "", frame), hint = make("span", "vt-label", frame, "drop an image, or click");
  const input = make("input", "vt-file", label);
  Object.assign(input, { type: "file", accept: "image/*", name: `file-${side}`, title: `open another ${side} image` });
  input.setAttribute("aria-label", `open another ${side} image`);
  const remove = button(zone, "×", () => send({ do: "remove", part: "image", side }), `remove the ${side} image`);
  remove.classList.add("vt-remove"); remove.name = `remove-image-${side}`;
  const answer = make("div", "vt-said", zone);
  let url = "";

  async function open(file) {
    if (!file) return;
    try {
      send({ do: "open", side }, [await reduced(file, largest())]);
    } catch (error) { fail(error.message); }
  }
  input.addEventListener("change", () => { open(input.files[0]); input.value = ""; });
  label.addEventListener("dragover", (event) => { event.preventDefault(); label.classList.add("vt-over"); });
  label.addEventListener("dragleave", () => label.classList.remove("vt-over"));
  label.addEventListener("drop", (event) => { event.preventDefault(); label.classList.remove("vt-over"); open(event.dataTransfer.files[0]); });
  picture.addEventListener("load", () => { picture.style.imageRendering = picture.naturalWidth < 128 ? "pixelated" : "auto"; });

  return {
    /** @param {any} bytes a PNG; empty: there is none @param {string} said @param {boolean} removable */
    show(bytes, said, removable) {
      if (url) URL.revokeObjectURL(url);
      const there = bytes && bytes.byteLength > 0;
      url = there ? URL.createObjectURL(new Blob([bytes], { type: "image/png" })) : "";
      picture.hidden = !there; hint.hidden = there; remove.hidden = !removable;
      if (there) picture.src = url; else picture.removeAttribute("src");
      picture.alt = there ? `the ${side} image` : "";
      answer.textContent = said; answer.title = said;
    },
  };
}

/** One question, asked by Enter or the button. */
function questionField(parent, side, send) {
  const row = make("div", "vt-question", parent), head = make("div", "vt-row", row);
  make("span", `vt-side vt-${side}`, head, `${side} question`);
  const ask = button(head, "ask", () => send({ do: "ask", question: area.value, side }), `ask it (Enter)`);
  const remove = button(head, "×", () => send({ do: "remove", part: "prompt", side }), `remove the ${side} question`);
  const area = make("textarea", "", row);
  Object.assign(area, { rows: 2, name: `question-${side}`, maxLength: 2000, spellcheck: false });
  area.setAttribute("aria-label", `${side} question`);
  area.placeholder = side === "corrupt" ? "the same question" : "";
  ask.name = `ask-${side}`; remove.name = `remove-question-${side}`; remove.classList.add("vt-remove");
  area.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); if (!ask.disabled) ask.click(); }
  });
  return { area, ask, remove };
}

/** The answer from corrupt over patched to clean. */
function gauge(parent) {
  const box = make("div", "vt-gauge", parent), track = make("div", "vt-track", box);
  box.setAttribute("role", "img");
  const marks = Object.fromEntries(["corrupt", "clean", "patched"].map((run) => [run, make("span", `vt-mark vt-${run}`, track)]));
  marks.corrupt.style.left = `${100 * onGauge(0)}%`; marks.clean.style.left = `${100 * onGauge(1)}%`;
  const ends = make("div", "vt-ends", box), corrupt = make("span", "vt-corrupt", ends), clean = make("span", "vt-clean", ends), told = make("div", "vt-told", box);
  return (/** @type {RailState} */ s) => {
    const { effect, probability: p, said, corruption } = s.gauge, share = (run) => (run in p ? ` ${percent(p[run])}` : "");
    marks.patched.hidden = effect === null; track.classList.toggle("vt-off", !corruption);
    if (effect !== null) marks.patched.style.left = `${100 * onGauge(effect)}%`;
    corrupt.textContent = corruption ? `${s.answers[corruption] ?? "–"}${share("corrupt")}` : "";
    clean.textContent = `${s.answers.clean}${share("clean")}`;
    const title = s.gauge.correct ? `probability of “${s.gauge.correct}”` : "";
    corrupt.title = clean.title = title;
    const patched = effect === null ? "nothing is patched" : `${s.gauge.answer} ${signed(effect)}: ${s.gauge.text}`;
    told.textContent = said || patched; told.title = told.textContent;
    told.classList.toggle("vt-patched", effect !== null && !said);
    box.setAttribute("aria-label", `answer: corrupt ${corrupt.textContent}, clean ${clean.textContent}, ${told.textContent}`);
  };
}

/** The run's pairs with their pictures, one tab stop, arrow keys. Pictures are asked for when a row comes to be seen. */
function pairList(parent, choose, ask) {
  const head = make("div", "vt-row", parent), counted = make("span", "vt-label", head), search = make("input", "", head);
  Object.assign(search, { type: "search", placeholder: "search", name: "search" });
  search.setAttribute("aria-label", "search the pairs");
  const list = make("div", "vt-pairs", parent);
  list.tabIndex = 0;
  list.setAttribute("role", "listbox"); list.setAttribute("aria-label", "pairs"); list.dataset.name = "pairs";
  let rows = new Map(), chosen = "", wanted = new Set(), timer = 0;

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const row = /** @type {HTMLElement} */ (entry.target);
      if (entry.isIntersecting && !row.dataset.asked) { row.dataset.asked = "1"; wanted.add(row.dataset.id); }
    }
    clearTimeout(timer);
    timer = setTimeout(() => { const names = [...wanted]; wanted = new Set(); for (let i = 0; i < names.length; i += 40) ask(names.slice(i, i + 40)); }, 80);
  }, { root: list, rootMargin: "120px" });

  function fill(pairs, owns) {
    seen.disconnect();
    rows = new Map();
    list.replaceChildren();
    for (const [id, question] of [...owns, ...pairs]) {
      const row = make("div", "vt-pair", list), own = owns.some(([name]) => name === id);
      row.setAttribute("role", "option"); row.dataset.id = id; row.id = `vt-pair-${rows.size}`;
      make("span", "vt-thumbs", row);
      make("span", "vt-text", row, own ? `${id}: ${question}` : question);
      row.title = `${id}: ${question}`;
      row.addEventListener("click", () => choose(id));
      rows.set(id, row);
      if (!own) seen.observe(row);
    }
    counted.textContent = `${pairs.length} pairs`;
    filter();
  }
  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows.values()) row.hidden = !words.every((word) => row.title.toLowerCase().includes(word));
  }
  search.addEventListener("input", filter);
  search.addEventListener("keydown", (event) => event.stopPropagation());
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 6, PageUp: -6, Home: -Infinity, End: Infinity }[event.key];
    if (!step) return;
    event.preventDefault();
    const ids = [...rows].filter(([, row]) => !row.hidden).map(([id]) => id), now = ids.indexOf(chosen);
    const next = ids[Math.min(Math.max(now + step, 0), ids.length - 1)];
    if (next !== undefined && next !== chosen) { mark(next); choose(next); }
  });
  function mark(id) {
    rows.get(chosen)?.removeAttribute("aria-selected");
    chosen = id;
    const row = rows.get(id);
    if (!row) { list.removeAttribute("aria-activedescendant"); return; }
    row.setAttribute("aria-selected", "true"); list.setAttribute("aria-activedescendant", row.id);
    const top = row.offsetTop - list.offsetTop;
    if (top < list.scrollTop || top + row.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top - 60;
  }
  function pictures(told, buffers) {
    let at = 0;
    for (const [id, n] of told) {
      const place = rows.get(id)?.firstChild;
      for (const buffer of buffers.slice(at, at + n)) {
        if (!place) continue;
        const image = make("img", "", place), url = URL.createObjectURL(new Blob([buffer], { type: "image/png" }));
        image.alt = ""; image.src = url;
        image.addEventListener("load", () => URL.revokeObjectURL(url));
      }
      at += n;
    }
  }
  return { fill, mark, pictures, stop: () => seen.disconnect() };
}

function render({ model, el }) {
  begin(el);
  el.classList.add("vt-rail-in");
  const send = (message, buffers) => model.send(message, undefined, buffers);
  /** @returns {RailState} */
  const state = () => model.get("state");
  const drafts = new Drafts();

  const head = make("label", "vt-row", el, "model "), models = make("select", "", head);
  models.name = "model";
  models.addEventListener("change", () => send({ do: "model", name: models.value }));
  const doing = make("div", "vt-doing", el);
  doing.setAttribute("role", "status");
  const pair = make("div", "vt-two-images", el);
  let own = "";
  const fail = (text) => { own = text; paintError(); };
  const zones = Object.fromEntries(["clean", "corrupt"].map((side) => [side, imageZone(pair, side, send, fail, () => state().largest ?? Infinity)]));
  const fields = Object.fromEntries(["clean", "corrupt"].map((side) => [side, questionField(el, side, (message) => { if (message.do === "ask") drafts.ask(state().name); send(message); })]));
  for (const [side, field] of Object.entries(fields)) field.area.addEventListener("input", () => { drafts.put(state().name, side, field.area.value); paintAsk(); });
  const paintGauge = gauge(el);
  const trouble = make("div", "vt-trouble", el), error = make("p", "vt-error", trouble), problems = make("div", "", trouble);
  error.setAttribute("role", "alert"); error.dataset.name = "error";
  const list = pairList(el, (id) => send({ do: "choose", sample_id: id }), (names) => send({ do: "thumbnails", of: names }));

  function paintAsk() {
    const s = state();
    for (const [side, { area, ask }] of Object.entries(fields)) {
      const typed = area.value.trim();
      ask.disabled = !typed || typed === (s.questions?.[side] ?? "");
      area.classList.toggle("vt-draft", !ask.disabled);
    }
  }
  function paintError() {
    const text = own || model.get("error");
    error.textContent = text; error.hidden = !text;
  }
  function paintModels() {
    models.replaceChildren();
    for (const name of model.get("models")) make("option", "", models, name).value = name;
    models.value = model.get("model");
  }
  let busy = 0;
  function paintDoing() {
    clearInterval(busy);
    const text = model.get("doing"), since = performance.now();
    const tell = () => { const s = (performance.now() - since) / 1000; doing.textContent = text ? `${text} …${s < 1 ? "" : ` ${s.toFixed(0)} s`}` : ""; };
    if (text) busy = setInterval(tell, 500);
    tell();
    el.dataset.busy = String(Boolean(text)); models.disabled = Boolean(text);
    if (!text) models.value = model.get("model");
    if (text) own = "";
    paintError();
  }
  let filled = "";
  function paint() {
    const s = state();
    if (!s.name) return;
    drafts.shown(s.name, s.questions);
    for (const [side, { area, remove }] of Object.entries(fields)) {
      const text = drafts.of(s.name, side) ?? s.questions[side] ?? "";
      if (area.value !== text) area.value = text;
      remove.hidden = !s.has.prompt;
    }
    paintAsk();
    zones.clean.show(model.get("clean"), s.answers.clean, s.has.image);
    zones.corrupt.show(model.get("corrupt"), s.answers.image ?? (s.same ? "the same image" : ""), s.has.image);
    paintGauge(s);
    problems.replaceChildren();
    for (const [corruption, text] of Object.entries(s.problems)) {
      const part = corruption === "text" ? "prompt" : "image", word = part === "prompt" ? "question" : "image", line = make("div", "vt-problem", problems, text);
      const buttons = make("div", "", line);
      for (const side of ["clean", "corrupt"]) button(buttons, `remove ${side}`, () => send({ do: "remove", part, side }), `remove the ${side} ${word}`);
    }
    const key = JSON.stringify([s.owns, model.get("pairs").length, model.get("model")]);
    if (key !== filled) { filled = key; list.fill(model.get("pairs"), [...s.owns].reverse()); }
    list.mark(s.name);
    Object.assign(el.dataset, { pair: s.name, question: s.questions.clean, clean: s.answers.clean, corrupt: s.answers[s.gauge.corruption] ?? "", effect: String(s.gauge.effect ?? ""), model: model.get("model") });
  }
  const receive = (message, buffers) => { if (message.thumbnails) list.pictures(message.thumbnails, buffers); };
  model.on("msg:custom", receive);
  const stops = [follow(model, ["state", "pairs", "model", "clean", "corrupt"], paint), follow(model, ["error"], paintError), follow(model, ["doing"], paintDoing), follow(model, ["models", "model"], paintModels)];
  paintModels(); paintDoing(); paint();
  return () => { stops.forEach((stop) => stop()); model.off("msg:custom", receive); clearInterval(busy); list.stop(); };
}
export default { render };
