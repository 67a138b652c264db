"""The canvas that all pictures are drawn on, and helpers for labels and axes.

PNG bytes depend only on the data. Pictures are sized for a column of a paper. matplotlib is imported inside functions
only, used without pyplot, and its settings are restored.
Colours: Okabe and Ito, "Color Universal Design" (2008); markers, dashes and direct labels convey the same.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from metadist_cli.core.errors import printable

INK, GREY, PALE = "#222222", "#767676", "#D9D9D9"
BLUE, RED, ORANGE = "#0072B2", "#D55E00", "#E69F00"
COLUMN = 3.5  # inches: one column of a two-column paper
NAMED = 40  # most nodes that are drawn one by one, with names
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # names may hold dollar signs
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


class Axis(NamedTuple):
    """What an axis shows. label: its text; scale: values are multiplied by it; percent: its range is 0 to 100."""

    label: str
    scale: float = 1.0
    percent: bool = False


def picture(draw: Callable[[Any], None], width: float, height: float) -> bytes:
    """Draw a picture.

    Args:
        draw: called with a matplotlib Figure.
        width, height: in inches.

    Returns:
        PNG bytes, without metadata on software or time.
    """
    import matplotlib
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", "Glyph .* missing")  # scripts that the font lacks are drawn as boxes
        figure = Figure((width, height), dpi=300, layout="constrained")
        draw(figure)
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def values(items: Sequence[float | None]) -> np.ndarray:
    """Float64 array of values; a missing one is NaN."""
    return np.array([np.nan if v is None else v for v in items], dtype=np.float64)


def short(name: object, most: int = 22) -> str:
    """An untrusted name as a label: one line, printable, at most `most` characters."""
    text = printable(str(name)).replace("\n", " ")
    return text if len(text) <= most else text[: most - 1] + "…"


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Positions in 0..1 near the wanted ones, in the same order, and `gap` apart where there is room."""
    order = np.argsort(wanted, kind="stable")
    steps = min(gap, 1 / max(len(order) - 1, 1)) * np.arange(len(order))
    free = np.asarray(wanted)[order] - steps
    even = (np.maximum.accumulate(free) + np.minimum.accumulate(free[::-1])[::-1]) / 2
    placed = np.empty(len(order))
    placed[order] = np.clip(even, 0, 1 - steps[-1:].sum()) + steps
    return placed.tolist()


def plain(value: float, _: object = None) -> str:
    """A tick label without exponents, which matplotlib would typeset as mathematics."""
    return f"{value:,.10g}" if abs(value) < 1e6 else f"{value:.0e}"


def needs_log(y: np.ndarray, axis: Axis) -> bool:
    """Whether the values span more than two decades, so that only a logarithmic axis shows them all."""
    y = y[np.isfinite(y)]
    return bool(not axis.percent and y.size and y.min() > 0 and y.max() > 100 * y.min())


def log_axis(ax: Any, which: str) -> None:
    """Make the x or y axis logarithmic, with plain tick labels."""
    ax.set(**{f"{which}scale": "log"})
    getattr(ax, f"{which}axis").set_major_formatter(plain)
