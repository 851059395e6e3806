"""Ask: one pair of a run, or an image and a question of one's own."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from vlmtrace.app.own_pair import with_other_image
from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import ImageError, open_image
from vlmtrace.display.canvas import BrowserCanvas, png
from vlmtrace.display.in_code import preamble
from vlmtrace.display.panels import image_panel
from vlmtrace.display.scripts import script
from vlmtrace.display.style import new_figure, paper_style
from vlmtrace.display.view import View

#: What may be opened: no larger file (a connection to the kernel takes 10 MB), no more pixels than a photograph has.
LARGEST_FILE = 6 * 2**20
MOST_PIXELS = 24_000_000

#: The formats that are decoded. Pillow knows more, and hands some of them (such as EPS) to other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

#: What a run is called where people choose it.
RUNS = {"clean": "clean", "image": "corrupt image", "text": "corrupt question"}


#: Columns of a pairs table that name the images of an example.
IMAGES = ("clean_image", "corrupt_image", "clean_images", "corrupt_images")


class AskCanvas(BrowserCanvas):
    """The pair, the question, the file, the image as the model sees it, the answer."""

    _esm = script(Path(__file__).with_suffix(".js"))


class Ask(View):
    """Choose a pair, or open an image and type a question; see what the model sees and says.

    Attributes:
        run: "clean" or a corruption: whose image and answer are shown
    """

    title, name, order = "Answer", "ask", 0

    def build(self) -> list[Any]:
        """Make the canvas of pair, question, file, image and answer."""
        self.run = "clean"
        pairs = self.session.pairs
        self.canvas = AskCanvas()
        self._pairs = [[str(row.sample_id), str(row.clean_prompt)] for row in pairs.itertuples()]
        self.canvas.on_msg(self._receive)
        return [self.canvas]

    def load(self) -> None:
        """Answer the example's question and send what the model sees."""
        example = self.example
        if self.run not in ("clean", *example.corruptions):
            self.run = "clean"
        seen, (rows, columns) = example.seen(self.run)
        answer = example.answer(self.run)
        answers = {name: example.pair.get(f"{name}_answer") for name in ("correct", "incorrect")}
        own = example.name not in {name for name, _ in self._pairs}
        state = {
            "example": f"{id(example)}-{self.run}", "alone": self.is_alone,
            "pairs": self._pairs, "chosen": None if own else example.name,
            "question": str(example.frame()["corrupt_prompt" if self.run == "text" else "clean_prompt"].iloc[0]),
            "runs": {run: RUNS[run] for run in ("clean", *example.corruptions)}, "run": self.run,
            "size": list(seen.size), "grid": [rows, columns], "answer": answer.text,
            "options": {name: self._token(word) for name, word in answers.items() if word},
            "top": example.top(self.run).to_dict("records"), "largest": LARGEST_FILE,
        }  # fmt: skip
        with self.canvas.hold_sync():
            self.canvas.picture = png(seen)
            self.canvas.state = state

    def draw_nothing(self) -> None:
        """Keep what is drawn, where another pair is chosen; what was chosen and cannot be shown goes back."""
        self.draw_again()

    def _token(self, word: Any) -> int | None:
        """The id by which an option is recognised among the answers."""
        try:
            return self.session.model.answer_token(str(word))
        except VlmtraceError:
            return None

    # What people do --------------------------------------------------------

    @checked
    def ask(self, question: str, run: str = "clean") -> None:
        """Ask another question about the image that is shown.

        Args:
            question: the question
            run: "clean", or "text" to use it as the corrupt question
        Raises:
            VlmtraceError: the question is empty
        """
        question = question.strip()
        pair = self._pair()
        if run == "text":
            self.session.ask(**pair | {"corrupt_prompt": question})
        else:
            # Options and masks belong to the question that stood there.
            shown = {name: pair[name] for name in IMAGES if pair.get(name) is not None}
            self.session.ask(**shown, clean_prompt=question)

    @checked
    def open(self, content: bytes, run: str = "clean") -> None:
        """Open an image and ask the present question about it.

        Args:
            content: a file's bytes
            run: "clean", or "image" to use it as the corrupt image
        Raises:
            VlmtraceError: the file is too large, or no image
        """
        picture = decode(content)
        pair = self._pair()
        if run == "image":
            kept = {name: value for name, value in pair.items() if not name.endswith("answer")}
            self.session.ask(**kept | with_other_image(pair, picture))
        else:
            self.session.ask(clean_image=picture, clean_prompt=pair["clean_prompt"])

    def _pair(self) -> dict[str, Any]:
        pair = {key: value for key, value in self.example.pair.items() if not key.endswith(("_mask", "_masks"))}
        return pair | {"sample_id": "own"}

    def _receive(self, _widget: Any, message: dict, buffers: list) -> None:
        with self.busy(str(message.get("activity", "Ask"))):
            match message.get("do"):
                case "choose":
                    self.run = "clean"
                    self.session.choose(message["sample_id"])
                case "run":
                    self.run = message["run"]
                    self.load()
                case "ask":
                    self.run = "clean"
                    self.ask(message["question"], message["run"])
                case "open":
                    self.run = "clean"
                    self.open(bytes(buffers[0]), message["run"])

    # Numbers --------------------------------------------------------

    @property
    def table(self) -> pd.DataFrame:
        """The ten most probable first tokens of the answer.

        One row per run and rank: run, rank, token, token_id, probability, logit.
        """
        runs = ["clean", *self.example.corruptions]
        return pd.concat([self.example.top(run).assign(run=run) for run in runs], ignore_index=True)

    def figure(self) -> Figure:
        """The image as the model sees it, and the most probable answers."""
        return _draw(self)

    def code(self) -> str:
        """Lines that give the same answer."""
        return preamble(self.example, "from vlmtrace.display import Example") + (
            f"example = Example(model, pair)\nprint(example.answer({self.run!r}).text)\nexample.top({self.run!r})\n"
        )


@paper_style
def _draw(view: Ask) -> Figure:
    """The image as the model sees it, and the most probable answers."""
    example, top = view.example, view.example.top(view.run)
    figure = new_figure(height=3, width=6)
    left, right = figure.subplots(1, 2)
    image_panel(left, example.seen(view.run)[0])
    left.set_title("as the model sees it")
    right.barh(top["rank"], top["probability"], color="0.4")
    right.set(yticks=top["rank"], yticklabels=top["token"], xlim=(0, 1), xlabel="probability of the first answer token")
    right.invert_yaxis()
    figure.suptitle(f"{example.question} {example.answer(view.run).text} ({RUNS[view.run]} run)")
    return figure


def decode(content: bytes) -> Image.Image:
    """Decode an image file; its size is checked before it is decoded, and it is never written to disk.

    Args:
        content: the file's bytes
    Raises:
        VlmtraceError: the file is too large, has too many pixels, or is no image
    """
    if len(content) > LARGEST_FILE:
        raise VlmtraceError(
            f"The file has {len(content) / 2**20:.1f} MB, more than {LARGEST_FILE / 2**20:.0f}: save the image smaller."
        )
    try:
        with warnings.catch_warnings(), Image.open(BytesIO(content), formats=FORMATS) as opened:
            # The bound below is stricter than Pillow's warning, and is looked at before anything is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = opened.size
            if width * height > MOST_PIXELS:
                raise VlmtraceError(
                    f"The image has {width} × {height} pixels, more than {MOST_PIXELS:,}: save it smaller."
                )
            return open_image(opened)
    except ImageError as error:
        raise VlmtraceError(
            f"The file is not an image that can be read ({error.reason}): choose a PNG or JPEG."
        ) from error
    except VlmtraceError:
        raise
    except Image.DecompressionBombError as error:
        raise VlmtraceError(f"The image has more than {MOST_PIXELS:,} pixels: save it smaller.") from error
    # What a file that is made to break a decoder raises is not told by any list of errors.
    except Exception as error:
        # Pillow names the object in memory, which tells nobody anything.
        reason = "unknown format" if "BytesIO" in str(error) else str(error)
        raise VlmtraceError(f"The file is not an image that can be read ({reason}): choose a PNG or JPEG.") from error
