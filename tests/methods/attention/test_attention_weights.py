"""Attention shares against masks drawn by hand; functions of heads against heads made to look somewhere."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.attention.attention_weights import (
    ATTENDED_REGIONS,
    _image_norms,
    head_attention,
    head_functions,
    outlier_patches,
)

AREAS = [f"{region}_area" for region in ATTENDED_REGIONS]


def rectangle(width: int, height: int, rows: slice, columns: slice) -> Image.Image:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[rows, columns] = 255
    return Image.fromarray(mask)


def look_at(model, monkeypatch, weights: list[float]) -> None:
    """Let every head of the model attend as `weights` say: the class token, then patches row by row."""
    block = model.head_block

    def attention(inputs, _block, _module):
        batch, queries = inputs["input_ids"].shape
        shape = (block.n_layers, batch, block.n_heads, queries, len(weights))
        return torch.tensor(weights).expand(shape)

    monkeypatch.setattr(model, "attention", attention)


# Outliers ------------------------------------------------------------------------


def test_outliers_are_few_and_far():
    norms = np.ones((2, 16))
    norms[0, 5] = 2.0  # 15 ones and a two: (2 - 17/16) / (√15 / 16) = √15 = 3.9 standard deviations
    norms[1, :8] = 2.0  # half of the patches are no outliers, however far
    assert np.argwhere(outlier_patches(norms)).tolist() == [[0, 5]]
    assert not outlier_patches(np.full((3, 16), 7.3)).any(), "equal norms have no outlier"


# Shares ------------------------------------------------------------------------------------


def test_even_attention_falls_on_regions_by_their_area(random_blip, random_pairs, monkeypatch):
    look_at(random_blip, monkeypatch, [0.2] + [0.05] * 16)
    table = head_attention(random_blip, random_pairs)
    # The masks are 22 of 40 rows high and 14 or 12 of 36 columns wide.
    assert table["object_area"].to_numpy() == pytest.approx(22 * 14 / (40 * 36), abs=1e-6)
    assert table["distractor_area"].to_numpy() == pytest.approx(22 * 12 / (40 * 36), abs=1e-6)
    for region in ATTENDED_REGIONS:
        assert table[region].to_numpy() == pytest.approx(0.8 * table[f"{region}_area"].to_numpy(), abs=1e-6)
    assert table["off_image"].to_numpy() == pytest.approx(0.2)


def test_attention_on_one_patch_is_split_by_its_masks(random_blip, random_pairs, monkeypatch):
    # Patch (1, 1) of the 4 × 4 grid covers rows 10-19 and columns 9-17: all of it object.
    look_at(random_blip, monkeypatch, [0.0] * 6 + [1.0] + [0.0] * 10)
    shares = head_attention(random_blip, random_pairs.head(1))[list(ATTENDED_REGIONS)]
    assert shares.mean().to_list() == pytest.approx([1, 0, 0, 0], abs=1e-6)
    # Patch (1, 3) covers columns 27-35, of which the distractor (20-31) has 5 of 9.
    look_at(random_blip, monkeypatch, [0.0] * 8 + [1.0] + [0.0] * 8)
    shares = head_attention(random_blip, random_pairs.head(1))[list(ATTENDED_REGIONS)[:3]]
    assert shares.mean().to_list() == pytest.approx([0, 5 / 9, 4 / 9], abs=1e-6)


def test_outliers_count_outside_the_masks_only(random_blip, random_pairs, monkeypatch):
    look_at(random_blip, monkeypatch, [0.0] * 8 + [1.0] + [0.0] * 8)
    for patch, share in ((7, 4 / 9), (5, 0.0)):
        norms = np.ones(17)
        norms[1 + patch] = 9.0
        monkeypatch.setattr(
            "vlmtrace.methods.attention.attention_weights._image_norms",
            lambda _model, _inputs, norms=norms: norms[None],
        )
        table = head_attention(random_blip, random_pairs.head(1))
        assert table["outlier"].to_numpy() == pytest.approx(share, abs=1e-6)
        # Patch (1, 1) lies inside the object, so it is no outlier of the background.
        assert table["outlier_area"].to_numpy() == pytest.approx(share / 16, abs=1e-6)


def test_norms_are_those_before_the_last_norm(random_blip, random_pairs):
    inputs = run_inputs(random_blip, random_pairs.iloc[[0, 4]], "clean")
    vision = random_blip.hf.vision_model
    with torch.no_grad():
        stream = vision.embeddings(inputs["pixel_values"])
        for layer in vision.encoder.layers:
            stream = layer(stream, attention_mask=None)
    expected = (stream**2).sum(-1).sqrt().numpy()
    assert _image_norms(random_blip, inputs) == pytest.approx(expected, rel=1e-4)


def test_shares_are_those_of_the_models_own_attention(random_blip, random_pairs):
    table = head_attention(random_blip, random_pairs)
    assert table[["object", "distractor", "background", "off_image"]].sum(axis=1).to_numpy() == pytest.approx(
        1, abs=1e-5
    )
    assert (table["outlier"] <= table["background"] + 1e-9).all()
    pair = random_pairs.iloc[[5]]
    weights = random_blip.attention(run_inputs(random_blip, pair, "clean"), "text_encoder", "cross_attention")
    mask = np.asarray(Image.open(pair["clean_object_mask"].iloc[0])) / 255
    rows = table[(table["sample_id"] == "pair-5") & (table["layer"] == 2) & (table["head"] == 1)]
    assert list(rows["position"]) == list(range(weights.shape[3]))
    for row in rows.itertuples():
        image = weights[2, 0, 1, row.position, 1:].reshape(4, 4).numpy()
        # Spread each patch's weight evenly over its 10 × 9 pixels, and add up the pixels inside the mask.
        expected = (np.kron(image, np.full((10, 9), 1 / 90)) * mask).sum()
        assert row.object == pytest.approx(expected, abs=1e-6)


def test_batches_change_nothing_and_pairs_keep_their_order(random_blip, random_pairs):
    together, alone = (head_attention(random_blip, random_pairs, batch_size=size) for size in (8, 1))
    pd.testing.assert_frame_equal(together, alone, atol=1e-5)
    assert list(dict.fromkeys(together["sample_id"])) == list(random_pairs["sample_id"])
    assert {"correct", "incorrect", "[CLS]", "?"} <= set(together["token_role"])
    first = together[together["sample_id"] == "pair-0"].drop_duplicates("position").set_index("position")["token"]
    assert first.loc[4] == "red"


def test_scenes_without_a_distractor(random_blip, random_pairs):
    for pairs in (random_pairs.drop(columns="clean_distractor_mask"), random_pairs.assign(clean_distractor_mask=None)):
        table = head_attention(random_blip, pairs.head(1))
        assert (table["distractor"] == 0).all() and (table["distractor_area"] == 0).all()


def test_pairs_without_an_object_mask_are_left_out_and_named(random_blip, random_pairs):
    pairs = random_pairs.copy()
    pairs.loc[[2, 3], "clean_object_mask"] = None
    with pytest.warns(UserWarning, match="2 of 8 pairs have no object mask"):
        table = head_attention(random_blip, pairs)
    assert table["sample_id"].nunique() == 6 and "pair-2" not in set(table["sample_id"])
    with pytest.raises(VlmtraceError, match="No pair has an object mask"):
        head_attention(random_blip, random_pairs.assign(clean_object_mask=None))
    with pytest.raises(VlmtraceError, match="no column 'clean_object_mask'"):
        head_attention(random_blip, random_pairs.drop(columns="clean_object_mask"))


def test_bad_masks_get_a_sentence(random_blip, random_pairs, tmp_path):
    rectangle(20, 20, slice(0, 5), slice(0, 5)).save(tmp_path / "small.png")
    with pytest.raises(VlmtraceError, match="'pair-0' is 20 × 20 pixels and its image 36 × 40"):
        head_attention(random_blip, random_pairs.head(1).assign(clean_object_mask=str(tmp_path / "small.png")))
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(VlmtraceError, match="'pair-0' cannot be read"):
        head_attention(random_blip, random_pairs.head(1).assign(clean_object_mask=str(tmp_path / "broken.png")))


# Functions ---------------------------------------------------------------------------------


def made_up_attention(looks: list[dict[str, float]], n_pairs: int = 30, noise: float = 0.02) -> pd.DataFrame:
    """Each head of one layer looks at regions as told (the rest in the background), whatever the token.

    The object covers 20 %, the distractor 10 %, outliers 5 % of the image; a tenth goes to the class token.
    """
    generator = np.random.default_rng(0)
    rows = []
    for i in range(n_pairs):
        for head, look in enumerate(looks):
            shares = {region: max(0.0, share + generator.normal(0, noise)) for region, share in look.items()}
            rows += [
                (f"pair-{i}", head, role, *(shares.get(r, 0.0) for r in ATTENDED_REGIONS))
                for role in ("correct", "the")
            ]
    table = pd.DataFrame(rows, columns=["sample_id", "head", "token_role", *ATTENDED_REGIONS])
    table["background"] = 0.9 - table["object"] - table["distractor"]
    table[AREAS] = [0.2, 0.1, 0.7, 0.05]
    return table.assign(block="text_encoder", module="cross_attention", layer=0, off_image=0.1)


EVEN = {"object": 0.18, "distractor": 0.09, "outlier": 0.045}


def test_functions_of_planted_heads():
    looks = [
        EVEN,
        {**EVEN, "object": 0.60},
        {**EVEN, "object": 0.03},
        {**EVEN, "object": 0.03, "outlier": 0.5},
        {**EVEN, "distractor": 0.5},
        EVEN,
    ]
    table = head_functions(made_up_attention(looks)).query("region == 'object'")
    assert list(table["function"]) == [
        "none",
        "object detection",
        "object suppression",
        "outlier suppression",
        "none",
        "none",
    ]


def test_scores_by_hand():
    looks = [EVEN, {**EVEN, "object": 0.45}]
    table = head_functions(made_up_attention(looks, noise=0)).set_index(["head", "region"])
    assert table.loc[(1, "object"), "share"] == pytest.approx(0.45)
    # Spread evenly, 0.9 of the attention would put 0.18 on a fifth of the image.
    assert table.loc[(1, "object"), "ratio"] == pytest.approx(0.45 / 0.18)
    assert table.loc[(0, "object"), "ratio"] == pytest.approx(1.0)
    # The mean of both heads is 0.315.
    assert table.loc[(1, "object"), "contrast"] == pytest.approx(0.135)
    assert table.loc[(0, "object"), "contrast"] == pytest.approx(-0.135)
    assert table.loc[(1, "background"), "share"] == pytest.approx(0.36)
    assert table.loc[(1, "off_image"), ["share", "contrast"]].to_list() == pytest.approx([0.1, 0.0])
    assert np.isnan(table.loc[(1, "off_image"), "ratio"])
    assert set(table["n"]) == {30} and table.loc[(0, "distractor"), "area"] == pytest.approx(0.1)


def test_all_heads_alike_have_no_function():
    looks = [{**EVEN, "object": 0.6}] * 5
    functions = head_functions(made_up_attention(looks, noise=0))["function"]
    assert set(functions) == {"none"}, "what all heads do is the image's doing, not a head's function"


def test_an_uncertain_head_has_no_function():
    looks = [EVEN] * 7 + [{**EVEN, "object": 0.30}]
    certain = head_functions(made_up_attention(looks, noise=0.01))
    assert set(certain.query("head == 7")["function"]) == {"object detection"}
    uncertain = head_functions(made_up_attention(looks, noise=0.1, n_pairs=8))
    row = uncertain.query("head == 7 and region == 'object'").iloc[0]
    assert row["ratio_low"] < 1.5 and row["function"] == "none"


def test_names_are_corrected_for_all_heads_looked_at():
    # Half of 200 heads lie exactly at the factor that names a function: none may pass. Of percentile intervals, each
    # head on its own, several do.
    looks = [EVEN] * 100 + [{**EVEN, "object": 0.27}] * 100
    functions = head_functions(made_up_attention(looks, n_pairs=8, noise=0.04), n_boot=2000).query("region == 'object'")
    named = functions[functions["function"] != "none"]
    assert named.empty, f"{len(named)} of 100 heads that do not exceed the factor got a function"
    assert (functions["q_value"] >= functions["p_value"]).all() and (functions["q_value"] >= 0.05).all()


def test_an_alpha_sets_how_sure_a_name_must_be():
    looks = [EVEN] * 7 + [{**EVEN, "object": 0.60}]
    table = made_up_attention(looks, noise=0.08, n_pairs=8)
    row = head_functions(table).query("head == 7 and region == 'object'").iloc[0]
    assert row["function"] == "object detection"
    strict = head_functions(table, alpha=row["q_value"] / 2).query("head == 7 and region == 'object'").iloc[0]
    assert strict["function"] == "none", "a head got a function at a q-value above alpha"


def test_pairs_of_a_unit_are_averaged_first():
    table = made_up_attention([EVEN, {**EVEN, "object": 0.45}], n_pairs=10, noise=0.05)
    copies = table.assign(sample_id=table["sample_id"] + " mirrored")
    doubled = pd.concat([table.assign(unit=table["sample_id"]), copies.assign(unit=table["sample_id"])])
    once, twice = head_functions(table), head_functions(doubled)
    assert set(once["n"]) == {10} and set(twice["n"]) == {20} and set(twice["n_units"]) == {10}
    numbers = ["share", "ci_low", "ci_high", "ratio_low", "ratio_high", "contrast_low", "p_value", "q_value"]
    differ = (twice[numbers] - once[numbers]).abs().max().max()
    assert differ < 1e-9, "a copied pair counts as a new one"


def test_intervals_hold_the_means_and_cover_the_truth():
    looks = [{**EVEN, "object": 0.4 + 0.001 * head} for head in range(100)]
    table = head_functions(made_up_attention(looks, noise=0.05)).query("region == 'object'")
    assert ((table["ci_low"] < table["share"]) & (table["share"] < table["ci_high"])).all()
    truth = 0.4 + 0.001 * table["head"]
    covered = ((table["ci_low"] < truth) & (truth < table["ci_high"])).mean()
    covered_ratio = ((table["ratio_low"] < truth / 0.18) & (truth / 0.18 < table["ratio_high"])).mean()
    assert 0.86 <= covered <= 1 and covered_ratio == pytest.approx(covered, abs=0.02)


def test_tokens_are_averaged_within_a_pair_first():
    table = made_up_attention([EVEN, {**EVEN, "object": 0.6}], noise=0)
    table.loc[table["token_role"] == "the", "object"] = 0.0
    twice = pd.concat([table, table[(table["sample_id"] == "pair-0") & (table["token_role"] == "correct")]])

    def share(attention: pd.DataFrame, roles) -> float:
        return head_functions(attention, roles).query("head == 1 and region == 'object'")["share"].item()

    assert share(table, ("correct",)) == pytest.approx(0.6)
    assert share(table, None) == pytest.approx(0.3)
    # pair-0 has its "correct" token twice: its own mean is 0.4, the mean over 30 pairs (29 · 0.3 + 0.4) / 30.
    assert share(twice, None) == pytest.approx((29 * 0.3 + 0.4) / 30)
    with pytest.raises(VlmtraceError, match="choose token_roles among correct, the"):
        head_functions(table, ("noun",))


def test_images_without_outliers_have_no_ratio_and_no_outlier_heads():
    looks = [{**EVEN, "outlier": 0.0}, {"object": 0.03, "distractor": 0.09, "outlier": 0.0}]
    table = made_up_attention(looks, noise=0).assign(outlier_area=0.0)
    functions = head_functions(table)
    assert functions.query("region == 'outlier'")["ratio"].isna().all()
    assert list(functions.query("region == 'outlier'")["function"]) == ["none", "object suppression"]


def test_functions_of_a_real_model_run_from_its_attention(random_blip, random_pairs):
    functions = head_functions(head_attention(random_blip, random_pairs))
    assert len(functions) == 3 * 4 * 5
    sums = functions[functions["region"] != "outlier"].groupby(["layer", "head"])["share"].sum()
    assert sums.to_numpy() == pytest.approx(1, abs=1e-5)
