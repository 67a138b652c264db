"""What execution settles: sizes by shapes and device; and gradients that are one thing inside and outside of vmap."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from maths import LEARNER_CASES, SEED, STEP, WAY, Case, gap, inputs_of, learner_of, model_of, name_of, rand, slow_unless
from torch import Tensor
from torch.func import vmap

from metadist_cli.config import load_yaml
from metadist_cli.config.schema import Config
from metadist_cli.core import seeds, tree
from metadist_cli.core.gradients import grad_and_value, transformed
from metadist_cli.core.tree import Params
from metadist_cli.experiment import Experiment, assemble
from metadist_cli.models.layers import normalise
from metadist_cli.models.types import Model, in_bf16
from metadist_cli.partition.spec import Spec
from metadist_cli.runtime.execution import apart, row_bytes, sizes
from metadist_cli.tasks.types import Episode

CPU, GPU = torch.device("cpu"), torch.device("cuda")  # a name alone needs no GPU


def experiment(text: str, shape: tuple[int, ...] = (28, 28), rows: int = 400, nodes: int = 1000) -> Experiment:
    tree, _ = load_yaml(text, "x.yaml")
    classes = tuple(map(str, range(20)))
    spec = Spec("classification", shape, 1.0, classes, 0, smallest=rows, largest=rows, rows=nodes * rows, nodes=nodes)
    return assemble(Config.model_validate({"name": "x"} | tree), spec)


CONV = """
data: {{name: digits}}
task: {{kind: episodic, way: 5, shot: {shot}, query: {query}}}
model: {{name: conv4}}
learner: {{name: maml}}
train: {{rounds: 1, local_steps: 1, meta_batch: 32}}
partition: {{nodes: 10}}
execution: {{memory: {memory}{more}}}
"""


@pytest.mark.parametrize(
    ("shot", "query", "place", "memory", "expected"),
    [
        (1, 1, CPU, "2GiB", (1, 32)),  # 10 rows of about 200 KiB a task: all together
        (5, 5, CPU, "2GiB", (1, 1)),  # 50 rows: each by itself, nodes too
        (1, 15, CPU, "16GiB", (1, 1)),
        (5, 5, GPU, "2GiB", (1, 32)),
        (5, 5, GPU, "32GiB", (25, 32)),
    ],
)
def test_sizes_are_of_shapes_and_device(
    shot: int, query: int, place: torch.device, memory: str, expected: tuple[int, int]
) -> None:
    block, few = sizes(experiment(CONV.format(shot=shot, query=query, memory=memory, more="")), place)
    assert few == expected[1]
    assert block == pytest.approx(expected[0], rel=0.3)


SMALL = """
data: {name: digits}
task: {kind: local, support: 32, query: 32, new: {from: nodes, test: 1}}
model: {name: mlp}
learner: {name: maml}
train: {rounds: 1, local_steps: 1, meta_batch: 4}
"""


@pytest.mark.parametrize(
    ("nodes", "blocks"),
    [
        (1, 1),
        (20, 1),  # not worth two threads
        (50, 2),
        (100, 4),
        (1000, 15),  # as many as there must be
    ],
)
def test_nodes_are_dealt_evenly_as_blocks_that_are_worth_a_thread(nodes: int, blocks: int) -> None:
    block, _ = sizes(experiment(SMALL, (64,), nodes=nodes), CPU)
    assert -(-nodes // block) == blocks
    assert block - (nodes - block * (blocks - 1)) < blocks  # the last one is about as large
    part = experiment(SMALL.replace("rounds: 1,", "rounds: 1, nodes_per_round: 0.5,"), (64,), nodes=2 * nodes)
    assert sizes(part, CPU)[0] == block


def test_what_is_said_is_taken_whatever_the_shapes() -> None:
    """And where they ask for vmap, tasks are not taken one by one."""
    said = experiment(CONV.format(shot=5, query=5, memory="2GiB", more=", block: 3, tasks_at_once: 4"))
    assert sizes(said, CPU) == (3, 4)
    for more in (", block: 3", ", compile: true"):
        assert sizes(experiment(CONV.format(shot=5, query=5, memory="2GiB", more=more)), CPU)[1] > 1


def test_passes_count_and_not_their_number() -> None:
    steps = CONV.replace("{{name: maml}}", "{{name: maml, inner_steps: 10}}")
    assert sizes(experiment(steps.format(shot=1, query=1, memory="2GiB", more="")), CPU)[1] > 1


@pytest.mark.parametrize("place", [CPU, GPU])
def test_large_images_go_one_by_one_on_a_cpu(place: torch.device) -> None:
    some = experiment(CONV.format(shot=1, query=1, memory="2GiB", more=""))
    assert not apart(some, place, 1 << 20)
    assert apart(some, place, 8 << 20) == (place == CPU)
    assert not apart(
        experiment(CONV.format(shot=1, query=1, memory="2GiB", more="").replace("conv4", "mlp"), (64,)), CPU, 8 << 20
    )


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_rows_bytes_are_what_its_activations_take(precision: str) -> None:
    """28x28, 14x14, 7x7, 4x4 and 2x2: what enters, is normalised, goes through the activation and enters again."""
    model = experiment(CONV.format(shot=1, query=1, memory="2GiB", more=f", precision: {precision}")).model
    weights, row = row_bytes(model, (28, 28))
    assert weights == 4 * 112_005
    outs = 64 * (14 * 14 + 7 * 7 + 4 * 4 + 2 * 2) * 4
    assert 2 * outs < row < 5 * outs


def test_a_batch_is_no_larger_than_the_largest_node() -> None:
    """Otherwise every row of every node would be counted several times in a step."""
    text = "data: {name: digits}\ntask: {kind: local}\nlearner: {name: supervised}\npartition: {nodes: 10}\n"
    text += "train: {rounds: 1, local_epochs: 1, batch: 32}\n"
    assert experiment(text, (8, 8), rows=18).rows == (1, 0, 18)
    assert experiment(text, (8, 8), rows=180).rows == (1, 0, 32)


# ----------------------------------------------------------------------------------------------- gradients, both ways


def f(params: Params, other: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    value = (params["w"].sin() * other * params["b"]).sum() ** 2
    return value, {"value": value, "square": params["w"] ** 2}


def functional(g: Callable[[Params], Any], constant: bool = False) -> Callable[[Params], Any]:
    def run(params: Params) -> Any:
        direction, (value, aux) = torch.func.grad_and_value(g, has_aux=True)(params)
        return {k: v.detach() if constant else v for k, v in direction.items()}, (value, aux)

    return run


def twice(one: Callable[..., Any], params: Params, constant: bool) -> tuple[Params, Tensor]:
    """A gradient through a gradient step, in which the rate and the inner `other` are learned too."""

    def outer(outer: Params) -> tuple[Tensor, Params]:
        own = {k: outer[k] for k in ("w", "b")}
        inner, (value, _) = one(lambda p: f(p, outer["rate"].exp()), constant)(own)
        moved = {k: v - outer["rate"] * inner[k] for k, v in own.items()}
        return f(moved, outer["w"])[0] + (0 if constant else value), {}

    direction, (value, _) = one(outer)(params)
    return direction, value


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("enabled", [True, False])
def test_plain_gradients_are_those_of_torch_func(constant: bool, enabled: bool) -> None:
    params = {"w": rand(3, 2), "b": rand(3, 2, seed=1), "rate": rand(3, 2, seed=2)}
    with torch.set_grad_enabled(enabled):
        (mine, value), (theirs, other) = (twice(one, params, constant) for one in (grad_and_value, functional))
    assert gap(mine, theirs) < 1e-13
    assert torch.equal(value, other)
    assert not any(v.requires_grad for v in (*mine.values(), value, *params.values()))
    stacked = {k: torch.stack([v, v]) for k, v in params.items()}
    inside, _ = vmap(lambda p: twice(grad_and_value, p, constant))(stacked)
    assert gap({k: v[0] for k, v in inside.items()}, mine) < 1e-13


def test_gradients_go_on_where_the_caller_differentiates() -> None:
    """By plain autograd, too; and parameters that require gradients have theirs also where nothing is recorded."""

    def cubes(params: Params) -> tuple[Tensor, Params]:
        return (params["w"] ** 3).sum(), {}

    w = rand(3).requires_grad_()
    moved = w - 0.1 * grad_and_value(cubes)({"w": w})[0]["w"]
    (slope,) = torch.autograd.grad((moved**2).sum(), w)
    assert gap(slope, (2 * moved * (1 - 0.6 * w)).detach()) < 1e-13
    with torch.no_grad():
        direction, _ = grad_and_value(cubes)({"w": w})
    assert gap(direction["w"], 3 * w.detach() ** 2) < 1e-13
    assert not direction["w"].requires_grad


def test_what_does_not_matter_has_the_gradient_zero() -> None:
    params = {"used": rand(2), "unused": rand(3)}
    direction, (value, aux) = grad_and_value(lambda p: (p["used"].sum(), p["used"]))(params)
    assert torch.equal(direction["unused"], torch.zeros(3).double())
    assert not value.requires_grad
    assert not aux.requires_grad
    direction, _ = grad_and_value(lambda p: (torch.ones(()), {}))(params)
    assert not any(v.any() for v in direction.values())
    assert grad_and_value(lambda p: (torch.ones(()), {}))({})[0] == {}


def test_an_error_inside_leaves_the_next_gradient_outermost() -> None:
    def wrong(params: Params) -> tuple[Tensor, Params]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        grad_and_value(lambda p: grad_and_value(wrong)(p))({"w": rand(2)})  # type: ignore[arg-type]
    direction, _ = grad_and_value(lambda p: ((p["w"] ** 2).sum(), {}))({"w": rand(2)})
    assert not direction["w"].requires_grad


def test_gradients_of_several_threads_are_apart() -> None:
    params = {"w": rand(3, 2), "b": rand(3, 2, seed=1), "rate": rand(3, 2, seed=2)}
    expected, _ = twice(grad_and_value, params, False)
    with ThreadPoolExecutor(4) as threads:
        for direction, _ in threads.map(lambda _: twice(grad_and_value, params, False), range(40)):
            assert gap(direction, expected) == 0
            assert not direction["w"].requires_grad


@pytest.mark.parametrize("affine", ["none", "shift", "both"])
@pytest.mark.parametrize("norm", ["batch", "batch_running"])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (4, 3, 5, 5)])
def test_torchs_kernel_and_the_written_out_norm_are_one(norm: str, affine: str, shape: tuple[int, ...]) -> None:
    """Outside and inside of vmap, to the second derivative, and their running statistics."""
    names = {"none": (), "shift": ("n.shift",), "both": ("n.shift", "n.scale")}[affine]
    meta = {"x": rand(*shape)} | {name: rand(3, seed=i + 1) for i, name in enumerate(names)}
    running = {"n.mean": rand(3, seed=5), "n.square": 9 + rand(3, seed=6)} if norm == "batch_running" else {}
    weight = rand(*shape, seed=7)

    def second(meta: Params) -> tuple[Params, Params]:
        def value(params: Params) -> tuple[Tensor, Params]:
            y, new = normalise("n", norm, params, running, params["x"], True)
            return (F.softplus(y) * weight).sum(), new

        def slope(params: Params) -> tuple[Tensor, Params]:
            direction, (_, new) = grad_and_value(value)(params)
            return sum((v**3).sum() for v in direction.values()), new  # type: ignore[return-value]

        direction, (_, new) = grad_and_value(slope)(meta)
        return direction, new

    kernel, new = second(meta)
    written, other = (
        {k: v[0] for k, v in part.items()} for part in vmap(second)({k: v[None] for k, v in meta.items()})
    )
    assert gap(kernel, written) < 1e-11
    assert gap(new, other) < 1e-12 if running else new == other == {}


def test_the_norm_of_no_rows_is_no_rows() -> None:
    assert normalise("n", "batch", {}, {}, torch.zeros(0, 3, 4, 4), True)[0].shape == (0, 3, 4, 4)


def test_what_counts_as_transformed() -> None:
    assert not transformed()
    assert vmap(lambda x: x + transformed())(torch.zeros(1)) == 1


# ------------------------------------------------------------------------------------------------------ in 8 bits


LOW: list[Case] = [
    ("mlp", {"hidden": [16, 16], "norm": "batch"}),
    ("conv4", {"width": 16, "activation": "softplus"}),
    ("conv4", {"width": 16, "pool": "max", "norm": "batch_running", "activation": "softplus"}),
    ("conv1d", {"norm": "group"}),
    ("lstm", {"vocabulary": 9, "hidden": 16}),
]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("model", LOW, ids=name_of)
def test_hidden_layers_in_bf16_are_the_same_under_every_transform(model: Case, train: bool) -> None:
    """Features and statistics are near those of float32, and rounded: in plain torch, under vmap and under grad."""
    net, rows = model_of(model), inputs_of(model, 2, 6).float()
    low = in_bf16(net)
    params, stats = net.init(seeds.generator(0))

    def under(net: Model, x: Tensor) -> tuple[Tensor, Params]:
        return net.features(params, stats, x, train, SEED)

    def summed(x: Tensor) -> Tensor:
        return (under(low, x)[0] ** 2).sum()

    exact, running = under(net, rows[0])
    plain, other = under(low, rows[0])
    batched, new = vmap(lambda x: under(low, x))(rows)
    for out, kept in ((plain, other), (batched[0], {k: v[0] for k, v in new.items()})):
        assert out.dtype == torch.float32
        assert 0 < gap(out, exact) < 0.02 * exact.abs().max()
        assert all(gap(kept[k], v) <= 0.01 * v.abs().max() for k, v in running.items())
    if model[0] != "lstm":  # which reads characters
        leaf = rows[0].requires_grad_()
        (slope,) = torch.autograd.grad(summed(leaf), leaf)
        func = torch.func.grad(summed)(rows[0].detach())
        assert F.cosine_similarity(slope.flatten(), func.flatten(), dim=0) > 0.99


@pytest.mark.parametrize(
    ("learner", "model"),
    slow_unless(lambda learner, model: model[0] == "mlp" or learner == ("maml", {}), LEARNER_CASES, LOW),
    ids=name_of,
)
def test_training_in_bf16_is_near_float32(model: Case, learner: Case) -> None:
    """Loss and direction of 4 tasks are near (in plain autograd and under vmap), not equal, and float32 themselves."""
    x = torch.stack([inputs_of(model, 5 * WAY, seed=i) for i in range(8)]).float()
    y = torch.arange(WAY).repeat(5)
    episodes = Episode(x[:4], y.expand(4, -1), x[4:], y.expand(4, -1))

    def found(low: bool, batched: bool) -> tuple[Tensor, Tensor, set[torch.dtype]]:
        net = in_bf16(model_of(model)) if low else model_of(model)
        one = learner_of(learner, net)
        meta, stats = one.init(seeds.generator(0))

        def run(episode: Episode) -> tuple[Params, Params, Params]:
            return one.meta_gradient(meta, stats, episode, STEP, SEED)

        each = [run(Episode(*(leaf[i] for leaf in episodes))) for i in range(4)]
        direction, new, metrics = vmap(run)(episodes) if batched else map(tree.stack, zip(*each, strict=True))
        flat = torch.cat([v.double().mean(0).flatten() for v in direction.values()])
        return flat, metrics["loss"].mean(), {v.dtype for part in (direction, new, metrics) for v in part.values()}

    exact, loss, _ = found(False, True)
    for batched in (False, True):
        direction, other, kinds = found(True, batched)
        assert kinds == {torch.float32}
        assert other == pytest.approx(float(loss), rel=0.05)
        assert F.cosine_similarity(direction, exact, dim=0) > 0.9
        assert not torch.equal(direction, exact)


def test_the_config_decides_on_bf16() -> None:
    text = CONV.format(shot=1, query=1, memory="2GiB", more="")
    x = rand(2, 28, 28).float()

    def out(precision: str) -> Tensor:
        model = experiment(text.replace("execution: {", f"execution: {{precision: {precision}, ")).model
        params, stats = model.init(seeds.generator(0))
        return model.apply(params, stats, x, True, SEED)[0]

    assert 1e-6 < gap(out("bf16"), out("float32")) < 0.1
    assert gap(out("tf32"), out("float32")) == 0  # a switch of torch's, for GPUs
