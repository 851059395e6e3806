"""Pairs from a CSV: what the table form accepts, the CSV accepts, too; what neither does has a reason."""

import dataclasses

import pandas as pd
import pytest
from fixtures.pair_checks import count
from fixtures.raw_data import photograph, save
from PIL import Image

import vlmtrace as vt
from vlmtrace.core.images import open_image
from vlmtrace.inputs.pair_rows import images_alone
from vlmtrace.tasks.building.csv_pairs import correct_first, options_stand_in
from vlmtrace.tasks.building.row_audit import NAMED_BY_ROW
from vlmtrace.tasks.building.sampling import TEXT

COLUMNS = ["clean_image", "corrupt_image", "clean_prompt", "correct_answer", "incorrect_answer"]


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        save(photograph(turn=i + 1), tmp_path / "images" / f"{i}.png")
    return tmp_path


def row(i, prompt="Is it a cat or a dog?", a="cat", b="dog", **further):
    return dict(zip(COLUMNS, (f"images/{i}.png", f"images/{(i + 1) % 6}.png", prompt, a, b), strict=True)) | further


def prepare(folder, *rows, model=count):
    """The account of the rows; that of images that no row names has a test of its own."""
    pd.DataFrame(rows).to_csv(folder / "mine.csv", index=False)
    prepared = vt.prepare_pairs("csv", root=folder / "mine.csv", model=model)
    aside = prepared.set_aside
    return dataclasses.replace(prepared, set_aside=aside[aside["step"] != NAMED_BY_ROW].reset_index(drop=True))


@pytest.mark.parametrize(
    "rows",
    [
        [row(0, "Is it a cat?", "yes", "no"), row(1, "Is it a cat?", "no", "yes")],
        [row(0, "Is there no cat?", "yes", "no"), row(1, "Is there no cat?", "no", "yes")],
        [row(0, "Is it a cat, yes or no?", "yes", "no"), row(1, "Is it a cat, yes or no?", "no", "yes")],
        [row(0, "The cat sits.", "true", "false"), row(1, "The cat sits.", "false", "true")],
        [row(0, "(A) a cat (B) a dog", "A", "B"), row(1, "(A) a cat (B) a dog", "B", "A")],
        [row(0, "Which letter does the sign show?", "A", "B"), row(1, "Which letter is it?", "B", "A")],
        [row(0, "What is it?", "cat", "dog"), row(1, "What is it?", "dog", "cat")],
        [row(0, corrupt_prompt="Is it a cat or a dog?"), row(1, corrupt_prompt="Is it a cat or a dog?")],
    ],
    ids=["yes/no", "no in it", "yes or no", "true/false", "letters", "letters not in it", "open", "said"],
)
def test_pairs_of_images_alone(folder, rows, tiny_blip):
    prepared = prepare(folder, *rows, model=tiny_blip)
    assert prepared.set_aside.empty and len(prepared.pairs) == 2
    assert images_alone(prepared.pairs).all()
    usable, aside = vt.check_pairs(tiny_blip, prepared.pairs)
    assert len(usable) == 2, aside["reason"].tolist()


@pytest.mark.parametrize(
    ("unfit", "reason"),
    [
        (row(0, corrupt_prompt="Is it?"), "clean_prompt and corrupt_prompt have unlike numbers of tokens"),
        (row(0), "no words of as many tokens under the tokenizer in use can replace 'cat' and 'dog'"),
    ],
    ids=["given", "drawn"],
)
def test_a_corrupt_prompt_that_does_not_fit_leaves_a_pair_of_images_alone(folder, unfit, reason):
    good = [row(1, corrupt_prompt="Is it a cow or a pig?"), row(2, corrupt_prompt="Is it a cow or a pig?")]
    prepared = prepare(folder, unfit, *good)
    assert images_alone(prepared.pairs).sum() == 1 and len(prepared.pairs) == 3
    assert prepared.set_aside[["step", "row", "reason"]].to_numpy().tolist() == [[TEXT, "row 2", reason]]
    last = prepared.filters.set_index("step").loc[TEXT]
    assert last[["unit", "rows_in", "rows_used", "rows_set_aside"]].tolist() == ["corrupt prompts", 3, 2, 1]


@pytest.fixture(scope="module")
def tiny_blip():
    return vt.load_model("tiny-blip")


def test_options_that_are_not_in_the_prompt_are_told(folder):
    """Plurals, or a misspelling of both: the pair can be used, and the user hears of what it lacks."""
    said = row(2, corrupt_prompt="Is it a cow or a pig?")
    with pytest.warns(UserWarning, match=r"1 of 3 rows of mine.csv .*\(e.g. row 2: 'cat' or 'dog' in 'Are these cats"):
        prepared = prepare(folder, row(0, "Are these cats or dogs?"), row(1, "Is it?", "yes", "no"), said)
    assert len(prepared.pairs) == 3


def test_what_the_table_form_accepts_the_csv_accepts(folder, tiny_blip):
    """The same rows as a DataFrame and as a CSV give the same numbers."""
    rows = [
        row(0, "is this circle red or blue?", "red", "blue", corrupt_prompt="is this circle green or yellow?"),
        row(1, "is this circle red?", "yes", "no", corrupt_prompt="is this circle red?"),
        row(2, "is this circle red?", "red", "blue", corrupt_prompt="is this circle green?"),
    ]
    names = {"sample_id": ["a", "b", "c"], "category": "x"}
    table = pd.DataFrame(rows).assign(**names, task="csv", correct_first=True)
    paths = {name: [str(folder / path) for path in table[name]] for name in ("clean_image", "corrupt_image")}
    prepared = prepare(folder, *pd.DataFrame(rows).assign(**names).to_dict("records"), model=tiny_blip)
    assert prepared.set_aside.empty
    with pytest.warns(UserWarning, match="pairs of images alone"):
        as_table = vt.evaluate(tiny_blip, table.assign(**paths)).set_index("sample_id")
        as_csv = vt.evaluate(tiny_blip, prepared.pairs).set_index("sample_id")
    for column in ("image_logit_diff", "text_logit_diff"):
        pd.testing.assert_series_equal(as_csv[column].sort_index(), as_table[column], check_exact=False)


@pytest.mark.parametrize(
    ("faulty", "reason"),
    [
        (row(0, a="horse"), "the correct_answer does not stand in clean_prompt, but the other one does"),
        (row(0, b="horse"), "the incorrect_answer does not stand in clean_prompt, but the other one does"),
        (row(0, a="cat", b="cat"), "both answers are the same"),
        (row(0, a="cat", b=" cat"), "both answers are the same"),
        (row(0, " "), "clean_prompt is empty"),
        (row(0, correct_first="maybe"), "correct_first is 'maybe': write true or false"),
        (
            row(0, correct_first="false"),
            "correct_first is 'false', but in clean_prompt the options stand",
        ),
        (row(0, clean_image="https://example.org/a.png"), "clean_image: it is an address on the web: save the image"),
        (row(0, corrupt_image="images/gone.png"), "corrupt_image: the image file is missing"),
        (row(0, corrupt_image="/dev/zero"), "corrupt_image: the image file is missing"),
    ],
)
def test_one_bad_row_has_its_reason_and_stops_no_other(folder, faulty, reason):
    good = [row(1, corrupt_prompt="Is it a cow or a pig?"), row(2, corrupt_prompt="Is it a cow or a pig?")]
    prepared = prepare(folder, faulty, *good)
    assert len(prepared.pairs) == 2
    assert prepared.set_aside["row"].tolist() == ["row 2"]
    assert prepared.set_aside["reason"].iloc[0].startswith(reason), prepared.set_aside["reason"].iloc[0]


def test_where_no_row_is_complete_the_commonest_reasons_are_said(folder):
    with pytest.raises(vt.VlmtraceError, match=r"has no complete row \(correct_answer is empty \(2\), both answers"):
        prepare(folder, row(0, a=""), row(1, a=""), row(2, a="dog"))
    (folder / "mine.csv").write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(vt.VlmtraceError, match=r"has no complete row \(it has none at all\)"):
        vt.prepare_pairs("csv", root=folder / "mine.csv")


@pytest.mark.parametrize(
    ("prompt", "a", "b", "told", "expected"),
    [
        ("a cat or a dog?", "cat", "dog", "", True),
        ("a cat or a dog?", "dog", "cat", "", False),
        ("Is a photo (B) or (A)?", "A", "B", "", False),
        ("Is it?", "yes", "no", "", True),
        ("Is it?", "No", "Yes", "", False),
        ("Which?", "B", "A", "", False),
        ("Which?", "B", "A", "TRUE", True),
        ("Which?", "A", "B", "0", False),
    ],
)
def test_the_order_of_the_options(prompt, a, b, told, expected):
    asked = {"clean_prompt": prompt, "correct_answer": a, "incorrect_answer": b, "correct_first": told}
    assert correct_first(asked) == expected


def test_samples_are_balanced_over_answers_that_do_not_stand_in_the_prompt(folder):
    rows = [row(i % 6, f"Is it {i}?", *(("yes", "no") if i < 9 else ("no", "yes"))) for i in range(12)]
    pd.DataFrame(rows).to_csv(folder / "mine.csv", index=False)
    pairs = vt.load_pairs("csv", n=6, root=folder / "mine.csv")
    assert pairs["correct_answer"].value_counts().to_dict() == {"yes": 3, "no": 3}


def test_words_that_look_like_nothing_stay_words(folder):
    words = ["none", "NA", "nan", "null"]
    rows = [row(i, f"is it {words[i]} or {words[(i + 1) % 4]}?", words[i], words[(i + 1) % 4]) for i in range(4)]
    prepared = prepare(folder, *rows)
    assert len(prepared.pairs) == 4 and set(prepared.pairs["correct_answer"]) == set(words)


def test_columns_of_ones_own_are_kept_whatever_they_are_called(folder):
    prepared = prepare(
        folder, *(row(i, "Is it?", "yes", "no", row=f"r{i}", label="l", note="n", sample_id="") for i in (0, 1))
    )
    assert sorted(prepared.pairs["row"]) == ["r0", "r1"] and set(prepared.pairs["label"]) == {"l"}
    assert set(prepared.pairs["note"]) == {"n"} and prepared.pairs["sample_id"].is_unique


def test_paths_above_the_table_and_as_windows_writes_them(folder):
    (folder / "tables").mkdir()
    rows = [
        row(0, "Is it?", "yes", "no") | {"clean_image": "../images/0.png", "corrupt_image": "..\\images\\1.png"},
        row(1, "Is it?", "no", "yes")
        | {"clean_image": str(folder / "images/2.png"), "corrupt_image": "../images%2F3.png"},
    ]
    prepared = prepare(folder / "tables", *rows)
    shown = {row.clean_image.split("/")[-1]: row.corrupt_image.split("/")[-1] for row in prepared.pairs.itertuples()}
    assert shown == {"0.png": "1.png", "2.png": "3.png"}
    assert not any(".." in path for path in prepared.pairs["clean_image"])
    assert [path.name for path in (folder / "tables").iterdir()] == ["mine.csv"], "something was written"


def test_options_are_whole_words():
    assert not options_stand_in(
        {"clean_prompt": "Is the woman tall?", "correct_answer": "man", "incorrect_answer": "tall"}
    )


# Several images ------------------------------------------------------------


def test_cells_that_list_images_become_lists(folder):
    save(photograph(turn=9), folder / "mask.png")
    lists = {"clean_images": "images/0.png; images/1.png", "corrupt_images": "images/0.png;images/2.png"}
    two = (
        row(0, "Is it a cat?", "yes", "no")
        | {"clean_image": "", "corrupt_image": "", "clean_object_masks": "mask.png;"}
        | lists
    )
    one = row(3, "Is it a cat?", "no", "yes") | dict.fromkeys([*lists, "clean_object_masks"], "")
    pairs = prepare(folder, two, one).pairs.sort_values("clean_image").reset_index(drop=True)
    listed = pairs["clean_images"].notna()
    assert listed.sum() == 1
    pair = pairs[listed].iloc[0]
    assert [path.rsplit("/", 1)[1] for path in pair["clean_images"]] == ["0.png", "1.png"]
    assert [path.rsplit("/", 1)[1] for path in pair["corrupt_images"]] == ["0.png", "2.png"]
    assert (pair["clean_image"], pair["corrupt_image"]) == (pair["clean_images"][1], pair["corrupt_images"][1])
    assert pair["clean_object_masks"][0].endswith("mask.png") and pair["clean_object_masks"][1] is None


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ({"clean_images": "images/0.png; images/1.png", "corrupt_images": "images/0.png"}, "as many in both"),
        ({"clean_images": "images/0.png; images/1.png", "corrupt_images": ""}, "as many in both"),
        ({"clean_images": "images/0.png; gone.png", "corrupt_images": "images/1.png; images/2.png"}, "is missing"),
        (
            {"clean_images": "images/4.png; images/5.png", "corrupt_images": "images/4.png; images/3.png"},
            "is not image 2",
        ),
    ],
    ids=["fewer", "none", "missing", "another image"],
)
def test_lists_that_cannot_be_used_have_a_reason(folder, lists, said):
    prepared = prepare(
        folder,
        row(0, "Is it a cat?", "yes", "no") | lists,
        row(3, "Is it a cat?", "no", "yes") | dict.fromkeys(lists, ""),
    )
    assert len(prepared.pairs) == 1 and said in prepared.set_aside["reason"].iloc[0]


def test_a_semicolon_behind_the_last_image_changes_nothing(folder):
    lists = {"clean_images": "images/0.png; images/1.png;", "corrupt_images": "images/0.png;images/2.png; ;"}
    no_singles = {"clean_image": "", "corrupt_image": ""}
    pairs = prepare(folder, row(0, "Is it a cat?", "yes", "no") | no_singles | lists).pairs
    assert [len(pairs[name].iloc[0]) for name in lists] == [2, 2]


def test_an_empty_place_between_images_has_a_reason(folder):
    lists = {"clean_images": "images/0.png;; images/1.png", "corrupt_images": "images/0.png;;images/2.png"}
    prepared = prepare(
        folder,
        row(0, "Is it a cat?", "yes", "no") | lists,
        row(3, "Is it a cat?", "no", "yes") | dict.fromkeys(lists, ""),
    )
    assert "clean_images lists 3 images, of which one is empty" in prepared.set_aside["reason"].iloc[0]


@pytest.mark.parametrize(
    ("left_out", "added"),
    [
        (["clean_image", "corrupt_image"], {"clean_images": "images/0.png", "corrupt_images": "images/1.png"}),
        (["clean_image"], {"clean_images": "images/0.png;"}),
        (["corrupt_image"], {"corrupt_images": "images/1.png"}),
        ([], {"clean_images": "images/0.png"}),
    ],
    ids=["lists alone", "the clean list", "the corrupt list", "one list beside"],
)
def test_single_images_and_lists_stand_for_each_other(folder, left_out, added):
    told = {name: value for name, value in row(0, "Is it?", "yes", "no").items() if name not in left_out} | added
    pd.DataFrame([told]).to_csv(folder / "mine.csv", index=False)
    for root in (folder / "mine.csv", folder):
        (pair,) = vt.load_pairs("csv", root=root).to_dict("records")
        assert (pair["clean_image"][-5:], pair["corrupt_image"][-5:]) == ("0.png", "1.png")
        assert not {"clean_images", "corrupt_images"} & pair.keys(), "one image is no list of several"


# Masks, equal images, images without a row ------------------------------------------------------------


def test_a_mask_that_cannot_be_used_sets_its_pair_aside(folder):
    save(Image.new("L", (3, 3), 255), folder / "small.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    save(Image.new("L", open_image(folder / "images/3.png").size, 255), folder / "right.png")
    asked = ("Is it a cat?", "yes", "no")
    prepared = prepare(
        folder,
        row(0, *asked, clean_object_mask="gone.png"),
        row(1, *asked, clean_object_mask="small.png"),
        row(2, *asked, clean_distractor_mask="broken.png"),
        row(3, *asked, clean_object_mask="right.png"),
    )
    assert prepared.pairs["clean_object_mask"].tolist() == [str(folder / "right.png")]
    reasons = prepared.set_aside.set_index("row")["reason"]
    assert reasons["row 2"] == "clean_object_mask: the mask file is missing"
    assert "is 3 × 3 pixels and its image" in reasons["row 3"]
    assert reasons["row 4"].startswith("clean_distractor_mask: the mask cannot be read")


def test_the_one_mask_of_one_image_may_stand_in_the_list(folder):
    save(Image.new("L", open_image(folder / "images/0.png").size, 255), folder / "mask.png")
    pairs = prepare(folder, row(0, "Is it?", "yes", "no", clean_object_masks="mask.png;")).pairs
    assert pairs["clean_object_mask"].tolist() == [str(folder / "mask.png")] and "clean_object_masks" not in pairs


def test_a_row_of_which_nothing_is_corrupted_is_set_aside(folder):
    open_image(folder / "images/0.png").save(folder / "images/copy.bmp")
    same = {"corrupt_image": "images/copy.bmp"}
    prepared = prepare(
        folder,
        row(0, "Is it a cat?", "yes", "no") | same,
        row(0, corrupt_prompt="Is it a cow or a pig?") | same,  # can still be run under text corruption
    )
    assert prepared.pairs["correct_answer"].tolist() == ["cat"]
    assert prepared.set_aside["reason"].tolist() == [
        "both images are the same, and so are both prompts: nothing is corrupted"
    ]


def test_images_that_no_row_names_are_accounted_for(folder):
    save(photograph(turn=7), folder / "elsewhere" / "0.png")
    (folder / "images" / ".hidden.png").write_bytes(b"")
    (folder / "images" / "link.png").symlink_to(folder / "images" / "0.png")
    pd.DataFrame([row(0, "Is it?", "yes", "no"), row(1, "Is it?", "", "no")]).to_csv(folder / "mine.csv", index=False)
    prepared = vt.prepare_pairs("csv", root=folder / "mine.csv")
    first = prepared.filters.iloc[0]
    assert (first["step"], first["unit"], first["rows_in"], first["rows_used"]) == (NAMED_BY_ROW, "images", 6, 3)
    unnamed = prepared.set_aside[prepared.set_aside["step"] == NAMED_BY_ROW]
    assert unnamed["row"].tolist() == ["images/3.png", "images/4.png", "images/5.png"]
    with pytest.raises(vt.VlmtraceError, match=r"has no complete row \(correct_answer is empty \(1\)\)"):
        prepare(folder, row(1, "Is it?", "", "no"))


@pytest.mark.parametrize("cell", ["images/0.png|images/1.png", "['images/0.png']", "images/0.png;images/1.png"])
def test_a_list_written_otherwise_is_told_how(folder, cell):
    prepared = prepare(folder, row(0, "Is it?", "yes", "no") | {"clean_image": cell}, row(1, "Is it?", "no", "yes"))
    (reason,) = prepared.set_aside["reason"]
    assert reason.startswith("clean_image: the image file is missing (several are listed in clean_images"), reason
