"""How every figure looks, and how it is saved."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from vlmtrace.core.arguments import checked
from vlmtrace.core.files import write_atomically
from vlmtrace.display.literal import LITTLE_ROOM, font_families, make_literal

P = ParamSpec("P")

#: Width and height of a page's text in inches: figures are drawn at the size at which they are printed.
PAGE_WIDTH = 7.0
PAGE_HEIGHT = 9.5
#: No figure is higher than this, however many rows it has.
MAX_HEIGHT = 20.0
#: Pixels per inch of a figure in a notebook.
SCREEN_DPI = 144
#: Gray of a missing value.
MISSING = "0.8"
#: Signed effects: blue below 0, white at 0, red above. Red and blue differ for every common color blindness.
SIGNED = mpl.colormaps["RdBu_r"].with_extremes(bad=MISSING)
#: Attention shares: transparent at 0, so that the image shows where the model does not look.
ATTENTION = LinearSegmentedColormap.from_list(
    "attention", [(1.0, 0.85, 0.2, 0.0), (1.0, 0.65, 0.0, 0.75), (0.75, 0.1, 0.1, 0.9), (0.35, 0.0, 0.25, 1.0)]
)
PALETTE = sns.color_palette("colorblind")
#: Of the clean, the corrupt and the patched run, in figures, views and exports alike, on light ground and on dark. Who
#: sees no green (deuteranopia) tells them apart, too: blue from orange by hue, purple from blue by lightness.
RUN_COLORS = {"clean": "#1a76c4", "corrupt": "#b45000", "patched": "#56127a"}
RUN_COLORS_ON_DARK = {"clean": "#3d9be9", "corrupt": "#f0922e", "patched": "#e0c3ff"}
#: What the axis or bar of patching effects says.
EFFECT_LABEL = "patching effect (0 = corrupt, 1 = clean)"

_PAPER: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "figure.titlesize": 9,
    "figure.titleweight": "bold",
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
}


class PaperFigure(Figure):
    """A figure that a notebook shows once, when it is a cell's result, whether or not pyplot was ever used.

    Attributes:
        saved: the PNG that `save_figure` wrote last, until the figure changes: what a notebook shows
    """

    saved: bytes | None = None
    _as_drawn: tuple[Any, ...] = ()

    def draw(self, renderer: Any) -> None:
        """Draw it, each text as it is; where texts leave no room for the panels, they are cut shorter."""
        if not self.is_as_drawn():
            self.saved = None
        make_literal(self)
        with warnings.catch_warnings():
            # Said before anything is drawn.
            warnings.filterwarnings("error", "constrained_layout not applied")
            try:
                super().draw(renderer)
            except UserWarning:
                make_literal(self, LITTLE_ROOM)
                super().draw(renderer)
        self._as_drawn = self._state()

    def is_as_drawn(self) -> bool:
        """Whether nothing of it has changed since it was drawn last, so that its layout need not be found again."""
        return self._as_drawn == self._state()

    def _state(self) -> tuple[Any, ...]:
        # An artist that changes is stale until it is drawn. Labels of ticks do not tell the figure, so all are asked;
        # the figure itself is stale whenever another resolution was tried.
        parts = self.findobj()
        stale = frozenset(id(part) for part in parts if part.stale and part is not self)
        return tuple(self.get_size_inches()), len(parts), stale

    def _repr_png_(self) -> bytes | tuple[bytes, dict[str, int]]:
        if self.saved is None or not self.is_as_drawn():
            return render_png(self, SCREEN_DPI)
        # At the size at which it would appear without having been saved.
        width, height = (round(inches * SCREEN_DPI) for inches in self.get_size_inches())
        return self.saved, {"width": width, "height": height}


@contextlib.contextmanager
def _layout_kept(figure: Figure) -> Iterator[None]:
    """Find a figure's layout once; what is drawn in this block keeps it.

    Half the time of drawing is layout, and savefig would find it again for each file.
    """
    engine = figure.get_layout_engine()
    if engine is None:
        yield
        return
    if not isinstance(figure, PaperFigure) or not figure.is_as_drawn():
        figure.draw_without_rendering()
    try:
        with mpl.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)  # none at all, unless these settings name one
        yield
    finally:
        figure.set_layout_engine(engine)


def render_png(figure: Figure, dpi: int) -> bytes:
    """Render a figure as a PNG.

    Args:
        figure: any figure
        dpi: pixels per inch

    Returns:
        the file's bytes
    """
    buffer = io.BytesIO()
    with _layout_kept(figure):
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def new_figure(height: float, width: float = PAGE_WIDTH) -> Figure:
    """Make an empty figure outside pyplot's global list, so that hundreds of them leave nothing behind.

    Args:
        height: in inches; more than `MAX_HEIGHT` are cut
        width: in inches

    Returns:
        the figure, with a constrained layout
    """
    return PaperFigure(figsize=(width, min(height, MAX_HEIGHT)), dpi=SCREEN_DPI, layout="constrained")


def paper_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a plotting function draw in the paper's style, whatever the reader's own matplotlib settings are.

    Args:
        draw: returns a figure

    Returns:
        the same function, drawing in the style
    """

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        fonts = {"font.family": font_families(), "text.parse_math": False}
        with sns.axes_style("ticks"), mpl.rc_context(_PAPER | fonts):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # ticks are made at the first draw: make them in this style
        return figure

    return styled


@checked
def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Write `path`.png (200 dpi) and `path`.pdf, each whole or not at all.

    Args:
        figure: any figure
        path: without suffix; its folder is made

    Returns:
        the two paths
    """
    path = Path(path)
    make_literal(figure)  # those of other libraries, too
    png, pdf = (path.with_name(path.name + suffix) for suffix in (".png", ".pdf"))
    with _layout_kept(figure):
        pixels = render_png(figure, dpi=200)
        with write_atomically(png) as temporary:
            temporary.write_bytes(pixels)
        # Type 42: text stays text, as journals ask.
        with write_atomically(pdf) as temporary, mpl.rc_context({"pdf.fonttype": 42}):
            figure.savefig(temporary, format="pdf", metadata={"CreationDate": None})
    if isinstance(figure, PaperFigure):
        figure.saved = pixels
    return [png, pdf]


def effect_limit(values: Iterable[float]) -> float:
    """Half the width of a color range centred on 0: the smallest round number, at least 0.05, that holds all values.

    Round limits make two figures comparable at a glance; the color bar states them.

    Args:
        values: effects; missing ones do not count

    Returns:
        colors range over −limit … limit

    Example:
        >>> effect_limit([-0.3, 0.12]), effect_limit([0.9])
        (0.3, 1.0)
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    ladder = (float(f"{mantissa}e{power}") for power in range(-2, 300) for mantissa in (1, 2, 3, 4, 5, 6, 8))
    return next(limit for limit in ladder if limit >= max(largest, 0.05))


def signed_norm(limit: float) -> Normalize:
    """Colors for signed values: the same distance from 0 has the same strength on both sides.

    Args:
        limit: values range over −limit … limit

    Returns:
        the norm
    """
    return Normalize(-limit, limit)


def signed_colorbar(
    figure: Figure, axes: Iterable[Axes], limit: float, values: Iterable[float], over: str, label: str = EFFECT_LABEL
) -> Colorbar:
    """Draw the bar below a figure of effects: unit, baseline, what was averaged, and the range of colors.

    Args:
        figure: where to draw
        axes: that the bar belongs to
        limit: the colors' range is −limit … limit
        values: what is drawn; where a value lies beyond the limit, the bar's ends become arrows
        over: what a cell is, e.g. "mean over n = 12 pairs"
        label: what a color says, with its unit and baseline

    Returns:
        the bar
    """
    bar = figure.colorbar(
        ScalarMappable(signed_norm(limit), SIGNED),
        ax=list(axes),
        location="bottom",
        aspect=60,
        fraction=0.25 / figure.get_figheight(),  # room enough for the bar's full width in low figures
        pad=0.02,
        extend="both" if max(map(abs, values), default=0.0) > limit * (1 + 1e-9) else "neither",
        ticks=np.linspace(-limit, limit, 5),
    )
    bar.set_label(f"{label}\n{over}; colors span ±{limit:g}")
    bar.outline.set_linewidth(0.4)
    return bar


def thin_ticks(count: int, at_most: int = 12) -> list[int]:
    """Evenly spaced indices among `count`, so that labels never touch.

    Args:
        count: how many there are
        at_most: how many labels there is room for

    Returns:
        the indices that get a label

    Example:
        >>> thin_ticks(4), thin_ticks(32)
        ([0, 1, 2, 3], [0, 4, 8, 12, 16, 20, 24, 28])
    """
    step = next(step for step in (1, 2, 4, 5, 8, 10, 16, 20, 50, count) if count <= at_most * step)
    return list(range(0, count, step))


def legend_below(figure: Figure, axes: Axes) -> None:
    """Draw one legend for all panels, made from what one of them shows.

    Args:
        figure: where to draw
        axes: whose artists the legend explains
    """
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
