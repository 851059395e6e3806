"""Where things stand in the report's drawings."""

import numpy as np
import pandas as pd
import pytest

from vlmtrace.pipeline.drawings import MOST_POINTS, STRIP_WIDTH, model_drawing, model_effects, strip

HEADS = {"block": "text_encoder", "module": "cross_attention", "corruption": "image"}


def finding(values, **numbers):
    effects = pd.DataFrame({"sample_id": range(len(values)), "unit": range(len(values)), "effect": values})
    return {"effects": effects, "mean": 0.5, "low": 0.4, "high": 0.6, "control": np.nan, **numbers}


def test_a_strip_is_a_scale_from_corrupt_to_clean():
    drawn = strip(finding([0.0, 0.25, 1.0]))
    assert drawn["half"] == pytest.approx((drawn["zero"] + drawn["one"]) / 2, abs=0.1)
    assert [x for x, _ in drawn["points"]] == pytest.approx(
        [drawn["zero"], 0.75 * drawn["zero"] + 0.25 * drawn["one"], drawn["one"]], abs=0.1
    )
    assert drawn["mean"] == drawn["half"] and drawn["control"] is None


def test_outliers_and_thousands_of_units_stay_on_the_strip():
    drawn = strip(finding(np.linspace(-50, 50, 5000), control=0.25))
    assert len(drawn["points"]) == MOST_POINTS
    assert all(0 <= x <= STRIP_WIDTH for x, _ in drawn["points"]) and 0 < drawn["control"] < STRIP_WIDTH


def heads_table(effects):
    rows = [{**HEADS, "task": task, "layer": 0, "head": head, "mean_effect": effect} for task, head, effect in effects]
    return pd.DataFrame(rows)


def test_a_cell_is_the_mean_over_tasks_and_findings_are_framed():
    table = heads_table([("t", 0, 0.1), ("u", 0, 0.3), ("t", 1, -0.2), ("u", 1, -0.2)])
    parts = model_effects(table, pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), "image")
    heads = [{"block": "text_encoder", "module": "cross_attention", "layer": 0, "head": 1}]
    drawn = model_drawing(parts, [{"kind": "heads", "place": {"heads": heads}}])
    (block,) = drawn["blocks"]
    first, second = block["parts"][0]["cells"]
    assert drawn["limits"]["other"] == 0.2 and (first["strength"], second["strength"]) == (1.0, -1.0)
    assert (first["marks"], second["marks"]) == ([], [1])
    assert second["title"] == "cross-attention 0.1: −0.200"


def test_a_module_is_framed_as_a_layer():
    parts = model_effects(heads_table([("t", 0, 0.1)]), pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), "image")
    place = {"block": "text_encoder", "module": "cross_attention", "layer": 0, "token_role": "correct"}
    drawn = model_drawing(
        parts,
        [
            {"kind": "region", "place": {"layer": 0, "token_role": "x"}},
            {"kind": "module", "place": place},
            {"kind": "knockout", "place": place},
        ],
    )
    assert [row["marks"] for row in drawn["blocks"][0]["parts"][0]["rows"]] == [[2, 3]]


def test_a_window_of_layers_is_framed_as_a_whole():
    table = pd.concat([heads_table([("t", 0, 0.1)]).assign(layer=layer) for layer in range(6)])
    parts = model_effects(table, *[pd.DataFrame()] * 3, "image")
    place = {"block": "text_encoder", "module": "cross_attention", "layer": 2, "layers": [1, 2, 3]}
    drawn = model_drawing(parts, [{"kind": "knockout", "place": place}])
    cells = {cell["title"].split(":")[0]: cell["y"] for cell in drawn["blocks"][0]["parts"][0]["cells"]}
    framed = sorted(row["y"] for row in drawn["blocks"][0]["parts"][0]["rows"])
    assert framed == sorted(cells[f"cross-attention {layer}.0"] for layer in (1, 2, 3))


def test_other_blocks_and_regions_are_drawn_in_the_order_of_the_model():
    common = {"block": "vision_encoder", "corruption": "image", "layer": 0}
    attention = {**common, "module": "self_attention", "layer": 1, "head": 0}
    whole = [{**attention, "direction": way, "patching_effect": e} for way, e in (("denoising", 0.1), ("noising", 9))]
    regions = [
        {**common, "module": module, "token_role": role, "patching_effect": effect}
        for module, effect in (("residual", 0.8), ("mlp", 0.0))
        for role in ("object", "image")
    ]
    modules = [
        {**common, "block": block, "module": "mlp", "token_role": role, "patching_effect": effect}
        for block in ("vision_encoder", "text_encoder")
        for role, effect in (("correct", 0.3), ("?", 0.1))
    ]
    whole, regions, modules = (pd.DataFrame(rows) for rows in (whole, regions, modules))
    parts = model_effects(heads_table([("t", 0, 0.1)]), whole, modules, regions, "image")
    said = [(row.block, row.part, row.column, round(row.effect, 2)) for row in parts.itertuples()]
    assert said == [
        ("vision_encoder", "self_attention", 0, 0.1),
        ("vision_encoder", "region", "object", 0.8),
        ("text_encoder", "cross_attention", 0, 0.1),
        ("text_encoder", "mlp", 0, 0.3),
    ]


def test_a_model_of_many_layers_stays_on_the_screen():
    rows = [{**HEADS, "task": "t", "layer": layer, "head": head, "mean_effect": 0.1}
            for layer in range(64) for head in range(64)]  # fmt: skip
    drawn = model_drawing(model_effects(pd.DataFrame(rows), *[pd.DataFrame()] * 3, "image"), [])
    assert drawn["height"] <= 211 and drawn["width"] <= 960


def test_nothing_to_draw_is_no_drawing():
    assert model_drawing(model_effects(*[pd.DataFrame()] * 4, "image"), []) == {}
