"""The rail at the left: the model, both images and questions, the gauge of the answer, and the run's pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import anywidget
import pandas as pd
import traitlets
from PIL import Image

from vlmtrace.app.ask import LARGEST_FILE, decode
from vlmtrace.app.own_pair import is_own, why_not_patched, with_image, with_question, without
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import open_image
from vlmtrace.display.scripts import STATIC, script
from vlmtrace.display.session import Session
from vlmtrace.inputs.pictures import picture_of
from vlmtrace.models.hooks import MODEL_LOCK

#: Sides, in pixels, of the two images and of the pictures in the list of pairs: twice what the page shows.
SIDE, THUMBNAIL = 260, 80

#: So many pairs are drawn in the list at one request.
MOST_THUMBNAILS = 40


class Rail(anywidget.AnyWidget):
    """What is asked, and what comes out of it.

    Attributes:
        state: of the example, see `state_of`
        pairs: (sample_id, question) of every pair that can be chosen
        clean, corrupt: the two images, as PNG; empty: there is none
        doing: what is being done, in a sentence; "": nothing
        error: what went wrong, in a sentence; "": nothing
        models, model: those that can be opened, and the one that is
    """

    _esm = script(Path(__file__).with_suffix(".js"))
    _css = (STATIC / "view.css").read_text() + Path(__file__).with_name("shell.css").read_text()

    state = traitlets.Dict().tag(sync=True)
    pairs: traitlets.List = traitlets.List().tag(sync=True)
    clean = traitlets.Bytes(b"").tag(sync=True)
    corrupt = traitlets.Bytes(b"").tag(sync=True)
    doing = traitlets.Unicode().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    models: traitlets.List = traitlets.List().tag(sync=True)
    model = traitlets.Unicode().tag(sync=True)

    def __init__(self, open_model: Callable[[str], None]):
        """Show nothing yet, see `follow`.

        Args:
            open_model: opens another model
        """
        super().__init__()
        self._open_model = open_model
        self.on_msg(self._receive)

    def follow(self, session: Session) -> None:
        """Show the example of a session from now on.

        Args:
            session: what all views share
        """
        self.session = session
        rows = session.pairs
        self._rows = {str(row["sample_id"]): row for _, row in rows.iterrows()}
        self.pairs = [[str(row.sample_id), str(row.clean_prompt)] for row in rows.itertuples()]
        self.model = session.model.name
        session.on_change(self.show, first=True)
        session.observe_patched(lambda _: self._tell())
        self.show()

    def show(self) -> None:
        """Show the example that is looked at now."""
        example = self.session.example
        try:
            clean = small(example.image, SIDE)
            corrupt = small(example.other_image, SIDE) if "corrupt_image" in example.pair else b""
        except VlmtraceError as error:
            self.error, clean, corrupt = str(error), b"", b""
        self._tell(clean=clean, corrupt=corrupt)

    def _tell(self, **pictures: bytes) -> None:
        with self.sentences(""), MODEL_LOCK:
            state = state_of(self.session)
            with self.hold_sync():
                for name, content in pictures.items():
                    setattr(self, name, content)
                self.state = state

    # What people do --------------------------------------------------------

    def _receive(self, _widget: Any, message: Any, buffers: Sequence[Any]) -> None:
        match message:
            case {"do": "thumbnails", "of": [*names]}:
                self._send_thumbnails([str(name) for name in names[:MOST_THUMBNAILS]])
            case {"do": "model", "name": str(name)}:
                self._open_model(name)
            case {"do": "choose", "sample_id": str(name)}:
                self.act("opening the pair", lambda: self.session.choose(name))
            case {"do": "ask", "question": str(question), "side": "clean" | "corrupt" as side}:
                self.act("asking", lambda: with_question(self.session, question, side))
            case {"do": "open", "side": "clean" | "corrupt" as side} if len(buffers) == 1:
                self.act("opening the image", lambda: with_image(self.session, decode(bytes(buffers[0])), side))
            case {"do": "remove", "part": "image" | "prompt" as part, "side": "clean" | "corrupt" as side}:
                self.act("removing", lambda: without(self.session, part, side))

    def act(self, doing: str, what: Callable[[], Any]) -> None:
        """Do something, and say so; where it fails, one sentence says why and everything stays.

        Args:
            doing: the sentence meanwhile
            what: is done
        """
        self.error = ""
        with self.sentences(doing):
            what()

    def sentences(self, doing: str) -> Any:
        """While this is entered the rail says what is done; an error becomes a sentence.

        Args:
            doing: the sentence; "": say nothing
        """
        return _Sentences(self, doing)

    def _send_thumbnails(self, names: list[str]) -> None:
        """Both images of some pairs, small; a pair whose image cannot be read gets none."""
        told, buffers = [], []
        for name in names:
            row = self._rows.get(name)
            if row is None:
                continue
            found = thumbnails(row)
            told.append([name, len(found)])
            buffers += found
        self.send({"thumbnails": told}, buffers)


class _Sentences:
    """While it is entered the rail says what is done; an error becomes a sentence."""

    def __init__(self, rail: Rail, doing: str):
        self.rail, self.doing = rail, doing

    def __enter__(self) -> None:
        if self.doing:
            self.rail.doing = self.doing

    def __exit__(self, kind: Any, error: BaseException | None, _trace: Any) -> bool:
        if self.doing:
            self.rail.doing = ""
        if isinstance(error, VlmtraceError):
            self.rail.error = str(error)
        elif isinstance(error, Exception):
            self.rail.error = (
                f"It failed ({type(error).__name__}: {str(error)[:300]}): choose something else, or report it."
            )
        return error is None or isinstance(error, Exception)


def state_of(session: Session) -> dict[str, Any]:
    """What the rail shows of the example, in JSON.

    name, isOwn, owns (name and question of each example of one's own), questions and answers by run, options (correct
    and incorrect), problems (why a corruption cannot be patched), gauge (see `gauge_of`), largest (bytes of a file).
    """
    example = session.example
    corruptions = example.corruptions
    pair, has_question = example.pair, "text" in corruptions
    answers = {"clean": example.answer().text}
    problems = why_not_patched(example)
    shown = gauge_of(session)
    for corruption in corruptions:
        try:
            answers[corruption] = example.answer(corruption).text
        except VlmtraceError as error:
            problems = {**problems, corruption: str(error)}
    return {
        "name": example.name, "isOwn": is_own(session, example),
        "owns": [[name, own.question] for name, own in session.owns.items()],
        "questions": {"clean": example.question, "corrupt": str(pair["corrupt_prompt"]) if has_question else ""},
        "has": {"image": "corrupt_image" in pair, "prompt": has_question},
        "same": "corrupt_image" in pair and "image" not in corruptions,
        "answers": answers, "problems": problems, "gauge": shown, "largest": LARGEST_FILE,
    }  # fmt: skip


def gauge_of(session: Session) -> dict[str, Any]:
    """The answer from the corrupt over the patched to the clean run.

    Returns:
        corruption (whose run is the corrupt one; "": there is none), effect (of what is patched; None: nothing is),
        answer and text of what is patched, probability (by run, of the correct answer), said (why there is no gauge)
    """
    example, patched = session.example, session.patched
    corruption = patched.corruption if patched is not None else next(iter(example.corruptions), "")
    found: dict[str, Any] = {
        "corruption": corruption,
        "effect": None,
        "answer": "",
        "text": "",
        "probability": {},
        "said": "",
    }
    if not corruption:
        return found | {"said": "Open a corrupt image or type a corrupt question: then heads can be patched."}
    try:
        correct, _ = example.options
        token = session.model.answer_token(correct)
        for run, name in (("clean", "clean"), (corruption, "corrupt")):
            found["probability"][name] = float(example.answer(run).logits.softmax(-1)[token])
        found["correct"] = correct
    except VlmtraceError as error:
        said = {example.answer(run).text for run in ("clean", corruption)}
        found["said"] = f"Both runs answer {said.pop()!r}: nothing is to be restored." if len(said) == 1 else str(error)
    if patched is not None and math.isfinite(patched.effect):
        found |= {"effect": float(patched.effect), "answer": patched.answer, "text": patched.text}
    return found


def small(picture: Image.Image, side: int, kind: str = "png") -> bytes:
    """A picture for the browser, no side longer than `side` pixels."""
    picture = picture.convert("RGB")
    # Rendered pictures have few pixels, whose edges are to stay sharp: they are not made larger here.
    picture.thumbnail((side, side))
    buffer = BytesIO()
    picture.save(buffer, format=kind)
    return buffer.getvalue()


def thumbnails(row: pd.Series) -> list[bytes]:
    """The clean and, where there is one, the corrupt image of a pair, small.

    Args:
        row: of the pairs table
    """
    found, pair = [], row.dropna().to_dict()
    for column in ("clean_image", "corrupt_image"):
        if pair.get(column) is not None:
            try:
                found.append(small(open_image(picture_of(pair, column)), THUMBNAIL))
            except VlmtraceError:
                break
    return found
