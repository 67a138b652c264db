"""The balanced loss and score, against scikit-learn's class weights and by finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight
from torch.func import grad, vmap

from metadist_cli.core.losses import BALANCED_CROSS_ENTROPY, CROSS_ENTROPY, balanced_score

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("present", [1, 2, 4])
def test_every_class_weighs_the_same_as_in_scikit_learn(present: int) -> None:
    y = RNG.integers(0, present, 30) ** 2 % 5
    out = torch.from_numpy(RNG.normal(size=(30, 5)))
    p = out.softmax(-1).numpy()
    weight = compute_sample_weight("balanced", y)
    wanted = log_loss(y, p, sample_weight=weight, labels=np.arange(5))
    assert float(BALANCED_CROSS_ENTROPY.value(out, torch.from_numpy(y))) == pytest.approx(wanted)
    recalls = [(p.argmax(1) == c)[y == c].mean() for c in np.unique(y)]
    assert float(balanced_score(out, torch.from_numpy(y)).mean()) == pytest.approx(np.mean(recalls))


def test_equal_classes_make_it_the_plain_loss() -> None:
    y = torch.arange(5).repeat(4)
    out = torch.from_numpy(RNG.normal(size=(20, 5)))
    assert float(BALANCED_CROSS_ENTROPY.value(out, y)) == pytest.approx(float(CROSS_ENTROPY.value(out, y)))


def test_its_gradient_is_that_of_finite_differences_and_tasks_do_not_mix() -> None:
    y = torch.from_numpy(RNG.integers(0, 3, (4, 10)))
    out = torch.from_numpy(RNG.normal(size=(4, 10, 3)))
    found = vmap(grad(BALANCED_CROSS_ENTROPY.value))(out, y)
    for task in range(4):
        for place in ((0, 0), (3, 1), (9, 2)):
            step = torch.zeros(10, 3, dtype=torch.float64)
            step[place] = 1e-6
            value = BALANCED_CROSS_ENTROPY.value
            wanted = (value(out[task] + step, y[task]) - value(out[task] - step, y[task])) / 2e-6
            assert float(found[task][place]) == pytest.approx(float(wanted), abs=1e-8)
