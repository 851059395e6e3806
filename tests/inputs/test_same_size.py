"""The corrupt image in the size of the clean one: only where it must be, whole, and with all that belongs to it."""

import numpy as np
import pandas as pd
import pytest
from fixtures.several_pairs import two_image_pairs
from fixtures.sized_pairs import pair_of
from PIL import Image

import vlmtrace as vt
from vlmtrace.core.paths import resolve
from vlmtrace.inputs.pair_runs import encode_pair
from vlmtrace.inputs.units import with_units


@pytest.fixture
def pairs(tmp_path):
    """A pair whose images are not aligned for Qwen, and one whose images are."""
    folders = [tmp_path / name for name in ("unlike", "alike")]
    for folder in folders:
        folder.mkdir()
    rows = [pair_of(folders[0], (112, 56), (56, 112)), pair_of(folders[1], (60, 40), (61, 40), sample_id="alike")]
    return pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize("name", ["qwen2_vl", "llava_next", "internvl", "idefics3"])
def test_only_what_is_not_aligned_is_resampled(name, model_store, pairs, tmp_path):
    model = model_store.shared(name)
    assert len(vt.check_pairs(model, pairs)[0]) == 1, "the case proves nothing"
    same = vt.same_size(model, pairs, tmp_path / "images")
    assert same["corrupt_image"].iloc[1] == pairs["corrupt_image"].iloc[1]
    written = Image.open(resolve(same["corrupt_image"].iloc[0]))
    own = Image.open(pairs["corrupt_image"].iloc[0]).resize((112, 56), model.processor.image_processor.resample)
    assert written.size == (112, 56) and (np.asarray(written) == np.asarray(own)).all()
    assert [path.name for path in (tmp_path / "images").iterdir()] == [resolve(same["corrupt_image"].iloc[0]).name]
    usable, set_aside = vt.check_pairs(model, same)
    assert len(usable) == 2 and set_aside.empty
    clean, corrupt = encode_pair(model, same, 0, "image")
    assert all(clean[key].shape == corrupt[key].shape for key in clean)
    pd.testing.assert_frame_equal(vt.same_size(model, pairs, tmp_path / "images"), same)


def test_the_whole_way_from_unlike_sizes_to_patching(model_store, pairs, tmp_path):
    model = model_store.shared("qwen2_vl")
    same = vt.same_size(model, pairs, tmp_path / "images")
    assert len(vt.evaluate(model, same)) == 2
    effects = vt.patch_modules(model, same, positions=["last"], modules=["residual"], blocks=["language_model"])
    n_layers = model.blocks["language_model"].n_layers
    assert effects.groupby("sample_id").size().to_dict() == {"one": n_layers, "alike": n_layers}
    assert np.isfinite(effects["logit_diff"]).all()


def test_units_are_those_of_the_images_as_they_were(model_store, pairs, tmp_path):
    mirrored = {"clean_image": "corrupt_image", "corrupt_image": "clean_image"}
    both = pd.concat([pairs[:1], pairs[:1].rename(columns=mirrored).assign(sample_id="mirrored")], ignore_index=True)
    same = vt.same_size(model_store.shared("qwen2_vl"), both, tmp_path / "images")
    assert same["unit"].nunique() == 1, "both pairs are of the same two photographs"
    assert with_units(same.drop(columns="unit"))["unit"].nunique() == 2, "the case proves nothing"


def test_masks_of_the_corrupt_image_go_with_it(model_store, pairs, tmp_path):
    mask = np.zeros((112, 56), dtype=np.uint8)
    mask[:56] = 255  # the upper half
    Image.fromarray(mask).save(tmp_path / "mask.png")
    masked = pairs.assign(corrupt_object_mask=[str(tmp_path / "mask.png"), None], clean_object_mask=None)
    same = vt.same_size(model_store.shared("qwen2_vl"), masked, tmp_path / "images")
    shown = np.asarray(Image.open(resolve(same["corrupt_object_mask"].iloc[0])))
    assert shown.shape == (56, 112) and (shown[:28] == 255).all() and (shown[28:] == 0).all()
    assert pd.isna(same["corrupt_object_mask"].iloc[1])


def test_lists_of_one_image_name_the_new_one(model_store, pairs, tmp_path):
    listed = pairs.assign(
        **{f"{side}_images": [[path] for path in pairs[f"{side}_image"]] for side in ("clean", "corrupt")}
    )
    model = model_store.shared("qwen2_vl")
    same = vt.same_size(model, listed, tmp_path / "images")
    assert same["corrupt_images"].tolist() == [[path] for path in same["corrupt_image"]]
    assert same["corrupt_image"][0] != pairs["corrupt_image"][0] and len(vt.check_pairs(model, same)[0]) == 2


def test_the_image_that_differs_is_the_new_one_where_its_path_stands_twice(model_store, tmp_path):
    """The other image of the clean run is shown in the place of the second one: one path, two places."""
    pairs = two_image_pairs(tmp_path / "two", ((112, 56), (56, 112)), 1)
    first, second = pairs["clean_images"][0]
    Image.new("L", (112, 56), 255).save(tmp_path / "mask.png")
    twice = pairs.assign(
        corrupt_images=[[first, first]], corrupt_image=first, corrupt_object_mask=str(tmp_path / "mask.png")
    )
    model = model_store.shared("qwen2_vl")
    same = vt.same_size(model, twice, tmp_path / "images")
    assert same["corrupt_images"][0] == [first, same["corrupt_image"][0]] and same["corrupt_image"][0] != first
    assert Image.open(resolve(same["corrupt_image"][0])).size == (56, 112) == Image.open(second).size
    assert Image.open(resolve(same["corrupt_object_mask"][0])).size == (56, 112), "its mask goes with it"
    usable, aside = vt.check_pairs(model, same)
    assert len(usable) == 1, aside["reason"].tolist()


def test_what_cannot_be_read_is_left_to_check_pairs(model_store, pairs, tmp_path):
    broken = pairs.assign(corrupt_image=[str(tmp_path / "gone.png"), pairs["corrupt_image"].iloc[1]])
    model = model_store.shared("qwen2_vl")
    same = vt.same_size(model, broken, tmp_path / "images")
    assert same["corrupt_image"].tolist() == broken["corrupt_image"].tolist()
    assert "gone.png does not exist" in vt.check_pairs(model, same)[1]["reason"].iloc[0]


def test_a_folder_that_cannot_be_written_to_is_said(model_store, pairs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(vt.VlmtraceError, match=r"cannot be written, because a file lies where a folder must be"):
        vt.same_size(model_store.shared("qwen2_vl"), pairs, tmp_path / "file")
