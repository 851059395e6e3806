// @ts-check
// Effect maps to click on; what is clicked is patched, all of it together, in one run.

import { keepDrawn, SIGNED_SCALE } from "../../display/static/kit/colors.js";
import { button, check, choice, make, named, note } from "../../display/static/kit/elements.js";
import { rebuilt } from "../../display/static/kit/model.js";
import { signed } from "../../display/static/kit/numbers.js";
import { pictureOf } from "../../display/static/kit/picture.js";
import { headsMap, imageMap, tokensMap, wordsOf } from "./maps.js";
import { outcome, patchList } from "./outcome.js";
import { DIRECTION_WORDS } from "./state.js";

/** @import { Given } from "../../display/static/kit/model.js" */
/** @import { PatchState, PatchTraits, Send } from "./state.js" */

/** What is shown and copied, and what became of the patches of the pair before.
 * @param {HTMLElement} el @param {PatchState} state @param {Send} send */
function controls(el, state, send) {
  const first = make("div", "vt-controls", el), activity = "effect maps";
  /** @type {[string, string][]} */
  const ways = Object.entries(DIRECTION_WORDS).map(([name, way]) => [name, way.name]);
  const copied = (/** @type {string} */ direction) => send({ do: "choose", direction, activity });
  named(choice(first, "copy: ", ways, state.direction, copied), "direction");
  const runs = Object.entries(state.corruptions);
  const corrupted = (/** @type {string} */ corruption) => send({ do: "choose", corruption, activity });
  named(choice(first, "corrupt run: ", runs, state.corruption, corrupted), "corruption");
  /** @type {[string, string][]} */
  const places = state.places.map(([, , text], i) => [String(i), text]);
  const now = state.places.findIndex(([block, module]) => String([block, module]) === String(state.place));
  const move = (/** @type {string} */ i) => send({ do: "choose", place: state.places[Number(i)].slice(0, 2), activity });
  named(choice(first, "module: ", places, String(now), move), "place");
  make("span", "vt-scale", first).style.background = SIGNED_SCALE;
  make("span", "vt-label", first, "effect: blue below 0, red above");
  const keep = (/** @type {boolean} */ on) => send({ do: "keep", on, activity: "keeping patches" });
  named(check(first, "keep patches for the next pair", state.keeps, keep), "keep");
  if (state.away) {
    const { n, name } = state.away, line = make("div", "vt-controls", el);
    const said = n === 1 ? `The patch of ${name} was put away.` : `The ${n} patches of ${name} were put away.`;
    make("span", "vt-label", line, said);
    const carry = () => send({ do: "carry", activity: "carrying patches over" });
    named(button(line, "do they transfer? patch them here", carry), "carry");
  }
  if (state.carried) {
    const { name, effect, left } = state.carried;
    const missing = left.length ? ` Left behind, for lack of such a token here: ${left.join("; ")}.` : "";
    const both = `effect ${signed(effect)} there, ${signed(state.effect)} here with what is patched now.`;
    const line = make("div", "vt-answer", el, `Carried over from ${name}: ${both}${missing}`);
    named(line, "carried").style.fontSize = "14px";
  }
}

/** @param {Given<PatchTraits>} given */
function render({ model, el }) {
  let layer = 0;
  /** The picture is decoded once, though the view is built at each patch.
   * @type {{bytes: DataView | null, picture: Promise<HTMLImageElement> | null}} */
  let kept = { bytes: null, picture: null };
  /** @type {Send} */
  const send = (message) => model.send(message);

  function build() {
    const state = model.get("state"), [block, module] = state.place, words = wordsOf(state);
    layer = Math.min(layer, state.layers - 1);
    const about = "A head is patched at all positions at once, unless you choose some.";
    make("div", "vt-note", el, `${DIRECTION_WORDS[state.direction].note} ${about}`);
    controls(el, state, send);
    const hint = make("div", "vt-numbers", el);
    hint.setAttribute("role", "status");
    /** @param {string} text */
    const tell = (text) => {
      hint.textContent = text || "Hover a cell for its effect; a click patches it, and opens its card.";
    };
    tell("");

    const here = state.patches.filter((patch) => patch.block === block && patch.module === module);
    const options = { root: el, parent: make("div", "vt-columns", el), state, here, send, tell };
    /** @type {(() => void)[]} */
    const draws = [];
    if (state.headEffects) draws.push(headsMap({ ...options, effects: state.headEffects }));
    // One word beside the image is the answer's first position, which the map of heads shows.
    if (words.length && !(words.length === 1 && state.inImage.length)) draws.push(tokensMap(options));
    if (state.inImage.length) {
      const show = (/** @type {number} */ shown) => {
        layer = shown;
      };
      const image = imageMap({ ...options, layer, show }), bytes = model.get("picture");
      draws.push(image.draw);
      const picture = kept.bytes === bytes && kept.picture ? kept.picture : pictureOf(bytes);
      kept = { bytes, picture };
      picture.then((loaded) => {
        image.show(loaded);
        image.draw();
      });
    }
    draws.push(outcome(el, state, tell));
    patchList(el, state, send);
    const draw = () => draws.forEach((one) => one());
    draw();
    note(el, {
      effect: state.effect, patches: state.patches.length, answer: state.answers.patched, corruption: state.corruption,
      direction: state.direction, carried: state.carried ? state.carried.name : "", place: state.place.join(" "),
      steps: JSON.stringify(state.waterfall.map((step) => step.patching_effect)), drawn: state.example,
      effects: JSON.stringify(state.headEffects), tokenEffects: JSON.stringify(state.effects),
    });
    return [keepDrawn(el, draw)];
  }
  return rebuilt(model, el, "places", build);
}
export default { render };
