"""Questions in published layouts as they unpack."""

import json

import pytest
from fixtures.raw_data import photograph, save

import vlmtrace as vt

ASKED = [
    {"image_filename": f"CLEVR_val_{i:06d}.png", "question": "Is it red?", "answer": "no" if i else "yes"}
    for i in range(3)
]


def clevr(root, *splits, beside=True):
    for split in splits:
        for i, record in enumerate(ASKED):
            name = record["image_filename"].replace("val", split)
            if beside:
                save(photograph("coffee.png", turn=i + 1), root / "images" / split / name)
        records = [
            {**one, "image_filename": one["image_filename"].replace("val", split), "program": []} for one in ASKED
        ]
        content = {"info": {"split": split}, "questions": records}
        (root / "questions").mkdir(parents=True, exist_ok=True)
        (root / "questions" / f"CLEVR_{split}_questions.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("root", [".", "questions", "questions/CLEVR_val_questions.json"])
def test_clevr_as_it_unpacks(tmp_path, root):
    table = vt.load_questions("clevr", root=clevr(tmp_path, "val") / root)
    assert len(table) == 3 and table["image"].str.contains("/images/val/CLEVR_val_").all()


def test_the_split_says_which_of_several_files(tmp_path):
    clevr(tmp_path, "val", "train", "test")
    for split, name in ((None, "/val/"), ("val", "/val/"), ("train", "/train/")):
        assert vt.load_questions("clevr", root=tmp_path, split=split)["image"].str.contains(name).all()
    with pytest.raises(vt.VlmtraceError, match="The task clevr has no split 'test': choose one of val, train"):
        vt.load_questions("clevr", root=tmp_path, split="test")
    (tmp_path / "questions" / "CLEVR_val_questions.json").unlink()
    with pytest.raises(vt.VlmtraceError, match=r"no questions of the split 'val' for clevr, but test, train: name one"):
        vt.load_questions("clevr", root=tmp_path)
    (tmp_path / "questions" / "mine.json").write_text(json.dumps(ASKED))
    (tmp_path / "questions" / "yours.json").write_text(json.dumps(ASKED))
    with pytest.raises(vt.VlmtraceError, match=r"several tables for clevr \(questions/mine.json, .*yours"):
        vt.load_questions("clevr", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("q.json", lambda records: b"\xef\xbb\xbf" + json.dumps({"questions": records}).encode()),
        ("q.json", lambda records: json.dumps({"questions": records}).encode("utf-16")),
        ("q.json", lambda records: json.dumps(records).encode()),
        ("q.jsonl", lambda records: "\n".join(map(json.dumps, records)).encode() + b"\n"),
        ("q.json", lambda records: "\n".join(map(json.dumps, records)).encode()),
    ],
    ids=["BOM", "UTF-16", "list", "lines", "lines called json"],
)
def test_json_of_every_kind(tmp_path, name, write):
    for i, record in enumerate(ASKED):
        save(photograph("coffee.png", turn=i + 1), tmp_path / record["image_filename"])
    (tmp_path / name).write_bytes(write(ASKED))
    for root in (tmp_path, tmp_path / name):
        assert len(vt.load_questions("clevr", root=root)) == 3


def test_one_record_in_a_file_of_lines(tmp_path):
    save(photograph(), tmp_path / "CLEVR_val_000000.png")
    (tmp_path / "q.jsonl").write_text(json.dumps(ASKED[0]) + "\n")
    assert len(vt.load_questions("clevr", root=tmp_path)) == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[1, 2]", "holds no list of questions"),
        (b"{}", "holds no list of questions"),
        (b'{"questions": []}', "holds no list of questions"),
        (b"[" * 100_000, "is no readable JSON"),
        (b'[{"question": "why"', "is no readable JSON"),
        (b'[{"question": "why", "image": "a"}]', "has no column 'answer'"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b'{"questions": [{"image_id": 1, "question": "why", "question_id": 2}]}',
         "holds no answers: they are published in another file, of annotations"),
        (b'{"annotations": [{"image_id": 1, "multiple_choice_answer": "why", "question_id": 2}]}',
         "holds no questions: they are published in another file, of questions"),
        (json.dumps(ASKED).encode(), r"has its image \(there is no image 'CLEVR_val_000000.png'; 0 images lie in"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_questions_is_one_sentence(tmp_path, content, sentence):
    (tmp_path / "q.json").write_bytes(content)
    with pytest.raises(vt.VlmtraceError, match=sentence):
        vt.load_questions("clevr", root=tmp_path / "q.json")


def test_records_that_cannot_be_used_have_reasons(tmp_path):
    save(photograph(), tmp_path / "1.png")
    good = {"image": "1.png", "question": "what color is it", "answer": "red"}
    records = [
        good, {**good, "answer": None}, {**good, "answer": ["red"]}, {**good, "question": "what \ud800 color"},
        {"image": "1.png"}, {**good, "question": "what color is that", "answer": "blue"},
        {**good, "answer": float("nan"), "\ud800": 1},
    ]  # fmt: skip
    (tmp_path / "q.json").write_text(json.dumps(records))
    prepared = vt.load_questions("coco_qa", root=tmp_path)
    assert sorted(prepared["answer"]) == ["blue", "red"]
    with pytest.raises(vt.VlmtraceError, match="has no two labels"):
        vt.prepare_pairs("coco_qa", root=tmp_path)
    from vlmtrace.tasks import coco_qa
    from vlmtrace.tasks.declaration import Request

    request = Request("coco_qa", 5, 0, tmp_path)
    coco_qa.make_questions(request)
    aside = request.filters.set_aside().set_index("row")["reason"].to_dict()
    assert aside == {
        "question 2": "answer is empty",
        "question 3": "answer is no text but a list",
        "question 4": "question holds a character that no file can hold: write it anew",
        "question 5": "question is empty",
        "question 7": "answer is empty",
    }


def test_questions_and_answers_of_vqa_belong_together_by_their_id(tmp_path):
    """In another order, and beside the files of another split."""
    for i in (139, 140):
        save(photograph(turn=i), tmp_path / "val2014" / f"COCO_val2014_{i:012d}.jpg")
    asked = [{"image_id": i, "question": "What color is it?", "question_id": i * 10} for i in (139, 140)]
    told = [{"image_id": i, "question_id": i * 10, "multiple_choice_answer": answer, "answers": [{"answer": answer}]}
            for i, answer in ((140, "blue"), (139, "red"))]  # fmt: skip
    wrong = [{"image_id": 5, "question_id": 7, "multiple_choice_answer": "green"}]
    questions = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    questions.write_text(json.dumps({"data_subtype": "val2014", "questions": asked}))
    (tmp_path / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({"annotations": wrong}))
    annotations = tmp_path / "v2_mscoco_val2014_annotations.json"
    annotations.write_text(json.dumps({"annotations": told}))
    for root in (tmp_path, questions, annotations):
        table = vt.load_questions("coco_qa", root=root)
        shown = {row.image.split("_")[-1]: row.answer for row in table.itertuples()}
        assert shown == {"000000000139.jpg": "red", "000000000140.jpg": "blue"}


def coco_qa_files(folder, *, questions=("what is the color of it", "what is the color of it"), end="\n"):
    folder.mkdir(parents=True)
    for name, lines in (
        ("img_ids", ("139", "140")),
        ("questions", questions),
        ("answers", ("red", "blue")),
        ("types", "22"),
    ):
        (folder / f"{name}.txt").write_bytes(end.join([*lines, ""]).encode())


def test_coco_qa_as_it_unpacks(tmp_path):
    for i in (139, 140):
        save(photograph(turn=i), tmp_path / "val2014" / f"COCO_val2014_{i:012d}.jpg")
    coco_qa_files(tmp_path / "test", end="\r\n")
    coco_qa_files(tmp_path / "train", questions=("where is the color of it",) * 2)
    assert set(vt.load_questions("coco_qa", root=tmp_path)["prompt"]) == {"What is the color of it?"}
    assert set(vt.load_questions("coco_qa", root=tmp_path, split="train")["prompt"]) == {"Where is the color of it?"}
    assert len(vt.load_questions("coco_qa", root=tmp_path / "test")) == 2, "images lie one folder up"


def test_a_split_that_is_not_there_is_named(tmp_path):
    coco_qa_files(tmp_path / "train")
    with pytest.raises(vt.VlmtraceError, match="no questions of the split 'test' for coco_qa, but train: name one"):
        vt.load_questions("coco_qa", root=tmp_path)


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_only_a_line_feed_ends_a_line(tmp_path, separator):
    for i in (139, 140):
        save(photograph(turn=i), tmp_path / "images" / f"{i}.jpg")
    coco_qa_files(tmp_path / "test", questions=(f"what is the color{separator}of it", "what is the color of that"))
    assert len(vt.load_questions("coco_qa", root=tmp_path / "test")) == 2


def test_text_files_that_cannot_be_read_are_one_sentence(tmp_path):
    coco_qa_files(tmp_path / "q")
    (tmp_path / "q" / "answers.txt").write_bytes(b"caf\xe9\nblue\n")
    with pytest.raises(vt.VlmtraceError, match=r"answers.txt cannot be read .*save it as UTF-8"):
        vt.load_questions("coco_qa", root=tmp_path / "q")
    (tmp_path / "q" / "answers.txt").unlink()
    with pytest.raises(vt.VlmtraceError, match=r"lacks answers.txt beside questions.txt"):
        vt.load_questions("coco_qa", root=tmp_path / "q")


@pytest.mark.parametrize("content", ["5", "[]", '[{"caption": "a cat"}]'])
def test_json_without_questions_is_named(tmp_path, content):
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(vt.VlmtraceError, match=r"holds no questions for coco_qa: in q\.json there is no record with"):
        vt.load_questions("coco_qa", root=tmp_path)
