// @ts-check
// Choose a pair, or open an image and type a question; the image as the model sees it, and what it answers.

import { button, check, choice, make, note, shareBar } from "../display/static/kit/elements.js";
import { rebuilt } from "../display/static/kit/model.js";
import { percent, range } from "../display/static/kit/numbers.js";
import { patchImage } from "../display/static/kit/patch_image.js";
import { keepDrawn } from "../display/static/kit/colors.js";
import { pictureOf } from "../display/static/kit/picture.js";

/** @import { Box } from "../display/static/kit/boxes.js" */
/** @import { Given, Model } from "../display/static/kit/model.js" */

/**
 * @typedef {{example: string, alone: boolean, pairs: [string, string][], chosen: string | null, question: string,
 *   runs: Record<string, string>, run: string, size: [number, number], grid: [number, number], answer: string,
 *   options: Record<string, number | null>, largest: number,
 *   top: {token: string, token_id: number, probability: number}[]}} AskState
 * grid: patches down and across; options: the token by which each option begins
 */

/** @typedef {{state: AskState, picture: DataView<ArrayBuffer>}} AskTraits */

/** What files may be opened. */
const KINDS = "image/png,image/jpeg,image/webp,image/gif,image/bmp,image/tiff";

/** Patches of a regular grid, row by row. @param {number} down @param {number} across @returns {Box[]} */
export function gridBoxes(down, across) {
  return range(down * across).map((i) => {
    const row = Math.floor(i / across), column = i % across;
    return [row / down, column / across, (row + 1) / down, (column + 1) / across];
  });
}

/** The rows of controls; in the explorer the rail has all this.
 * @param {Model<AskTraits>} model @param {HTMLElement} el */
function controls(model, el) {
  const state = model.get("state"), rows = make("div", "", el), first = make("div", "vt-controls", rows);
  /** @param {string} id */
  const choose = (id) => id && model.send({ do: "choose", sample_id: id, activity: `choosing ${id}` });
  const ids = state.pairs.map(([id]) => id), now = state.chosen === null ? -1 : ids.indexOf(state.chosen);
  /** @type {[string, string][]} */
  const own = state.chosen === null ? [["", "your own"]] : [];
  /** @type {[string, string][]} */
  const all = state.pairs.map(([id, question]) => [id, `${id}: ${question}`]);
  const select = choice(first, "pair ", [...own, ...all], state.chosen ?? "", choose);
  select.name = "pair";
  select.style.maxWidth = "38em";
  const previous = button(first, "‹ previous", () => choose(ids[Math.max(0, now - 1)]));
  const next = button(first, "next ›", () => choose(ids[Math.min(ids.length - 1, now + 1)]));
  previous.name = "previous";
  next.name = "next";
  previous.disabled = now === 0;
  next.disabled = now === ids.length - 1;

  const second = make("div", "vt-controls", rows);
  const question = make("input", "", make("label", "", second, "question "));
  Object.assign(question, { type: "text", value: state.question, name: "question", size: 46, maxLength: 2000 });
  /** @param {string} run */
  const put = (run) => model.send({ do: "ask", question: question.value, run, activity: "asking" });
  question.addEventListener("keydown", (event) => {
    if (event.key === "Enter") put("clean");
    event.stopPropagation();
  });
  button(second, "ask", () => put("clean"), "ask this question about the image");
  button(second, "use as corrupt question", () => put("text"), "what the run that is patched into is asked");
  const file = make("input", "", make("label", "", second, "open "));
  Object.assign(file, { type: "file", accept: KINDS, name: "file" });
  file.style.width = "13em";
  const as = choice(second, "", [["clean", "as the image"], ["image", "as the corrupt image"]], "clean", () => {});
  as.setAttribute("aria-label", "use the file as");
  first.hidden = second.hidden = !state.alone;
  const trouble = make("div", "vt-error", rows);
  trouble.hidden = true;
  file.addEventListener("change", async () => {
    const chosen = file.files?.[0];
    trouble.hidden = !chosen || chosen.size <= state.largest;
    if (!chosen) return;
    if (!trouble.hidden) {
      const [has, most] = [(chosen.size / 2 ** 20).toFixed(1), state.largest / 2 ** 20];
      trouble.textContent = `The file has ${has} MB, more than ${most}: save the image smaller.`;
      return;
    }
    const message = { do: "open", run: as.value, activity: `opening ${chosen.name}` };
    model.send(message, undefined, [await chosen.arrayBuffer()]);
  });
}

/** What the model answers, and its most probable first tokens.
 * @param {AskState} state @param {HTMLElement} parent */
function answers(state, parent) {
  make("div", "vt-label", parent, state.question);
  make("div", "vt-answer", parent, state.answer || "(no answer)");
  make("h4", "", parent, "First answer token: the ten most probable");
  const body = make("table", "", parent);
  for (const row of state.top) {
    const line = make("tr", "", body), role = Object.entries(state.options).find(([, id]) => id === row.token_id);
    make("td", "", line, row.token);
    shareBar(line, 180, row.probability);
    make("td", "vt-value", line, percent(row.probability));
    make("td", "vt-role", line, role ? role[0] : "");
  }
}

/** @param {Given<AskTraits>} given */
function render({ model, el }) {
  let grid = false;

  function build() {
    const state = model.get("state"), [down, across] = state.grid;
    controls(model, el);
    const columns = make("div", "vt-columns", el), left = make("div", "", columns), right = make("div", "", columns);
    make("h4", "", left, "What the model sees");
    const sized = `${state.size[0]} × ${state.size[1]} pixels, ${down} × ${across} patches`;
    const words = make("div", "vt-numbers");
    /** @param {number} i */
    const name = (i) => `patch ${i}: row ${Math.floor(i / across)}, column ${i % across}`;
    const image = patchImage(el, left, {
      side: 270, boxes: gridBoxes(down, across), grid: () => grid, label: "the image as the model sees it", tell: name,
      hover: (i) => {
        words.textContent = i === null ? sized : name(i);
      },
    });
    const below = make("div", "vt-controls", left);
    check(below, "patch grid", grid, (value) => {
      grid = value;
      image.draw();
    });
    const ask = (/** @type {string} */ run) => model.send({ do: "run", run, activity: `the ${state.runs[run]} run` });
    choice(below, "run ", Object.entries(state.runs), state.run, ask).name = "run";
    words.textContent = sized;
    left.append(words);
    answers(state, right);
    const { token, probability } = state.top[0];
    note(el, { answer: state.answer, top: `${token} ${probability.toFixed(5)}`, question: state.question });
    pictureOf(model.get("picture")).then((picture) => {
      image.show(picture);
      el.dataset.drawn = state.example;
    });
    return [keepDrawn(el, image.draw)];
  }
  return rebuilt(model, el, "pairs", build);
}
export default { render };
