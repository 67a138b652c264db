"""Every model keeps the contract, computes what torch.nn computes, and has the published sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from maths import MODEL_CASES, SEED, SHAPE, WAY, Case, covered, double, gap, jitter, model_of, name_of, rand, same
from torch import Tensor
from torch.func import vmap

from metadist_cli import seeds, tree
from metadist_cli.aggregators import AGGREGATORS, NodeUpdate
from metadist_cli.errors import CONFIG, Problem
from metadist_cli.models import MODELS
from metadist_cli.models.layers import normalise
from metadist_cli.tree import Params

every = pytest.mark.parametrize("case", MODEL_CASES, ids=name_of)


def started(case: Case, seed: int = 0) -> tuple[Params, Params]:
    """Float64 parameters and statistics in general position."""
    params, stats = model_of(case).init(seeds.generator(seed))
    return jitter(double(params), seed), jitter(double(stats), seed + 100)


def test_every_model_is_tested() -> None:
    assert covered(MODEL_CASES, MODELS)


# ---------------------------------------------------------------------------------------------------- contract


@every
def test_init_depends_on_the_generator_alone(case: Case) -> None:
    model, before = model_of(case), torch.get_rng_state()
    (one, stats), (two, _) = (model.init(seeds.generator(7)) for _ in range(2))
    other, _ = model.init(seeds.generator(8))
    assert same(one, two)
    assert not same(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(v.dtype == torch.float32 and v.isfinite().all() for v in [*one.values(), *stats.values()])
    assert not any("/" in k for k in [*one, *stats])  # the separator of trees within trees
    assert any(k.startswith("head") for k in one)
    assert set(one).isdisjoint(stats)


@every
@pytest.mark.parametrize("train", [True, False])
def test_apply_has_its_shape_and_changes_nothing(case: Case, train: bool) -> None:
    params, stats = started(case)
    x, copies = rand(5, *SHAPE), [{k: v.clone() for k, v in leaves.items()} for leaves in (params, stats)]
    out, new = model_of(case).apply(params, stats, x, train, SEED)
    assert out.shape == (5, WAY)
    assert out.dtype == torch.float64
    assert out.isfinite().all()
    assert {k: v.shape for k, v in new.items()} == {k: v.shape for k, v in stats.items()}
    assert same(params, copies[0])
    assert same(stats, copies[1])
    assert same(new, stats) == (not train or not stats)


@every
def test_every_parameter_matters(case: Case) -> None:
    params, stats = started(case)
    model, x = model_of(case), rand(5, *SHAPE)
    out, _ = model.apply(params, stats, x, False, SEED)
    own_batch = case[1].get("norm", {"conv4": "batch"}.get(case[0])) == "batch"
    for name, value in params.items():
        changed, _ = model.apply(params | {name: value + 0.1 * rand(*value.shape)}, stats, x, False, SEED)
        if own_batch and name.endswith(".bias") and not name.startswith("head"):
            assert gap(changed, out) < 1e-12  # batch statistics take a bias away
        else:
            assert gap(changed, out) > 1e-6, name


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("width", [3, 8, 16])
def test_group_norm_leaves_a_narrow_model_its_values(name: str, width: int) -> None:
    """Groups of one or two values would: those are normalised to 0, or to their signs, whatever comes in."""
    case = (name, {"norm": "group"} | ({"hidden": [width]} if name == "mlp" else {"width": width}))
    model = model_of(case)
    params, _ = model.init(seeds.generator(0))
    out, _ = model.apply(double(params), {}, rand(200, *SHAPE), False, SEED)
    assert len(out.round(decimals=4).unique(dim=0)) > 190


@every
@pytest.mark.parametrize("train", [True, False])
def test_vmap_over_nodes_and_tasks_is_the_loop(case: Case, train: bool) -> None:
    model, nodes = model_of(case), [started(case, seed) for seed in range(2)]
    x = rand(2, 3, 5, *SHAPE)
    params, stats = (tree.stack(leaves) for leaves in zip(*nodes, strict=True))

    def node(params: Params, stats: Params, x: Tensor) -> tuple[Tensor, Params]:
        return vmap(lambda x: model.apply(params, stats, x, train, SEED))(x)

    out, new = vmap(node)(params, stats, x)
    for i, (one_params, one_stats) in enumerate(nodes):
        for t in range(3):
            expected, expected_stats = model.apply(one_params, one_stats, x[i, t], train, SEED)
            assert gap(out[i, t], expected) < 1e-12
            assert gap({k: v[i, t] for k, v in new.items()}, expected_stats) < 1e-12


# ------------------------------------------------------------------------------------------------ torch.nn says


def batch_norm(params: Params, name: str, x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, params.get(f"{name}.scale"), params.get(f"{name}.shift"), training=True)


def group_norm(params: Params, name: str, x: Tensor) -> Tensor:
    groups = {4: 1, 12: 1, 16: 2, 40: 4, 64: 8}[x.shape[1]]  # at least 8 channels each
    return F.group_norm(x, groups, params.get(f"{name}.scale"), params.get(f"{name}.shift"))


NORMS = {"none": lambda params, name, x: x, "batch": batch_norm, "group": group_norm}


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("affine", ["shift", "both", "none"])
@pytest.mark.parametrize("hidden", [[12, 4], [64, 16]])
def test_mlp_is_what_torch_computes(hidden: list[int], norm: str, affine: str, activation: str) -> None:
    case = ("mlp", {"hidden": hidden, "norm": norm, "affine": affine, "activation": activation})
    params, _ = started(case)
    act = {"relu": F.relu, "tanh": F.tanh, "softplus": F.softplus}[activation]
    x = inputs = rand(7, *SHAPE)
    for i in range(2):
        x = F.linear(x.reshape(7, -1), params[f"layer{i}.weight"], params[f"layer{i}.bias"])
        x = act(NORMS[norm](params, f"norm{i}", x))
    expected = F.linear(x, params["head.weight"], params["head.bias"])
    assert gap(model_of(case).apply(params, {}, inputs, True, SEED)[0], expected) < 1e-12


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pool", ["stride", "max"])
@pytest.mark.parametrize("head", ["mean", "flatten"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [4, 40])
def test_conv4_is_what_torch_computes(width: int, norm: str, head: str, pool: str, channels: int) -> None:
    case = ("conv4", {"width": width, "norm": norm, "affine": "both", "head": head, "pool": pool})
    shape = (channels, 20, 33)
    model = model_of(case, shape)
    params = jitter(double(model.init(seeds.generator(1))[0]))
    x = inputs = rand(5, *shape)
    for i in range(4):
        layer = torch.nn.Conv2d(x.shape[1], width, 3, stride=2 if pool == "stride" else 1, padding=1).double()
        layer.load_state_dict({"weight": params[f"conv{i}.weight"], "bias": params[f"conv{i}.bias"]})
        x = F.relu(NORMS[norm](params, f"norm{i}", layer(x).detach()))
        x = x if pool == "stride" else F.max_pool2d(x, 2, 2)
    x = F.adaptive_avg_pool2d(x, 1).flatten(1) if head == "mean" else x.flatten(1)
    expected = F.linear(x, params["head.weight"], params["head.bias"])
    assert gap(model.apply(params, {}, inputs, True, SEED)[0], expected) < 1e-12


@pytest.mark.parametrize("shape", [(50, 6), (10, 6, 5, 4)])
def test_running_statistics_are_those_of_torch(shape: tuple[int, ...]) -> None:
    """After some steps, and at test time, by torch's batch norm that is given E[x] and E[x^2] - E[x]^2."""
    x = 3 + 2 * rand(*shape)
    dims = [0, *range(2, len(shape))]
    stats = {"n.mean": torch.zeros(6).double(), "n.square": torch.ones(6).double()}
    oracle_mean, oracle_square = stats["n.mean"], stats["n.square"]
    for _ in range(5):
        _, stats = normalise("n", "batch_running", {}, stats, x, True)
        oracle_mean = torch.lerp(oracle_mean, x.mean(dims), 0.1)
        oracle_square = torch.lerp(oracle_square, (x**2).mean(dims), 0.1)
    assert gap(stats, {"n.mean": oracle_mean, "n.square": oracle_square}) < 1e-12
    out, after = normalise("n", "batch_running", {}, stats, x, False)
    expected = F.batch_norm(x, oracle_mean, oracle_square - oracle_mean**2)
    assert gap(out, expected) < 1e-12
    assert same(after, stats)


def test_running_statistics_of_nodes_pool_exactly() -> None:
    """The weighted mean over nodes is the statistic of all rows together; a mean of variances would not be."""
    sizes = [10, 30, 5]
    parts = [10 * i + (1 + i) * rand(n, 4, seed=i) for i, n in enumerate(sizes)]
    start = {"n.mean": torch.zeros(4).double(), "n.square": torch.ones(4).double()}
    updates = [
        NodeUpdate(i, normalise("n", "batch_running", {}, start, x, True)[1], {}, len(x), {})
        for i, x in enumerate(parts)
    ]
    union = torch.cat(parts)
    pooled = AGGREGATORS["mean"]()(updates)
    assert gap(pooled, normalise("n", "batch_running", {}, start, union, True)[1]) < 1e-12
    mean = (pooled["n.mean"] - 0.9 * start["n.mean"]) / 0.1
    square = (pooled["n.square"] - 0.9 * start["n.square"]) / 0.1
    assert gap(square - mean**2, union.var(0, correction=0)) < 1e-9
    mean_of_variances = sum(n * x.var(0, correction=0) for n, x in zip(sizes, parts, strict=True)) / sum(sizes)
    assert float((mean_of_variances - union.var(0, correction=0)).abs().min()) > 1


# -------------------------------------------------------------------------------------------------------- sizes


def size(name: str, shape: tuple[int, ...], outputs: int, **options: object) -> dict[str, int]:
    """Numbers of weights, shifts and scales."""
    params, stats = MODELS[name](shape, outputs, **options).init(seeds.generator(0))
    assert stats == {}
    kinds = {kind: sum(v.numel() for k, v in params.items() if k.endswith(kind)) for kind in ("shift", "scale")}
    return kinds | {"weights": tree.size(params) - sum(kinds.values())}


def test_published_parameter_counts() -> None:
    maml = size("conv4", (28, 28), 5, pool="stride", head="mean", affine="shift")
    assert maml == {"weights": 111_749, "shift": 256, "scale": 0}
    assert size("conv4", (28, 28), 5) == maml  # it is the default
    reptile = size("conv4", (28, 28), 5, pool="stride", head="flatten", affine="both")
    assert sum(reptile.values()) == 113_221
    hidden = [256, 128, 64, 64]
    bare = size("mlp", (28, 28), 5, hidden=hidden, norm="batch", affine="none")
    assert bare == {"weights": 246_597, "shift": 0, "scale": 0}
    shifted = size("mlp", (28, 28), 5, hidden=hidden, norm="batch", affine="shift")
    assert shifted == {"weights": 246_597, "shift": 512, "scale": 0}
    assert sum(size("mlp", (1,), 1, hidden=[40, 40]).values()) == 1_761


def test_mini_imagenet_has_800_features() -> None:
    model = MODELS["conv4"]((3, 84, 84), 5, width=32, pool="max", head="flatten")
    params, _ = model.init(seeds.generator(0))
    assert params["head.weight"].shape == (5, 800)
    assert model.apply(params, {}, torch.zeros(2, 3, 84, 84), True, SEED)[0].shape == (2, 5)


def test_truncated_init_is_mamls() -> None:
    params, _ = MODELS["mlp"]((28, 28), 5, hidden=[256], init="truncated").init(seeds.generator(0))
    weight = params["layer0.weight"]
    assert float(weight.abs().max()) <= 0.02
    assert float(weight.std()) == pytest.approx(0.01 * 0.8796, rel=0.01)  # a normal cut at 2 sd has 0.8796 of it
    assert not params["layer0.bias"].any()


def test_one_channel_may_be_left_out() -> None:
    """(H, W) is (1, H, W)."""
    two, three = model_of(("conv4", {}), (9, 7)), model_of(("conv4", {}), (1, 9, 7))
    params, _ = two.init(seeds.generator(0))
    x = torch.randn(4, 9, 7, generator=seeds.generator(1))
    assert torch.equal(two.apply(params, {}, x, True, SEED)[0], three.apply(params, {}, x[:, None], True, SEED)[0])


@pytest.mark.parametrize(
    ("shape", "options", "message", "where"),
    [
        ((64,), {}, r"conv4 needs images, .* not rows of shape \(64,\)", "model.name"),
        ((15, 28), {"pool": "max"}, r"images of \(15, 28\) are too small", "model.pool"),
    ],
)
def test_data_that_are_no_images(shape: tuple[int, ...], options: dict, message: str, where: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        MODELS["conv4"](shape, 5, **options)
    assert (caught.value.code, caught.value.where) == (CONFIG, where)
    assert caught.value.hint
