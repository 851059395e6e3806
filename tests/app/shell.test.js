// What the rail, the row of views and the answer's view reckon, without a page.

import assert from "node:assert/strict";
import { gridBoxes } from "../../vlmtrace/app/ask.js";
import { addressOf } from "../../vlmtrace/app/bar.js";
import { Drafts } from "../../vlmtrace/app/rail_parts/drafts.js";
import { onGauge } from "../../vlmtrace/app/rail_parts/gauge.js";
import { matches } from "../../vlmtrace/app/rail_parts/pair_list.js";
import { reducedSize } from "../../vlmtrace/app/rail_parts/reduced.js";

Deno.test("a copied address holds what is shown, and no token", () => {
  const place = new URL("http://127.0.0.1:8866/?token=secret#view=patch");
  assert.equal(addressOf(place, "view=edges&pair=a%20b"), "http://127.0.0.1:8866/#view=edges&pair=a%20b");
});

Deno.test("the gauge has room beyond both ends", () => {
  assert.ok(Math.abs(onGauge(0) - 1 / 6) < 1e-12 && Math.abs(onGauge(1) - 5 / 6) < 1e-12);
  const places = [-1e9, -0.1, 0, 0.5, 1, 1.1, 1e9].map(onGauge);
  assert.deepEqual(places, [...places].sort((a, b) => a - b));
  assert.ok(places[0] > 0 && places[6] < 1);
});

Deno.test("large images are reduced, small ones stay", () => {
  assert.deepEqual(reducedSize(40, 30), [40, 30]);
  assert.deepEqual(reducedSize(5000, 2500), [2048, 1024]);
  assert.deepEqual(reducedSize(9000, 3), [2048, 1], "no side vanishes");
});

Deno.test("a search finds each of its words, in any order and case", () => {
  assert.ok(matches("states-3: is the Circle red or blue?", "RED circle"));
  assert.ok(matches("anything", "  "));
  assert.ok(!matches("states-3: is the circle red?", "red square"));
});

Deno.test("patches of a grid fill the image, row by row", () => {
  const boxes = gridBoxes(2, 3);
  assert.deepEqual(boxes[4], [1 / 2, 1 / 3, 1, 2 / 3]);
  const area = boxes.reduce((sum, [t, l, b, r]) => sum + (b - t) * (r - l), 0);
  assert.ok(Math.abs(area - 1) < 1e-12);
});

Deno.test("drafts are kept until they are asked", () => {
  const drafts = new Drafts();
  drafts.put("a", "clean", "is it red?");
  drafts.put("a", "corrupt", "is it blue?");
  drafts.shown("b", { clean: "x", corrupt: "" });
  assert.deepEqual([drafts.of("a", "clean"), drafts.of("b", "clean")], ["is it red?", undefined]);
  drafts.ask("a");
  drafts.shown("own", { clean: "is it red?", corrupt: "" });
  assert.deepEqual([drafts.of("own", "clean"), drafts.of("own", "corrupt"), drafts.of("a", "clean")],
    [undefined, "is it blue?", undefined], "what is beside the asked question goes along");
});
