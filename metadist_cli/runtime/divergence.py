"""What a node's rows and the settings say about why its training diverged, and the nearest remedy."""

from __future__ import annotations

import torch

from metadist_cli.core.errors import Diverged
from metadist_cli.experiment import Experiment
from metadist_cli.tasks.episodes import Pool

_LARGE = 10.0  # of what a model sees: standardised values are rarely above 5


def explained(problem: Diverged, experiment: Experiment, rows: Pool) -> Diverged:
    """The problem with what the node's training saw, and with a hint that fits it.

    Args:
        problem: as training raised it.
        experiment: the settings.
        rows: of the nodes that were trained.
    """
    [at] = (rows.nodes == problem.node).nonzero()[0]
    own = slice(int(rows.row_start[at]), int(rows.row_start[at] + rows.row_count[at]))
    feature = _largest(rows.x[own]) / rows.divide if rows.place is None and rows.x.is_floating_point() else None
    target = _largest(rows.y[own]) if rows.y.is_floating_point() else None
    steps = _step_sizes(experiment)
    unit = "" if not experiment.spec.target_mean else " standard deviations"
    saw = [f"largest target {target:.3g}{unit}"] if target is not None else []
    saw += [f"largest feature {feature:.3g}"] if feature is not None else []
    saw += [f"{key} {value:g}" for key, value in steps.items()]
    return Diverged(f"{problem.message} ({', '.join(saw)})", problem.where, _remedy(experiment, feature, target))


def _largest(values: torch.Tensor) -> float:
    return float(values.abs().amax())


def _step_sizes(experiment: Experiment) -> dict[str, float]:
    """Those of training, by key; supervised learning uses its inner rate only for new tasks."""
    config = experiment.config
    found = {"train.outer.lr": config.train.outer.lr}  # pyright: ignore[reportAttributeAccessIssue]
    if config.learner.name != "supervised" and hasattr(config.learner, "inner_lr"):
        found["learner.inner_lr"] = config.learner.inner_lr  # pyright: ignore[reportAttributeAccessIssue]
    return found


def _remedy(experiment: Experiment, feature: float | None, target: float | None) -> str:
    config = experiment.config
    scaled = config.partition.scale != "none"
    if target is not None and target > _LARGE and not experiment.spec.target_mean:
        return "the targets are large; standardize them: partition.targets=train --restart"
    if feature is not None and feature > _LARGE and not scaled:
        return "the features are large; standardize them: partition.scale=train --restart"
    if feature is not None and feature > _LARGE and config.partition.clip is None:
        return "a feature is an outlier; limit features: partition.clip=5 --restart"
    lower = " ".join(f"{key}={value / 10:g}" for key, value in _step_sizes(experiment).items())
    return f"take smaller steps: {lower} --restart"
