"""Every model keeps the contract, computes what torch.nn computes, and has the published sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from maths import (
    MODEL_CASES,
    SEED,
    SHAPE,
    WAY,
    Case,
    One,
    beside,
    combined,
    covered,
    double,
    gap,
    inputs_of,
    jitter,
    model_of,
    name_of,
    rand,
    same,
    slope,
)
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.func import grad, vmap

from metadist_cli.core import seeds, tree
from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.core.tree import Params
from metadist_cli.federated.aggregators import AGGREGATORS
from metadist_cli.models import MODELS, Model
from metadist_cli.models.layers import normalise
from metadist_cli.models.types import in_bf16

every = pytest.mark.parametrize("case", MODEL_CASES, ids=name_of)


def started(case: Case, seed: int = 0) -> tuple[Params, Params]:
    """Float64 parameters and statistics in general position."""
    params, stats = model_of(case).init(seeds.generator(seed))
    return jitter(double(params), seed), jitter(double(stats), seed + 100)


def test_every_model_is_tested() -> None:
    assert covered(MODEL_CASES, MODELS)


@pytest.mark.parametrize("shape", [(8, 8), (2, 2), (1, 16), (5, 7)])
@pytest.mark.parametrize("width", [4, 16, 64])
def test_gradients_in_bf16_are_near_float32_where_an_image_shrinks_to_one_position(
    shape: tuple[int, int], width: int
) -> None:
    """Torch's gradient of such a convolution is not finite in half of the calls on a CPU."""
    plain = model_of(("conv4", {"width": width, "affine": "both"}), shape)
    x, y = rand(20, *shape).float(), torch.arange(20) % WAY

    def slopes(model: Model, params: Params) -> Tensor:
        leaves = {k: v.clone().requires_grad_() for k, v in params.items()}
        loss = F.cross_entropy(model.apply(leaves, {}, x, True, SEED)[0], y)
        return torch.cat([v.flatten() for v in torch.autograd.grad(loss, list(leaves.values()))])

    for seed in range(10):
        params, _ = plain.init(seeds.generator(seed))
        exact, low = slopes(plain, params), slopes(in_bf16(plain), params)
        assert low.isfinite().all()
        assert F.cosine_similarity(low, exact, dim=0) > 0.9


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
    x, copies = inputs_of(case, 5), [{k: v.clone() for k, v in leaves.items()} for leaves in (params, stats)]
    out, new = model_of(case).apply(params, stats, x, train, SEED)
    assert out.shape == (5, model_of(case).outputs) == (5, WAY)
    assert out.dtype == torch.float64
    assert out.isfinite().all()
    assert {k: v.shape for k, v in new.items()} == {k: v.shape for k, v in stats.items()}
    assert same(params, copies[0])
    assert same(stats, copies[1])
    assert same(new, stats) == (not train or not stats)


@every
@pytest.mark.parametrize("train", [True, False])
def test_the_output_layer_is_linear_in_the_features(case: Case, train: bool) -> None:
    """What learners that solve or exchange the output layer rely on."""
    params, stats = started(case)
    model, x = model_of(case), inputs_of(case, 5)
    features, new = model.features(params, stats, x, train, SEED)
    out, expected_new = model.apply(params, stats, x, train, SEED)
    reference = [torch.zeros(5, 1).double()] if case[0] == "logistic" else []
    assert gap(torch.cat([*reference, F.linear(features, params["head.weight"], params["head.bias"])], 1), out) < 1e-12
    assert same(new, expected_new)
    body = {k: v for k, v in params.items() if not k.startswith("head")}
    assert same({"": model.features(body, stats, x, train, SEED)[0]}, {"": features})


@every
def test_every_parameter_matters(case: Case) -> None:
    params, stats = started(case)
    model, x = model_of(case), inputs_of(case, 5)
    out, _ = model.apply(params, stats, x, False, SEED)
    own_batch = case[1].get("norm", {"conv4": "batch", "conv1d": "batch"}.get(case[0])) == "batch"
    for name, value in params.items():
        changed, _ = model.apply(params | {name: value + 0.1 * rand(*value.shape)}, stats, x, False, SEED)
        if own_batch and name.endswith(".bias") and not name.startswith("head"):
            assert gap(changed, out) < 1e-12  # batch statistics take a bias away
        else:
            assert gap(changed, out) > 1e-6, name


@every
def test_mixes_tells_whether_an_output_depends_on_other_rows(case: Case) -> None:
    model = model_of(case)
    params, stats = started(case)
    one, two = inputs_of(case, 4), inputs_of(case, 4, seed=1)
    two[0] = one[0]
    outs = [model.apply(params, stats, x, False, SEED)[0][0] for x in (one, two)]
    assert (gap(*outs) > 1e-9) == model.mixes


@pytest.mark.parametrize("name", ["mlp", "conv4", "conv1d"])
@pytest.mark.parametrize("width", [3, 8, 16])
def test_group_norm_leaves_a_narrow_model_its_values(name: str, width: int) -> None:
    """Groups of one or two values would: those are normalised to 0, or to their signs, whatever comes in."""
    case = (name, {"norm": "group"} | ({"hidden": [width]} if name == "mlp" else {"width": width}))
    model = model_of(case)
    params, _ = model.init(seeds.generator(0))
    out, _ = model.apply(double(params), {}, inputs_of(case, 200), False, SEED)
    assert len(out.round(decimals=4).unique(dim=0)) > 190


@every
@pytest.mark.parametrize("train", [True, False])
def test_vmap_over_nodes_and_tasks_is_the_loop(case: Case, train: bool) -> None:
    model, nodes = model_of(case), [started(case, seed) for seed in range(2)]
    x = inputs_of(case, 2, 3, 5)
    params, stats = (tree.stack(leaves) for leaves in zip(*nodes, strict=True))

    def node(params: Params, stats: Params, x: Tensor) -> tuple[Tensor, Params]:
        return vmap(lambda x: model.apply(params, stats, x, train, SEED))(x)

    out, new = vmap(node)(params, stats, x)
    for i, (one_params, one_stats) in enumerate(nodes):
        for t in range(3):
            expected, expected_stats = model.apply(one_params, one_stats, x[i, t], train, SEED)
            assert gap(out[i, t], expected) < 1e-12
            assert gap({k: v[i, t] for k, v in new.items()}, expected_stats) < 1e-12


@every
@pytest.mark.parametrize("second", [False, True])
def test_vmap_of_gradients_is_the_loop(case: Case, second: bool) -> None:
    """Derivatives of first order, and through a step of adaptation, for two nodes at once; finite differences agree."""
    model, nodes = model_of(case), [started(case, seed) for seed in range(2)]
    x, weight = inputs_of(case, 2, 5), rand(5, WAY, seed=3)
    params, stats = (tree.stack(leaves) for leaves in zip(*nodes, strict=True))
    smooth = case[0] in ("lstm", "logistic") or case[1].get("activation", "relu") in ("tanh", "softplus")

    def loss(params: Params, stats: Params, x: Tensor) -> Tensor:
        return (weight * model.apply(params, stats, x, True, SEED)[0].softmax(-1)).sum()

    def adapted_loss(params: Params, stats: Params, x: Tensor) -> Tensor:
        step = grad(loss)(params, stats, x)
        return loss({k: v - 0.1 * step[k] for k, v in params.items()}, stats, x)

    f = adapted_loss if second else loss
    many = vmap(grad(f))(params, stats, x)
    for i, node in enumerate(nodes):
        one = grad(f)(*node, x[i])
        assert gap({k: v[i] for k, v in many.items()}, one) < 1e-12
        if smooth:
            along = {k: rand(*v.shape, seed=9) for k, v in one.items()}
            measured = slope(lambda p, node=node, i=i: f(p, node[1], x[i]), node[0], along)
            assert sum(float((one[k] * along[k]).sum()) for k in one) == pytest.approx(measured, rel=1e-7, abs=1e-8)


# ------------------------------------------------------------------------------------------------ torch.nn says


def batch_norm(params: Params, name: str, x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, params.get(f"{name}.scale"), params.get(f"{name}.shift"), training=True)


def group_norm(params: Params, name: str, x: Tensor) -> Tensor:
    groups = {4: 1, 12: 1, 16: 2, 40: 4, 64: 8}[x.shape[1]]  # at least 8 channels each
    return F.group_norm(x, groups, params.get(f"{name}.scale"), params.get(f"{name}.shift"))


NORMS = {"none": lambda params, name, x: x, "batch": batch_norm, "group": group_norm}


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "softplus"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("affine", ["shift", "both", "none"])
@pytest.mark.parametrize("hidden", [[12, 4], [64, 16]])
def test_mlp_is_what_torch_computes(hidden: list[int], norm: str, affine: str, activation: str) -> None:
    case = ("mlp", {"hidden": hidden, "norm": norm, "affine": affine, "activation": activation})
    params, _ = started(case)
    acts = {"relu": F.relu, "leaky_relu": torch.nn.LeakyReLU(0.1), "tanh": F.tanh, "softplus": F.softplus}
    act = acts[activation]
    x = inputs = rand(7, *SHAPE)
    for i in range(2):
        x = F.linear(x.reshape(7, -1), params[f"layer{i}.weight"], params[f"layer{i}.bias"])
        x = act(NORMS[norm](params, f"norm{i}", x))
    expected = F.linear(x, params["head.weight"], params["head.bias"])
    assert gap(model_of(case).apply(params, {}, inputs, True, SEED)[0], expected) < 1e-12


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pool", ["stride", "max"])
@pytest.mark.parametrize("head", ["mean", "flatten", "last_two"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [4, 40, [4, 40, 12, 16]], ids=str)
def test_conv4_is_what_torch_computes(width: int | list[int], norm: str, head: str, pool: str, channels: int) -> None:
    case = ("conv4", {"width": width, "norm": norm, "affine": "both", "head": head, "pool": pool})
    shape = (channels, 20, 33)
    model = model_of(case, shape)
    params = jitter(double(model.init(seeds.generator(1))[0]))
    x = inputs = rand(5, *shape)
    blocks: list[Tensor] = []
    for i in range(4):
        wide = width if isinstance(width, int) else width[i]
        layer = torch.nn.Conv2d(x.shape[1], wide, 3, stride=2 if pool == "stride" else 1, padding=1).double()
        layer.load_state_dict({"weight": params[f"conv{i}.weight"], "bias": params[f"conv{i}.bias"]})
        x = F.relu(NORMS[norm](params, f"norm{i}", layer(x).detach()))
        x = x if pool == "stride" else F.max_pool2d(x, 2, 2)
        blocks.append(x.flatten(1))
    x = {"mean": F.adaptive_avg_pool2d(x, 1).flatten(1), "flatten": x.flatten(1), "last_two": torch.hstack(blocks[2:])}[
        head
    ]
    expected = F.linear(x, params["head.weight"], params["head.bias"])
    assert gap(model.apply(params, {}, inputs, True, SEED)[0], expected) < 1e-12 * max(1, expected.abs().max())


@pytest.mark.parametrize("length", [8, 21])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("width", "depth"), [(4, 3), (40, 2)])
def test_conv1d_is_what_torch_computes(width: int, depth: int, norm: str, length: int) -> None:
    model = model_of(("conv1d", {"width": width, "depth": depth, "norm": norm, "affine": "both"}), (3, length))
    params = jitter(double(model.init(seeds.generator(1))[0]))
    x = inputs = rand(5, 3, length)
    for i in range(depth):
        layer = torch.nn.Conv1d(x.shape[1], width, 5, padding="same").double()
        layer.load_state_dict({"weight": params[f"conv{i}.weight"], "bias": params[f"conv{i}.bias"]})
        x = F.relu(NORMS[norm](params, f"norm{i}", layer(x).detach())).unfold(2, 2, 2).amax(-1)
    expected = F.linear(x.mean(2), params["head.weight"], params["head.bias"])
    assert gap(model.apply(params, {}, inputs, True, SEED)[0], expected) < 1e-12


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 30])
def test_lstm_is_torchs(length: int, layers: int) -> None:
    """Outputs and gradients of torch.nn.Embedding, LSTM and Linear with the same weights."""
    model = model_of(("lstm", {"vocabulary": 11, "embedding": 3, "hidden": 7, "layers": layers}), (length,), 5)
    params = jitter(double(model.init(seeds.generator(1))[0]))
    x = torch.randint(11, (6, length), generator=seeds.generator(2))

    embedding, head = torch.nn.Embedding(11, 3), torch.nn.Linear(7, 5)
    cell = torch.nn.LSTM(3, 7, layers, batch_first=True)
    oracle = torch.nn.ModuleDict({"embedding": embedding, "cell": cell, "head": head}).double()
    names = {
        f"{k}.{leaf}": f"{k}.{leaf}" for k, leaf in [("embedding", "weight"), ("head", "weight"), ("head", "bias")]
    }
    for i in range(layers):
        for leaf in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            names[f"lstm{i}.{leaf}"] = f"cell.{leaf}_l{i}"
    oracle.load_state_dict({theirs: params[ours] for ours, theirs in names.items()})
    out = head(cell(embedding(x))[0][:, -1])
    out.square().sum().backward()

    for kind in (torch.uint8, torch.int64, torch.float32, torch.float64):
        assert gap(model.apply(params, {}, x.to(kind), True, SEED)[0], out.detach()) < 1e-12
    ours = grad(lambda p: model.apply(p, {}, x, True, SEED)[0].square().sum())(params)
    theirs = dict(oracle.named_parameters())
    assert gap(ours, {k: theirs[v].grad for k, v in names.items()}) < 1e-12


def test_lstm_starts_as_torchs() -> None:
    """The range of each draw; torch's own LSTM is drawn beside it."""
    params, _ = MODELS["lstm"]((80,), 80).init(seeds.generator(0))
    embedding = params.pop("embedding.weight")
    assert float(embedding.mean()) == pytest.approx(0, abs=0.15)
    assert float(embedding.std()) == pytest.approx(1, abs=0.1)
    theirs = torch.nn.LSTM(8, 256, 2).state_dict() | torch.nn.Linear(256, 80).state_dict()
    largest = max(float(v.abs().max()) for v in theirs.values())
    for value in params.values():
        assert float(value.abs().max()) == pytest.approx(largest, rel=0.05)
        assert float(value.std()) == pytest.approx(largest / 3**0.5, rel=0.15)


def test_a_character_outside_the_vocabulary_is_none() -> None:
    """It counts as a row of zeros in the table, under vmap too, where F.embedding would read a neighbour's."""
    case = ("lstm", {"vocabulary": 9, "embedding": 3, "hidden": 5})
    model, nodes = model_of(case), [started(case, seed)[0] for seed in range(2)]
    x = torch.tensor([[1.0, 9, 200, 3]])
    out = vmap(lambda p: model.apply(p, {}, x, True, SEED)[0])(tree.stack(nodes))
    wider = model_of(("lstm", case[1] | {"vocabulary": 256}))
    for i, params in enumerate(nodes):
        padded = params | {"embedding.weight": F.pad(params["embedding.weight"], (0, 0, 0, 247))}
        assert gap(out[i], wider.apply(padded, {}, x, True, SEED)[0]) < 1e-12


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_is_scikit_learns(classes: int) -> None:
    """Its fitted weights, less class 0's, give its probabilities."""
    x, label = rand(60, 3, 2), np.arange(60) % classes
    oracle = LogisticRegression().fit(x.flatten(1).numpy(), label)
    weight, bias = torch.from_numpy(oracle.coef_), torch.from_numpy(oracle.intercept_)
    if classes > 2:
        weight, bias = weight[1:] - weight[0], bias[1:] - bias[0]
    model = model_of(("logistic", {}), (3, 2), classes)
    out, _ = model.apply({"head.weight": weight, "head.bias": bias}, {}, x, True, SEED)
    assert not out[:, 0].any()
    assert gap(out.softmax(-1), torch.from_numpy(oracle.predict_proba(x.flatten(1).numpy()))) < 1e-12


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
        One(i, normalise("n", "batch_running", {}, start, x, True)[1], {}, len(x), {}) for i, x in enumerate(parts)
    ]
    union = torch.cat(parts)
    pooled = combined(AGGREGATORS["mean"](), start, [beside(updates)])
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
    assert sum(size("lstm", (80,), 80).values()) == 819_920
    assert sum(size("logistic", (13,), 2).values()) == 14


def test_the_last_two_blocks_have_as_many_features_as_they_have_values() -> None:
    params, _ = MODELS["conv4"]((28, 28), 20, pool="max", head="last_two").init(seeds.generator(0))
    assert params["head.weight"].shape == (20, 64 * (3 * 3 + 1))
    wide = MODELS["conv4"]((28, 28), 20, width=[96, 192, 384, 512], pool="max", head="last_two")
    assert wide.init(seeds.generator(0))[0]["head.weight"].shape == (20, 384 * 3 * 3 + 512)


def test_mini_imagenet_has_800_features() -> None:
    model = MODELS["conv4"]((3, 84, 84), 5, width=32, pool="max", head="flatten")
    params, _ = model.init(seeds.generator(0))
    assert params["head.weight"].shape == (5, 800)
    images = torch.zeros(2, 3, 84, 84)
    assert model.features(params, {}, images, True, SEED)[0].shape == (2, 800)
    assert model.apply(params, {}, images, True, SEED)[0].shape == (2, 5)


def test_truncated_init_is_mamls() -> None:
    params, _ = MODELS["mlp"]((28, 28), 5, hidden=[256], init="truncated").init(seeds.generator(0))
    weight = params["layer0.weight"]
    assert float(weight.abs().max()) <= 0.02
    assert float(weight.std()) == pytest.approx(0.01 * 0.8796, rel=0.01)  # a normal cut at 2 sd has 0.8796 of it
    assert not params["layer0.bias"].any()


@pytest.mark.parametrize(("name", "shape"), [("conv4", (3, 28, 28)), ("conv1d", (9, 128))])
def test_convolutions_start_in_glorots_range(name: str, shape: tuple[int, ...]) -> None:
    params, _ = MODELS[name](shape, 5, width=20, norm="none").init(seeds.generator(0))
    generator = seeds.generator(0)
    kernels = [v for k, v in params.items() if k.startswith("conv") and k.endswith("weight")]
    assert len(kernels) == {"conv4": 4, "conv1d": 3}[name]
    for kernel in kernels:
        theirs = torch.nn.init.xavier_uniform_(torch.empty_like(kernel), generator=generator)
        assert gap(kernel, theirs) < 1e-7
    assert not any(v.any() for k, v in params.items() if k.endswith("bias"))


def test_one_channel_may_be_left_out() -> None:
    """(H, W) is (1, H, W)."""
    two, three = model_of(("conv4", {}), (9, 7)), model_of(("conv4", {}), (1, 9, 7))
    params, _ = two.init(seeds.generator(0))
    x = torch.randn(4, 9, 7, generator=seeds.generator(1))
    assert torch.equal(two.apply(params, {}, x, True, SEED)[0], three.apply(params, {}, x[:, None], True, SEED)[0])


def test_logistic_starts_from_nothing_unless_it_is_drawn() -> None:
    params, _ = MODELS["logistic"]((13,), 2).init(seeds.generator(0))
    assert not any(v.any() for v in params.values())
    params, _ = MODELS["logistic"]((13, 8), 50, init="uniform").init(seeds.generator(0))
    theirs = torch.nn.Linear(104, 49).state_dict()
    for name, value in params.items():
        assert value.shape == theirs[name.removeprefix("head.")].shape
        assert float(value.abs().max()) == pytest.approx(104**-0.5, rel=0.1)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message", "where", "hint"),
    [
        ("conv4", (64,), {}, r"conv4 needs images, .* not rows of shape \(64,\)", "name", "mlp"),
        ("conv4", (15, 28), {"pool": "max"}, r"images of \(15, 28\) are too small", "pool", "stride"),
        ("conv1d", (28, 28, 1), {}, r"conv1d needs signals, .* not rows of shape \(28, 28, 1\)", "name", "mlp"),
        ("conv1d", (9, 7), {}, r"signals of length 7 are too short for 3 blocks", "depth", "depth: 2 or less"),
        ("conv1d", (9, 1), {"depth": 1}, r"signals of length 1 are too short for 1 block,", "depth", "mlp"),
        ("lstm", (8, 8), {}, r"lstm needs sequences of characters, .* not rows of shape \(8, 8\)", "name", "conv1d"),
        ("lstm", (), {}, r"lstm needs sequences of characters, .* not rows of shape \(\)", "name", "mlp"),
    ],
)
def test_data_of_another_shape(
    name: str, shape: tuple[int, ...], options: dict, message: str, where: str, hint: str
) -> None:
    with pytest.raises(Problem, match=message) as caught:
        MODELS[name](shape, 5, **options)
    assert (caught.value.code, caught.value.where) == (CONFIG, f"model.{where}")
    assert hint in (caught.value.hint or "")


def test_logistic_is_for_two_classes_or_more() -> None:
    with pytest.raises(Problem, match="needs at least two classes") as caught:
        MODELS["logistic"]((13,), 1)
    assert (caught.value.code, caught.value.where) == (CONFIG, "model.name")
    assert "hidden: []" in (caught.value.hint or "")


def test_the_shortest_signal_has_one_step_left() -> None:
    model = model_of(("conv1d", {"width": 4}), (9, 8), 5)
    params, _ = model.init(seeds.generator(0))
    assert model.apply(params, {}, torch.zeros(2, 9, 8), True, SEED)[0].shape == (2, 5)
