"""What is exported for devices predicts what the adapted model does, and names no path of this machine."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from metadist_cli.cli import app
from metadist_cli.core import files
from metadist_cli.core.errors import SYSTEM, Problem
from metadist_cli.core.tree import prefixed
from metadist_cli.data.preprocessing import Column, Preprocessing
from metadist_cli.models import MODELS
from metadist_cli.storage import exported
from metadist_cli.storage.adapted_model import AdaptedModel
from metadist_cli.storage.exported import export

ONNX = all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
FORMATS = ["torch", pytest.param("onnx", marks=pytest.mark.skipif(not ONNX, reason="needs metadist[onnx]"))]
NAMES = ("a", "b", "c")


def adapted(name: str, by: Preprocessing, outputs: int = 3, bf16: bool = False, **options: Any) -> AdaptedModel:
    """A model with random parameters, none of them 0."""
    header = {
        "format": 2,
        "model": {"name": name, **options},
        "outputs": outputs,
        "bf16": bf16,
        "together": False,
        "preprocessing": by.model_dump(mode="json"),
    }
    model = MODELS[name](by.shape, outputs, **options)
    params, stats = model.init(torch.Generator().manual_seed(0))
    noise = torch.Generator().manual_seed(1)
    params = {k: v + 0.1 * torch.randn(v.shape, generator=noise) for k, v in params.items()}
    tensors = prefixed(params=params, stats=stats)
    if model.mixes:
        tensors["support"] = torch.randint(0, 17, (4, *by.shape), generator=noise, dtype=torch.uint8)
    return AdaptedModel(by, tensors, header)


def numbers(rows: int, **more: Any) -> Preprocessing:
    """Of features whose mean and deviation are far from 0 and 1."""
    by = Preprocessing(kind="classification", shape=(4,), classes=NAMES, **more)
    x = np.random.default_rng(0).normal([1e3, -5, 0.1, 7], [100, 1, 0.01, 2], (rows, 4)).astype(np.float32)
    return by.fitted([x], "train")


IMAGES = Preprocessing(kind="classification", shape=(8, 8), divide=16.0, classes=NAMES)
SIGNALS = Preprocessing(kind="classification", shape=(2, 32), classes=NAMES)
TEXTS = Preprocessing(kind="classification", shape=(6,), letters="abcdefgh", classes=NAMES)
MODELS_AND_ROWS = [
    *(("logistic", numbers(9), {}), ("mlp", numbers(9), {"hidden": [5]})),
    ("mlp", numbers(9), {"hidden": [5], "norm": "batch_running"}),
    ("mlp", IMAGES, {"hidden": [5], "norm": "batch"}),
    *(("conv4", IMAGES, {"width": 8, "norm": norm}) for norm in ("none", "group", "batch", "batch_running")),
    ("conv1d", SIGNALS.fitted([np.random.default_rng(0).normal(3, 2, (5, 2, 32)).astype(np.float32)], "train"), {}),
    ("lstm", TEXTS, {"vocabulary": 8, "hidden": 7, "embedding": 3, "layers": 2}),
]


def rows_of(by: Preprocessing, count: int = 7) -> np.ndarray:
    rng = np.random.default_rng(3)
    if by.letters or by.divide > 1:
        return rng.integers(0, 8, (count, *by.shape)).astype(np.float32)
    return rng.normal(5, 9, (count, *by.shape)).astype(np.float32)


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize(("name", "by", "options"), MODELS_AND_ROWS)
def test_every_model_predicts_alike_once_it_is_exported(name: str, by: Preprocessing, options: dict, to: Any):
    model = adapted(name, by, **options)
    rows = rows_of(by)
    found = np.concatenate([export(model, to).run(rows[i : i + 1]) for i in range(2)])
    np.testing.assert_allclose(found, model.probabilities(rows[:2]), rtol=1e-4, atol=1e-5)


def test_a_model_in_bfloat16_is_exported_for_torch_alone():
    model, rows = adapted("mlp", numbers(9), hidden=[5], bf16=True), rows_of(numbers(9))
    found = export(model, "torch").run(rows)
    np.testing.assert_allclose(found, model.probabilities(rows), rtol=1e-2)
    with pytest.raises(Problem, match="bfloat16"):
        export(model, "onnx")


@pytest.mark.parametrize("to", FORMATS)
def test_any_number_of_rows_goes_through_at_once(to: Any):
    model, rows = adapted("mlp", numbers(9), hidden=[5]), rows_of(numbers(9), 11)
    run = export(model, to).run
    for count in (1, 2, 11):
        np.testing.assert_allclose(run(rows[:count]), model.probabilities(rows[:count]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("scale", ["none", "train"])
def test_columns_with_gaps_indicators_and_a_unit_are_inside(to: Any, scale: str):
    """By hand: the graph takes the table's own two columns, not the three features, and gives money, not thousands."""
    columns = (Column(name="age", indicator=True), Column(name="dose"))
    by = Preprocessing(kind="regression", shape=(3,), columns=columns, missing="fill", unit=1000.0, target="cost")
    x = np.array([[20, 1, 0], [40, 3, 0], [np.nan, 5, 1]], dtype=np.float32)
    by = by.changed(target_mean=(7.0,), target_deviation=(2.0,))
    model = adapted("mlp", by.fitted([x], scale, 1.0), outputs=1, hidden=[5])
    age, dose = np.array([50, np.nan, 30]), np.array([2.0, 2.0, np.nan])
    rows = np.stack([age, dose], axis=1).astype(np.float32)
    found = export(model, to).run(rows)
    filled = np.array([[50, 2, 0], [30, 2, 1], [30, 3, 0]], dtype=np.float64)  # the means of age and dose: 30 and 3
    if scale == "train":
        filled = (filled - [30, 3, 1 / 3]) / [np.std([20, 40], ddof=1), 2, np.std([0, 0, 1], ddof=1)]
        filled = filled.clip(-1, 1)
    params = {k.removeprefix("params/"): v.double().numpy() for k, v in model.params.items()}
    hidden = np.maximum(filled @ params["layer0.weight"].T + params["layer0.bias"], 0)
    wanted = 1000 * (7 + 2 * (hidden @ params["head.weight"].T + params["head.bias"]))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    np.testing.assert_allclose(model.predict({"age": age, "dose": dose}), wanted, rtol=1e-4)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = adapted("mlp", numbers(9), hidden=[5])
    (tmp_path / "adapted.safetensors").write_bytes(files.pack(model.params, model.header))
    return tmp_path / "adapted.safetensors"


def command(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def test_a_file_for_torch_stands_alone(saved: Path):
    said = command(saved.parent)
    path = saved.with_suffix(".pt2")
    assert f"{path.stat().st_size:,} bytes" in said
    assert "ms a row on one thread" in said
    told = {"metadist.json": ""}
    program = torch.export.load(path, extra_files=told)
    about = json.loads(told["metadist.json"])
    assert (about["classes"], about["shape"], about["rows"]) == (list(NAMES), [4], "any")
    found = program.module()(torch.zeros(2, 4))
    assert found.shape == (2, 3)
    assert str(Path(exported.__file__).parent).encode() not in path.read_bytes()


@pytest.mark.skipif(not ONNX, reason="needs metadist[onnx]")
def test_a_file_for_onnx_stands_alone(saved: Path, tmp_path: Path):
    import onnxruntime  # pyright: ignore[reportMissingImports]

    summary = json.loads(command(saved, "--format", "onnx", "--out", tmp_path / "m.onnx", "--json").splitlines()[-1])
    assert summary["bytes"] == (tmp_path / "m.onnx").stat().st_size
    assert summary["milliseconds"] > 0
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["metadist"])["classes"] == list(NAMES)
    assert str(Path(exported.__file__).parent).encode() not in (tmp_path / "m.onnx").read_bytes()


def test_without_the_extra_onnx_is_refused_and_nothing_is_written(saved: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exported, "find_spec", lambda name: None)
    said = command(saved, "--format", "onnx", code=SYSTEM)
    assert "onnx, onnxscript and onnxruntime are not installed" in said
    assert "pip install 'metadist[onnx]'" in said
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_node_that_rotates_its_images_is_refused():
    with pytest.raises(Problem, match="rotates its images"):
        export(adapted("mlp", IMAGES.changed(angle=10.0), hidden=[5]), "torch")


def test_a_graph_that_differs_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(AdaptedModel, "probabilities", lambda self, rows: np.zeros((len(rows), 3), dtype=np.float32))
    assert "differs from the adapted one" in command(saved, code=4)
    assert not saved.with_suffix(".pt2").exists()
