"""The canvas of the report's pictures, and its charts: curves with intervals and the spread over nodes.

PNG bytes depend on the data alone and are sized for a column of a paper. matplotlib is imported inside functions only,
draws without pyplot, and its settings are put back as they were found.
Colours: Okabe and Ito, "Color Universal Design" (2008); marks, dashes and direct labels say the same without colour.
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
PERCENT = "accuracy (%)"
COLUMN = 3.5  # inches: one column of a two-column paper
NAMED = 40  # nodes at most that are drawn one by one with their names
_COLOURS = (BLUE, RED, "#009E73", "#CC79A7", ORANGE, "#56B4E9")
_MARKS = "osD^vP"
POINTS = 300  # of one curve; more rounds are averaged
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


class Series(NamedTuple):
    """A labelled curve: x, y and the half width of its interval, each (n,); missing figures are NaN.

    look: number of its colour and mark, 0 for the main one, -1 for a grey dashed reference.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    ci: np.ndarray
    look: int


class Panel(NamedTuple):
    """One of the charts that share an x axis."""

    ylabel: str
    series: Sequence[Series]


def picture(draw: Callable[[Any], None], width: float, height: float) -> bytes:
    """What `draw` puts on a figure of that size in inches, as PNG bytes without any note of software or time."""
    import matplotlib
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a script that the font has not: drawn as boxes
        figure = Figure((width, height), dpi=300, layout="constrained")
        draw(figure)
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def curves_png(panels: Sequence[Panel], xlabel: str) -> bytes:
    """Curves with bands and labels at their ends, panels above each other."""
    height = 1.8 + 0.9 * len(panels)

    def draw(figure: Any) -> None:
        axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for ax, panel in zip(axes, panels, strict=True):
            _curves(ax, panel, height / len(panels))
        axes[-1].set_xlabel(xlabel)
        places = np.unique(np.concatenate([s.x for panel in panels for s in panel.series]))
        if len(places) == 1:
            axes[-1].set_xticks(places)
        else:
            axes[-1].xaxis.get_major_locator().set_params(integer=True, nbins=6)
        axes[-1].xaxis.set_major_formatter(plain)
        figure.align_ylabels(axes)

    return picture(draw, COLUMN, height)


def nodes_png(nodes: Sequence[dict], xlabel: str, scale: float) -> bytes:
    """New nodes before and after adaptation: by name up to 40, as histograms beyond. Shown times `scale`."""
    before, after = (scale * values([n[key] for n in nodes]) for key in ("before", "after"))
    draw, height = (_by_name, 0.8 + 0.15 * len(nodes)) if len(nodes) <= NAMED else (_by_value, 3.2)

    def both(figure: Any) -> None:
        log = _wide(np.concatenate([before, after]), xlabel)
        ax = draw(figure, before, after, log, [short(n["name"], 18) for n in nodes[:NAMED]])
        ax.set_xlabel(xlabel)
        if log:
            _log(ax, "x")

    return picture(both, COLUMN, height)


def values(items: Sequence[float | None]) -> np.ndarray:
    """Float64 array of figures; a missing one is NaN."""
    return np.array([np.nan if v is None else v for v in items], dtype=np.float64)


def short(name: object, most: int = 22) -> str:
    """A name from a file made fit for a label: one line, printable, at most `most` characters."""
    text = printable(str(name)).replace("\n", " ")
    return text if len(text) <= most else text[: most - 1] + "…"


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Places near the wanted ones, within 0..1, in the same order and `gap` apart where there is room for that."""
    order = np.argsort(wanted, kind="stable")
    steps = min(gap, 1 / max(len(order) - 1, 1)) * np.arange(len(order))
    free = np.asarray(wanted)[order] - steps
    even = (np.maximum.accumulate(free) + np.minimum.accumulate(free[::-1])[::-1]) / 2
    placed = np.empty(len(order))
    placed[order] = np.clip(even, 0, 1 - steps[-1:].sum()) + steps
    return placed.tolist()


def plain(value: float, _: object = None) -> str:
    """A tick label without powers: matplotlib would set those as mathematics."""
    return f"{value:,.10g}" if abs(value) < 1e6 else f"{value:.0e}"


def _curves(ax: Any, panel: Panel, height: float) -> None:
    last = max(s.x.max() for s in panel.series)
    if _wide(np.concatenate([s.y for s in panel.series]), panel.ylabel):
        _log(ax, "y")
    ends = []
    for s in map(_thin, panel.series):
        kept = np.isfinite(s.y)
        if not kept.any():
            continue
        x, y, ci = s.x[kept], s.y[kept], np.nan_to_num(s.ci[kept])
        reference = s.look < 0
        colour = GREY if reference else _COLOURS[s.look % len(_COLOURS)]
        mark = "x" if reference else _MARKS[s.look % len(_MARKS)]
        line = {"color": colour, "ls": (0, (4, 2)) if reference else "-", "lw": 1.2 if s.look else 1.8}
        ax.plot(x, y, **line, marker=mark if len(x) <= 12 else None, ms=3.5, zorder=2 if s.look else 3)
        ax.fill_between(x, y - ci, y + ci, color=colour, alpha=0.18, lw=0)
        if len(x) == 1:
            ax.errorbar(x, y, ci, color=colour, lw=1, capsize=2)
        if kept[-1]:  # a shorter curve stays where it ended, one that diverged does not
            ax.plot([x[-1], last], [y[-1]] * 2, color=colour, ls=":", lw=0.8)
        label, end = (short(s.label, 16), last) if kept[-1] else (f"{short(s.label, 16)}, diverged", x[-1])
        ends.append((label, end, y[-1], colour, s.look == 0))
    low, high = ax.get_ylim()
    if panel.ylabel == PERCENT:
        low, high = max(low, 0), min(high, 101)
    ax.set(ylabel=panel.ylabel, ylim=(low, high))
    to_axes = ax.transScale + ax.transLimits
    wanted = [float(to_axes.transform((x, y))[1]) for _, x, y, _, _ in ends]
    for (label, x, y, colour, main), at in zip(ends, apart(wanted, 0.14 / (height - 0.4)), strict=True):
        ax.annotate(
            label,
            (x, y),
            (1.08, at),
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            fontweight="bold" if main else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8, "shrinkA": 0, "shrinkB": 3, "relpos": (0, 0.5)},
            annotation_clip=False,
        )


def _by_name(figure: Any, before: np.ndarray, after: np.ndarray, log: bool, names: Sequence[str]) -> Any:
    ax = figure.subplots()
    order = np.argsort(np.nan_to_num(after, nan=-np.inf), kind="stable")
    rows = np.arange(len(order))
    ax.hlines(rows, before[order], after[order], color=PALE, lw=1.5, zorder=1)
    if np.isfinite(before).any():
        ax.plot(before[order], rows, "o", mfc="white", mec=GREY, ms=4, label="before adapting")
    ax.plot(after[order], rows, "o", color=BLUE, ms=4, label="after adapting")
    ax.set_yticks(rows, [names[i] for i in order])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.7, len(rows) - 0.3)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=7, handletextpad=0.1)
    return ax


def _by_value(figure: Any, before: np.ndarray, after: np.ndarray, log: bool, _: Sequence[str]) -> Any:
    looks = ((before, "before", GREY), (after, "after", BLUE))
    shown = [(v[np.isfinite(v)], label, colour) for v, label, colour in looks if np.isfinite(v).any()]
    every = np.concatenate([v for v, _, _ in shown])
    edges = np.geomspace(every.min(), every.max(), 41) if log else np.histogram_bin_edges(every, 40)
    axes = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
    for ax, (value, label, colour) in zip(axes, shown, strict=True):
        ax.hist(value, edges, color=colour)
        ax.axvline(np.median(value), color=INK, lw=0.8, ls=(0, (3, 2)))
        ax.set_title(f"{label} adapting (dashed: median)", loc="left", fontsize=8)
        ax.set_ylabel("nodes")
    return axes[-1]


def _wide(y: np.ndarray, unit: str) -> bool:
    """Whether figures spread over more than two decades, so that only a logarithmic axis shows them all."""
    y = y[np.isfinite(y)]
    return bool(unit != PERCENT and y.size and y.min() > 0 and y.max() > 100 * y.min())


def _log(ax: Any, which: str) -> None:
    ax.set(**{f"{which}scale": "log"})
    getattr(ax, f"{which}axis").set_major_formatter(plain)


def _thin(s: Series) -> Series:
    """A curve of many points as means of equal pieces."""
    if len(s.x) <= POINTS:
        return s
    pieces = np.linspace(0, len(s.x), POINTS // 2 + 1).astype(int)[:-1]
    width = np.diff([*pieces, len(s.x)])
    x, y, ci = (np.add.reduceat(v, pieces) / width for v in (s.x, s.y, s.ci))
    return s._replace(x=x, y=y, ci=ci)
