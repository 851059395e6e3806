// What the views' shared modules reckon, without a page.

import assert from "node:assert/strict";
import { boxAt, boxesBetween, middleOf, neighborOf } from "../../vlmtrace/display/static/kit/boxes.js";
import { diverging, heat, meanOfChannels } from "../../vlmtrace/display/static/kit/colors.js";
import { cellAt, steppedCell } from "../../vlmtrace/display/static/kit/heat_map.js";
import { follow, save } from "../../vlmtrace/display/static/kit/model.js";
import { largest, mean, percent, range, rounded, roundLimit, signed, within } from "../../vlmtrace/display/static/kit/numbers.js";

Deno.test("numbers in words", () => {
  assert.deepEqual([1, 0.9999, 0.0123, 0.0001, 0].map(percent), ["100 %", "100 %", "1.2 %", "<0.1 %", "0 %"]);
  assert.deepEqual([-0.251, 0.5, null, NaN, undefined].map(signed), ["−0.25", "+0.50", "–", "–", "–"]);
  assert.equal(rounded(-0.004), "0.00", "a zero has no sign");
  assert.equal(within(0.41, 0.35, 0.474), "+0.41 [+0.35, +0.47]");
  assert.equal(roundLimit(0.21, [0.1, 0.2, 0.3], 9), 0.3);
  assert.equal(roundLimit(4, [0.1, 0.2, 0.3], 9), 9);
});

Deno.test("sums and ranges", () => {
  assert.equal(mean([1, 2, 6], (value) => value), 3);
  assert.equal(mean([], () => 1), 0);
  assert.equal(largest([0.2, -0.7, null], 0.1), 0.7);
  assert.equal(largest([], 0.1), 0.1);
  assert.deepEqual(range(3), [0, 1, 2]);
});

Deno.test("colors: transparent where there is nothing, one color above 0 and another below", () => {
  assert.equal(heat(0), "rgba(255,217,51,0.000)");
  assert.equal(heat(NaN), heat(0));
  assert.equal(heat(1), heat(7), "what is beyond the limit has the limit's color");
  assert.notEqual(heat(0.5, true), heat(0.5, false));
  assert.equal(diverging(0.5), "rgba(190,24,38,0.500)");
  assert.equal(diverging(-2), "rgba(33,102,172,1.000)");
  assert.ok(Math.abs(meanOfChannels("#ff0000") - 1 / 3) < 1e-12);
  assert.ok(Math.abs(meanOfChannels("rgba(255, 255, 255, 0.1)") - 1) < 1e-12, "transparency is no channel");
});

const GRID = { left: 34, top: 6, side: /** @type {[number, number]} */ ([20, 10]), rows: 3, columns: 2 };

Deno.test("cells of a heat map lie where they are drawn: row 0 at the bottom", () => {
  for (let row = 0; row < 3; row++) {
    for (let column = 0; column < 2; column++) {
      const x = 34 + 20 * column + 10, y = 6 + 10 * (2 - row) + 5;
      assert.deepEqual(cellAt(x, y, GRID), [row, column]);
    }
  }
  for (const [x, y] of [[33, 10], [74.1, 10], [40, 5], [40, 36.1]]) assert.equal(cellAt(x, y, GRID), null);
});

Deno.test("arrow keys stay within a heat map", () => {
  assert.deepEqual(steppedCell(null, [0, 1], 3, 2), [0, 0]);
  assert.deepEqual(steppedCell([0, 0], [-1, 0], 3, 2), [1, 0], "up is to later layers");
  assert.deepEqual(steppedCell([2, 1], [-1, 0], 3, 2), [2, 1]);
  assert.deepEqual(steppedCell([0, 0], [0, -1], 3, 2), [0, 0]);
});

/** Four patches, two by two. @type {[number, number, number, number][]} */
const BOXES = [[0, 0, 0.5, 0.5], [0, 0.5, 0.5, 1], [0.5, 0, 1, 0.5], [0.5, 0.5, 1, 1]];

Deno.test("patches: which is under a place, between two, next to one", () => {
  BOXES.forEach((box, i) => {
    const [y, x] = middleOf(box);
    assert.equal(boxAt(BOXES, x, y), i);
  });
  assert.equal(boxAt(BOXES, 1.01, 0.5), null);
  assert.deepEqual(boxesBetween(BOXES, 0, 3), [0, 1, 2, 3]);
  assert.deepEqual(boxesBetween(BOXES, 3, 1), [1, 3], "in whichever order they are dragged over");
  assert.equal(neighborOf(BOXES, 0, [0, 1]), 1);
  assert.equal(neighborOf(BOXES, 0, [1, 0]), 2);
  assert.equal(neighborOf(BOXES, 3, [1, 0]), 3, "at the edge it stays");
});

/** A model as anywidget hands it to a view: traits, and who listens to them. */
class Traits {
  constructor(values) {
    this.values = values;
    this.listeners = new Map();
    this.saved = 0;
  }
  get(name) {
    return this.values[name];
  }
  set(name, value) {
    this.values[name] = value;
    for (const act of this.listeners.get(`change:${name}`) ?? []) act();
  }
  save_changes() {
    this.saved += 1;
  }
  on(names, act) {
    for (const name of names.split(" ")) this.listeners.set(name, [...(this.listeners.get(name) ?? []), act]);
  }
  off(names, act) {
    for (const name of names.split(" ")) this.listeners.set(name, this.listeners.get(name).filter((one) => one !== act));
  }
}

Deno.test("a view is painted once for all traits of one message, and never after it was taken away", async () => {
  const model = new Traits({ layer: 0, head: 0 });
  let painted = 0;
  const stop = follow(model, ["layer", "head"], () => painted++);
  save(model, { layer: 1, head: 2 });
  assert.equal(painted, 0, "not at once: the state may come next in the same message");
  await Promise.resolve();
  assert.deepEqual([painted, model.saved, model.get("head")], [1, 1, 2]);
  model.set("head", 3);
  stop();
  await Promise.resolve();
  assert.equal(painted, 1);
});
