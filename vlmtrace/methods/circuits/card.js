// @ts-check
// The card of a head: where it looks, what it does here and over the run, and what becomes of the answer without it.

import { heat, keepDrawn } from "../../display/static/kit/colors.js";
import { make, note } from "../../display/static/kit/elements.js";
import { heatMap } from "../../display/static/kit/heat_map.js";
import { follow, rebuilt, save } from "../../display/static/kit/model.js";
import { largest, mean, percent, range } from "../../display/static/kit/numbers.js";
import { patchImage } from "../../display/static/kit/patch_image.js";
import { copied, pictureOf } from "../../display/static/kit/picture.js";
import { tokenStrip } from "../../display/static/kit/tokens.js";
import { cardNumbers } from "./card_numbers.js";

/** @import { Box } from "../../display/static/kit/boxes.js" */
/** @import { Given, Model } from "../../display/static/kit/model.js" */
/** @import { HeadNumbers } from "./card_numbers.js" */

/**
 * @typedef {{example: string, title: string, block: string, label: string, say?: string, refused?: string,
 *   queries: string[], keys: string[], patches: number[], boxes: Box[]}} CardState
 * say: why there is nothing to show; refused: why there is no attention; patches: keys that are patches
 */

/**
 * @typedef {{state: CardState, weights: DataView, picture: DataView<ArrayBuffer>, query: number,
 *   numbers: HeadNumbers}} CardTraits
 * query: the one that is chosen; −1: the mean over all
 */

/** With more words a map would be too fine for the card. */
const MOST_WORDS = 40;

/** Where the head looks; what it does comes between the image and the tokens of all detail.
 * @param {Model<CardTraits>} model @param {HTMLElement} el @param {HTMLElement} detail for the map of tokens
 * @returns {(() => void)[]} what draws it */
function looks(model, el, detail) {
  const { queries, keys, patches, boxes } = model.get("state"), n = queries.length, all = range(n);
  const inImage = new Set(patches), words = range(keys.length).filter((key) => !inImage.has(key));
  const weights = new Float32Array(copied(model.get("weights")));
  /** @type {number | null} */
  let hovered = null;
  /** @param {number} query @param {number} key */
  const at = (query, key) => weights[query * keys.length + key];
  const chosen = () => hovered ?? model.get("query");
  /** The mean over all tokens where none is chosen. @param {number} key */
  const from = (key) => (chosen() < 0 ? mean(all, (query) => at(query, key)) : at(chosen(), key));
  /** @param {(key: number) => number} weight */
  const onImage = (weight) => patches.reduce((sum, key) => sum + weight(key), 0);
  const name = () => (chosen() < 0 ? "mean over tokens" : queries[chosen()]);
  // Colors keep their scale while one hovers: it is that of the largest weight of all.
  const limit = largest(patches.flatMap((key) => all.map((query) => at(query, key))), 1e-9);
  const said = make("div", "vt-numbers vt-two");
  /** @param {string} text */
  const tell = (text) => {
    const image = patches.length
      ? `${percent(onImage(from))} on the image; colors 0 … ${percent(limit)}`
      : "looks at words only";
    said.textContent = text || `${name()}: ${image}`;
  };
  /** @type {(() => void)[]} */
  const draws = [];
  const again = () => {
    draws.forEach((draw) => draw());
    tell("");
  };
  /** @param {number} query */
  const choose = (query) => {
    save(model, { query });
    again();
  };
  if (patches.length) {
    /** @param {number} i */
    const about = (i) => `patch ${i}: ${percent(from(patches[i]))}`;
    const image = patchImage(el, el, {
      side: 190, boxes, label: "attention of the head", color: (i) => heat(from(patches[i]) / limit), tell: about,
      hover: (i) => tell(i === null ? "" : `${name()} → ${about(i)}`),
    });
    pictureOf(model.get("picture")).then(image.show);
    draws.push(image.draw);
  }
  el.append(said);
  make("div", "vt-label", el, "from each token (hover, click to keep):");
  /** @param {number} query */
  const share = (query) => onImage((key) => at(query, key));
  const title = (/** @type {number} */ i) => (patches.length ? `${percent(share(i))} on the image` : `token ${i}`);
  const strip = tokenStrip(el, el, {
    label: "tokens that look", tokens: queries.map((text, i) => ({ text, role: "", title: title(i) })),
    chosen: (i) => i === model.get("query"), share: (i) => (patches.length ? Math.min(1, share(i)) : null),
    hover: (i) => {
      hovered = i;
      again();
    },
    pick: (i) => choose(model.get("query") === i ? -1 : i),
  });
  draws.push(strip.draw);
  if (words.length > 2 && words.length <= MOST_WORDS) {
    const most = largest(all.flatMap((query) => words.map((key) => at(query, key))), 1e-9);
    make("div", "vt-label", detail, `token → token (colors 0 … ${percent(most)})`);
    /** The first token stands on top. @param {number} i */
    const row = (i) => n - 1 - i;
    /** @param {number} r @param {number} c */
    const about = (r, c) => `${queries[row(r)]} → ${keys[words[c]]}: ${percent(at(row(r), words[c]))}`;
    const map = heatMap(el, detail, {
      rows: n, columns: words.length, width: 296, largest: 22, label: "token to token",
      labels: words.map((key) => keys[key]), rowLabels: all.map((i) => queries[row(i)]),
      value: (r, c) => at(row(r), words[c]), color: (value, dark) => heat(value / most, dark),
      marked: (r) => row(r) === model.get("query"), tell: about, hover: (cell) => tell(cell ? about(...cell) : ""),
      pick: (r) => choose(row(r)),
    });
    draws.push(map.draw);
  }
  again();
  return draws;
}

/** @param {Model<CardTraits>} model @param {HTMLElement} el */
function build(model, el) {
  const state = model.get("state");
  if (state.say) {
    make("div", "vt-note", el, state.say);
    el.dataset.drawn = "none";
    return [];
  }
  make("h4", "", el, `${state.title}, ${state.block}`).style.fontSize = "15px";
  // What the head does stands before where it looks in all detail.
  const holder = make("div", ""), detail = make("div", "");
  if (state.refused) make("div", "vt-note", el, state.refused);
  const draws = state.refused ? [] : looks(model, el, detail);
  el.append(holder, detail);
  const paint = () => {
    const found = model.get("numbers");
    cardNumbers(holder, found, (message) => model.send(message));
    note(el, {
      head: state.label, denoising: found.effects ? found.effects.denoising : "",
      knockedOut: found.knockedOut ? found.knockedOut.after : "", computed: Boolean(found.effects || found.hereRefused),
    });
  };
  paint();
  el.dataset.drawn = state.example;
  return [follow(model, ["numbers"], paint), keepDrawn(el, () => draws.forEach((draw) => draw()))];
}

/** @param {Given<CardTraits>} given */
const render = ({ model, el }) => rebuilt(model, el, "title", build);
export default { render };
