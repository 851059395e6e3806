"""The lines of Python that name an example, in front of those that compute what a view shows of it."""

from __future__ import annotations

from PIL import Image

from vlmtrace.core.schema import listed
from vlmtrace.display.example import Example
from vlmtrace.display.example_pair import COLUMNS


def preamble(example: Example, *imports: str) -> str:
    """The lines of code that load the model and name the example's pair.

    Args:
        example: whose model and pair
        imports: import statements that the lines below need
    """
    known = [(key, example.pair[key]) for key in COLUMNS if key in example.pair]
    rows = []
    for key, value in known:
        if isinstance(value, Image.Image):
            rows.append(f'    "{key}": "FILE",  # the picture that you opened')
        elif listed(value):
            rows.append(f'    "{key}": {listed(value)!r},')
        else:
            rows.append(f'    "{key}": {str(value)!r},')
    lines = ["import vlmtrace as vt", *imports, "", f"model = vt.load_model({example.model.name!r})", "pair = {"]
    return "\n".join([*lines, *rows, "}", ""])


def missing_columns(example: Example) -> list[str]:
    """Lines for what an example of one's own does not say and an intervention needs, to stand behind `preamble`.

    Args:
        example: one's own, or a pair
    """
    correct, incorrect = example.options
    wanted = {
        "corrupt_image": 'pair["clean_image"]', "corrupt_prompt": 'pair["clean_prompt"]',
        "correct_answer": repr(correct), "incorrect_answer": repr(incorrect),
    }  # fmt: skip
    return [f'pair["{key}"] = {value}' for key, value in wanted.items() if key not in example.pair]
