"""Rows that change each time they are drawn, against SciPy's interpolation, and never by chance of where they stand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from maths import covered, gap, rand
from runner import Lab
from scipy import ndimage
from torch import Tensor

from metadist_cli.core.errors import Problem
from metadist_cli.tasks.augmentation import AUGMENTS, affine, warp
from metadist_cli.tasks.types import Episode

SEEDS = np.arange(24).reshape(2, 3, 4) * 1_000_003 + 7
SIZE, KIND = (9, 14), "classification"


def drawn(*lead: int, support: int = 3, query: int = 5, size: tuple[int, ...] = SIZE) -> Episode:
    def part(n: int, seed: int) -> tuple[Tensor, Tensor]:
        return rand(*lead, n, *size, seed=seed), torch.zeros(*lead, n)

    return Episode(*part(support, 0), *part(query, 1))


def by_scipy(image: np.ndarray, change: Tensor, mirrored: bool) -> np.ndarray:
    right, down, angle, wide, high = change.tolist()
    middle = [(length - 1) / 2 for length in image.shape]
    y, x = (axis - m for axis, m in zip(np.indices(image.shape), middle, strict=True))
    x, y = (-x if mirrored else x) * (1 + wide), y * (1 + high)
    to_x = math.cos(angle) * x - math.sin(angle) * y + right
    to_y = math.sin(angle) * x + math.cos(angle) * y + down
    places = [axis + m for axis, m in zip((to_y, to_x), middle, strict=True)]
    return ndimage.map_coordinates(image, places, order=1, mode="nearest")


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    "change",
    [(0, 0, 0, 0, 0), (2, -1, 0, 0, 0), (0, 0, 0.4, 0, 0), (0, 0, 0, 0.2, -0.3), (1.3, -0.4, -2.1, 0.1, 0.4)],
)
def test_warp_is_scipys_interpolation(change: tuple[float, ...], mirrored: bool) -> None:
    images = rand(2, 3, *SIZE)
    told = torch.tensor([change, change]).double()
    out = warp(images, told, torch.tensor([mirrored, mirrored]))
    for image, mine in zip(images.flatten(0, 1).numpy(), out.flatten(0, 1), strict=True):
        assert gap(mine, torch.from_numpy(by_scipy(image, told[0], mirrored))) < 1e-12


def test_nothing_asked_is_nothing_changed() -> None:
    tasks = drawn(2, 3, 4)
    assert AUGMENTS["none"](SIZE, KIND)(tasks, SEEDS) is tasks
    same = affine(SIZE, KIND, shift=0, turn=0.0, zoom=0.0)(tasks, SEEDS)
    assert gap(same.support_x, tasks.support_x) < 1e-6
    assert gap(same.query_x, tasks.query_x) < 1e-6


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_change_is_of_the_tasks_seed_and_the_rows_place_alone(channels: tuple[int, ...]) -> None:
    size = (*channels, *SIZE)
    augment, tasks = affine(size, KIND), drawn(2, 3, 4, size=size)
    whole = augment(tasks, SEEDS)
    assert whole.support_x.shape == tasks.support_x.shape
    part = augment(Episode(*(leaf[1:, 2:, :2] for leaf in tasks)), SEEDS[1:, 2:, :2])
    assert torch.equal(part.support_x, whole.support_x[1:, 2:, :2])
    assert torch.equal(part.query_x, whole.query_x[1:, 2:, :2])
    few = augment(Episode(*(leaf[..., :2, *[slice(None)] * (leaf.ndim - 4)] for leaf in tasks)), SEEDS)
    assert torch.equal(few.query_x, whole.query_x[..., :2, *[slice(None)] * len(size)])


def test_every_row_of_every_task_has_its_own_change() -> None:
    image = rand(*SIZE)
    same = Episode(*(image.expand(2, 3, 4, n, *SIZE) if i % 2 == 0 else image for i, n in enumerate((3, 0, 5, 0))))
    out = affine(SIZE, KIND)(same, SEEDS)
    rows = torch.cat([out.support_x.reshape(-1, *SIZE), out.query_x.reshape(-1, *SIZE)])
    assert len({row.numpy().tobytes() for row in rows}) == len(rows) == 24 * 8


def test_a_class_is_mirrored_as_one() -> None:
    """In support and query, and otherwise in every task."""
    image = rand(*SIZE)
    y = torch.tensor([2, 0, 1, 0, 2]).expand(2, 3, 4, 5)
    same = Episode(image.expand(2, 3, 4, 3, *SIZE), y[..., 2:], image.expand(2, 3, 4, 5, *SIZE), y)
    out = affine(SIZE, KIND, shift=0, turn=0, zoom=0, flip="class")(same, SEEDS)
    found = {}
    for x, labels in ((out.support_x, same.support_y), (out.query_x, same.query_y)):
        for task, (some, told) in enumerate(zip(x.reshape(24, -1, *SIZE), labels.reshape(24, -1), strict=True)):
            for row, label in zip(some, told.tolist(), strict=True):
                assert torch.equal(row, image) or torch.equal(row, image.flip(-1))
                assert torch.equal(found.setdefault((task, label), row), row)
    mirrored = torch.tensor([[torch.equal(found[task, label], image) for label in range(3)] for task in range(24)])
    assert 24 < mirrored.sum() < 48
    assert len(mirrored.unique(dim=0)) == 8


def test_whole_pixels_are_moved_and_nothing_blurs() -> None:
    """Every place from -2 to 2 in both directions, equally often; what comes in repeats the edge."""
    image = rand(*SIZE)
    same = Episode(*[image.expand(1, 5000, *SIZE)] * 4)
    rows = affine(SIZE, KIND, shift=2, turn=0, zoom=0)(same, SEEDS[0, 0, :1]).support_x[0]
    padded, (height, width) = np.pad(image.numpy(), 2, mode="edge"), SIZE
    places = [padded[down : down + height, right : right + width] for down in range(5) for right in range(5)]
    found = torch.stack([(rows - torch.from_numpy(place)).abs().amax((1, 2)) < 1e-6 for place in places])
    assert found.sum(0).eq(1).all()
    assert found.sum(1).double().sub(200).abs().max() < 4 * 200**0.5


def test_changes_are_uniform_and_of_the_size_that_is_asked() -> None:
    """A slope tells how far it was moved, how it was turned and stretched, and whether it was mirrored."""
    n, (height, width) = 4000, (41, 41)
    y, x = (axis - 20.0 for axis in np.indices((height, width)))
    slopes = torch.from_numpy(np.stack([x, y])).float().expand(1, n, 2, height, width)
    told: dict[str, Any] = {"shift": 3, "turn": 15.0, "zoom": 0.2, "flip": "row"}
    tasks = Episode(slopes, slopes, slopes[:, :0], slopes)
    out = affine((2, height, width), KIND, **told)(tasks, SEEDS[0, 0, :1]).support_x
    centre = out[0, :, :, 20, 20]
    along, across = out[0, :, :, 20, 21] - centre, out[0, :, :, 21, 20] - centre
    mirrored = along[:, 0] < 0
    zoom = torch.stack([along.norm(dim=1), across.norm(dim=1)]) - 1
    turn = torch.atan2(along[:, 1], along[:, 0].abs()) * torch.where(mirrored, -1, 1)
    assert gap(centre, centre.round()) < 1e-4
    for values, most in ((centre[:, 0], 3.0), (centre[:, 1], 3.0), (turn, math.radians(15)), *((z, 0.2) for z in zoom)):
        whole = (most + 1) / most if most == 3 else 1  # the variance of whole numbers from -m to m is m (m + 1) / 3
        assert float(values.abs().max()) == pytest.approx(most, rel=0.01)
        assert float(values.mean()) == pytest.approx(0, abs=0.04 * most)
        assert float(values.std()) == pytest.approx(most * (whole / 3) ** 0.5, rel=0.03)
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.03)


def test_rows_that_cannot_change_so_are_refused() -> None:
    with pytest.raises(Problem, match=r"not rows of shape \(13,\)"):
        affine((13,), KIND)
    with pytest.raises(Problem, match="regression has no classes"):
        affine(SIZE, "regression", flip="class")


def test_no_rows_stay_no_rows() -> None:
    tasks = drawn(2, 3, 4, support=0)
    assert affine(SIZE, KIND)(tasks, SEEDS).support_x.shape == (2, 3, 4, 0, *SIZE)


def test_all_are_covered() -> None:
    assert covered([("none", {}), ("affine", {})], AUGMENTS)


AFFINE = "train.augment={name: affine, turn: 5}"


def test_training_sees_other_rows_and_new_tasks_do_not(lab: Lab) -> None:
    """Another model than without; the same bits by blocks and in two processes; and a new task's rows as they are."""
    told = ["model={name: mlp, hidden: [8]}", "execution.block=1"]
    lab("run", *told, name="plain")
    lab("run", *told, AFFINE, name="moved")
    lab("run", *told, AFFINE, "execution.workers=2", name="workers")
    plain, moved, workers = (lab.checkpoint(3, name) for name in ("plain", "moved", "workers"))
    assert plain != moved == workers
    lab("run", *told, AFFINE, "train.rounds=0", name="start")
    lab("run", *told, "train.rounds=0", name="same")
    start, same = (
        (lab.run(name) / "finetune" / "new" / "adapted.safetensors").read_bytes() for name in ("start", "same")
    )
    assert start == same


def test_tables_are_refused_before_anything_is_written(lab: Lab) -> None:
    told = lab("run", "data={name: synthetic, nodes: 8}", "task={kind: local}", AFFINE, code=3).err
    assert "train.augment.name" in told
    assert not lab.run().exists()
