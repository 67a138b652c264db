"""MAML's gradient with the first layer in its dual form is that of the plain form."""

import pytest
import torch
from maths import SEED, STEP, double, jitter, rand

from metadist_cli.core.losses import CROSS_ENTROPY, SQUARED_ERROR
from metadist_cli.learners import LEARNERS
from metadist_cli.models import MODELS
from metadist_cli.tasks.types import Episode

WAY, ROWS = 3, 6
MODEL_OPTIONS = [
    {"hidden": [7]},
    {"hidden": [7, 5], "norm": "batch", "affine": "shift", "init": "truncated"},
    {"hidden": [7, 5], "norm": "batch_running", "activation": "softplus"},
    {"hidden": [7], "norm": "group", "activation": "tanh"},
]
OPTIONS = [
    {},
    {"inner_steps": 0},
    {"inner_steps": 3, "inner_lr": 0.7},
    {"inner_steps": 3, "first_order": True},
    {"inner_steps": 2, "adapt_norm": False},
    {"inner_steps": 3, "multi_step": 4},
]


def episode(shape: tuple[int, ...]) -> Episode:
    labels = torch.arange(ROWS) % WAY
    return Episode(rand(ROWS, *shape, seed=1), labels, rand(2 * ROWS, *shape, seed=2), labels.repeat(2))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("model_options", MODEL_OPTIONS, ids=str)
def test_the_dual_form_gives_the_gradient_of_the_plain_form(model_options: dict, options: dict) -> None:
    model = MODELS["mlp"]((4, 6), WAY, **model_options)
    found = {}
    for name, one in (("dual", model), ("plain", model._replace(upper=None))):
        learner = LEARNERS["maml"](one, CROSS_ENTROPY, **options)
        meta, stats = learner.init(torch.Generator().manual_seed(0))
        found[name] = learner.meta_gradient(jitter(double(meta)), double(stats), episode((4, 6)), STEP, SEED)
    for dual, plain in zip(found["dual"], found["plain"], strict=True):
        assert dual.keys() == plain.keys()
        for leaf in plain:
            torch.testing.assert_close(dual[leaf], plain[leaf], rtol=1e-10, atol=1e-13)


def test_it_is_taken_where_a_task_has_few_rows_and_only_there() -> None:
    """The model's `upper` part is only called by the dual form."""
    model = MODELS["mlp"]((30,), 1)
    calls = []
    upper = model.upper
    assert upper is not None

    def counted(*arguments):
        calls.append(len(arguments[2]))
        return upper(*arguments)

    learner = LEARNERS["maml"](model._replace(upper=counted), SQUARED_ERROR)
    meta, stats = learner.init(torch.Generator().manual_seed(0))
    for rows in (7, 8):  # 4 x 7 < 30 < 4 x 8
        task = Episode(rand(rows, 30).float(), rand(rows, 1).float(), rand(2, 30).float(), rand(2, 1).float())
        learner.meta_gradient(meta, stats, task, STEP, SEED)
    assert calls == [7, 2]
