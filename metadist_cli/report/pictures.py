"""The pictures of a report that are no charts: who has what, and one task to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from metadist_cli.report.charts import BLUE, COLUMN, GREY, INK, NAMED, ORANGE, PALE, RED, apart, picture, plain, short

_ROLES = {"train": BLUE, "validation": ORANGE, "test": RED}
_SHADES = ("#D3E5F3", BLUE, "#06213F")  # one hue, so that it reads in grey, and never white: that is none
_MOST = 60  # rows or columns, more are binned
_CLASSES_NAMED = 20


class Examples(NamedTuple):
    """One task of the evaluation, to look at.

    kind: "image" (x (n, H, W) in 0..1), "curve" (x (n,) or (n, 1)) or "vector" (x is not shown).
    support_y, query_y: labels, int (n,), indices into `classes`; for curves targets, float (n,) or (n, 1).
    before, after: predicted labels or targets of the queries, (n,); before is None where there is no prediction.
    """

    kind: str
    support_x: np.ndarray
    support_y: np.ndarray
    query_x: np.ndarray
    query_y: np.ndarray
    before: np.ndarray | None
    after: np.ndarray
    classes: tuple[str, ...]


def partition_png(shards: dict) -> bytes:
    """Heat map of rows per node and class beside the rows of each node; more than 60 of either are binned.

    shards: the manifest {"classes": [name], "nodes": [{"node", "name", "role", "rows", "classes": [[id, rows]]}]}.
    """
    nodes = sorted(shards["nodes"], key=lambda n: (list(_ROLES).index(n["role"]), n["node"]))
    classes = shards["classes"]
    roles = [role for role in _ROLES if any(n["role"] == role for n in nodes)]
    node_bin, starts = _bins([sum(n["role"] == role for n in nodes) for role in roles])
    class_bin, _ = _bins([len(classes)])
    members, ids_in = np.bincount(node_bin), np.bincount(class_bin)
    down, across = len(members), len(ids_in)
    owner = np.repeat(node_bin, [len(n["classes"]) for n in nodes])
    held = np.array([pair for n in nodes for pair in n["classes"]], dtype=np.int64).reshape(-1, 2)
    cells = np.bincount(owner * across + class_bin[held[:, 0]], weights=held[:, 1], minlength=down * across)
    mean = cells.reshape(down, across) / np.outer(members, ids_in)
    rows = np.bincount(node_bin, weights=[n["rows"] for n in nodes]) / members
    binned = mean.size < len(nodes) * len(classes)
    ends = [*starts[1:], down]
    names = [short(c, 14) for c in classes] if len(classes) <= _CLASSES_NAMED else []
    turned = max(map(len, names), default=0) > 3

    def draw(figure: Any) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        heat, bars = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
        image = heat.imshow(
            np.ma.masked_equal(mean, 0),
            cmap=LinearSegmentedColormap.from_list("rows", _SHADES),
            norm=_norm(mean),
            aspect="auto",
            interpolation="nearest",
            extent=(-0.5, len(classes) - 0.5, down - 0.5, -0.5),
        )
        scale = figure.colorbar(image, ax=heat, location="top", aspect=40, format=plain)
        scale.outline.set_visible(False)
        scale.set_label(f"rows per node and class{', mean of a bin' if binned else ''} (white: none)", fontsize=7)
        heat.set(xlabel=_counted("class", len(classes), across), ylabel=_counted("node", len(nodes), down))
        if names:
            heat.set_xticks(range(across), names, rotation=90 if turned else 0)
        named = len(nodes) <= NAMED
        heat.set_yticks(range(down) if named else [], [short(n["name"], 16) for n in nodes] if named else [])
        for role, start, end in zip(roles, starts, ends, strict=True):
            bars.barh(np.arange(start, end), rows[start:end], 0.8 if named else 1, color=_ROLES[role])
        for ax in (heat, bars):
            ax.hlines(np.array(ends[:-1]) - 0.5, 0, 1, transform=ax.get_yaxis_transform(), color=INK, lw=0.8)
        bars.set(xlabel=f"rows{', mean' if down < len(nodes) else ''}", ylim=(down - 0.5, -0.5))
        bars.spines["left"].set_visible(False)
        bars.tick_params(axis="y", left=False, labelleft=False)
        bars.locator_params(axis="x", nbins=3)
        middles = [1 - (start + end) / 2 / down for start, end in zip(starts, ends, strict=True)]
        for role, at in zip(roles, apart(middles, 0.06), strict=True):
            bars.text(1.06, at, role, color=INK, transform=bars.transAxes, va="center", fontsize=7)

    return picture(draw, 4.2, float(np.clip(1.2 + 0.11 * down, 1.9, 5.0)) + 0.5 * turned)


def task_png(task: Examples) -> bytes | None:
    """The task as a picture, or None for a task that has none."""
    return {"image": _image_task, "curve": _curve_task}.get(task.kind, lambda _: None)(task)


def class_labels(task: Examples) -> list[str]:
    """What the columns of the picture are called: the class names where they fit, letters where they don't."""
    names = [short(c) for c in task.classes]
    if all(len(n) <= 7 for n in names):
        return names
    return [chr(65 + i) if i < 26 else str(i) for i in range(len(names))]


def _image_task(task: Examples) -> bytes:
    names, shown = class_labels(task), np.unique(np.concatenate([task.support_y, task.query_y]))[:10]
    parts = [
        ("support", task.support_x, task.support_y, None, 3),
        ("queries", task.query_x, task.query_y, task.after, 4),
    ]
    tiles: list[tuple[float, int, np.ndarray, str, bool]] = []
    heads, top = [], 0.0
    for part, x, y, guess, most in parts:
        rows = [np.flatnonzero(y == label)[:most] for label in shown]
        step = 1.12 if guess is None else 1.42
        for column, members in enumerate(rows):
            for row, i in enumerate(members):
                right = guess is None or guess[i] == y[i]
                text = "" if guess is None else "✓" if right else f"✗ {names[guess[i]]}"
                tiles.append((top + row * step, column, x[i], text, right))
        depth = max(map(len, rows)) * step
        if depth:
            heads.append((part, top + depth / 2))
            top += depth + 0.3
    bright = np.median(task.support_x[..., 0, :]) > 0.5  # the upper edge is background: ink is always drawn dark

    def draw(figure: Any) -> None:
        from matplotlib.patches import Rectangle

        ax = figure.subplots()
        for y, column, image, text, right in tiles:
            x = column * 1.25
            ax.imshow(
                image,
                cmap="gray" if bright else "gray_r",
                vmin=0,
                vmax=1,
                extent=(x, x + 1, y + 1, y),
                interpolation="nearest",
            )
            ax.add_patch(Rectangle((x, y), 1, 1, fill=False, ec=PALE if right else RED, lw=0.6 if right else 1.4))
            ax.text(x + 0.5, y + 1.2, text, ha="center", va="center", fontsize=8, color=GREY if right else RED)
        for column, label in enumerate(shown):
            ax.text(column * 1.25 + 0.5, -0.25, names[label], ha="center", va="center", fontsize=7)
        for part, y in heads:
            ax.text(-0.25, y, part, rotation=90, ha="center", va="center", fontsize=8)
        ax.set(xlim=(-0.5, 1.25 * len(shown)), ylim=(top - 0.2, -0.5), aspect="equal")
        ax.axis("off")

    unit = 0.48
    return picture(draw, unit * (1.25 * len(shown) + 0.5), unit * (top + 0.3))


def _curve_task(task: Examples) -> bytes:
    x = task.query_x.reshape(-1)
    order = np.argsort(x, kind="stable")
    lines = [("true function", task.query_y, INK, (0, (1, 1.5))), ("after adapting", task.after, BLUE, "-")]
    if task.before is not None:
        lines.insert(1, ("before adapting", task.before, GREY, (0, (4, 2))))

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for label, y, colour, dash in lines:
            ax.plot(x[order], y.reshape(-1)[order], color=colour, ls=dash, lw=1.4, label=label)
        ax.plot(
            task.support_x.reshape(-1),
            task.support_y.reshape(-1),
            "^",
            color=RED,
            ms=6,
            mec="white",
            mew=0.5,
            label="support points",
        )
        ax.set(xlabel="input x", ylabel="target y")
        figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=7)

    return picture(draw, COLUMN, 2.8)


def _norm(mean: np.ndarray) -> Any:
    """Linear from zero, or logarithmic where a linear scale would hide most of what there is."""
    from matplotlib.colors import LogNorm, Normalize

    held = mean[mean > 0]
    if held.size and held.max() > 20 * np.median(held):
        return LogNorm(held.min(), held.max())
    return Normalize(0, mean.max() or 1)


def _bins(sizes: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """The bin of each item and the first bin of each part; about 60 bins at most and none across two parts."""
    total, bins, starts, first = sum(sizes), [], [], 0
    for size in sizes:
        count = size if total <= _MOST else min(size, max(1, round(_MOST * size / total)))
        bins.append(first + np.arange(size) * count // size)
        starts.append(first)
        first += count
    return np.concatenate(bins), starts


def _counted(noun: str, items: int, bins: int) -> str:
    return noun if bins == items else f"{noun} ({items:,} in {bins} bins)"
