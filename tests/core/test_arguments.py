"""Arguments of public functions: each wrong one gives one sentence, whatever function and parameter it is given to."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch

import vlmtrace as vt
import vlmtrace.methods
from vlmtrace.core.arguments import Count, Natural, NotNegative, Positive, Probability, Seed, Share, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.blip import Blip
from vlmtrace.models.decoder_only import DecoderOnly
from vlmtrace.models.image_prompts import ImagePrompts
from vlmtrace.pipeline import open_run

if TYPE_CHECKING:
    from fractions import Fraction as ForTypeCheckersOnly

#: Where public names come from.
DOORS = [
    *("vlmtrace", "vlmtrace.plots", "vlmtrace.tasks", "vlmtrace.pipeline", "vlmtrace.app", "vlmtrace.display"),
    *("vlmtrace.inputs", "vlmtrace.models"),
    *(f"vlmtrace.methods.{room.name}" for room in pkgutil.iter_modules(vlmtrace.methods.__path__)),
]

#: Classes whose objects the package makes and hands out, and declarations of data sets and families, which have tests
#: of their own: nobody calls these with what a notebook's reader typed.
MADE_HERE = """
Block Explanation FamilySpec HookPoint Outcome Patch Patches Prepared Readout Relevancy Request Site Source Task Token
Trace
""".split()


def public_functions() -> Iterator[tuple[str, Callable]]:
    seen = set()
    for door in DOORS:
        for name in importlib.import_module(door).__all__:
            thing = getattr(importlib.import_module(door), name)
            if not getattr(thing, "__module__", "").startswith("vlmtrace") or id(thing) in seen:
                continue
            seen.add(id(thing))
            if inspect.isfunction(thing):
                yield f"{door}.{name}", thing
            elif inspect.isclass(thing) and name not in MADE_HERE:
                for label, member in vars(thing).items():
                    if inspect.isfunction(member) and (label == "__init__" or not label.startswith("_")):
                        yield f"{door}.{name}.{label}", member


def methods_of_families() -> Iterator[tuple[str, Callable]]:
    """What a family does in its own way, and a notebook calls."""
    for family in (Blip, ImagePrompts, DecoderOnly):
        for name in ("encode", "encode_text", "image_cells", "trace"):
            if name in vars(family):
                yield f"{family.__name__}.{name}", vars(family)[name]


FUNCTIONS = dict(public_functions()) | dict(methods_of_families())


def parameters(function: Callable) -> dict[str, str]:
    """The annotations of a function's parameters, as they stand in the source, if they say anything."""
    declared = inspect.signature(function).parameters.values()
    found = {one.name: str(one.annotation) for one in declared if one.annotation is not inspect.Parameter.empty}
    return {name: text for name, text in found.items() if text not in ("Any", "object") and "TypeVar" not in text}


#: By what stands in the annotation: values that are wrong wherever it does, unless another alternative allows them.
WRONG: dict[str, Sequence[Any]] = {
    "pd.DataFrame": (None, [], {}, Path("pairs.parquet"), "pairs.csv", 3, True, math.nan, object(), pd.Series([1])),
    "VLM": (None, [], {}, Path("tiny-blip"), "tiny-blip", 3, True, math.nan, object(), pd.DataFrame()),
    "Count": (None, [], {}, Path("3"), "x", "3", -1, 0, 2.5, math.nan, math.inf, True, 10**30, 10**5000, 3.0, object()),
    "Natural": (None, [], {}, "x", -1, 2.5, math.nan, math.inf, True, 10**30, 10**5000, np.float64(3.0), object()),
    "Seed": (None, [], {}, "x", "0", -1, 2.5, math.nan, math.inf, True, 2**32, 10**5000, np.float64(3.0), object()),
    "Share": (None, [], {}, "x", "0.5", -0.1, 1.1, math.nan, math.inf, -math.inf, True, 10**5000, object()),
    "Probability": (None, [], {}, "x", "0.5", 0, 1, math.nan, math.inf, True, 10**5000, np.bool_(True), object()),
    "Positive": (None, [], {}, "x", "0.5", -1, 0, math.nan, math.inf, True, 10**5000, np.float32("nan"), object()),
    "NotNegative": (None, [], {}, "x", "0.5", -1, math.nan, math.inf, True, 10**5000, object()),
    "int": (None, [], {}, "x", 2.5, math.nan, True, 10**30, 10**5000, object()),
    "float": (None, [], {}, "x", math.nan, math.inf, True, 10**5000, object()),
    "bool": (None, [], {}, "yes", 1, 0.0, math.nan, object()),
    "str": (None, [], {}, 3, 2.5, math.nan, True, object(), b"x"),
    "Path": (None, [], {}, 3, math.nan, True, object()),
    "Sequence": (None, {}, "image", 3, math.nan, True, object(), {"a"}, (x for x in "ab"), np.array(3)),
    "Mapping": (None, [], "x", 3, math.nan, True, object()),
    "Callable": (None, [], {}, "x", 3, math.nan, object()),
    "Tensor": (None, [], {}, "x", 3, math.nan, object(), np.zeros(3)),
    "np.ndarray": (None, [], {}, "x", 3, math.nan, object(), torch.zeros(3), pd.Series([1])),
    "Figure": (None, [], {}, "x", 3, math.nan, object()),
    "ArrayLike": (None, "x", True, object(), {}, ["a"], [1, None]),
    "None": (),
}

#: Of classes that stand above nowhere.
WRONG_FOR_ANY_CLASS = (object(), 3, math.nan, {"a": 1})

#: These take whatever there is; Run.stage looks at the names of its parameters, which has a test of its own.
TAKES_ALL = {"T", "NotebookParameter"}

#: What makes a value of the list above right after all.
ALLOWS: dict[str, Callable[[Any], bool]] = {
    "None": lambda value: value is None,
    "str": lambda value: isinstance(value, str),
    "Path": lambda value: isinstance(value, Path),
    "Sequence": lambda value: isinstance(value, list),
    "Iterable": lambda value: isinstance(value, list),
    "Mapping": lambda value: isinstance(value, dict),
    "pd.Series": lambda value: isinstance(value, pd.Series),
    "pd.DataFrame": lambda value: isinstance(value, pd.DataFrame),
}

#: Aliases that hide what they stand for.
ALIASES = {
    "Positions": "str | Sequence[str] | Sequence[int]",
    "Picture": "Image | str | Path",
    "Inputs": "Mapping[str, Tensor]",
    "CountTokens": "Callable[[str], int]",
    "Array": "np.ndarray",
}


def alternatives(annotation: str) -> list[str]:
    """The alternatives of a union, each without what stands in brackets."""
    flat = ALIASES.get(annotation, annotation)
    depth, parts = 0, [""]
    for letter in flat:
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [ALIASES.get(part.strip(), part.strip()).partition("[")[0] for part in parts]


def wrong_values(annotation: str) -> list[Any]:
    kinds = alternatives(annotation)
    kinds = [kind for part in kinds for kind in alternatives(part)]
    if TAKES_ALL & set(kinds):
        return []
    candidates = [value for kind in kinds for value in WRONG.get(kind, WRONG_FOR_ANY_CLASS)]
    numbers = {"Count", "Natural", "Seed", "Share", "Probability", "Positive", "NotNegative", "int", "float"} & set(
        kinds
    )
    return [
        value
        for value in candidates
        if not any(ALLOWS[kind](value) for kind in kinds if kind in ALLOWS)
        and not (
            numbers
            and isinstance(value, (int, float))
            and all(all(value is not one for one in WRONG[kind]) for kind in numbers)
        )
    ]


CASES = [
    (name, parameter, text) for name, function in FUNCTIONS.items() for parameter, text in parameters(function).items()
]


def test_the_walk_finds_what_there_is():
    assert len(FUNCTIONS) > 150 and len(CASES) > 400, "the walk over the front doors misses functions"
    known = {"vlmtrace.evaluate", "vlmtrace.plots.head_map", "vlmtrace.pipeline.Stage.resume", "vlmtrace.VLM.generate"}
    assert known <= set(FUNCTIONS), known - set(FUNCTIONS)
    untried = [case for case in CASES if not wrong_values(case[2]) and not TAKES_ALL & set(alternatives(case[2]))]
    assert not untried, f"no wrong value is known for {untried}"
    tried = sum(len(wrong_values(text)) for _, _, text in CASES)
    assert tried > 3000, f"only {tried} wrong values are tried"


@pytest.mark.parametrize(("name", "parameter", "annotation"), CASES, ids=[f"{n}-{p}" for n, p, _ in CASES])
def test_every_wrong_argument_gives_one_sentence(name, parameter, annotation):
    function = FUNCTIONS[name]
    called = function.__qualname__.removesuffix(".__init__")
    for value in wrong_values(annotation):
        given = (
            ("self", value) if inspect.signature(function).parameters[parameter].kind.name == "VAR_POSITIONAL" else ()
        )
        shown = f"{name}({parameter}: {annotation}) given {type(value).__name__}"
        try:
            function(*given, **({} if given else {parameter: value}))
        except VlmtraceError as error:
            sentence = str(error)
            assert sentence.startswith(f"{called}: {parameter}"), f"{shown}: {sentence}"
            assert " must be " in sentence and ", not " in sentence and sentence.endswith("."), f"{shown}: {sentence}"
            assert len(sentence) <= 300 and "\n" not in sentence, f"{shown}: {sentence}"
        except Exception as error:
            pytest.fail(f"{shown}: {type(error).__name__}: {error}; put @checked above the function")
        else:
            pytest.fail(f"{shown}: accepted; put @checked above the function")


# Right arguments -----------------------------------------------------------------------------------------------------


@checked
def sample(
    table: pd.DataFrame | None = None,
    count: Count | None = None,
    natural: Natural = 0,
    seed: Seed = 0,
    share: Share = 0.5,
    probability: Probability = 0.5,
    positive: Positive = 1.0,
    amount: NotNegative = 0.0,
    on: bool = False,
    names: Sequence[str] = (),
    numbers: Sequence[NotNegative] = (),
    heads: Sequence[tuple[str, int, int]] = (),
    places: str | Sequence[str] | Sequence[int] = "all",
    path: str | Path = "",
    later: ForTypeCheckersOnly | None = None,
    options: Mapping[str, Sequence[int]] | None = None,
    row: Mapping[str, Any] | None = None,
    function: Callable[[int], int] | None = None,
    anything: Any = None,
    *,
    root: str = "",
    **others: int,
) -> dict[str, Any]:
    """What it got."""
    return {name: value for name, value in locals().items() if name != "others"} | others


TABLE = pd.DataFrame({"a": [1, 2]})
ROW = TABLE.iloc[0]


@pytest.mark.parametrize(
    ("given", "handed_on"),
    [
        ({"count": 1}, 1),
        ({"count": np.int64(3)}, 3),
        ({"count": np.uint8(255)}, 255),
        ({"count": 10**6}, 10**6),
        ({"count": None}, None),
        ({"natural": 0}, 0),
        ({"seed": 2**32 - 1}, 2**32 - 1),
        ({"share": 0}, 0),
        ({"share": np.float32(0.5)}, 0.5),
        ({"probability": 1e-9}, 1e-9),
        ({"positive": np.int32(2)}, 2),
        ({"amount": 0}, 0),
        ({"on": np.bool_(True)}, True),
        ({"names": ("a", "b")}, ("a", "b")),
        ({"names": pd.Series(["a", "b"], index=[7, 3])}, ["a", "b"]),
        ({"names": pd.Index(["a"])}, ["a"]),
        ({"names": np.array(["a"])}, ["a"]),
        ({"names": []}, []),
        ({"names": [np.str_("a")]}, ["a"]),
        ({"numbers": range(3)}, range(3)),
        ({"numbers": np.linspace(0, 1, 3)}, [0.0, 0.5, 1.0]),
        ({"heads": [("mlp", np.int64(1), 2)]}, [("mlp", 1, 2)]),
        ({"places": "image"}, "image"),
        ({"places": np.arange(2)}, [0, 1]),
        ({"path": Path("a")}, Path("a")),
        ({"options": {"a": [1]}}, {"a": [1]}),
        ({"row": ROW}, ROW),
        ({"function": len}, len),
        ({"anything": math.nan}, math.nan),
        ({"root": "x"}, "x"),
        ({"further": np.int64(4)}, 4),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) and len(value) == 1 else "",
)
def test_right_arguments_arrive(given, handed_on):
    (name,) = given
    found = sample(**given)[name]
    assert found is handed_on or (found == handed_on and type(found) is type(handed_on)), f"{name}: {found!r}"


def test_tables_and_objects_are_handed_on_as_they_are():
    assert sample(TABLE)["table"] is TABLE, "a table was copied"
    column, thing = TABLE["a"], object()
    assert sample(anything=column)["anything"] is column and sample(anything=thing)["anything"] is thing


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"count": 2.5}, "sample: count must be a whole number from 1 to 1,000,000 or None, not 2.5: correct it."),
        ({"count": 10**12}, "sample: count must be a whole number from 1 to 1,000,000 or None, not 1000000000000: c"),
        (
            {"natural": "3"},
            "natural must be a whole number from 0 to 1,000,000, not the text '3': write 3, without quotes.",
        ),
        ({"seed": -1}, "sample: seed must be a whole number from 0 to 4,294,967,295, not -1: correct it."),
        ({"seed": 10**5000}, "not a number of 4983 digits: "),
        ({"share": math.nan}, "sample: share must be a number from 0 to 1, not nan: correct it."),
        ({"probability": 1}, "sample: probability must be a number from 0 to 1, both excluded, not 1: correct it."),
        ({"positive": 0}, "sample: positive must be a number above 0, not 0: correct it."),
        ({"names": "image"}, "sample: names must be a list of texts, not the text 'image': write ['image']."),
        ({"names": ["a", None]}, "sample: names[1] must be a text, not None: correct it."),
        ({"names": {"a"}}, "sample: names must be a list of texts, not a set: correct it."),
        ({"numbers": [1, -2]}, "sample: numbers[1] must be a number of at least 0, not -2: correct it."),
        (
            {"heads": [["mlp", 1, 2]]},
            "sample: heads[0] must be a tuple (text, whole number, whole number), not a list: ",
        ),
        (
            {"heads": [("mlp", 1)]},
            "sample: heads[0] must be a tuple (text, whole number, whole number), not a tuple of 2",
        ),
        ({"places": [0, "a"]}, "sample: places[1] must be a whole number, not the text 'a': correct it."),
        ({"options": {"a": [1, 2.5]}}, "sample: options['a'][1] must be a whole number, not 2.5: correct it."),
        ({"later": 1}, "sample: later must be a fractions.Fraction or None, not 1: correct it."),
        ({"function": 3}, "sample: function must be a function or None, not 3: correct it."),
        ({"further": "x"}, "sample: further must be a whole number, not the text 'x': correct it."),
        ({"root": "\n" * 999}, None),
        ({"root": 3}, "sample: root must be a text, not 3: correct it."),
        ({"table": "a.csv"}, "or None, not the text 'a.csv': read the file with pandas.read_csv."),
        ({"table": Path("a.parquet")}, "not the path a.parquet: read the file with pandas.read_parquet."),
        (
            {"table": pd.DataFrame([[1, 2]], columns=["a", "a"])},
            "sample: table must be a table whose columns have different names, not one with several columns 'a': ",
        ),
        (
            {"table": TABLE.T.T.set_axis(pd.MultiIndex.from_tuples([("a", "b")]), axis=1)},
            "not one with a MultiIndex: give",
        ),
        ({"table": TABLE["a"]}, "not a Series: a row as a table is table.iloc[[0]]."),
        ({"table": (TABLE, TABLE)}, "not a tuple: take the table out of it."),
        (
            {"table": vt.prepare_pairs},
            "sample: table must be a table (pandas.DataFrame) or None, not a function: correct it.",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) and len(value) == 1 else "",
)
def test_sentences(given, sentence):
    if sentence is None:
        sample(**given)
        return
    with pytest.raises(VlmtraceError) as caught:
        sample(**given)
    assert sentence in str(caught.value), str(caught.value)


def test_sentences_say_where_tables_and_models_come_from():
    for call, words in [
        (lambda: vt.patch_heads("tiny-blip", TABLE), "not the text 'tiny-blip': load it with vt.load_model."),
        (
            lambda: vt.evaluate(pairs=[1]),
            "pairs must be a table (pandas.DataFrame), not a list: load it with vt.load_pairs.",
        ),
        (lambda: vt.noise_scale(questions=None), "not None: load it with vt.load_questions."),
        (lambda: vt.evaluate(pairs=vt.prepare_pairs("rendered_svo", n=2)), "not a Prepared: take its .pairs."),
        (
            lambda: open_run("r").stage("x", questions=None),
            "Run.stage: questions must be a text, not None: correct it.",
        ),
    ]:
        with pytest.raises(VlmtraceError) as caught:
            call()
        assert words in str(caught.value), str(caught.value)


def test_a_wrong_shape_of_a_call_is_left_to_python():
    for call, words in [
        (lambda: vt.evaluate(), "missing 2 required positional arguments"),
        (lambda: vt.load_pairs("rendered_svo", 1, 0, "test", "x"), "positional arguments but 5 were given"),
        (lambda: vt.load_pairs("rendered_svo", sed=1), "unexpected keyword argument 'sed'"),
        (lambda: vt.load_pairs("rendered_svo", task="x"), "multiple values for argument 'task'"),
    ]:
        with pytest.raises(TypeError, match=words):
            call()


def test_functions_keep_their_name_signature_and_module():
    assert vt.evaluate.__name__ == "evaluate" and vt.evaluate.__module__ == "vlmtrace.methods.evaluation.answers"
    signature = str(inspect.signature(vt.load_pairs))
    assert signature.startswith("(task: 'str', n: 'Count' = 100, seed: 'Seed' = 0, split: 'str' = 'test', *, root:"), (
        signature
    )


def test_made_objects_are_checked_too():
    from vlmtrace.methods.causal_tracing import Noise

    assert Noise(0.1, draws=np.int64(2)).draws == 2
    with pytest.raises(VlmtraceError, match=r"^Noise: draws must be a whole number from 1 to 1,000,000, not 0: "):
        Noise(0.1, draws=0)


def test_checking_takes_no_time_that_counts():
    def call():
        sample(TABLE, 3, 1, 7, names=["a", "b"], heads=[("mlp", 1, 2)] * 3, places=[1, 2], path="x")

    def plain():
        sample.__wrapped__(TABLE, 3, 1, 7, names=["a", "b"], heads=[("mlp", 1, 2)] * 3, places=[1, 2], path="x")

    call()
    seconds = [min(timeit.repeat(function, number=200, repeat=20)) / 200 for function in (call, plain)]
    assert seconds[0] - seconds[1] < 250e-6, f"checking takes {(seconds[0] - seconds[1]) * 1e6:.0f} µs a call"
