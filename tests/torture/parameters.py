"""Parameters as people mistype them: of notebooks, of the command line, of functions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from hypothesis import strategies as st
from torture.outcome import Case

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.cli import main
from vlmtrace.pipeline.parameters import declared_parameters, read_parameters
from vlmtrace.tasks import TASKS

TEXTS = (
    "", " ", "0", "1", "-1", "+1", "01", "1.0", "1e3", "٣", "²", "1_000", "0x10", "True", "None", "nan", "inf", "[]",
    "{}", "[1]", "'1'", '"', "\\", "\n", "a\nb", "\x00", "../../x", "/etc/passwd", "..", ".", "con", "-x", "--help",
    "$(reboot)", "`id`", "{{7*7}}", "<b>", "🙂", "é", "e\u0301", "\ud800", "9" * 5000, "[" * 3000,
    "(" * 200 + ")" * 200, "1" + "0" * 40, "a" * 300, "rendered_svo", "rendered_states rendered_svo", "tiny-blip",
    "tiny-blip@main", "cpu", "cuda:99", "lambda: 1", "__import__('os')", "1 if 1 else 2", "1;2", "None or 3", "b'x'",
    "...", "1j", "(1,2)", "{1}", "NAN", "true",
)  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 2.5, float("nan"), float("inf"), 10**30, "3", "x", [], [3], {}, (), b"3", object(),
    np.nan, np.float64(2.5), np.int64(-3), np.array([3]), Path("x"), 1j, int, 3.0,
)  # fmt: skip

TEXT = st.one_of(st.sampled_from(TEXTS), st.text(max_size=12))


class ParameterCases:
    """Cases about notebook parameters, options of the command line, and arguments of functions.

    Args:
        notebooks: paths
        model: for functions that take one
        pairs: for functions that take a table
    """

    kind = "parameter"

    def __init__(self, notebooks: list[Path], model: vt.VLM, pairs: Any):
        self.notebooks, self.model, self.pairs = notebooks, model, pairs

    def cases(self) -> st.SearchStrategy[Case]:
        """Draw a case."""
        return st.one_of(
            st.composite(self._of_a_notebook)(),
            st.composite(self._of_the_command_line)(),
            st.composite(self._of_a_function)(),
        )

    def _of_a_notebook(self, draw: Any) -> Case:
        notebook = draw(st.sampled_from(self.notebooks))
        declared = declared_parameters(notebook)
        name = draw(st.one_of(st.sampled_from(list(declared)), st.sampled_from(list(declared)), TEXT))
        text = draw(TEXT)

        def check(given: dict[str, Any]) -> str | None:
            if text == "":
                return None if given == {} else "an empty value does not keep the default"
            value, default = given[name], declared[name]
            if isinstance(default, bool):
                return None if isinstance(value, bool) else f"{value!r} is no truth value"
            if isinstance(default, int):
                digits = re.fullmatch(r"[+-]?[0-9_]{1,19}", text.strip())
                plain = isinstance(value, int) and not isinstance(value, bool)
                return None if plain and digits else f"{value!r:.60} is taken for a whole number"
            if isinstance(default, str):
                return None if value == text and "\x00" not in value else f"{value!r:.60} is not the text"
            return None

        return Case(
            f"{notebook.name} -p {name!r:.40}={text!r:.60}", lambda: read_parameters(notebook, {name: text}), check
        )

    def _of_the_command_line(self, draw: Any) -> Case:
        option = draw(
            st.sampled_from(("model", "revision", "tasks", "root", "question", "samples", "seed", "run", "device"))
        )
        text = draw(TEXT)
        arguments = ["check", f"--{option}={text}"]

        def check(result: Any) -> str | None:
            if result.exit_code != 0:
                return "nothing was said"  # a sentence was raised below
            fits = {
                "samples": r"([1-9][0-9]{0,17}|0[0-9]*[1-9][0-9]*)?", "seed": r"[0-9]{0,18}",
                "run": r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,254})?",
                "device": r"(cpu(:0)?)?", "revision": "", "root": "", "question": "",
                "model": r"|[\w.-]+/[\w.-]+(@[\w./-]+)?|" + "|".join(["tiny-blip", "tiny-llava"]),
            }  # fmt: skip
            if option == "tasks":
                named = text.split() or [""]
                return None if set(named) <= {*TASKS, ""} else f"tasks {named} were accepted"
            return None if re.fullmatch(fits[option], text) else f"{text!r:.60} was accepted"

        def act() -> Any:
            result = CliRunner().invoke(main, arguments)
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception
            lines = [line for line in result.output.splitlines() if line.startswith("Error: ")]
            if result.exit_code and lines and "Traceback" not in result.output:
                said = lines[-1].removeprefix("Error: ")
                raise VlmtraceError(said if said.endswith(".") else f"{said}.")
            return result

        return Case(f"vlmtrace check --{option}={text!r:.60}", act, check)

    def _of_a_function(self, draw: Any) -> Case:
        value = draw(st.one_of(st.sampled_from(VALUES), st.integers(-5, 5), st.floats(), st.text(max_size=5)))
        calls: dict[str, tuple[Any, int]] = {
            "load_pairs: n": (lambda: vt.load_pairs("rendered_states", n=value), 1),
            "load_pairs: seed": (lambda: vt.load_pairs("rendered_states", n=2, seed=value), 0),
            "load_questions: n": (lambda: vt.load_questions("rendered_open", n=value), 1),
            "evaluate: batch_size": (lambda: vt.evaluate(self.model, self.pairs, batch_size=value), 1),
            "evaluate: pairs": (lambda: vt.evaluate(self.model, value), 10**9),
            "evaluate: model": (lambda: vt.evaluate(value, self.pairs), 10**9),
            "select_samples: seed": (lambda: vt.select_samples(vt.evaluate(self.model, self.pairs), seed=value), 0),
            "select_samples: per_category": (
                lambda: vt.select_samples(vt.evaluate(self.model, self.pairs), per_category=value), 1,
            ),
            "patch_modules: pairs": (lambda: vt.patch_modules(self.model, value), 10**9),
            "average_effects: effects": (lambda: vt.average_effects(value), 10**9),
        }  # fmt: skip
        name = draw(st.sampled_from(list(calls)))
        act, least = calls[name]
        number = isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_)) and value >= least
        optional = value is None and name == "select_samples: per_category"

        def check(_: Any) -> str | None:
            return None if number or optional else "it was accepted"

        return Case(f"{name} = {value!r:.60}", act, check)
