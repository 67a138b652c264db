"""The partition as a heat map: nodes by classes, with each node's rows and its distance from all training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metadist_cli.partition.held_out import ROLES
from metadist_cli.partition.heterogeneity import Composition, label_skew, of_manifest, summary
from metadist_cli.report.canvas import BLUE, INK, NAMED, ORANGE, RED, apart, picture, plain, short

_COLOURS = {"train": BLUE, "validation": ORANGE, "test": RED}
_SHADES = ("#D3E5F3", BLUE, "#06213F")  # one hue, so that it reads in grey; never white, which means none
_MOST = 80  # rows or columns; more are binned
_KINDS_NAMED = 24
_DIGITS = 50  # most digits in a line of cells; with more, numbers are not shown


def partition_png(manifest: Mapping[str, Any]) -> bytes:
    """Draw a partition manifest, as PNG bytes.

    Shades are shares of a node's rows, so that nodes of any size compare; bars show the sizes. More than 80 nodes or
    classes are binned, with nodes ordered by their most common class, so that a bin holds similar nodes.
    """
    held = of_manifest(manifest)
    skew = label_skew(held)
    order, roles, sizes = _order(held)
    node_bin, starts = _bins(sizes)
    kind_bin, _ = _bins([len(held.kinds)])
    place = np.empty(len(order), dtype=np.int64)
    place[order] = node_bin
    members, kinds_in = np.bincount(node_bin), np.bincount(kind_bin)
    down, across = len(members), len(kinds_in)
    cell = place[held.node] * across + kind_bin[held.kind]
    share = np.bincount(cell, weights=100 * held.count / held.rows[held.node], minlength=down * across)
    share = share.reshape(down, across) / np.outer(members, kinds_in)
    mean = [np.bincount(place, weights=figure) / members for figure in (held.rows, *skew)]
    rows, _, distance, chance = mean
    binned, named = down < len(order), len(order) <= NAMED
    ends = [*starts[1:], down]
    names = [short(kind, 18) for kind in held.kinds] if len(held.kinds) <= _KINDS_NAMED else []
    upright = sum(map(len, names)) > 30
    counts = None
    if named and across * len(f"{held.count.max():,}") <= _DIGITS:
        counts = np.zeros((down, across), dtype=np.int64)
        counts[place[held.node], held.kind] = held.count

    def draw(figure: Any) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        heat, bars, far = figure.subplots(1, 3, sharey=True, width_ratios=[3, 0.8, 0.8])
        image = heat.imshow(
            np.ma.masked_equal(share, 0),
            cmap=LinearSegmentedColormap.from_list("share", _SHADES),
            norm=_norm(share, 100 / len(held.kinds)),
            aspect="auto",
            interpolation="nearest",
            extent=(-0.5, across - 0.5, down - 0.5, -0.5),
        )
        scale = figure.colorbar(image, ax=heat, location="top", aspect=40, format=plain)
        scale.outline.set_visible(False)
        unit = "range of the target" if held.bins else "class"
        legend = "mean of a bin; white: none" if binned or across < len(held.kinds) else "white: none"
        scale.set_label(f"% of a node's rows ({'numbers: rows; ' if counts is not None else ''}{legend})", fontsize=7)
        heat.set(
            xlabel=_counted(unit, len(held.kinds), across),
            ylabel=_counted("node", len(order), down, ", similar ones together"),
        )
        if names:
            heat.set_xticks(range(across), names, rotation=90 if upright else 0)
        else:
            heat.set_xticks([])
        heat.set_yticks(range(down) if named else [], [short(held.name[i], 18) for i in order] if named else [])
        if counts is not None:
            _write(heat, counts, image)
        for role, start, end in zip(roles, starts, ends, strict=True):
            here = np.arange(start, end)
            bars.barh(here, rows[start:end], 0.8 if named else 1, color=_COLOURS[role])
            far.barh(here, distance[start:end], 0.8 if named else 1, color=_COLOURS[role])
        far.plot(chance, np.arange(down), "|", color=INK, ms=5 if named else 2, mew=1)
        for ax in (heat, bars, far):
            ax.hlines(np.array(ends[:-1]) - 0.5, 0, 1, transform=ax.get_yaxis_transform(), color=INK, lw=0.8)
        wide = bool(rows.max() > 100 * rows.min())
        labels = ("rows\n(log scale)" if wide else "rows", "distance\n(line: if IID)")
        for ax, label in zip((bars, far), labels, strict=True):
            ax.set(xlabel=f"{'mean ' if binned else ''}{label}", ylim=(down - 0.5, -0.5))
            ax.tick_params(axis="y", left=False, labelleft=False)
            ax.locator_params(axis="x", nbins=2)
            ax.xaxis.set_major_formatter(plain)
        if wide:
            bars.set(xscale="log", xlim=(rows.min() / 2, rows.max() * 1.2))
            bars.xaxis.set_major_formatter(plain)
        far.set_xlim(0, 1)
        middles = [1 - (start + end) / 2 / down for start, end in zip(starts, ends, strict=True)]
        for role, at in zip(roles, apart(middles, 0.06), strict=True):
            far.text(1.08, at, role, color=INK, transform=far.transAxes, va="center", fontsize=7)

    return picture(draw, 5.0, float(np.clip(1.2 + 0.13 * down, 2.1, 5.5)) + 0.6 * upright)


def partition_text(manifest: Mapping[str, Any]) -> str:
    """What the picture of a partition manifest shows, in words."""
    held = of_manifest(manifest)
    skew = label_skew(held)
    train = summary(held, skew)["train"]
    kind, most = "target-range" if held.bins else "class", np.log2(len(held.kinds))
    return (
        f"{len(held.rows):,} nodes hold {_span(held.rows)} rows each (median {np.median(held.rows):,.0f}), of "
        f"{_span(held.classes)} classes out of {len(manifest['classes']):,}. Heterogeneity of the training nodes (mean "
        f"over rows): a node's {kind} distribution has an entropy of {train['entropy']:.2f} bits, at most {most:.2f}. "
        f"Its total variation distance from that of all training rows is {train['distance']:.2f} (0: identical, 1: "
        f"disjoint), where a random (IID) assignment would give {train['chance']:.2f}."
    )


def _span(counts: np.ndarray) -> str:
    low, high = counts.min(), counts.max()
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _order(held: Composition) -> tuple[np.ndarray, list[str], list[int]]:
    """(node indices in the order of the picture, roles present, number of nodes of each)."""
    roles = [role for role in ROLES if (held.role == role).any()]
    of = np.array([roles.index(role) for role in held.role.tolist()])
    keys = [np.arange(len(of))]
    if len(of) > _MOST:
        share = held.count / held.rows[held.node]
        most = np.maximum.reduceat(share, np.flatnonzero(np.diff(held.node, prepend=-1)))
        # reversed: among equally common kinds the first is written last, and wins
        first = np.flatnonzero(share == most[held.node])[::-1]
        common = np.empty(len(of), dtype=np.int64)
        common[held.node[first]] = held.kind[first]
        keys += [-most, common]
    return np.lexsort([*keys, of]), roles, np.bincount(of).tolist()


def _write(ax: Any, counts: np.ndarray, image: Any) -> None:
    """Write the number of rows into each cell, dark on light or light on dark."""
    size = 5.5 if counts.shape[1] * len(f"{counts.max():,}") <= 0.7 * _DIGITS else 4.5
    for (y, x), count in np.ndenumerate(counts):
        if count:
            dark = image.norm(image.get_array()[y, x]) > 0.35
            ax.text(x, y, f"{count:,}", ha="center", va="center", fontsize=size, color="white" if dark else INK)


def _norm(share: np.ndarray, even: float) -> Any:
    """Linear from zero to at least five times an even share, so that random variation looks pale; logarithmic where a
    linear scale would hide most cells."""
    from matplotlib.colors import LogNorm, Normalize

    some = share[share > 0]
    if some.max() > 20 * np.median(some):
        return LogNorm(some.min(), some.max())
    return Normalize(0, max(some.max(), min(5 * even, 100)))


def _bins(sizes: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """The bin of each item and the first bin of each part; at most about 80 bins, none spanning two parts."""
    total, bins, starts, first = sum(sizes), [], [], 0
    for size in sizes:
        count = size if total <= _MOST else min(size, max(1, round(_MOST * size / total)))
        bins.append(first + np.arange(size) * count // size)
        starts.append(first)
        first += count
    return np.concatenate(bins), starts


def _counted(noun: str, items: int, bins: int, more: str = "") -> str:
    return noun if bins == items else f"{noun} ({items:,} in {bins} bins{more})"
