"""Data augmentation: random changes to a task's inputs each time training samples it.

New tasks are never augmented. A change depends only on the task's seed and the row's position in the task (or its
class), so it is the same for any block, process or device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from metadist_cli.core import seeds
from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.tasks.types import Episode

Augment = Callable[[Episode, np.ndarray], Episode]
"""(tasks with leaves (..., n, *shape), their seeds (...)) -> tasks of the same shapes with changed inputs."""


def unchanged(tasks: Episode, task_seeds: np.ndarray) -> Episode:
    """The Augment that changes nothing."""
    return tasks


def none(shape: tuple[int, ...], kind: str) -> Augment:
    """No augmentation."""
    return unchanged


def affine(
    shape: tuple[int, ...],
    kind: str,
    *,
    shift: Annotated[int, Field(ge=0, description="Largest shift in pixels, in each direction.")] = 1,
    turn: Annotated[float, Field(ge=0, le=180, description="Largest rotation in degrees, either way.")] = 10.0,
    zoom: Annotated[
        float, Field(ge=0, lt=1, description="Largest relative change of width and of height, drawn independently.")
    ] = 0.1,
    flip: Annotated[
        Literal["never", "row", "class"],
        Field(
            description="row: mirror half of the images, left to right; class: mirror all images of half of a task's "
            "classes, which doubles the number of classes to meta-learn from."
        ),
    ] = "never",
) -> Augment:
    """Shift, rotate and stretch each image at random; edges are extended by repeating their pixels.

    Shifts and rotations as Santoro et al. 2016, https://proceedings.mlr.press/v48/santoro16.html, section 4.1 (on
    Omniglot); flips and crops: Lee et al. 2019, https://arxiv.org/abs/1904.03758, section 4.1; flips by class: Ni et
    al. 2021, https://arxiv.org/abs/2010.07092 (task augmentation). All draws are uniform. Shifts are by whole pixels,
    so without turn and zoom images stay sharp.

    Args:
        shape: of one row, (height, width) or (channels, height, width).
        kind: "classification" or "regression".
        shift, turn, zoom, flip: options.

    Raises:
        Problem: for rows that are not images, and for `flip: class` in a regression.
    """
    if len(shape) not in (2, 3):
        what = f"affine augments images, (height, width) or (channels, height, width), not rows of shape {shape}"
        raise Problem(what, "train.augment.name", "use train.augment: {name: none}, or image data", CONFIG)
    if flip == "class" and kind != "classification":
        raise Problem(f"a {kind} has no classes to mirror", "train.augment.flip", "use flip: row", CONFIG)
    most = np.array([math.radians(turn), zoom, zoom])

    def rows(x: Tensor, y: Tensor, task_seeds: np.ndarray, part: int) -> Tensor:
        if not x.numel():
            return x

        def draw(what: str, part: int, one: np.ndarray, many: int) -> np.ndarray:
            base, counters = seeds.key("affine", what, part), (task_seeds[..., None, None], one[..., None])
            return seeds.uniform(base, *counters, np.arange(many)).reshape(-1, many)

        place = np.arange(x.shape[task_seeds.ndim])
        images = x.reshape(-1, *(shape if len(shape) == 3 else (1, *shape)))
        mirrored = torch.zeros(len(images), dtype=torch.bool, device=x.device)
        if flip != "never":
            unit = draw("flip", 0, y.cpu().numpy(), 1) if flip == "class" else draw("flip", part, place, 1)
            mirrored = torch.from_numpy(unit[:, 0] < 0.5).to(x.device)
        if not (shift or turn or zoom):
            return torch.where(mirrored[:, None, None, None], images.flip(-1), images).reshape(x.shape)
        unit = draw("move", part, place, 2 + len(most))
        change = np.concatenate([np.floor(unit[:, :2] * (2 * shift + 1)) - shift, (2 * unit[:, 2:] - 1) * most], 1)
        return warp(images, torch.from_numpy(change).to(x), mirrored).reshape(x.shape)

    def augment(tasks: Episode, task_seeds: np.ndarray) -> Episode:
        support = rows(tasks.support_x, tasks.support_y, task_seeds, 0)
        return tasks._replace(support_x=support, query_x=rows(tasks.query_x, tasks.query_y, task_seeds, 1))

    return augment


def warp(images: Tensor, change: Tensor, mirrored: Tensor) -> Tensor:
    """Transform images about their centres, with bilinear interpolation.

    The pixel at (x, y) from the centre is read from (x (1 + wide), y (1 + high)), rotated by the angle and shifted by
    (right, down).

    Args:
        images: (n, C, H, W).
        change: (n, 5): right and down in pixels, angle in radians, wide, high.
        mirrored: (n,) bool: use -x for x.

    Returns:
        (n, C, H, W).
    """
    height, width = images.shape[-2:]
    right, down, angle, wide, high = change.T
    x, y, sin, cos = torch.where(mirrored, -1, 1) * (1 + wide), 1 + high, angle.sin(), angle.cos()
    first = torch.stack([cos * x, -sin * y * height / width, 2 * right / width], -1)
    second = torch.stack([sin * x * width / height, cos * y, 2 * down / height], -1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


AUGMENTS: dict[str, Callable[..., Augment]] = {"none": none, "affine": affine}
