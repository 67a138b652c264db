"""Curves with intervals, labelled at their ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from metadist_cli.report.canvas import (
    BLUE,
    COLUMN,
    GREY,
    ORANGE,
    RED,
    Axis,
    apart,
    log_axis,
    needs_log,
    picture,
    plain,
    short,
)

_COLOURS = (BLUE, RED, "#009E73", "#CC79A7", ORANGE, "#56B4E9")
_MARKS = "osD^vP"
POINTS = 300  # most points of a curve; longer ones are averaged


class Series(NamedTuple):
    """A labelled curve of n points.

    Attributes:
        label: shown at its end.
        x, y, ci: (n,) positions, values and half widths of the intervals; NaN where missing.
        look: number of its colour and marker: 0 for the main curve, -1 for a grey dashed reference.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    ci: np.ndarray
    look: int


class Panel(NamedTuple):
    """One of several charts that share an x axis."""

    axis: Axis
    series: Sequence[Series]


def curves_png(panels: Sequence[Panel], xlabel: str) -> bytes:
    """Draw curves with bands for intervals, one panel above the other."""
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


def _curves(ax: Any, panel: Panel, height: float) -> None:
    last = max(s.x.max() for s in panel.series)
    if needs_log(np.concatenate([s.y for s in panel.series]), panel.axis):
        log_axis(ax, "y")
    else:
        ax.yaxis.set_major_formatter(plain)
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
        if kept[-1]:  # extend a shorter curve, but not a diverged one
            ax.plot([x[-1], last], [y[-1]] * 2, color=colour, ls=":", lw=0.8)
        label, end = (short(s.label, 16), last) if kept[-1] else (f"{short(s.label, 16)}, diverged", x[-1])
        ends.append((label, end, y[-1], colour, s.look == 0))
    low, high = ax.get_ylim()
    if panel.axis.percent:
        low, high = max(low, 0), min(high, 101)
    ax.set(ylabel=panel.axis.label, ylim=(low, high))
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


def _thin(s: Series) -> Series:
    """A long curve as means of equal segments."""
    if len(s.x) <= POINTS:
        return s
    pieces = np.linspace(0, len(s.x), POINTS // 2 + 1).astype(int)[:-1]
    width = np.diff([*pieces, len(s.x)])
    x, y, ci = (np.add.reduceat(v, pieces) / width for v in (s.x, s.y, s.ci))
    return s._replace(x=x, y=y, ci=ci)
