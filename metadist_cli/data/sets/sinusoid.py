"""Sinusoid regression: every task is one sine curve.

C. Finn, P. Abbeel, S. Levine (2017), Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML,
https://arxiv.org/abs/1703.03400 (section 5.1); y = A sin(x - phase) as in the authors' code.
Where we differ: they draw new points for every task, without end; here a fixed number of functions with a fixed number
of points is drawn once, so that functions can be assigned to nodes and held out for new tasks.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.core.seeds import numpy_generator
from metadist_cli.data.types import Dataset, Group, build

_ROWS = 50_000_000  # 1.2 GB of points, labels and phases


def sinusoid(
    seed: int,
    *,
    functions: Annotated[int, Field(ge=1, le=1_000_000, description="number of sine curves")] = 10_000,
    points: Annotated[int, Field(ge=1, le=1_000_000, description="points on each curve")] = 100,
    slices: Annotated[int, Field(ge=1, le=10_000, description="equal slices of the phase, the natural groups")] = 10,
) -> Dataset:
    """Sine curves, a class each: amplitude uniform in [0.1, 5], phase in [0, pi] (radians), x in [-5, 5].

    Args:
        seed: of the experiment; amplitudes, phases and points depend on it.

    Returns:
        x (n, 1) and target (n, 1) float32; n is functions x points. Group and cluster "phase".

    Raises:
        Problem(CONFIG): n is above 50 million.
    """
    if functions * points > _ROWS:
        raise Problem(
            f"{functions:,} functions of {points:,} points are {functions * points:,} rows, more than {_ROWS:,}",
            "data",
            "lower data.functions or data.points",
            CONFIG,
        )
    rng = numpy_generator(seed, "sinusoid")
    amplitude = rng.uniform(0.1, 5.0, functions)
    phase = rng.uniform(0.0, np.pi, functions)
    x = rng.uniform(-5.0, 5.0, (functions, points)).astype(np.float32)
    y = (amplitude[:, None] * np.sin(x - phase[:, None])).astype(np.float32)
    part = np.minimum((phase / np.pi * slices).astype(np.int64), slices - 1)
    return build(
        "regression",
        x.reshape(-1, 1),
        np.repeat(np.arange(functions), points),
        tuple(f"function-{i:0{len(str(functions - 1))}d}" for i in range(functions)),
        target=y.reshape(-1, 1),
        groups={"phase": Group(np.repeat(part, points), tuple(f"phase-{i}" for i in range(slices)))},
        cluster="phase",
    )
