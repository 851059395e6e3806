"""SVO-Probes: irregular rows, grammatical questions, images from a folder or by URL."""

import re

import numpy as np
import pandas as pd
import pytest
from fixtures.image_server import image_server
from fixtures.pair_checks import check, count
from fixtures.raw_data import photograph, save, svo_row

import vlmtrace as vt
from vlmtrace.core import paths
from vlmtrace.tasks.download import images as download
from vlmtrace.tasks.svo_probes.grammar import Prepositions, Triplet, participle, preposition, question, singular
from vlmtrace.tasks.svo_probes.rows import SYNONYMS, Unusable, change, triplets, unfair


@pytest.fixture(autouse=True)
def raw_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RAW", tmp_path / "data-raw")
    monkeypatch.setenv("VLMTRACE_TEST_ALLOW_LOOPBACK", "1")
    monkeypatch.setattr(download, "Limits", lambda: LIMITS)


LIMITS = download.Limits(backoff=0.01, timeout=2, max_bytes=200_000)
GIRL = ("girl", "kick", "ball")


def write(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "svo_probes.csv", index=False)
    return folder


def prepare(folder, n=100, **options):
    return vt.prepare_pairs("svo_probes", n=n, root=folder, model=count, **options)


# Rows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("girl,kick,ball", [GIRL]),
        (" Girl , kick, tennis_ball", [("girl", "kick", "tennis ball")]),
        ("['girl,kick,ball']", [GIRL]),
        ("['girl,kick,ball', 'dog,run,']", [GIRL, ("dog", "run", "")]),
        ("[('girl', 'kick', 'ball')]", [GIRL]),
        ("('girl', 'kick', 'ball')", [GIRL]),
        ("[['girl', 'kick', 'ball'], ['girl', 'kick', 'ball']]", [GIRL]),
        ("['girl,kick,ball', 'dog,run,park', 'cat,eat,fish']", [GIRL, ("dog", "run", "park"), ("cat", "eat", "fish")]),
    ],
)
def test_triplets_are_read_in_every_form(text, expected):
    assert triplets(text) == [Triplet(*triplet) for triplet in expected]


@pytest.mark.parametrize(
    "text", ["", "[]", "girl,kick", "girl,,ball", ",kick,ball", "[girl", "{'a': 1}", "[1, 2, 3]", "['a,b']"]
)
def test_what_is_no_triplet_is_said(text):
    with pytest.raises(Unusable):
        triplets(text)


def test_the_marked_change_is_found_among_several_triplets():
    row = svo_row(GIRL, ("girl", "hold", "ball"), "verb")
    row = {name: str(value) for name, value in row.items()}
    assert change(row).slot == "verb"
    several = row | {"pos_triplet": "['girl,wear,hat', 'girl,kick,ball']", "neg_triplet": "['girl,hold,ball']"}
    assert change(several).positive == GIRL
    for wrong, reason in (
        ({"subj_neg": "True"}, "2 parts of the triplet are marked"),
        ({"verb_neg": "False"}, "0 parts"),
        ({"neg_triplet": "boy,hold,ball"}, "no two triplets differ in the verb alone"),
        ({"neg_triplet": "['girl,hold,ball', 'girl,push,ball']"}, "2 pairs of triplets"),
        ({"neg_triplet": ""}, "a triplet is empty"),
    ):
        with pytest.raises(Unusable, match=reason):
            change(row | wrong)


@pytest.mark.parametrize(
    ("slot", "options", "fair"),
    [
        ("subject", ("person", "dog"), True),
        ("subject", ("person", "surfer"), False),
        ("subject", ("woman", "person"), False),
        ("object", ("person", "snowboarder"), False),
        ("subject", ("person", "fire truck"), True),
        ("subject", ("child", "girl"), False),
        ("object", ("sofa", "couch"), False),
        ("verb", ("walking", "running"), True),
        ("verb", ("holding", "carrying"), False),
        ("object", ("ball", "ball"), False),
    ],
)
def test_options_must_exclude_each_other(slot, options, fair):
    assert (unfair(slot, options) is None) == fair


# Grammar


@pytest.mark.parametrize(
    ("sentence", "triplet", "expected"),
    [
        ("A girl sits on a bench.", ("girl", "sit", "bench"), "on"),
        ("The dogs are running through the tall grass", ("dog", "run", "grass"), "through"),
        ("A man looks out of the window", ("man", "look", "window"), "out of"),
        ("A boy is kicking a red ball", ("boy", "kick", "ball"), ""),
        ("A boy sat with a dog on the beach", ("boy", "sit", "beach"), "on"),
        ("A ball lies here", ("boy", "kick", "ball"), None),
    ],
)
def test_the_preposition_is_that_of_the_sentence(sentence, triplet, expected):
    assert preposition(sentence, Triplet(*triplet)) == expected


@pytest.mark.parametrize(
    ("slot", "triplet", "options", "leads", "expected"),
    [
        ("subject", "girl kick ball", "girl dog", [""], "Is the girl or the dog kicking the ball?"),
        ("object", "girl kick ball", "ball box", [""], "Is the girl kicking the ball or the box?"),
        ("verb", "girl kick ball", "kicking holding", ["", ""], "Is the girl kicking or holding the ball?"),
        ("subject", "children sit grass", "child dog", ["in"], "Is the child or the dog sitting in the grass?"),
        ("verb", "man lie bed", "lying sitting", ["in", "in"], "Is the man lying or sitting in the bed?"),
        ("verb", "man sit road", "sitting crossing", ["on", ""], "Is the man sitting on or crossing the road?"),
        ("verb", "man run ", "running dying", ["", ""], "Is the man running or dying?"),
        ("subject", "man swim ", "man dog", [""], "Is the man or the dog swimming?"),
    ],
)
def test_questions_are_grammatical(slot, triplet, options, leads, expected):
    triplet, options = Triplet(*triplet.split(" ")), tuple(options.split())
    named = options if slot == "verb" else (triplet.verb,)
    assert question(slot, triplet, options, dict(zip(named, leads, strict=True))) == expected


def test_words_are_inflected():
    assert [participle(verb) for verb in ("run", "lie", "take", "see", "sits", "swim", "look at")] == (
        ["running", "lying", "taking", "seeing", "sitting", "swimming", "looking at"]
    )
    assert [singular(noun) for noun in ("women", "people", "buses", "bus", "grass", "fire fighters")] == (
        ["woman", "person", "bus", "bus", "grass", "fire fighter"]
    )


def test_the_commonest_preposition_is_learned():
    learned = Prepositions(
        [
            ("a girl sits on a bench", Triplet("girl", "sit", "bench")),
            ("a man sits on a bench", Triplet("man", "sit", "bench")),
            ("a man sits at a table", Triplet("man", "sit", "table")),
        ]
    )
    assert (learned.of("sit", "table"), learned.of("sit", "road"), learned.of("run", "road", "along")) == (
        "at",
        "on",
        "along",
    )


# Pairs


@pytest.fixture(scope="module")
def rows():
    """Rows of which some are usable, and one of every irregularity."""
    generator = np.random.default_rng(0)
    subjects, verbs, objects = (
        ("girl", "cat", "dog", "horse", "robot", "man"),
        "kick hold lift watch push".split(),
        ("ball box kite cup guitar".split()),
    )
    found = []
    for i in range(30):
        slot = ("subject", "verb", "object")[i % 3]
        positive = [str(generator.choice(words)) for words in (subjects, verbs, objects)]
        negative = list(positive)
        place, words = {"subject": (0, subjects), "verb": (1, verbs), "object": (2, objects)}[slot]
        negative[place] = str(generator.choice([word for word in words if word != positive[place]]))
        found.append(svo_row(tuple(positive), tuple(negative), slot, i, base="IMAGES/good/"))
    odd = [
        svo_row(GIRL, ("person", "kick", "ball"), "subject", 100),
        svo_row(GIRL, ("dog", "kick", "box"), "subject", 101),
        svo_row(GIRL, ("dog", "kick", "ball"), "subject", 102, verb_neg=True),
        svo_row(GIRL, ("dog", "kick", "ball"), "subject", 103, neg_triplet=""),
        svo_row(GIRL, ("dog", "kick", "ball"), "subject", 104, pos_triplet="[]"),
        svo_row(GIRL, ("dog", "kick", "ball"), "subject", 105, pos_image_id=""),
        svo_row(GIRL, ("dog", "kick", "ball"), "subject", 106, pos_triplet="['girl,kick"),
    ]
    return found + odd


def served(rows, base):
    return [{name: str(value).replace("IMAGES/", base) for name, value in row.items()} for row in rows]


def test_every_row_is_used_both_ways_or_set_aside(rows, tmp_path):
    with image_server() as server:
        table = served(rows, server.base)
        for i, kind in enumerate(("missing", "page", "truncated", "dropped")):
            table[i]["pos_url"] = f"{server.base}{kind}/{i}"
        table[4]["neg_url"] = table[4]["pos_url"]
        table[5]["pos_url"] = ""
        folder = write(tmp_path / "raw", table)
        prepared = prepare(folder)
        check(prepared, synonyms=SYNONYMS)
        assert list(folder.iterdir()) == [folder / "svo_probes.csv"], "something was written into the raw data"
        assert prepared.filters.set_index("step").loc["in both directions", "rows_in"] == 60
        assert len(prepared.pairs) == 2 * 24
        reasons = prepared.set_aside["reason"]
        for said, n in (
            ("'person' stands against a kind of person", 1),
            ("no two triplets differ in the subject alone", 1),
            ("2 parts of the triplet are marked as changed, not one", 1),
            ("a triplet is empty", 2),
            ("is no Python literal", 1),
            ("pos_image_id is empty", 1),
            ("the server answers 404", 2),
            ("a page instead of an image", 2),
            ("is truncated", 2),
            ("broke off", 2),
            ("both images are the same picture", 2),
            ("there is no file of it, and no URL", 2),
        ):
            assert reasons.str.contains(said, regex=False).sum() == n, said

        server.asked.clear()
        again = prepare(folder)
        pd.testing.assert_frame_equal(again.pairs, prepared.pairs)
        assert not [path for path in server.asked if path.startswith("/good")]


def test_directions_are_opposite(rows, tmp_path):
    with image_server() as server:
        pairs = prepare(write(tmp_path / "raw", served(rows, server.base))).pairs
    both = pairs.merge(pairs, left_on=["clean_image", "corrupt_image"], right_on=["corrupt_image", "clean_image"])
    assert len(both) == len(pairs) == 60
    assert (both["correct_answer_x"] == both["incorrect_answer_y"]).all()
    assert (both["unit_x"] == both["unit_y"]).all(), "a pair and its mirror image are one unit"


def test_only_what_is_needed_is_downloaded(rows, tmp_path):
    with image_server() as server:
        pairs = prepare(write(tmp_path / "raw", served(rows, server.base)), n=3).pairs
        assert len(pairs) == 3 and sum(server.asked.values()) < 60
    assert pairs["clean_image"].str.contains("data-raw/svo_probes/images").all()


def test_a_folder_of_images_needs_no_connection(rows, tmp_path):
    folder = write(tmp_path / "raw", served(rows[:12], "http://127.0.0.1:1/"))
    for i in range(24):
        save(photograph("chelsea.png", turn=i + 1), folder / "pictures" / f"{i}.jpg")
    pairs = prepare(folder).pairs
    assert len(pairs) == 24 and pairs["clean_image"].str.contains("raw/pictures/").all()


def test_no_connection_is_said_at_once(rows, tmp_path):
    table = served(rows, "http://127.0.0.1:1/")
    with pytest.raises(vt.VlmtraceError, match=r"None of \d+ images of svo_probes can be reached .*put images"):
        prepare(write(tmp_path / "raw", table))


def test_a_column_that_is_missing_is_named(rows, tmp_path):
    table = pd.DataFrame(rows).drop(columns="neg_url")
    table.to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(vt.VlmtraceError, match="has no column 'neg_url'"):
        vt.load_pairs("svo_probes", root=tmp_path / "mine.csv")
    with pytest.raises(vt.VlmtraceError, match="holds no CSV with the columns sentence"):
        vt.load_pairs("svo_probes", root=tmp_path)


def test_images_beside_the_csv_are_those_that_the_ids_name(rows, tmp_path):
    """Thumbnails and masks of the same ids do not win, ids may be fractions, and two files of one id are refused."""
    table = [row | {side: f"{row[side]}.0" for side in ("pos_image_id", "neg_image_id")} for row in rows[:6]]
    folder = write(tmp_path / "raw", served(table, "http://127.0.0.1:1/"))
    for i in range(12):
        save(photograph("chelsea.png", turn=i + 1), folder / "pictures" / f"{i:03d}.jpg")
        save(photograph("chelsea.png", turn=i + 1).resize((20, 20)), folder / "thumbs" / f"{i}.jpg")
        save(photograph("coffee.png", turn=i + 1), folder / "segmentation" / f"{i}.png")
    save(photograph("coffee.png", turn=99), folder / "others" / "003.jpg")
    save(photograph("coffee.png", turn=99), folder / "pictures" / "10042.jpg")
    prepared = prepare(folder)
    assert len(prepared.pairs) == 10 and prepared.pairs["clean_image"].str.contains("raw/pictures/").all()
    (reason,) = set(prepared.set_aside["reason"])
    assert re.search(r"'3' may be \w+/003.jpg or \w+/003.jpg, which differ: write the path", reason), reason
    assert list(folder.glob("**/*.part*")) == [] and not (tmp_path / "data-raw").exists(), "something was downloaded"
