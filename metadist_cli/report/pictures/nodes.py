"""The spread over new nodes: each node's score before and after adaptation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from metadist_cli.report.canvas import (
    BLUE,
    COLUMN,
    GREY,
    INK,
    NAMED,
    PALE,
    Axis,
    log_axis,
    needs_log,
    picture,
    short,
    values,
)
from metadist_cli.report.findings import axis, number
from metadist_cli.report.types import Picture, Results


def nodes(results: Results) -> Picture | None:
    """The spread over new nodes; None for fewer than two."""
    entries = [n for n in results.metrics["per_node"] if n["after"] is not None]
    if len(entries) < 2:
        return None
    measured = axis(results.metrics["metric"])
    text = f"{len(entries):,} new nodes before and after adaptation."
    if spread := results.metrics.get("node_spread"):
        scaled = [measured.scale * spread[key] for key in ("mean", "sd", "min", "max")]
        mean, sd, low, high = (number(v, 1) + "%" if measured.percent else number(v) for v in scaled)
        text += f" After adaptation: mean {mean} and standard deviation {sd} over nodes, range {low} to {high}."
    return Picture(nodes_png(entries, measured), f"Spread over nodes. {text}", text)


def nodes_png(entries: Sequence[dict], measured: Axis) -> bytes:
    """Draw each node's score before and after adaptation: by name for up to 40 nodes, otherwise as histograms."""
    before, after = (measured.scale * values([n[key] for n in entries]) for key in ("before", "after"))
    draw, height = (_by_name, 0.8 + 0.15 * len(entries)) if len(entries) <= NAMED else (_by_value, 3.2)

    def both(figure: Any) -> None:
        log = needs_log(np.concatenate([before, after]), measured)
        ax = draw(figure, before, after, log, [short(n["name"], 18) for n in entries[:NAMED]])
        ax.set_xlabel(measured.label)
        if log:
            log_axis(ax, "x")

    return picture(both, COLUMN, height)


def _by_name(figure: Any, before: np.ndarray, after: np.ndarray, log: bool, names: Sequence[str]) -> Any:
    ax = figure.subplots()
    order = np.argsort(np.nan_to_num(after, nan=-np.inf), kind="stable")
    rows = np.arange(len(order))
    ax.hlines(rows, before[order], after[order], color=PALE, lw=1.5, zorder=1)
    if np.isfinite(before).any():
        ax.plot(before[order], rows, "o", mfc="white", mec=GREY, ms=4, label="before adaptation")
    ax.plot(after[order], rows, "o", color=BLUE, ms=4, label="after adaptation")
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
        ax.set_title(f"{label} adaptation (dashed: median)", loc="left", fontsize=8)
        ax.set_ylabel("nodes")
    return axes[-1]
