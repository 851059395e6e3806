"""Every file below a folder of images is an image or has a reason, whatever it is."""

import os

import pytest
from fixtures.raw_data import photograph, save

from vlmtrace.core import images
from vlmtrace.tasks.building import image_files as module
from vlmtrace.tasks.building.image_files import as_text, files_below, image_endings, image_files

PILLOW_READS = (
    "jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff ppm pgm pbm pnm jp2 j2k avif qoi tga ico mpo".split()
)


def reasons(folder, **options):
    return {as_text(found.path.relative_to(folder)): found.problem for found in files_below(folder, **options)}


@pytest.mark.parametrize("ending", [*PILLOW_READS, "heic", "heif", "JPG", "HEIC"])
def test_an_image_is_known_by_its_ending(tmp_path, ending):
    (tmp_path / f"a.{ending}").touch()
    assert [path.name for path in image_files(tmp_path)] == [f"a.{ending}"]


def test_pages_and_drawings_are_no_images():
    assert not image_endings() & set(".pdf .eps .ps .wmf .emf .mpg .mpeg .h5 .hdf .grib .fits .txt".split())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.MOV", "it is a video"),
        ("a.mp4", "it is a video"),
        ("a.dng", "it is a camera's raw file, to be exported as JPEG"),
        ("a.svg", "it is a page or drawing, to be exported as PNG"),
        ("a.zip", "it is an archive, to be unpacked"),
        ("IMG 0001.AAE", "it is no image: its name ends in .aae"),
        ("Thumbs.db", "it is no image: its name ends in .db"),
        ("README", "it is no image: its name has no ending"),
    ],
)
def test_every_other_file_has_a_reason(tmp_path, name, reason):
    (tmp_path / name).touch()
    assert reasons(tmp_path) == {name: reason}


def test_what_is_hidden_is_left_out(tmp_path):
    for name in (".DS_Store", "._a.jpg", ".thumbs/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert reasons(tmp_path) == {}


def test_heic_is_set_aside_where_it_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "heic_is_read", lambda: False)
    (tmp_path / "a.heic").touch()
    assert reasons(tmp_path) == {"a.heic": images.NEEDS_HEIF}
    assert "pip install pillow-heif" in images.NEEDS_HEIF


def test_links_are_followed_and_every_dead_one_is_named(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    save(photograph(), outside / "photos" / "1.jpg")
    save(photograph(), root / "cat" / "0.jpg")
    (root / "cat" / "linked.jpg").symlink_to(outside / "photos" / "1.jpg")
    (root / "cat" / "dead.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "cat" / "self.jpg").symlink_to("self.jpg")
    (root / "cat" / "dead folder").symlink_to(tmp_path / "nowhere")
    (root / "dog").symlink_to(outside / "photos")
    (root / "dog2").symlink_to(outside / "photos")
    (root / "cat" / "up").symlink_to(root)
    os.mkfifo(root / "cat" / "pipe.jpg")
    counted = "it is a link to a folder that is counted where it lies"
    assert reasons(root) == {
        "cat/0.jpg": None,
        "cat/linked.jpg": None,
        "cat/dead.jpg": "it is a link that leads nowhere",
        "cat/self.jpg": "it is a link that leads nowhere",
        "cat/dead folder": "it is a link that leads nowhere",
        "cat/up": counted,
        "cat/pipe.jpg": "it is no file",
        "dog/1.jpg": None,
        "dog2": counted,
    }


def test_a_folder_counts_where_it_lies_and_not_where_it_is_linked(tmp_path):
    (tmp_path / "b" / "real").mkdir(parents=True)
    (tmp_path / "b" / "real" / "1.jpg").touch()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b" / "real")
    counted = "it is a link to a folder that is counted where it lies"
    assert reasons(tmp_path) == {"a/link": counted, "b/real/1.jpg": None}
    assert reasons(tmp_path, first=tmp_path / "a" / "link") == {"a/link/1.jpg": None}


def test_a_folder_that_cannot_be_read_has_a_row(tmp_path, monkeypatch):
    save(photograph(), tmp_path / "cat" / "0.jpg")
    (tmp_path / "closed").mkdir()

    def scandir(folder, scandir=os.scandir):
        if os.fspath(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert reasons(tmp_path) == {"cat/0.jpg": None, "closed": "the folder cannot be read: Permission denied"}


def test_names_in_any_encoding(tmp_path):
    for name in ("mit Blank.jpg", "Köter.jpg", "Ko\u0308ter.jpg", "猫.jpg", "zwei\nZeilen.jpg"):
        (tmp_path / name).touch()
    latin = os.fsencode(tmp_path) + b"/K\xf6ter.jpg"
    with open(latin, "wb"):
        pass
    (tmp_path / "link.jpg").symlink_to(os.fsdecode(latin))
    found = reasons(tmp_path)
    assert found.pop("K\\xf6ter.jpg") == found.pop("link.jpg") == "its path is not UTF-8: rename it"
    assert set(found.values()) == {None} and len(found) == 5


def test_folders_deeper_than_python_recurses(tmp_path):
    deep = tmp_path
    for _ in range(120):
        deep = deep / "a"
    deep.mkdir(parents=True)
    (deep / "1.jpg").touch()
    assert len(image_files(tmp_path)) == 1
