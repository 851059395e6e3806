// What the methods' views reckon, without a page.

import assert from "node:assert/strict";
import { Weights } from "../../vlmtrace/methods/attention/weights.js";
import { densityInWords } from "../../vlmtrace/methods/circuits/card_numbers.js";
import { curveOf, placeOf } from "../../vlmtrace/methods/edges/curves.js";
import { lookSentence } from "../../vlmtrace/methods/edges/image_pane.js";
import { columnsOf, nodeSentence, placesOf } from "../../vlmtrace/methods/explanation/graph.js";
import { limitOf, wordsOf } from "../../vlmtrace/methods/patching/maps.js";
import { isPatched, strongestLeft } from "../../vlmtrace/methods/patching/state.js";
import { axisOf } from "../../vlmtrace/methods/patching/waterfall.js";
import { curveSentence, spanOf } from "../../vlmtrace/methods/relevancy/deletion.js";
import { byWord, three } from "../../vlmtrace/methods/relevancy/words.js";

/** One layer of two heads, two queries, three keys, of which the last two are patches; steps of 1/10. */
function weights() {
  const state = { layers: 1, heads: 2, queries: [{}, {}], keys: 3, patches: [1, 2], scale: 0.1 };
  const values = new Uint16Array([9, 9, 5, 3, 2, 0, 4, 6, 10, 0, 0, 2, 3, 5]);
  // The bytes lie somewhere in a message, not at its beginning.
  return new Weights(state, new DataView(values.buffer, 4));
}

Deno.test("attention weights are read by head, query and key", () => {
  const found = weights(), near = (a, b) => assert.ok(Math.abs(a - b) < 1e-9, `${a} is not ${b}`);
  near(found.at(0, 0, 0, 0), 0.5);
  near(found.at(0, 1, 0, 0), 1);
  near(found.at(0, 1, 1, 2), 0.5);
  near(found.share(0, 0, [0, 1], [0, 1]), (0.3 + 0.2 + 0.4 + 0.6) / 2);
  near(found.peak(0, 0, [0, 1]), 0.4);
  assert.deepEqual(found.texts, [0]);
  const [first] = found.lookers([0, 1]);
  assert.deepEqual([first.layer, first.head, first.query], [0, 0, 1]);
  near(first.value, 1);
  near(found.limits([0, 1]).patch, 0.4);
  near(found.limits([0, 1]).word, 1);
});

Deno.test("edges end at the rim of a node, and bend by what they go into", () => {
  const [x, y] = placeOf(0.5, 3, 12);
  assert.ok(y < placeOf(0.5, 2, 12)[1], "later layers stand higher");
  const end = (input) => curveOf([100, 400], [x, y], input, 2, 40).line.split(" ").slice(-2).map(Number);
  for (const input of ["query", "key", "value", "input"]) {
    const [ex, ey] = end(input);
    assert.ok(Math.abs(Math.hypot(ex - x, ey - y) - 19) < 1e-9, `into the ${input}`);
  }
  assert.notDeepEqual(end("query"), end("value"));
});

Deno.test("what a head reads, in words: the four strongest", () => {
  const words = [["a", 0.05], ["b", 0.3], ["c", 0.1], ["d", null], ["e", 0.2]];
  assert.equal(lookSentence({ patches: [0.2, null, 0.15], words }),
    "image 35 %; b 30 %, e 20 %, c 10 %, a 5.0 % (mean over tokens)");
});

const NODES = [
  { name: "yes", token: "yes", kind: "answer", cell: null, attention: null, distance: 0 },
  { name: "patch 3", token: "", kind: "image", cell: 3, attention: 0.25, distance: 1 },
  ...Array.from({ length: 8 }, (_, i) => ({
    name: `w${i}`, token: "w", kind: "text", cell: null, attention: 0.01, distance: null,
  })),
];

Deno.test("a causal graph's columns: the answer, distances, then those out of reach, at most six in each", () => {
  const columns = columnsOf(NODES);
  assert.deepEqual(columns.map(({ title, nodes }) => [title, nodes.length]),
    [["answer", 1], ["distance 1", 1], ["out of reach", 6], ["", 2]]);
  assert.deepEqual(columns.flatMap(({ nodes }) => nodes), NODES.map((_, i) => i), "each node once");
  const { at } = placesOf(NODES);
  assert.equal(new Set(at.map(String)).size, NODES.length, "no two at one place");
  assert.ok(at.every(([x, y]) => x > 0 && x < 640 && y > 0 && y < 330));
  assert.equal(nodeSentence(NODES[1]), "patch 3: attention from the answer 25 %, distance 1");
});

Deno.test("patches are found again by layer, positions and heads", () => {
  const here = [{ layer: 2, positions: null, heads: [1] }];
  assert.ok(isPatched(here, 2, null, [1]));
  assert.ok(!isPatched(here, 2, [0], [1]) && !isPatched(here, 2, null, null));
  const effects = [[0.2, 0.5], [-1, null]], left = strongestLeft(effects, (layer, head) => layer === 0 && head === 1);
  assert.deepEqual(left, [{ value: 0.2, layer: 0, head: 0 }], "neither what is patched nor what restores nothing");
  assert.equal(limitOf([[0.04, -0.21], [null, 0]]), 0.3);
  const state = { tokens: [{ position: 0 }, { position: 1 }, { position: 2 }], inImage: [1] };
  assert.deepEqual(wordsOf(state).map(({ position }) => position), [0, 2]);
});

Deno.test("the waterfall's axis holds all that is drawn, and small effects are drawn larger", () => {
  const step = (effect, low, high) => ({ patching_effect: effect, random_low: low, random_high: high });
  assert.deepEqual(axisOf([step(0, null, null), step(0.15, -0.02, 0.01)]), { low: -0.02, high: 0.2 });
  assert.deepEqual(axisOf([step(0, null, null), step(1.3, 0, 0.4)]), { low: 0, high: 1.3 });
});

Deno.test("a deletion curve in a sentence", () => {
  const point = (n, ld) => ({ n_replaced: n, share: n / 9, logit_diff: ld, random_mean: 0, random_low: -3, random_high: 1 });
  const given = { points: [point(0, 2), point(9, -1)], half: [1, 2], halfRandom: [2, 5], by: "their mean",
    options: ["red", "blue"] };
  assert.equal(curveSentence(given), "With all 9 image tokens replaced by their mean, LD (red − blue) goes from +2.00 " +
    "to −1.00. The 2 most relevant do half of it; in random order 5 do (2 do not).");
  assert.match(curveSentence({ ...given, points: [point(0, 2), point(9, 1.95)] }), /hardly depends on the image\.$/);
  assert.match(curveSentence({ ...given, half: [4, 16], halfRandom: [0, 1] }),
    /The 16 most relevant do half of it \(4 do not\); in random order 1 do\.$/);
  assert.match(curveSentence({ ...given, half: null, halfRandom: null }), /hardly depends on the image\.$/);
  assert.equal(curveSentence({ refused: "There is no image." }), "There is no image.");
  assert.deepEqual(spanOf(given.points), [-3, 2]);
});

Deno.test("a density whose interval is missing is told without one", () => {
  const row = { function: "none", region: "outlier", ratio: 1.234, ratio_low: null, ratio_high: null };
  assert.equal(densityInWords(row), "outlier: 1.23 × its area");
  assert.equal(densityInWords({ ...row, ratio_low: 1, ratio_high: 2 }), "outlier: 1.23 [1.00, 2.00] × its area");
  assert.equal(densityInWords({ ...row, ratio: null }), "");
});

Deno.test("relevance of sub-tokens is added up to words", () => {
  assert.deepEqual(byWord([1, 2, undefined, 4], [0, 0, 1, 2], ["ball", "ball", "is", "red"]),
    [["ball", 3], ["is", 0], ["red", 4]]);
  assert.deepEqual([0.01234, 123.4].map(three), ["0.0123", "123"]);
});
