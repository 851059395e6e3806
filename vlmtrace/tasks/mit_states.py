"""MIT-States: photographs in folders named "adjective noun". The corrupt image shows the same noun in another state.

Adjectives are grouped into color, shape and texture, as NOTICE does (Golovanevsky et al. 2025,
https://arxiv.org/abs/2406.16320), so that a question offers two values of one kind: Is this apple ripe or burnt? Which
adjective belongs to which group is this project's reading of the data set's list. Plain words such as red or striped,
which that list lacks, are there for your own folders in this layout.
"""

from __future__ import annotations

import pandas as pd

from vlmtrace.tasks.building.folder_layouts import images_below
from vlmtrace.tasks.building.label_folders import NAMED, labelled_pairs
from vlmtrace.tasks.building.token_replacement import Replacer, mutual
from vlmtrace.tasks.declaration import Request, Source, Task

SOURCE = Source(
    "MIT-States",
    url="http://web.mit.edu/phillipi/Public/states_and_transformations/index.html",
    licence="see the source; the photographs were collected from the web",
    citation="Isola, Lim and Adelson (2015): Discovering States and Transformations in Image Collections. CVPR",
    needs="the unpacked archive, whose images lie in folders named 'adjective noun'",
)

#: Category → its adjectives. What says how something looks on the surface is texture, which parts and outline it has
#: is shape, what shade it has is color.
ADJECTIVES: dict[str, tuple[str, ...]] = {
    "color": tuple(
        (
            "bright browned burnt caramelized clear cloudy dark dull foggy mossy murky painted ripe rusty sunny "
            "unpainted unripe verdant red orange yellow green blue purple pink brown black white gray"
        ).split()
    ),
    "shape": tuple(
        (
            "bent blunt broken chipped closed coiled cored cracked crushed curved cut deflated dented diced empty "
            "filled folded full huge inflated large loose narrow open peeled pierced pointed ripped sharp shattered "
            "short sliced small splintered straight tall thick thin tight tiny toppled torn wide winding round "
            "square hollow"
        ).split()
    ),
    "texture": tuple(
        (
            "brushed creased crinkled crumpled damp dirty draped dry engraved eroded frayed frozen grimy mashed "
            "melted moldy molten muddy pressed pureed rough ruffled runny scratched shiny smooth thawed viscous "
            "weathered wet whipped wilted windblown worn wrinkled plain striped dotted spotted checkered zigzag "
            "furry"
        ).split()
    ),
}
CATEGORY = {adjective: category for category, adjectives in ADJECTIVES.items() for adjective in adjectives}

#: Words that the same photograph may be described by. They are never each other's alternative nor replacement.
SYNONYMS = mutual(
    [
        ("bright", "sunny"),
        ("burnt", "browned", "caramelized"),
        ("cloudy", "foggy", "murky"),
        ("dark", "dull", "murky", "black"),
        ("green", "verdant", "mossy", "unripe"),
        ("rusty", "brown", "browned"),
        ("bent", "curved", "coiled", "winding", "folded"),
        ("broken", "chipped", "cracked", "shattered", "splintered", "crushed", "dented"),
        ("torn", "ripped", "cut"),
        ("cut", "sliced", "diced", "peeled", "cored"),
        ("empty", "deflated", "hollow"),
        ("full", "filled", "inflated"),
        ("huge", "large", "tall", "wide", "thick"),
        ("small", "tiny", "short", "thin", "narrow"),
        ("sharp", "pointed"),
        ("open", "loose"),
        ("closed", "tight"),
        ("damp", "wet", "runny"),
        ("dirty", "grimy", "muddy", "moldy"),
        ("creased", "crinkled", "crumpled", "ruffled", "wrinkled", "draped"),
        ("eroded", "weathered", "worn", "frayed", "wilted", "windblown", "scratched"),
        ("mashed", "pureed", "whipped", "pressed"),
        ("melted", "molten", "thawed", "runny", "viscous"),
        ("smooth", "shiny", "brushed", "plain"),
        ("dotted", "spotted"),
    ]
)


#: Where the data set's archive has the folders of images.
ARCHIVE = ("release_dataset/images", "images")


def make_pairs(request: Request) -> pd.DataFrame:
    """Pairs of images that show one noun in two states.

    Args:
        request: its root holds the folders of images, or is the unpacked archive

    Returns:
        up to n rows of a pairs table, with the column noun; the request's filters account for every image

    Raises:
        VlmtraceError: root holds no folders of images, or no pair can be made of them
    """
    filters = request.filters
    images = images_below(request, inside=ARCHIVE)
    words = images["folder"].str.replace("_", " ").str.split(n=1)
    images = images.assign(label=words.str[0].str.lower(), group=words.str[1].fillna("").str.lower())
    named = [
        None if noun and adjective != "adj" else f"the folder {folder!r} is not named 'adjective noun'"
        for folder, adjective, noun in images[["folder", "label", "group"]].itertuples(index=False, name=None)
    ]
    images = filters.keep(NAMED, images, named, "images")
    listed = [None if label in CATEGORY else f"{label!r} is in no category" for label in images["label"]]
    images = filters.keep("adjective belongs to a category", images, listed, "images")
    images = images.assign(category=images["label"].map(CATEGORY), kind=images["label"].map(CATEGORY))
    return labelled_pairs(
        request,
        images,
        replacer=Replacer(request.model, SYNONYMS),
        prompt=lambda candidate, options: f"Is this {candidate['group']} {options[0]} or {options[1]}?",
        pools=lambda candidate, _: [(ADJECTIVES[candidate["category"]],) * 2],
        further=lambda candidate, *_: {"noun": candidate["group"]},
    )


DECLARED = (Task("mit_states", SOURCE, pairs=make_pairs),)
