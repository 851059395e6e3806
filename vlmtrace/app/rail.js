// @ts-check
// The rail: which model, which pair, both images and questions, the answer between corrupt and clean, the run's pairs.

import { begin, make, note } from "../display/static/kit/elements.js";
import { follow } from "../display/static/kit/model.js";
import { Drafts } from "./rail_parts/drafts.js";
import { gauge } from "./rail_parts/gauge.js";
import { imageZone } from "./rail_parts/image_zone.js";
import { problemLines } from "./rail_parts/own_pair_problems.js";
import { pairList } from "./rail_parts/pair_list.js";
import { questionField } from "./rail_parts/question_field.js";
import { SIDES } from "./rail_parts/state.js";

/** @import { Given } from "../display/static/kit/model.js" */
/** @import { RailTraits, Send, Side } from "./rail_parts/state.js" */

/** @param {Given<RailTraits>} given */
function render({ model, el }) {
  begin(el);
  el.classList.add("vt-rail-in");
  /** @type {Send} */
  const send = (message, buffers) => model.send(message, undefined, buffers);
  const state = () => model.get("state"), drafts = new Drafts();

  const models = make("select", "", make("label", "vt-row", el, "model "));
  models.name = "model";
  models.addEventListener("change", () => send({ do: "model", name: models.value }));
  const doing = make("div", "vt-doing", el);
  doing.setAttribute("role", "status");
  const pair = make("div", "vt-two-images", el);
  let own = "";
  /** @param {string} text */
  const fail = (text) => {
    own = text;
    paintError();
  };
  /** @param {Side} side */
  const zone = (side) => imageZone(pair, side, send, fail, () => state().largest ?? Infinity);
  const zones = { clean: zone("clean"), corrupt: zone("corrupt") };
  const fields = SIDES.map((side) => {
    const field = questionField(el, side, (message) => {
      if (message.do === "ask") drafts.ask(state().name);
      send(message);
    });
    field.area.addEventListener("input", () => {
      drafts.put(state().name, side, field.area.value);
      paintAsk();
    });
    return { side, ...field };
  });
  const paintGauge = gauge(el);
  const trouble = make("div", "vt-trouble", el), error = make("p", "vt-error", trouble);
  const problems = make("div", "", trouble);
  error.setAttribute("role", "alert");
  error.dataset.name = "error";
  const list = pairList(
    el, (id) => send({ do: "choose", sample_id: id }), (names) => send({ do: "thumbnails", of: names }),
  );

  function paintAsk() {
    for (const { side, area, ask } of fields) {
      const typed = area.value.trim();
      ask.disabled = !typed || typed === (state().questions?.[side] ?? "");
      area.classList.toggle("vt-draft", !ask.disabled);
    }
  }
  function paintError() {
    const text = own || model.get("error");
    error.textContent = text;
    error.hidden = !text;
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
    const tell = () => {
      const seconds = (performance.now() - since) / 1000;
      doing.textContent = text ? `${text} …${seconds < 1 ? "" : ` ${seconds.toFixed(0)} s`}` : "";
    };
    if (text) busy = setInterval(tell, 500);
    tell();
    el.dataset.busy = String(Boolean(text));
    models.disabled = Boolean(text);
    if (text) own = "";
    else models.value = model.get("model");
    paintError();
  }
  let filled = "";
  function paint() {
    const s = state();
    if (!s.name) return;
    drafts.shown(s.name, s.questions);
    for (const { side, area, remove } of fields) {
      const text = drafts.of(s.name, side) ?? s.questions[side] ?? "";
      if (area.value !== text) area.value = text;
      remove.hidden = !s.has.prompt;
    }
    paintAsk();
    zones.clean.show(model.get("clean"), s.answers.clean, s.has.image);
    zones.corrupt.show(model.get("corrupt"), s.answers.image ?? (s.same ? "the same image" : ""), s.has.image);
    paintGauge(s);
    problemLines(problems, s.problems, send);
    const key = JSON.stringify([s.owns, model.get("pairs").length, model.get("model")]);
    if (key !== filled) {
      filled = key;
      list.fill(model.get("pairs"), [...s.owns].reverse());
    }
    list.mark(s.name);
    note(el, {
      pair: s.name, question: s.questions.clean, clean: s.answers.clean,
      corrupt: s.answers[s.gauge.corruption] ?? "", effect: s.gauge.effect ?? "", model: model.get("model"),
    });
  }
  /** @param {{thumbnails?: [string, number][]}} message @param {DataView<ArrayBuffer>[]} buffers */
  const receive = (message, buffers) => {
    if (message.thumbnails) list.pictures(message.thumbnails, buffers);
  };
  model.on("msg:custom", receive);
  const stops = [
    follow(model, ["state", "pairs", "model", "clean", "corrupt"], paint), follow(model, ["error"], paintError),
    follow(model, ["doing"], paintDoing), follow(model, ["models", "model"], paintModels),
  ];
  paintModels();
  paintDoing();
  paint();
  return () => {
    stops.forEach((stop) => stop());
    model.off("msg:custom", receive);
    clearInterval(busy);
    list.stop();
  };
}
export default { render };
