"""Rows of SVO-Probes, as they were published: which one word is changed, and whether a question can be made of it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import NamedTuple

from vlmtrace.tasks.building.token_replacement import mutual
from vlmtrace.tasks.svo_probes.grammar import Triplet, singular, spaced

PUBLISHED_COLUMNS = (
    "sentence",
    "pos_triplet",
    "neg_triplet",
    "pos_url",
    "neg_url",
    "pos_image_id",
    "neg_image_id",
    "subj_neg",
    "verb_neg",
    "obj_neg",
)

#: Column that says what is changed → the part of the triplet.
SLOTS = {"subj_neg": "subject", "verb_neg": "verb", "obj_neg": "object"}

PERSONS = frozenset(
    (
        "actor actress adult artist athlete audience baby bachelor band batter biker boy bride brother bull rider "
        "chef cheerleader child clown coach couple cowboy cowgirl crowd cyclist dad dancer daughter diver doctor "
        "driver family fan farmer father female fighter fireman firefighter fisherman friend gentleman girl goalie "
        "golfer grandfather grandmother groom group guest guitarist guy gymnast hiker husband infant jockey judge "
        "kid king lady lifeguard male man mechanic men model mom mother musician nurse officer passenger performer "
        "photographer pilot pitcher player police policeman policewoman priest queen referee rider runner sailor "
        "scientist singer sister skateboarder skater skier snowboarder soldier son spectator speaker student surfer "
        "swimmer teacher team teen teenager toddler tourist trainer trooper umpire vendor waiter waitress wife "
        "woman women worker youth"
    ).split()
)

#: What the same person, thing or action in a photograph may also be called.
SYNONYMS = mutual(
    [
        *(("child", other) for other in ("boy", "girl", "baby", "toddler", "teenager")),
        ("child", "kid"),
        *(("kid", other) for other in ("boy", "girl", "baby", "toddler", "teenager")),
        ("baby", "toddler", "infant"),
        ("woman", "lady", "female"),
        ("man", "guy", "gentleman", "male"),
        *(("adult", other) for other in ("man", "woman", "guy", "lady", "gentleman")),
        *(("couple", other) for other in ("man", "woman")),
        ("dog", "puppy"),
        ("cat", "kitten"),
        ("bike", "bicycle"),
        ("motorbike", "motorcycle"),
        ("car", "vehicle", "automobile"),
        ("sofa", "couch"),
        ("sea", "ocean", "water"),
        ("lake", "water"),
        ("river", "water"),
        ("beach", "sand", "shore"),
        ("road", "street"),
        ("hill", "mountain"),
        ("grass", "lawn", "field"),
        ("forest", "wood", "woods"),
        ("stone", "rock"),
        ("table", "desk"),
        ("photo", "photograph", "picture"),
        ("holding", "carrying"),
        ("lifting", "raising"),
        ("throwing", "tossing", "pitching"),
        ("watching", "looking", "observing", "viewing", "seeing"),
        ("walking", "strolling", "hiking"),
        ("running", "jogging", "racing"),
        ("jumping", "leaping"),
        ("speaking", "talking"),
        ("hugging", "embracing"),
        ("pushing", "shoving"),
        ("sitting", "resting", "relaxing"),
        ("lying", "laying", "resting", "sleeping"),
        ("laughing", "smiling"),
    ]
)


class Change(NamedTuple):
    """A row's triplets, and the one part in which they differ.

    Attributes:
        positive: what the sentence says
        negative: the same with one part changed
        slot: that part: subject, verb or object
    """

    positive: Triplet
    negative: Triplet
    slot: str


class Unusable(Exception):
    """Why no question can be made of a row."""


def triplets(text: str) -> list[Triplet]:
    """All triplets that a cell holds.

    Args:
        text: "girl,kick,ball", or such strings (or triples) in a Python list

    Returns:
        the triplets, each once

    Raises:
        Unusable: the cell is empty or holds something else
    """
    if not text or text in ("[]", "()", "nan", "None"):
        raise Unusable("a triplet is empty")
    value: object = text
    if text[0] in "[('\"":
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise Unusable(f"the triplet {text[:60]!r} is no Python literal") from error
    entries = [value] if isinstance(value, str) or _is_triple(value) else value
    if not isinstance(entries, (list, tuple)):
        raise Unusable(f"the triplet {text[:60]!r} is no list of triplets")
    found = []
    for entry in entries:
        parts = entry.split(",") if isinstance(entry, str) else entry
        if not _is_triple(parts):
            raise Unusable(f"the triplet {str(entry)[:60]!r} does not have three parts")
        triplet = Triplet(*(spaced(part) for part in parts))
        if not triplet.subject or not triplet.verb:
            raise Unusable("a triplet has no subject or no verb")
        found.append(triplet)
    if not found:
        raise Unusable("a triplet is empty")
    return list(dict.fromkeys(found))


def _is_triple(value: object) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(part, str) for part in value)
        # A list of three whole triplets is no triplet.
        and not any("," in part for part in value)
    )


def change(row: Mapping[str, str]) -> Change:
    """What is changed in a row of the CSV.

    Where cells hold more than one triplet, the pair of them is taken that differs in the one part that the row's
    columns name; there must be one such pair.

    Args:
        row: with the published columns

    Returns:
        both triplets, and the part in which they differ

    Raises:
        Unusable: the reason why it is not clear, or why no fair question can be asked
    """
    flags = [slot for column, slot in SLOTS.items() if row[column].lower() in ("true", "1", "1.0", "yes")]
    if len(flags) != 1:
        raise Unusable(f"{len(flags)} parts of the triplet are marked as changed, not one")
    (slot,) = flags
    pairs = [
        Change(positive, negative, slot)
        for positive in triplets(row["pos_triplet"])
        for negative in triplets(row["neg_triplet"])
        if [name for name in Triplet._fields if getattr(positive, name) != getattr(negative, name)] == [slot]
    ]
    if not pairs:
        raise Unusable(f"no two triplets differ in the {slot} alone")
    if len(pairs) > 1:
        raise Unusable(f"{len(pairs)} pairs of triplets differ in the {slot} alone")
    (found,) = pairs
    words = [getattr(found.positive, slot), getattr(found.negative, slot)]
    if not all(words):
        raise Unusable(f"the {slot} is empty on one side")
    return found


def unfair(slot: str, options: tuple[str, str]) -> str | None:
    """Why a question with two options has no one right answer.

    Args:
        slot: the part of the triplet that the options stand for
        options: as the question has them

    Returns:
        the reason; None if it has one right answer
    """
    a, b = options
    if a == b:
        return f"both options are {a!r}"
    if slot != "verb":
        heads = {singular(option).split(" ")[-1] for option in options}
        if "person" in heads and any(_is_person(head) for head in heads - {"person"}):
            return "'person' stands against a kind of person"
        if "animal" in heads and heads & {"dog", "cat", "horse", "bird", "cow", "sheep", "puppy", "kitten", "elephant"}:
            return "'animal' stands against a kind of animal"
    if b in SYNONYMS.get(a, ()):
        return f"{a!r} and {b!r} may mean the same"
    return None


def _is_person(noun: str) -> bool:
    return noun in PERSONS or noun.endswith(("man", "woman", "boy", "girl", "boarder", "person"))
