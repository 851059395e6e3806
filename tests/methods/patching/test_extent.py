"""At how many positions the notebooks patch."""

import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.patching import affordable_extent, extent, model_sizes, patching_costs


@pytest.fixture(scope="module")
def pairs():
    return vt.load_pairs("rendered_states", n=2)


def test_a_model_whose_patches_cost_more_than_is_affordable_is_patched_at_the_text(pairs, monkeypatch):
    model = vt.load_model("tiny-llava")
    needed = patching_costs(model_sizes(model, pairs)).set_index("call")["operations"]["patch_heads"]
    for affordable, positions in ((needed, "all"), (needed - 1, "text")):
        monkeypatch.setitem(extent.AFFORDABLE, "cpu", affordable)
        found = affordable_extent(model, pairs)
        assert found.positions == positions
        # What else is done with image tokens is not the same in every notebook.
        assert "region" not in found.reason and "take less than 10¹² operations" in found.reason


def test_a_model_whose_costs_are_not_counted_is_patched_everywhere(pairs, monkeypatch):
    monkeypatch.setitem(extent.AFFORDABLE, "cpu", 0.0)
    assert affordable_extent(vt.load_model("tiny-blip"), pairs).is_all


def test_what_is_asked_for_is_done(pairs):
    for positions in ("all", "text"):
        found = affordable_extent(vt.load_model("tiny-llava"), pairs, positions)
        assert found.positions == positions and found.reason.endswith(", as asked.") and "region" not in found.reason


def test_unknown_choices_and_empty_tables_are_refused(pairs):
    model = vt.load_model("tiny-llava")
    with pytest.raises(VlmtraceError, match="Unknown choice of positions 'every'"):
        affordable_extent(model, pairs, "every")
    with pytest.raises(VlmtraceError, match="no pair"):
        affordable_extent(model, pairs.head(0))


@pytest.mark.parametrize("name", ["tiny-llava", "tiny-blip"])
def test_patches_at_the_text_are_those_of_all_positions_without_image_tokens(name, pairs):
    model = vt.load_model(name)
    every = vt.patch_modules(model, pairs, modules=["residual"])
    text = vt.patch_modules(model, pairs, modules=["residual"], positions="text")
    expected = every[(every["token_role"] != "image") & (every["block"] != "vision_encoder")]
    assert model.head_block.name in set(text["block"]) and "vision_encoder" not in set(text["block"])
    keys = ["sample_id", "block", "layer", "position"]
    both = text.set_index(keys)["patching_effect"].to_frame("text")
    both["all"] = expected.set_index(keys)["patching_effect"]
    assert len(both) == len(expected)
    assert (both["text"] - both["all"]).abs().max() < 1e-4
