"""Maps and their tests, each against something naive or worked by hand."""

import numpy as np
import pytest
import torch
from fixtures.families import THROUGHOUT
from PIL import Image

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.lens.map_comparison import map_table
from vlmtrace.methods.lens.map_scores import (
    MAPS,
    gradient_times_input,
    image_maps,
    object_tokens,
    replacement_curves,
    roc_auc,
    rollout,
    score_maps,
    tokens_on_object,
)
from vlmtrace.methods.lens.questions import lens_of


def test_rollout_by_hand():
    first, second = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.2, 0.8]]])
    found = rollout(torch.stack([first, second]))
    # (second + 1) / 2 times (first + 1) / 2: [[1, 0], [.1, .9]] @ [[1, 0], [.25, .75]]
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0], [0.325, 0.675]]))


def test_area_under_roc_is_how_often_a_positive_lies_higher():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(0, 6, 15).astype(float)  # with ties
        positive = rng.random(15) < 0.4
        if positive.all() or not positive.any():
            continue
        pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
        assert roc_auc(scores, positive) == pytest.approx(np.mean(pairs))
    assert np.isnan(roc_auc(np.arange(3.0), np.zeros(3, dtype=bool)))


@pytest.mark.parametrize("name", THROUGHOUT)
def test_every_family_has_its_maps(name, model_store, masked):
    model = model_store.shared(name)
    lens = lens_of(model, masked.iloc[0])
    maps = image_maps(lens, top=99)  # all heads: with a sliding window the strongest may not see the image at all
    sees = bool(lens.weights[:, :, lens.at, lens.image_positions].any())
    n = int(lens.image_positions.sum())
    assert list(maps) == list(MAPS)
    for method, values in maps.items():
        assert values.shape == (n,) and np.isfinite(values).all()
        if sees or method in ("gradient", "random"):
            assert np.ptp(values) > 1e-5, f"the map {method} is the same everywhere"
    if not model.injects_image_features_later:
        curves = replacement_curves(lens, maps, model.image_embeddings(lens.inputs)[0].mean(0), steps=3)
        ends = {(round(float(c["deletion"][0]), 5), round(float(c["insertion"][-1]), 5)) for c in curves.values()}
        full = round(float(lens.logits.softmax(-1)[lens.token]), 5)
        np.testing.assert_allclose(list(ends), [[full, full]], atol=2e-5)
    else:
        with pytest.raises(vt.VlmtraceError, match="pointing alone"):
            replacement_curves(lens, maps, torch.zeros(1))


def test_gradient_times_input_is_what_small_steps_say(tiny, lens):
    found = gradient_times_input(lens)
    image = tiny.image_embeddings(lens.inputs)

    def log_p(images):
        with torch.no_grad():
            return tiny.answer_logits(lens.inputs, image=images)[0].double().log_softmax(-1)[lens.token]

    for place in (0, len(found) - 1):
        step = torch.zeros_like(image)
        step[:, place] = 1e-2 * image[:, place]
        change = (log_p(image + step) - log_p(image - step)) / 2e-2
        assert found[place] == pytest.approx(float(change), abs=2e-3)
    assert np.abs(found).max() > 1e-2


def test_curves_are_those_of_runs_one_by_one(tiny, lens):
    image = tiny.image_embeddings(lens.inputs)
    mean = torch.randn(image.shape[-1], generator=torch.Generator().manual_seed(1))
    values = np.array([0.3, 0.9, 0.1, 0.9, 0.5, 0.2, 0.8, 0.4, 0.0])
    curves = replacement_curves(lens, {"mine": values, "other": -values}, mean, steps=4, at_once=3)
    order = [1, 3, 6, 4, 7, 0, 5, 2, 8]
    for point, size in enumerate((0, 2, 4, 7, 9)):
        for kind in ("deletion", "insertion"):
            new = image.clone()
            for place in order[:size] if kind == "deletion" else order[size:]:
                new[0, place] = mean
            with torch.no_grad():
                p = tiny.answer_logits(lens.inputs, image=new)[0].softmax(-1)[lens.token]
            assert curves["mine"][kind][point] == pytest.approx(float(p), abs=1e-5)
    assert np.ptp(curves["mine"]["deletion"]) > 1e-3


def test_scores_follow_from_maps_and_curves(tiny, masked):
    scores, curves = score_maps(tiny, masked, steps=3, top=2)
    assert len(scores) == 2 * len(MAPS) and len(curves) == 2 * len(MAPS) * 2 * 4
    one = scores[(scores["sample_id"] == "pair-0") & (scores["method"] == "attention")].iloc[0]
    lens = lens_of(tiny, masked.iloc[0])
    boxes = tiny.image_cells(masked["image"][0], lens.inputs)
    with Image.open(masked["object_mask"][0]) as mask:
        positive = object_tokens(mask, boxes)
    attention = lens.weights.mean((0, 1))[-1].numpy()[lens.image_positions]
    assert one["auc"] == pytest.approx(roc_auc(attention, positive))
    points = curves[(curves["sample_id"] == "pair-0") & (curves["method"] == "attention")].query("kind == 'deletion'")
    assert one["deletion"] == pytest.approx(np.trapezoid(points["p"], points["share"]))
    assert one["is_correct"] == (tiny.answer_token("red") == lens.token)


def test_the_object_is_where_its_mask_lies_on_the_upright_image(masked, tmp_path):
    row = masked.iloc[0].to_dict()
    boxes = np.array([[0, 0, 1, 0.5], [0, 0.5, 1, 1]])  # left and right half
    width, height = Image.open(row["image"]).size
    turned = Image.Exif()
    turned[0x0112] = 3
    on_the_right = Image.new("L", (width, height))
    on_the_right.paste(1, (width // 2, 0, width, height))
    on_the_right.save(tmp_path / "mask.png", exif=turned)
    assert tokens_on_object(row | {"object_mask": str(tmp_path / "mask.png")}, boxes).tolist() == [True, False]
    on_the_right.resize((7, 5)).save(tmp_path / "mask.png")
    with pytest.raises(VlmtraceError, match=rf"question 'pair-0' is 7 × 5 pixels and its image {width} × {height}"):
        tokens_on_object(row | {"object_mask": str(tmp_path / "mask.png")}, boxes)


def test_without_masks_nothing_points(tiny, questions):
    scores, _ = score_maps(tiny, questions, ["attention", "random"], steps=2)
    assert scores["auc"].isna().all() and scores["deletion"].notna().all()
    assert set(map_table(scores, "attention")["measure"]) == {"deletion", "insertion"}
