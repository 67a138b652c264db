"""One task: its support, its queries, and the predictions."""

from __future__ import annotations

from typing import Any

import numpy as np

from metadist_cli.report.canvas import BLUE, COLUMN, GREY, INK, PALE, RED, picture, short
from metadist_cli.report.findings import number
from metadist_cli.report.types import ExampleTask, Picture, Results


def task(results: Results) -> Picture | None:
    """The example task; None where there is none, or its inputs are vectors."""
    shown = results.example
    if shown is None or shown.kind == "vector":
        return None
    if shown.kind == "curve":
        guesses = {"before": shown.before, "after": shown.after}
        said = ", ".join(f"{number(_mse(shown, g))} {when}" for when, g in guesses.items() if g is not None)
        text = f"{len(shown.support_x)} support points, {len(shown.query_x)} queries. "
        text += f"Mean squared error: {said} adaptation."
        return Picture(_curve_task(shown), f"The true function and the predictions. {text}", text)
    text = f"One task with {len(shown.support_x)} support images. {shown.score()}"
    labels, names = class_labels(shown), shown.classes
    if list(labels) != list(names):
        used = np.unique(np.concatenate([shown.support_y, shown.query_y]))[:10]
        text += " " + ", ".join(f"{labels[i]}: {names[i]}" for i in used) + "."
    text += (
        " The first images of each class are shown; ✗ and a frame mark a wrong prediction, with the predicted class."
    )
    return Picture(_image_task(shown), f"Images of the task with predictions. {shown.score()}", text)


def _mse(shown: ExampleTask, guess: np.ndarray) -> float:
    return float(np.mean((guess.reshape(-1) - shown.query_y.reshape(-1)) ** 2))


def class_labels(shown: ExampleTask) -> list[str]:
    """Column headings of the picture: the class names where they fit, otherwise letters."""
    names = [short(c) for c in shown.classes]
    if all(len(n) <= 7 for n in names):
        return names
    return [chr(65 + i) if i < 26 else str(i) for i in range(len(names))]


def _image_task(shown: ExampleTask) -> bytes:
    names, present = class_labels(shown), np.unique(np.concatenate([shown.support_y, shown.query_y]))[:10]
    parts = [
        ("support", shown.support_x, shown.support_y, None, 3),
        ("queries", shown.query_x, shown.query_y, shown.after, 4),
    ]
    tiles: list[tuple[float, int, np.ndarray, str, bool]] = []
    heads, top = [], 0.0
    for part, x, y, guess, most in parts:
        rows = [np.flatnonzero(y == label)[:most] for label in present]
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
    bright = (
        np.median(shown.support_x[..., 0, :]) > 0.5
    )  # is the top edge (background) bright? ink is always drawn dark

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
        for column, label in enumerate(present):
            ax.text(column * 1.25 + 0.5, -0.25, names[label], ha="center", va="center", fontsize=7)
        for part, y in heads:
            ax.text(-0.25, y, part, rotation=90, ha="center", va="center", fontsize=8)
        ax.set(xlim=(-0.5, 1.25 * len(present)), ylim=(top - 0.2, -0.5), aspect="equal")
        ax.axis("off")

    unit = 0.48
    return picture(draw, unit * (1.25 * len(present) + 0.5), unit * (top + 0.3))


def _curve_task(shown: ExampleTask) -> bytes:
    x = shown.query_x.reshape(-1)
    order = np.argsort(x, kind="stable")
    lines = [("true function", shown.query_y, INK, (0, (1, 1.5))), ("after adaptation", shown.after, BLUE, "-")]
    if shown.before is not None:
        lines.insert(1, ("before adaptation", shown.before, GREY, (0, (4, 2))))

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for label, y, colour, dash in lines:
            ax.plot(x[order], y.reshape(-1)[order], color=colour, ls=dash, lw=1.4, label=label)
        ax.plot(
            shown.support_x.reshape(-1),
            shown.support_y.reshape(-1),
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
