"""What an image becomes on its way to a model: what a viewer shows, and what transformers makes of the same file."""

import io
from pathlib import Path

import numpy as np
import pytest
from fixtures.drawn_images import drawing, exif, saved
from fixtures.families import THROUGHOUT
from fixtures.raw_data import photograph
from PIL import Image, ImageDraw
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import load_image

import vlmtrace as vt
from vlmtrace.core import images
from vlmtrace.core.images import open_image
from vlmtrace.models.families.idefics import without_num2words
from vlmtrace.models.processors import without_video
from vlmtrace.tasks.building.image_files import changed_share, image_problem

WHITE = (255, 255, 255)


def disc(mode, color, around):
    """A disc of one color, opaque; around it another color, hidden under full transparency."""
    image = Image.new(mode, (60, 60), around)
    ImageDraw.Draw(image).ellipse([10, 10, 50, 50], fill=color)
    return image


# Upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_an_image_is_turned_upright(tmp_path, kind, orientation):
    path = tmp_path / f"turned.{kind.lower()}"
    drawing().save(path, kind, exif=exif(orientation))
    opened, expected = open_image(path), load_image(str(path))
    assert opened.size == ((40, 80) if orientation > 4 else (80, 40))
    assert np.array_equal(opened, expected), f"{kind} with orientation {orientation} is not as transformers loads it"
    corner = {1: (5, 5), 2: (75, 5), 3: (75, 35), 4: (5, 35), 5: (5, 5), 6: (35, 5), 7: (35, 75), 8: (5, 75)}
    red, green, _ = opened.getpixel(corner[orientation])
    assert red > 150 > 80 > green, "the red square lies in another corner than a viewer shows it in"


def test_an_image_that_was_read_is_not_turned_again(tmp_path):
    drawing().save(tmp_path / "a.jpg", exif=exif(6))
    once = open_image(tmp_path / "a.jpg")
    assert np.array_equal(open_image(once), once) and open_image(once).size == (40, 80)
    with Image.open(tmp_path / "a.jpg") as lying:
        assert np.array_equal(open_image(lying), once), "an image that is passed in is not turned"
        assert lying.size == (80, 40), "the caller's image was changed"


def test_an_orientation_in_xmp_counts_and_broken_metadata_do_not(tmp_path):
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    drawing().save(tmp_path / "xmp.jpg", xmp=xmp)
    assert open_image(tmp_path / "xmp.jpg").size == (40, 80)
    drawing().save(tmp_path / "broken.jpg", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff\x00\x01")
    assert open_image(tmp_path / "broken.jpg").size == (80, 40)


# Opaque


def transparent():
    """Images with transparency of every kind, by name."""
    rgba = disc("RGBA", (30, 160, 30, 255), (255, 0, 255, 0))
    soft = rgba.copy()
    soft.putalpha(Image.linear_gradient("L").resize((60, 60)))
    palette = disc("P", 1, 0)
    palette.putpalette([255, 0, 255, 30, 160, 30])
    return {
        "RGBA": (rgba, {}),
        "half transparent": (soft, {}),
        "LA": (disc("LA", (0, 255), (90, 0)), {}),
        "P and one transparent color": (palette, {"transparency": 0}),
        "P and an alpha a color": (palette, {"transparency": bytes([0, 128])}),
        "RGB and a transparent color": (disc("RGB", (30, 160, 30), (255, 0, 255)), {"transparency": (255, 0, 255)}),
        "L and a transparent gray": (disc("L", 30, 90), {"transparency": 90}),
        "1 and a transparent black": (disc("1", 1, 0), {"transparency": 0}),
    }


@pytest.mark.parametrize("name", transparent())
def test_what_is_transparent_is_white(tmp_path, name):
    image, options = transparent()[name]
    image.save(tmp_path / "a.png", **options)
    opened = open_image(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as given:
        expected = convert_to_rgb(given, return_numpy=True)
        assert np.array_equal(open_image(given), opened)
    assert np.array_equal(opened, expected), "it is not what transformers' own processors make of it"
    if name != "half transparent":
        assert opened.getpixel((0, 0)) == WHITE, "a color that is hidden under transparency shows"


def test_images_in_memory_of_further_modes():
    source = disc("RGBA", (0, 0, 0, 255), (255, 0, 255, 0))
    for image in (source.convert("LA").convert("La"), source.convert("RGBa")):
        opened = open_image(image)
        assert opened.getpixel((0, 0)) == WHITE and opened.getpixel((30, 30)) == (0, 0, 0), image.mode
    palette_and_alpha = Image.frombytes("PA", (2, 1), bytes([0, 0, 0, 255]))
    assert np.asarray(open_image(palette_and_alpha))[0].tolist() == [[255] * 3, [0] * 3]


def test_a_black_icon_on_transparent_ground_is_not_blank(tmp_path):
    disc("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)).save(tmp_path / "icon.png")
    assert image_problem(tmp_path / "icon.png") is None
    assert vt.one_question(tmp_path / "icon.png", "What is this?")["sample_id"].tolist() == ["icon"]
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(tmp_path / "nothing.png")
    assert image_problem(tmp_path / "nothing.png") == "the image is blank: all of it has one color"


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "idefics3", "gemma3", "internvl", "blip2"])
def test_a_models_own_processor_gives_the_same_pixels(tmp_path, family):
    """A photograph that was taken sideways through transformers' loader; a transparent drawing as it is."""
    with without_video(), without_num2words():
        picture = THROUGHOUT[family]()[1].image_processor
    photograph().save(tmp_path / "turned.jpg", exif=exif(6))
    disc("RGBA", (30, 160, 30, 255), (255, 0, 255, 0)).save(tmp_path / "icon.png")
    with Image.open(tmp_path / "icon.png") as icon:
        for path, own in ((tmp_path / "turned.jpg", load_image(str(tmp_path / "turned.jpg"))), (icon.filename, icon)):
            ours, theirs = (np.asarray(picture(images=[i])["pixel_values"]) for i in (open_image(path), own))
            assert ours.shape == theirs.shape and np.array_equal(ours, theirs), f"{family}: {Path(path).name}"


# Depth


RAMP = np.linspace(0, 65535, 3600).round().astype(np.uint16).reshape(60, 60)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm", "jp2"])
def test_16_bits_are_scaled(tmp_path, ending):
    path = tmp_path / f"gray.{ending}"
    Image.fromarray(RAMP).save(path, **({"irreversible": False} if ending == "jp2" else {}))
    shown = np.asarray(open_image(path)).astype(int)
    assert np.abs(shown[..., 0] - RAMP / 257).max() <= 0.5, "65535 is white, 0 is black, and between them it is linear"
    assert shown.max() == 255 and shown.min() == 0 and (np.ptp(shown, axis=2) == 0).all()


def test_where_0_is_white_16_bits_are_turned_round(tmp_path):
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "a.tif", tiffinfo={262: 0})
    assert np.asarray(open_image(tmp_path / "a.tif"))[0, :, 0].tolist() == [255, 127, 0]


def test_a_transparent_gray_of_16_bits_is_white(tmp_path):
    Image.fromarray(np.array([[300, 0, 30000]], dtype=np.uint16)).save(tmp_path / "a.png", transparency=300)
    assert np.asarray(open_image(tmp_path / "a.png"))[0, :, 0].tolist() == [255, 0, 117]


def test_floating_point_from_0_to_1_is_scaled(tmp_path):
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    assert np.asarray(open_image(tmp_path / "a.tif"))[..., 1].ravel().tolist() == list(range(256))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[0, 255]], dtype=np.float32), r"floating-point numbers from 0 to 255 \(mode F\)"),
        (np.array([[-1, 1]], dtype=np.float32), "from -1 to 1"),
        (np.array([[np.nan, 1]], dtype=np.float32), "from nan to nan"),
        (np.array([[0, 70000]], dtype=np.int32), r"32-bit integers \(mode I\)"),
    ],
)
def test_numbers_that_do_not_say_what_is_white_are_refused(tmp_path, values, said):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(vt.VlmtraceError, match=rf"a\.tif holds .*{said}.*: s(cale|ave)"):
        open_image(tmp_path / "a.tif")
    with pytest.raises(vt.VlmtraceError, match=f"The image holds .*{said}"):
        open_image(Image.fromarray(values))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_stay_as_they_were(mode):
    assert np.array_equal(open_image(drawing(mode)), drawing(mode).convert("RGB"))


def test_of_an_animation_the_first_frame_is_shown(tmp_path):
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    for ending in ("gif", "webp", "png"):
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], duration=50)
        red, _, blue = open_image(tmp_path / f"a.{ending}").getpixel((5, 5))
        assert red > 200 > 50 > blue, ending


# Any file


@pytest.mark.parametrize("ending", "jfif jpe ppm pgm pbm bmp jp2 avif heic tga qoi ico pcx".split())
def test_formats_that_people_have_are_read(tmp_path, ending):
    image = drawing({"pgm": "L", "pbm": "1"}.get(ending, "RGB"), size=(64, 64))
    if ending == "heic":
        assert images.heic_is_read()
    image.save(tmp_path / f"a.{ending}", **({"format": "PPM"} if ending in ("pgm", "pbm") else {}))
    opened = open_image(tmp_path / f"a.{ending}").convert("RGB")
    assert np.abs(np.asarray(opened, int) - np.asarray(image.convert("RGB"), int)).mean() < 6, ending


def test_heic_of_a_turned_phone_is_upright(tmp_path):
    assert images.heic_is_read()
    drawing().save(tmp_path / "a.jpg", exif=exif(6), quality=95)
    with Image.open(tmp_path / "a.jpg") as lying:
        lying.save(tmp_path / "a.heic", quality=95)
    upright, other = open_image(tmp_path / "a.jpg"), open_image(tmp_path / "a.heic")
    assert other.size == upright.size == (40, 80)
    assert np.abs(np.asarray(upright, int) - np.asarray(other, int)).mean() < 6


def test_heic_names_what_to_install(tmp_path, monkeypatch):
    assert images.heic_is_read()
    drawing().save(tmp_path / "a.heic")
    monkeypatch.setattr(images, "heic_is_read", lambda: False)
    with pytest.raises(vt.VlmtraceError, match=r"a\.heic cannot be read \(it is HEIC.*: pip install pillow-heif"):
        open_image(tmp_path / "a.heic")


def test_content_counts_and_not_the_ending(tmp_path):
    drawing().save(tmp_path / "a.png", "JPEG")
    assert open_image(tmp_path / "a.png").size == (80, 40)


def test_an_open_file_is_read(tmp_path):
    content = io.BytesIO()
    drawing().save(content, "PNG")
    assert np.array_equal(open_image(content), drawing())
    with pytest.raises(vt.VlmtraceError, match=r"^The image cannot be read \(it is in no format"):
        open_image(io.BytesIO(b"something else"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", "it is a page, not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a pointer of Git LFS: run git lfs pull"),
        (b"plain text", "it is in no format of images that is known"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, content, said):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(vt.VlmtraceError, match=rf"a\.jpg cannot be read \({said}\): replace it or remove its row"):
        open_image(tmp_path / "a.jpg")
    assert image_problem(tmp_path / "a.jpg") == f"the image cannot be read: {said}"


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\x00\x00\x14ftypqt  \x00\x00\x00\x00qt  ",
        b"\x00\x00\x00\x08wide\x00\x00\x10\x00mdat",
        b"\x1aE\xdf\xa3\x01\x00webm",
        b"RIFF\x00\x01\x00\x00AVI LIST",
        b"\x00\x00\x01\xba\x44\x00\x04",
        b"FLV\x01\x05\x00\x00\x00\x09",
        b"0&\xb2u\x8ef\xcf\x11\xa6\xd9",
    ],
    ids=["mov", "old mov", "webm", "avi", "mpg", "flv", "wmv"],
)
def test_of_a_video_it_is_said_what_can_be_done(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    said = r"a\.mp4 cannot be read \(it is a video\): save frames of it as images, and list them in clean_images and"
    with pytest.raises(vt.VlmtraceError, match=said):
        open_image(tmp_path / "a.mp4")
    assert image_problem(tmp_path / "a.mp4") == "the image cannot be read: it is a video"


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    for path in (tmp_path / "a.png", tmp_path, tmp_path / ("x" * 300), "no\0name"):
        with pytest.raises(vt.VlmtraceError, match=r"does not exist|File name too long"):
            open_image(path)
    assert image_problem(tmp_path / "a.png") == "the image file is missing"
    for value in (None, 3.5, ["a.png"], {"bytes": b""}):
        with pytest.raises(vt.VlmtraceError, match=f"is given as {type(value).__name__}: give an image, an array"):
            open_image(value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "AVIF", "PPM", "TGA", "QOI"])
def test_a_broken_file_of_any_format_is_one_sentence_or_an_image(kind):
    whole = saved(photograph(), kind)
    generator = np.random.default_rng(0)
    for share in (0.02, 0.3, 0.6, 0.9):
        pieces = [whole[: int(len(whole) * share)]]
        bytes_ = np.frombuffer(whole, np.uint8).copy()
        bytes_[generator.integers(0, min(200, len(bytes_)), 6)] = generator.integers(0, 256, 6)
        pieces.append(bytes_.tobytes())
        for content in pieces:
            try:
                assert open_image(io.BytesIO(content)).mode == "RGB"
            except vt.VlmtraceError as error:
                assert str(error).startswith("The image ") and "\n" not in str(error)
    with pytest.raises(vt.VlmtraceError, match="cannot be read"):
        open_image(io.BytesIO(whole[: len(whole) // 3]))


# Differences


def test_the_changed_share_is_of_what_is_shown(tmp_path):
    drawing().save(tmp_path / "lying.png", exif=exif(6))
    open_image(tmp_path / "lying.png").save(tmp_path / "upright.png")
    assert changed_share(tmp_path / "lying.png", tmp_path / "upright.png") == 0
    hidden = Image.new("RGBA", (10, 10), (255, 0, 255, 0))
    hidden.paste((0, 0, 0, 255), (0, 0, 5, 10))
    hidden.save(tmp_path / "hidden.png")
    Image.new("RGB", (10, 10), "white").save(tmp_path / "white.png")
    assert changed_share(tmp_path / "hidden.png", tmp_path / "white.png") == 0.5


def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path, monkeypatch):
    drawing().save(tmp_path / "a.png")

    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(images.Image, "open", refuse)  # root, who runs some test suites, may read everything
    with pytest.raises(vt.VlmtraceError, match=r"a\.png cannot be read \(Permission denied\): correct its permissions"):
        open_image(tmp_path / "a.png")


def test_a_path_that_is_none_is_told_in_part():
    for given, told in (("a" * 5000, "aaa… cannot be read"), ("a\0b", r"a\\x00b' does not exist")):
        with pytest.raises(vt.VlmtraceError, match=told) as raised:
            open_image(given)
        assert len(str(raised.value)) < 500 and str(raised.value).isprintable()
