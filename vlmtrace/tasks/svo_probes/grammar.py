"""Questions about who does what, put together from a subject, a verb and an object. The morphology is lemminflect's."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from lemminflect import getInflection, getLemma

PREPOSITIONS = frozenset(
    (
        "about above across against along alongside amid among around at atop before behind below beneath beside "
        "between beyond by down for from in inside into near next of off on onto out outside over past through to "
        "toward towards under underneath up upon with within"
    ).split()
)

#: At most so many words may stand between a verb and its object for those between to be theirs.
REACH = 6


class Triplet(NamedTuple):
    """Who does what, in base forms; the object may be empty."""

    subject: str
    verb: str
    object: str


def spaced(word: str) -> str:
    """A term as it is written in a sentence.

    >>> spaced("Snow_boarder ")
    'snow boarder'
    """
    return re.sub(r"[\s_]+", " ", word).strip().lower()


@cache
def singular(noun: str) -> str:
    """The last word of a noun in the singular: "is the …" must fit every subject.

    >>> singular("children"), singular("snow boarders"), singular("bus")
    ('child', 'snow boarder', 'bus')
    """
    first, _, last = noun.rpartition(" ")
    lemmas = getLemma(last, upos="NOUN")
    plurals = getInflection(lemmas[0], tag="NNS") if lemmas else ()
    word = lemmas[0] if lemmas and last in plurals and last != lemmas[0] else last
    return {"people": "person"}.get(word, f"{first} {word}".strip())


@cache
def participle(verb: str) -> str:
    """The -ing form of a verb, given in any form; of several words, that of the first.

    >>> participle("run"), participle("lies"), participle("look at"), participle("sitting")
    ('running', 'lying', 'looking at', 'sitting')
    """
    first, _, rest = verb.partition(" ")
    lemma = (getLemma(first, upos="VERB") or (first,))[0]
    forms = getInflection(lemma, tag="VBG") or (first,)
    return f"{forms[0]} {rest}".strip()


@cache
def _is_form(word: str, lemma: str, upos: str) -> bool:
    return word == lemma or lemma in getLemma(word, upos=upos)


def preposition(sentence: str, triplet: Triplet) -> str | None:
    """What stands between verb and object in a sentence.

    Args:
        sentence: about the triplet
        triplet: who does what, in base forms

    Returns:
        the preposition, "" for none; None where the sentence does not hold the verb, and after it the object

    >>> preposition("A girl sits on a bench.", Triplet("girl", "sit", "bench"))
    'on'
    """
    words = re.findall(r"[a-z']+", sentence.lower())
    verb, thing = triplet.verb.split(" ")[0], triplet.object.split(" ")[-1]
    for start, word in enumerate(words):
        if not _is_form(word, verb, "VERB"):
            continue
        rest = words[start + 1 : start + 2 + REACH]
        ends = [place for place, other in enumerate(rest) if _is_form(other, thing, "NOUN")]
        if ends:
            between = rest[: ends[0]]
            found = [place for place, other in enumerate(between) if other in PREPOSITIONS]
            if not found:
                return ""
            # "out of", "on top of": from the first to the last of them, if only short words stand between.
            phrase = between[found[0] : found[-1] + 1]
            whole = all(other in PREPOSITIONS or other == "top" for other in phrase)
            return " ".join(phrase) if whole else between[found[-1]]
    return None


class Prepositions:
    """Which preposition a verb takes, learned from the sentences of a data set.

    Args:
        examples: sentences, each with the triplet that it is about
    """

    def __init__(self, examples: Iterable[tuple[str, Triplet]]):
        self.with_object: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.of_verb: dict[str, Counter[str]] = defaultdict(Counter)
        for sentence, triplet in examples:
            found = preposition(sentence, triplet) if triplet.object else None
            if found is not None:
                self.with_object[triplet.verb, triplet.object][found] += 1
                self.of_verb[triplet.verb][found] += 1

    def of(self, verb: str, thing: str, otherwise: str = "") -> str:
        """The commonest preposition between a verb and an object.

        Args:
            verb: in its base form
            thing: the object; if it never follows the verb, any object counts
            otherwise: what is returned for a verb that the sentences do not have

        Returns:
            the preposition, "" for none
        """
        counts = self.with_object.get((verb, thing)) or self.of_verb.get(verb)
        # The commonest; of equally common ones the first in the alphabet, so that the order of rows does not matter.
        return min(counts, key=lambda word: (-counts[word], word)) if counts else otherwise


def question(slot: str, triplet: Triplet, options: tuple[str, str], prepositions: Mapping[str, str]) -> str:
    """The question which of two options is true, in place of the changed word.

    Args:
        slot: subject, verb or object: where the options stand
        triplet: the sentence's, in base forms
        options: in their order; nouns in the singular (a subject), verbs as participles
        prepositions: of the options where these are verbs, otherwise of the triplet's verb
    """
    a, b = options
    subject, thing = singular(triplet.subject), triplet.object
    doing = participle(triplet.verb)

    def before(word: str) -> str:
        """The preposition and the article that lead to the object."""
        return f" {prepositions[word]}" if prepositions[word] else ""

    tail = f"{before(triplet.verb)} the {thing}" if thing and slot != "verb" else ""
    match slot:
        case "subject":
            return f"Is the {a} or the {b} {doing}{tail}?"
        case "object":
            return f"Is the {subject} {doing}{before(triplet.verb)} the {a} or the {b}?"
        case "verb" if not thing:
            return f"Is the {subject} {a} or {b}?"
        case "verb" if prepositions[a] == prepositions[b]:
            return f"Is the {subject} {a} or {b}{before(b)} the {thing}?"
        case "verb":
            return f"Is the {subject} {a}{before(a)} or {b}{before(b)} the {thing}?"
    raise KeyError(slot)
