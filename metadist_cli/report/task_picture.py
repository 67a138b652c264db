"""The picture of one task to look at."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from metadist_cli.report.charts import BLUE, COLUMN, GREY, INK, PALE, RED, picture, short


class ExampleTask(NamedTuple):
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


def task_png(task: ExampleTask) -> bytes | None:
    """The task as a picture, or None for a task that has none."""
    return {"image": _image_task, "curve": _curve_task}.get(task.kind, lambda _: None)(task)


def class_labels(task: ExampleTask) -> list[str]:
    """What the columns of the picture are called: the class names where they fit, letters where they don't."""
    names = [short(c) for c in task.classes]
    if all(len(n) <= 7 for n in names):
        return names
    return [chr(65 + i) if i < 26 else str(i) for i in range(len(names))]


def _image_task(task: ExampleTask) -> bytes:
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


def _curve_task(task: ExampleTask) -> bytes:
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
