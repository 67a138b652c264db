"""Every shipped config loads, is commented, can be planned, runs, and is in the wheel."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from runner import ROOT, Done, environment, process
from typer.testing import CliRunner

from metadist_cli import config
from metadist_cli.cli import app

FOLDER = ROOT / "configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))
CENTRAL = {"sinusoid-central", "omniglot-maml-20way", "omniglot-prototypical", "omniglot-ridge", "omniglot-svm"}
SMOKE = {"tiny"}  # its results mean nothing, as its first line says
OMNIGLOT = ("images_background", "images_evaluation")
WAVES = ["data.functions=3000", "train.rounds=1", "train.local_steps=2", "finetune.episodes=20"]
EPISODES = ["train.rounds=1", "train.local_steps=1", "train.meta_batch=1", "finetune.episodes=4"]
UNTUNED = "finetune.tune=false"  # convolutions and an LSTM: a minute for each baseline
EXACT = "execution.precision=float32"  # not every CPU has bf16
SCENE = [
    *("train.rounds=1", "train.local_steps=1", "finetune.episodes=10", "finetune.steps=1"),
    *("baselines.fedavg.train.rounds=1", "baselines.pooled.train={rounds: 1, local_steps: 1, batch: 8}"),
]
SHORTER = {
    "tiny": [],
    "quickstart": ["train.rounds=2", "finetune.episodes=20"],
    "sinusoid-maml": [
        *("data.functions=300", "task.new.test=100", "train.rounds=2", "train.local_steps=2"),
        "finetune.episodes=20",
    ],
    "omniglot-maml": [*EPISODES, UNTUNED],
    "omniglot-reptile": [*EPISODES, UNTUNED],
    "papers/sinusoid-central": WAVES,
    "papers/sinusoid-10-nodes": WAVES,
    "papers/sinusoid-100-rounds": [*WAVES, "baselines.fedmeta.train.rounds=2"],
    "papers/sinusoid-phases": [*WAVES, "baselines.fedmeta.train.rounds=2"],
    "papers/omniglot-mlp-1shot": EPISODES,
    "papers/omniglot-mlp-5shot": EPISODES,
    "papers/omniglot-maml-20way": EPISODES,
    "papers/omniglot-prototypical": [*EPISODES, EXACT],
    "papers/omniglot-ridge": [*EPISODES, EXACT],
    "papers/omniglot-svm": [*EPISODES, EXACT],
    "papers/heart-fedavg": ["train.rounds=1"],
    "papers/heart-two-rounds": [],
    "papers/heart-new-hospital": ["finetune.episodes=8"],
    "scenes/alphabets": [*SCENE[:-1], UNTUNED, "baselines.pooled.train={rounds: 1, local_steps: 1}"],
    "scenes/devices-har": [*SCENE, UNTUNED],
    "scenes/devices-wisdm": SCENE,
    "scenes/drawers": [*SCENE, UNTUNED],
    "scenes/finance": SCENE,
    "scenes/hospitals": SCENE,
    "scenes/readers": [*SCENE, UNTUNED],
    "scenes/restaurants": [*SCENE, "finetune.episodes=30"],
}


def called(path: Path) -> str:
    """Its name on the command line."""
    return path.relative_to(FOLDER).with_suffix("").as_posix()


every = pytest.mark.parametrize("path", CONFIGS, ids=called)


def needs_data(path: Path) -> None:
    data, folder = config.load(path).data.name, Path(os.environ.get("METADIST_DATA") or "nowhere")
    if data == "omniglot" and not all(
        any((folder / data / (p + end)).exists() for end in (".zip", "")) for p in OMNIGLOT
    ):
        pytest.skip("the images of Omniglot are not in METADIST_DATA")
    if data == "heart" and not (folder / "heart_disease").is_dir():
        pytest.skip("heart_disease is not in METADIST_DATA")
    path_of_data = getattr(config.load(path).data, "path", None)
    if path_of_data and not (folder / path_of_data).exists():
        pytest.skip(f"{path_of_data} is not in METADIST_DATA")


def metadist(folder: Path, *arguments: str) -> Done:
    done = process(*arguments, module=True, cwd=folder)
    assert done.code == 0, f"{arguments}: {done.code}\n{done.out}{done.err}"
    return done


def test_there_are_configs():
    """Each has an entry in SHORTER, so that no new one is forgotten here."""
    assert {called(path) for path in CONFIGS} == set(SHORTER)
    assert len(CONFIGS) == len(SHORTER)


@every
def test_loads_by_path_and_by_name(path: Path):
    assert config.load(path) == config.load(called(path))
    assert config.load(path).name == path.stem


@every
def test_loads_back_from_what_a_run_keeps(path: Path, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(config.to_yaml(config.load(path)))
    assert config.load(tmp_path) == config.load(path)


@every
def test_is_commented(path: Path):
    """The first lines say what it is, and every section has a comment."""
    text = path.read_text()
    assert re.match(r"# \S.*\n", text)
    if path.stem in SMOKE:
        return
    if path.parent.name == "papers":  # read beside the paper, whose address is in the first lines
        assert re.match(r"# \S.*\n# .*https?://", text)
        return
    if path.parent.name == "scenes":
        assert f"metadist run configs/scenes/{path.stem}.yaml" in text
        return
    assert f"metadist run {path.stem}" in text
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"[a-z_]+:", line)]
    bare = [
        lines[begin]
        for begin, end in zip(starts, [*starts[1:], len(lines)], strict=True)
        if not (begin and lines[begin - 1].startswith("#")) and not any("  # " in line for line in lines[begin:end])
    ]
    assert bare == [], "sections without a comment"


@every
def test_dry_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    needs_data(path)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", str(path), "--dry-run", "--json", "execution.threads=1", EXACT])
    assert done.exit_code == 0, done.output
    planned = json.loads(done.stdout)
    assert planned["closed"] == -1
    assert planned["nodes"] == 1 if path.stem in CENTRAL else planned["nodes"] >= 2
    assert all(figures["tasks"] > 0 or figures["rounds"] == 0 for figures in planned["runs"].values())
    assert list(tmp_path.iterdir()) == []


# Of the papers' rows and the scenes those that take other ways through the program; all of them load and plan above.
LONGER = (
    *("papers/heart-two-rounds", "papers/omniglot-ridge", "papers/sinusoid-phases"),
    *("scenes/alphabets", "scenes/hospitals", "scenes/readers", "scenes/restaurants"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=called(p)) for p in CONFIGS if p.parent == FOLDER or called(p) in LONGER],
)
def test_runs_from_end_to_end(path: Path, tmp_path: Path):
    """Each runs by name in its own folder: tiny unchanged, the others shortened."""
    needs_data(path)
    shorter = [*SHORTER[called(path)], *(["execution.threads=1"] if path.stem != "tiny" else [])]
    done = metadist(tmp_path, "run", called(path), *shorter)
    folder = tmp_path / "runs" / path.stem / "finetune" / "new"
    metrics = json.loads((folder / "metrics.json").read_text())
    settings = config.load(path, shorter)
    whole = settings.task.new.from_ == "rows"  # then a node's own rows are one task
    assert metrics["after"]["n"] == metrics["episodes"] == (4 if whole else settings.finetune.episodes)
    assert metrics["after"]["non_finite"] == 0
    assert set(metrics["baselines"]) == set(config.load(path).baselines)
    assert b"data:image/png" in (folder / "report.html").read_bytes()
    assert f"finetune: results in runs/{path.stem}/finetune/new" in done.out
    again = metadist(tmp_path, "run", called(path), *shorter)
    assert "already done" in again.out


def test_tiny_is_quick():
    """A smoke test has small numbers; this measures no time."""
    tiny = config.load("tiny")
    assert tiny.data.name == "digits"
    assert tiny.train.rounds * (tiny.train.local_steps or 0) * (tiny.partition.nodes or 0) <= 100
    assert tiny.finetune.episodes <= 20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of this tree, built without a network."""
    # not by find_spec: to be asked for pip, setuptools puts the old distutils in place, and torch.compile fails later
    there = {name.lower() for found in importlib.metadata.distributions() if (name := found.metadata["Name"])}
    if not {"pip", "hatchling"} <= there:
        pytest.skip("needs pip and hatchling: pip install '.[dev]'")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("metadist_cli", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-w", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(source)],
        env={k: v for k, v in environment().items() if k != "PYTHONWARNINGS"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_all_configs(wheel: zipfile.ZipFile):
    for path in CONFIGS:
        name = f"metadist_cli/configs/{path.relative_to(FOLDER).as_posix()}"
        assert wheel.read(name) == path.read_bytes()


def test_the_wheel_holds_all_modules_and_topics(wheel: zipfile.ZipFile):
    ours = {p.relative_to(ROOT).as_posix() for end in ("py", "md") for p in (ROOT / "metadist_cli").rglob(f"*.{end}")}
    theirs = {name for name in wheel.namelist() if name.endswith((".py", ".md"))}
    assert {name for name in theirs if not name.startswith("metadist_cli/configs/")} == ours


def test_the_wheel_works_without_a_clone(wheel: zipfile.ZipFile, tmp_path: Path):
    """`metadist run NAME` finds a shipped config from the installed package alone."""
    wheel.extractall(tmp_path / "site")  # our own archive, made a moment ago
    (tmp_path / "elsewhere").mkdir()
    asked = "from metadist_cli import config; import metadist_cli; print(metadist_cli.__file__, *config.shipped())"
    done = subprocess.run(
        [sys.executable, "-c", asked],
        cwd=tmp_path / "elsewhere",
        env=environment(PYTHONPATH=str(tmp_path / "site")),
        capture_output=True,
        text=True,
        check=True,
    )
    file, *names = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path / "site")
    assert names == [called(path) for path in CONFIGS]
