"""A file is the one that is named: exact path, then whole name, then number; never another one of a like name."""

import unicodedata

import pytest
from fixtures.raw_data import save
from PIL import Image

from vlmtrace.tasks.building import named_files
from vlmtrace.tasks.building.named_files import NamedImages, NoFile, exact_file


def place(root, *names):
    """Images of unlike content under these paths, by which they can be told apart."""
    for i, name in enumerate(names):
        save(Image.new("RGB", (4, 4), (i * 60 % 256, 100, 200)), root / name)
    return NamedImages(root)


def found(images, name):
    return images.find(name).relative_to(images.folder).as_posix()


@pytest.mark.parametrize(
    ("files", "name", "expected"),
    [
        (("train/1.png", "val/1.png"), "train/1.png", "train/1.png"),
        (("train/1.png", "val/1.png"), "val/1", "val/1.png"),
        (("images/train/1.png", "images/val/1.png"), "val/1.png", "images/val/1.png"),
        (("1.png", "a/1.png"), "1.png", "1.png"),
        (("1.png", "a/1.png"), "1", "1.png"),
        (("images/139.jpg", "segmentation/139.png", "thumbs/139.jpg", "depth/139.png"), "139", "images/139.jpg"),
        (("images/139.jpg", "masks/139.jpg"), "139.jpg", "images/139.jpg"),
        (("images/139.jpg", "masks/139.jpg"), "masks/139.jpg", "masks/139.jpg"),
        (("val2014/COCO_val2014_000000000139.jpg", "crop_139.jpg", "a/thumb-139.png"), "139",
         "val2014/COCO_val2014_000000000139.jpg"),
        (("000000000139.jpg", "000000001139.jpg"), "139", "000000000139.jpg"),
        (("000000000139.jpg",), "000139", "000000000139.jpg"),
        (("10.jpg", "110.jpg"), "10.0", "10.jpg"),
        (("10.jpg",), " 10 ", "10.jpg"),
        (("a.b.jpg", "a.jpg"), "a.b", "a.b.jpg"),
        (("a b/ü.png",), "a%20b/%C3%BC.png", "a b/ü.png"),
        (("images/1.png",), "images\\1.png", "images/1.png"),
        (("images/1.png",), "images%2F1.png", "images/1.png"),
        (("50%.png",), "50%.png", "50%.png"),
        (("café.png",), unicodedata.normalize("NFD", "café.png"), "café.png"),
        (("masked faces.png",), "masked faces", "masked faces.png"),
    ],
)  # fmt: skip
def test_the_file_is_the_one_that_is_named(tmp_path, files, name, expected):
    assert found(place(tmp_path, *files), name) == expected


@pytest.mark.parametrize(
    ("files", "name", "said"),
    [
        (("train/1.png", "val/1.png"), "1.png", ["train/1.png", "val/1.png"]),
        (("1.png", "1.jpg"), "1", ["1.jpg", "1.png"]),
        (
            ("a/COCO_val2014_000000000139.jpg", "b/000139.jpg"),
            "139",
            ["a/COCO_val2014_000000000139.jpg", "b/000139.jpg"],
        ),
    ],
)
def test_several_files_of_one_name_are_refused_with_both(tmp_path, files, name, said):
    with pytest.raises(NoFile, match="which differ: write the path of the one that is meant") as refusal:
        place(tmp_path, *files).find(name)
    assert refusal.value.ambiguous and all(one in str(refusal.value) for one in said), refusal.value


@pytest.mark.parametrize(
    ("files", "name", "reason"),
    [
        (("val/1.png",), "train/1.png", r"there is no image 'train/1.png' \(val/1.png is not what this names"),
        (("masks/139.png",), "139", r"there is no image '139' \(masks/139.png is not what this names"),
        (("crop_139.jpg",), "139", r"there is no image '139' \(crop_139.jpg is not what this names"),
        (("1139.jpg",), "139", r"there is no image '139'$"),
        (("a.jpg",), "", "there is no image ''"),
        (("a.jpg",), "x" * 5000, "there is no image"),
        (("a.jpg",), "a\0.jpg", "there is no image"),
        (("a.jpg",), "https://example.org/a.jpg", "is no file of this machine: save the image"),
    ],
)
def test_no_other_file_is_shown_instead(tmp_path, files, name, reason):
    with pytest.raises(NoFile, match=reason):
        place(tmp_path, *files).find(name)


def test_a_file_whose_path_is_no_text_is_not_taken(tmp_path):
    place(tmp_path, "a.png")
    (tmp_path / "a.png").rename(tmp_path / "7\udcff.png")
    (tmp_path / "x\udcff").mkdir()
    (tmp_path / "7\udcff.png").rename(tmp_path / "x\udcff" / "7.png")
    with pytest.raises(NoFile, match="there is no image '7'"):
        NamedImages(tmp_path).find("7")


def test_copies_are_one_file(tmp_path):
    images = place(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "b/1.png").write_bytes((tmp_path / "a/1.png").read_bytes())
    assert found(images, "1.png") == "a/1.png"


def test_images_may_lie_in_folders_of_images_beside_the_table(tmp_path):
    """COCO-QA's test/ beside val2014/, CLEVR's questions/ beside images/; no other folder above is searched."""
    for name in ("val2014/COCO_val2014_000000000139.jpg", "images/val/CLEVR_val_000001.png", "notes/7.png", "8.png"):
        save(Image.new("RGB", (4, 4)), tmp_path / name)
    (tmp_path / "test").mkdir()
    images = NamedImages(tmp_path / "test")
    assert images.find("139").name == "COCO_val2014_000000000139.jpg"
    assert images.find("CLEVR_val_000001.png").parent.name == "val"
    assert images.find("notes/7.png") == tmp_path / "notes" / "7.png", "a path from the archive's root is exact"
    with pytest.raises(NoFile):
        images.find("7")
    assert NamedImages(tmp_path / "test", tmp_path).find("7") == tmp_path / "notes" / "7.png", "all of the root counts"
    (tmp_path / "mine").mkdir()
    with pytest.raises(NoFile):
        NamedImages(tmp_path / "mine").find("139")


@pytest.mark.parametrize("name", ["../images/1.png", "data/1.png", "..\\images\\1.png", "FILE", "file://FILE", "ABOVE"])
def test_a_path_may_lead_anywhere_that_can_be_read(tmp_path, name):
    """A table names images above its own folder, as people write it; nothing is written there."""
    save(Image.new("RGB", (4, 4)), tmp_path / "images" / "1.png")
    save(Image.new("RGB", (4, 4)), tmp_path / "data" / "1.png")
    absolute = str(tmp_path / "images" / "1.png")
    name = name.replace("FILE", absolute).replace("ABOVE", str(tmp_path / "data" / ".." / "images" / "1.png"))
    path = exact_file(tmp_path / "data", name)
    assert path is not None and path.resolve() in {tmp_path / "images" / "1.png", tmp_path / "data" / "1.png"}


@pytest.mark.parametrize(
    "name", ["/dev/zero", "/", ".", "", "..", "1.png/..", "1.png\0", "~", "a" * 300, "\\\\host\\share\\1.png"]
)
def test_what_is_no_file_is_none(tmp_path, name):
    save(Image.new("RGB", (4, 4)), tmp_path / "1.png")
    assert exact_file(tmp_path, name) is None


def test_each_name_is_looked_up_once(tmp_path, monkeypatch):
    """A folder is listed once and a name looked up once, however often a table says it."""
    listed, asked = [], []
    original, listing = named_files._Files.named, named_files.image_files
    monkeypatch.setattr(named_files._Files, "named", lambda files, name: asked.append(name) or original(files, name))
    monkeypatch.setattr(named_files, "image_files", lambda folder: listed.append(folder) or listing(folder))
    images = place(tmp_path, *(f"{i % 10}/{i:05d}.png" for i in range(60)))
    for _ in range(3):
        for i in range(60):
            assert images.find(f"{i:05d}.png").name == f"{i:05d}.png"
    assert listed == [tmp_path] and len(asked) == 60
