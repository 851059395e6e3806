"""Small raw data in the published layouts of the datasets: rendered images, and photographs of scikit-image."""

import shutil
from functools import cache
from pathlib import Path

import pandas as pd
import skimage
from PIL import Image

from vlmtrace import paths
from vlmtrace.tasks.rendered import load
from vlmtrace.tasks.svo_rows import COLUMNS

PHOTOGRAPHS = Path(skimage.__file__).parent / "data"

#: Adjective that the rendered world uses -> folder of the published collections of faces.
EMOTION_FOLDERS = {
    "angry": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "happy": "happy",
    "neutral": "neutral",
    "sad": "sad",
    "surprised": "surprise",
}
SVO_COLUMNS = list(COLUMNS)


@cache
def _small(name):
    return Image.open(PHOTOGRAPHS / name).convert("RGB").resize((96, 80))


def photograph(name="astronaut.png", turn=0):
    """A photograph that ships inside scikit-image, small; another `turn` gives another picture."""
    return _small(name).rotate(turn)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(paths.resolve(source), target)


def mit_states_from_rendered(root, n=60, seed=5):
    """Folders named "red circle", "tiny star", …, each with one image of every rendered scene that shows it."""
    for row in load("rendered_states", n, seed).itertuples():
        for image, word in ((row.clean_image, row.correct_answer), (row.corrupt_image, row.incorrect_answer)):
            _copy(image, root / f"{word} {row.noun}" / f"{row.sample_id}-{word}.png")
    return root


def faces_from_rendered(root, n=84, seed=5):
    for row in load("rendered_faces", n, seed).itertuples():
        for image, word in ((row.clean_image, row.correct_answer), (row.corrupt_image, row.incorrect_answer)):
            _copy(image, root / EMOTION_FOLDERS[word] / f"{row.sample_id}-{word}.png")
    return root


def svo_row(positive, negative, slot, i=0, base="http://127.0.0.1:9/", **changes):
    """A row of SVO-Probes; triplets are (subject, verb, object)."""
    row = {
        "sentence": f"A {positive[0]} is {positive[1]}ing a {positive[2]}.",
        "pos_triplet": ",".join(positive),
        "neg_triplet": ",".join(negative),
        "pos_url": f"{base}{i}-pos.png",
        "neg_url": f"{base}{i}-neg.png",
        "pos_image_id": str(2 * i),
        "neg_image_id": str(2 * i + 1),
        "subj_neg": slot == "subject",
        "verb_neg": slot == "verb",
        "obj_neg": slot == "object",
    }
    return row | changes


def svo_from_rendered(folder, base, n=90, seed=5):
    """svo_probes.csv, and the images that a server at `base` would serve, in the folder `served`."""
    rows = []
    for i, row in enumerate(load("rendered_svo", n, seed).itertuples()):
        roles = {role: getattr(row, role) for role in ("subject", "verb", "object")}
        sides = []
        for word, image, side in (
            (row.correct_answer, row.clean_image, "pos"),
            (row.incorrect_answer, row.corrupt_image, "neg"),
        ):
            triplet = {**roles, row.category: word}
            sides.append((triplet["subject"], triplet["verb"].removesuffix("ing"), triplet["object"]))
            _copy(image, folder / "served" / f"{i}-{side}.png")
        rows.append(svo_row(*sides, row.category, i, base))
    table = folder / "raw" / "svo_probes.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=SVO_COLUMNS).to_csv(table, index=False)
    return table
