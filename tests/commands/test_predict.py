"""The saved model is the whole predictor: every way to a prediction gives the same one, to the last bit."""

from __future__ import annotations

import contextlib
import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from runner import Lab
from typer.testing import CliRunner

import metadist_cli
from metadist_cli import config as configs
from metadist_cli.cli import app
from metadist_cli.commands.support.new_tasks import new_tasks
from metadist_cli.core import files
from metadist_cli.core.errors import DATA, USAGE, Problem
from metadist_cli.data.new_rows import read_rows
from metadist_cli.data.preprocessing import Preprocessing
from metadist_cli.storage import run_directory, shard_files
from metadist_cli.storage.adapted_model import unpack_adapted

SITES, EACH = 5, 24
COMMON = """\
task: {kind: local, support: 8, query: rest, new: {from: nodes, test: 1}}
partition: {name: natural, by: BY, scale: SCALE}
model: MODEL
learner: {name: maml, inner_lr: 0.3, inner_steps: 2}
train: {rounds: 1, local_steps: 1, meta_batch: 1}
finetune: {episodes: 1, predictions: true}
execution: {threads: 1}
"""
Lines = list[list[str]]  # prediction and probabilities, or the prediction alone


class Rows(NamedTuple):
    """The raw rows of a data set, and how people hand some of them in.

    Attributes:
        config: of the experiment.
        memory: (rows) -> what `load(...).predict` is given.
        file: (path without suffix, rows) -> the file that `metadist predict` is given.
        task: (path without suffix, support rows, query rows) -> the file that `finetune --task` is given.
    """

    config: str
    memory: Callable[[np.ndarray], Any]
    file: Callable[[Path, np.ndarray], Path]
    task: Callable[[Path, np.ndarray, np.ndarray], Path]


def experiment(data: str, by: str = "site", scale: str = "none", model: str = "{name: mlp, hidden: [8]}") -> str:
    return f"data: {data}\n" + COMMON.replace("BY", by).replace("SCALE", scale).replace("MODEL", model)


# ------------------------------------------------------------------------------------------------------- tables


def patients(seed: int) -> dict[str, list[Any]]:
    """Numbers, categories, dates and gaps of patients at five sites."""
    rng = np.random.default_rng(seed)
    n = SITES * EACH
    age, dose = rng.normal(60, 10, n), rng.normal(3, 1, n)
    columns: dict[str, list[Any]] = {
        "site": [f"s{i // EACH}" for i in range(n)],
        "age": [None if rng.random() < 0.1 else float(round(v, 3)) for v in age],
        "ward": [["north", "south", "east"][i] for i in rng.integers(0, 3, n)],
        "seen": [f"2026-{m:02d}-{d:02d}" for m, d in zip(rng.integers(1, 13, n), rng.integers(1, 29, n), strict=True)],
        "dose": [float(round(v, 3)) for v in dose],
        "sick": [["no", "yes"][int(v > 60)] for v in age],
        "cost": [float(round(100 * v + 10 * w, 2)) for v, w in zip(age, dose, strict=True)],
    }
    return columns


def some(columns: dict[str, list[Any]], rows: np.ndarray, names: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    return {name: [columns[name][int(i)] for i in rows] for name in names or columns}


def semicolons(path: Path, columns: dict[str, list[Any]]) -> Path:
    """As a spreadsheet of continental Europe writes it."""

    def cell(value: Any) -> str:
        return "-" if value is None else str(value).replace(".", ",") if isinstance(value, float) else str(value)

    lines = [";".join(columns), *(";".join(map(cell, row)) for row in zip(*columns.values(), strict=True))]
    path.with_suffix(".csv").write_text("\n".join(lines) + "\n")
    return path.with_suffix(".csv")


def commas(path: Path, columns: dict[str, list[Any]]) -> Path:
    lines = [",".join(columns)]
    lines += [",".join("" if v is None else str(v) for v in row) for row in zip(*columns.values(), strict=True)]
    path.with_suffix(".csv").write_text("\n".join(lines) + "\n")
    return path.with_suffix(".csv")


def parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    import pyarrow as pa
    from pyarrow import parquet as arrow

    typed = {name: pa.array(values) for name, values in columns.items()}
    if "seen" in typed:
        typed["seen"] = typed["seen"].cast(pa.date32())
    arrow.write_table(pa.table(typed), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def of_table(
    folder: Path, seed: int, write: Callable[..., Path], options: str, target: str = "sick", scale: str = "none"
) -> Rows:
    columns = patients(seed)
    other = "cost" if target == "sick" else "sick"
    del columns[other]
    path = write(folder / "patients", columns)
    turned = tuple(reversed([name for name in columns if name not in ("site", target)]))  # names say what a column is

    def task(place: Path, support: np.ndarray, query: np.ndarray) -> Path:
        part = ["support"] * len(support) + ["query"] * len(query)
        return write(place, {"part": part, **some(columns, np.r_[support, query], (*turned, target))})

    return Rows(
        experiment(f"{{name: table, path: {path}, target: {target}, groups: [site], {options}}}", scale=scale),
        lambda rows: some(columns, rows, turned),
        lambda place, rows: write(place, some(columns, rows)),
        task,
    )


EUROPE = 'decimal: ",", dates: {seen: parts}, missing: indicator, missing_marks: ["-"]'


def a_csv_table(folder: Path, seed: int) -> Rows:
    rows = of_table(folder, seed, semicolons, EUROPE, scale="train")

    def memory(which: np.ndarray) -> Any:  # the texts of the file, gaps included
        columns = rows.memory(which)
        return {
            name: ["-" if v is None else str(v).replace(".", ",") if isinstance(v, float) else v for v in values]
            for name, values in columns.items()
        }

    return rows._replace(memory=memory)


def a_parquet_table(folder: Path, seed: int) -> Rows:
    return of_table(folder, seed, parquet, "dates: {seen: days}, missing: mean")


def a_regression_with_a_unit(folder: Path, seed: int) -> Rows:
    return of_table(folder, seed, commas, "kind: regression, unit: 1000, drop: [age, seen]", target="cost")


def a_table_scaled_by_node(folder: Path, seed: int) -> Rows:
    return of_table(folder, seed, commas, "dates: {seen: days}, missing: mean", scale="node")


def a_table_scaled_by_support(folder: Path, seed: int) -> Rows:
    rows = of_table(folder, seed, commas, "dates: {seen: days}, missing: mean", scale="support")
    return rows._replace(config=rows.config.replace("scale: support", "scale: support, clip: 1.5"))


def a_regression_by_quartiles(folder: Path, seed: int) -> Rows:
    data = "kind: regression, unit: 1000, dates: {seen: parts}, missing: indicator"
    rows = of_table(folder, seed, parquet, data, target="cost", scale="robust")
    return rows._replace(config=rows.config.replace("scale: robust", "scale: robust, clip: 1"))


def a_table_whose_nodes_hold_rows_out(folder: Path, seed: int) -> Rows:
    """The nodes' own means are those of their training rows: all of them are the support, as of a task of one's own."""
    rows = of_table(folder, seed, commas, "dates: {seen: days}, missing: mean", scale="node")
    return rows._replace(config=rows.config.replace("{from: nodes, test: 1}", "{from: rows, test: 0.3}"))


def a_threshold(folder: Path, seed: int) -> Rows:
    return of_table(folder, seed, commas, "above: 6000, drop: [age, seen]", target="cost", scale="train")


# ------------------------------------------------------------------------------------------------------- arrays


def of_arrays(config: str, x: np.ndarray, y: np.ndarray) -> Rows:
    """Rows that people have as arrays."""

    def file(place: Path, rows: np.ndarray) -> Path:
        np.savez(place.with_suffix(".npz"), x=x[rows])
        return place.with_suffix(".npz")

    def task(place: Path, support: np.ndarray, query: np.ndarray) -> Path:
        parts = {"support": support, "query": query}
        arrays: dict[str, Any] = {f"{p}_{name}": v[r] for p, r in parts.items() for name, v in (("x", x), ("y", y))}
        np.savez(place.with_suffix(".npz"), **arrays)
        return place.with_suffix(".npz")

    return Rows(config, lambda rows: x[rows], file, task)


def stored(folder: Path, x: np.ndarray, y: np.ndarray) -> str:
    np.savez(folder / "data.npz", x=x, y=y, site=np.repeat(np.arange(SITES), EACH))
    return f"{{name: arrays, path: {folder / 'data.npz'}, groups: [site]}}"


def signals(folder: Path, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(7, 3, (SITES * EACH, 2, 9)), rng.integers(0, 3, SITES * EACH)
    return of_arrays(experiment(stored(folder, x, y), scale="train"), x, y)


def two_targets(folder: Path, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (SITES * EACH, 3)).astype(np.float32)
    y = x[:, :2] * 2 + 1
    return of_arrays(experiment(stored(folder, x, y).replace("}", ", kind: regression}")), x, y)


def of_digits(more: str = "", model: str = "{name: mlp, hidden: [8]}") -> Rows:
    data = all_digits()
    config = experiment("{name: digits}", model=model).replace("by: site, scale: none", f"nodes: 6{more}")
    config = config.replace("query: rest", "query: 12")
    return of_arrays(config.replace("name: natural", "name: iid"), data.x, data.label)


def all_digits() -> Any:
    from metadist_cli.data.sets import DATASETS

    return DATASETS["digits"](0)


def digits(folder: Path, seed: int) -> Rows:
    return of_digits()


def digits_normalised_by_batch(folder: Path, seed: int) -> Rows:
    return of_digits(model="{name: mlp, hidden: [8], norm: batch}")


def digits_in_bf16(folder: Path, seed: int) -> Rows:
    rows = of_digits()
    return rows._replace(config=rows.config.replace("threads: 1", "threads: 1, precision: bf16"))


def rotated_digits(folder: Path, seed: int) -> Rows:
    return of_digits(", rotate: 60")


def relabelled_digits(folder: Path, seed: int) -> Rows:
    return of_digits(", relabel: true")


def characters(folder: Path, seed: int) -> Rows:
    from metadist_cli.data.sets import DATASETS

    (folder / "texts").mkdir()
    words = np.array(["to", "be", "or", "not", "that", "is", "question", "tis", "nobler"])
    rng = np.random.default_rng(seed)
    for i in range(SITES):
        (folder / "texts" / f"{i}.txt").write_text(" ".join(words[rng.integers(0, len(words), 9)]))
    data = DATASETS["text"](0, path=str(folder / "texts"), window=6, vocabulary="data")
    names = np.array(data.classes)[data.label]
    config = experiment(f"{{name: text, path: {folder / 'texts'}, window: 6, vocabulary: data}}", by="file")
    return of_arrays(config, data.x[:], names)


def users(folder: Path, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, 1, (SITES, EACH, 4)).round(3), rng.integers(0, 3, (SITES, EACH))
    crowd = {f"u{i}": {"x": x[i].tolist(), "y": y[i].tolist()} for i in range(SITES)}
    told = {"users": list(crowd), "num_samples": [EACH] * SITES, "user_data": crowd}
    (folder / "all.json").write_text(json.dumps(told))
    config = experiment(f"{{name: leaf, path: {folder / 'all.json'}, classes: 3}}", by="user", scale="train")
    return of_arrays(config, x.reshape(-1, 4), y.reshape(-1))


# ------------------------------------------------------------------------------------------------------- images


def images(folder: Path, seed: int) -> Rows:
    """Drawings by five people: ink is dark, and files are larger than the model's input."""
    rng = np.random.default_rng(seed)
    shape = (SITES, 2, EACH // 2, 16, 16)
    drawn = np.where(rng.random(shape) < 0.3, 20, 240).astype(np.uint8)

    def name(row: int) -> tuple[int, str, int]:
        person, rest = divmod(int(row), EACH)
        return person, "ab"[rest // (EACH // 2)], rest % (EACH // 2)

    def save(path: Path, row: int) -> None:
        person, kind, number = name(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn[person, "ab".index(kind), number]).save(path)

    for row in range(SITES * EACH):
        person, kind, number = name(row)
        save(folder / f"drawings/p{person}/{kind}/{number:02d}.png", row)

    def memory(rows: np.ndarray) -> np.ndarray:  # by Pillow, from the files' own pixels
        pixels = [drawn[name(r)[0], "ab".index(name(r)[1]), name(r)[2]] for r in rows]
        return np.stack([255 - np.asarray(Image.fromarray(p).resize((8, 8), Image.Resampling.BOX)) for p in pixels])

    def file(place: Path, rows: np.ndarray) -> Path:
        for i, row in enumerate(rows):
            save(place / f"{i:03d}.png", row)
        return place

    def task(place: Path, support: np.ndarray, query: np.ndarray) -> Path:
        for part, rows in (("support", support), ("query", query)):
            for i, row in enumerate(rows):
                save(place / (f"query/{i:03d}.png" if part == "query" else f"support/{name(row)[1]}/{i:03d}.png"), row)
        return place

    options = "folders: [person, class], shared: true, size: 8, colour: grey, invert: true"
    config = experiment(f"{{name: image_folder, path: {folder / 'drawings'}, {options}}}", by="person")
    return Rows(config.replace("support: 8", "support: 1"), memory, file, task)  # folders have an order of their own


KINDS = (
    *(a_csv_table, a_parquet_table, a_regression_with_a_unit, a_threshold, a_table_scaled_by_node),
    *(a_table_whose_nodes_hold_rows_out, a_table_scaled_by_support, a_regression_by_quartiles),
    *(signals, two_targets, digits, digits_normalised_by_batch, digits_in_bf16, rotated_digits, relabelled_digits),
    *(characters, users, images),
)
# A held-out node's rows are scaled by all of them, rotated and numbered as the node does: a task of one's own is not.
OWN_DIFFERS = (a_table_scaled_by_node, rotated_digits, relabelled_digits)


def written(path: Path, skip: int) -> Lines:
    """The lines of a table of predictions without its first columns."""
    with path.open(newline="") as text:
        return [row[skip:] for row in list(csv.reader(text))[1:]]


def in_python(model: Path, rows: Any) -> Lines:
    loaded = metadist_cli.load(model)
    predicted = loaded.predict(rows)
    if not loaded.classes:
        return [[" ".join(map(str, row))] for row in predicted]
    chances = loaded.probabilities(rows)
    return [[name, *map(str, row)] for name, row in zip(predicted, chances, strict=True)]


def by_command(model: Path, rows: Path) -> Lines:
    out = rows.parent / "out.csv"
    done = CliRunner().invoke(app, ["predict", str(model), str(rows), "--out", str(out), "-q"])
    assert done.exit_code == 0, done.output
    found = written(out, 1)
    return found if metadist_cli.load(model).classes else [[" ".join(row)] for row in found]


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_a_prediction_gives_the_same_bits(kind: Callable[[Path, int], Rows], seed: int, tmp_path: Path):
    rows = kind(tmp_path, seed)
    lab = Lab(tmp_path / "lab", rows.config)
    lab("run")
    config, run = configs.load(str(lab.config)), run_directory.Run.at(lab.run())
    manifest = lab.shards()
    first = next(n for n in manifest["nodes"] if n["role"] == "test")
    wanted = [first["node"], *([first["home"]] if "home" in first else [])]
    shards = {shard.node: shard for shard in shard_files.read_shards(run, manifest, wanted)}
    held, home = shards[first["node"]], shards.get(first.get("home"))
    plan = new_tasks(config, shard_files.spec_in(manifest), held, home, 1)[1]
    number = held.row if home is None else np.r_[home.row, held.row]
    support, query = number[plan.support[0, 0, 0]], number[plan.query[0, 0, 0]]

    own = rows.task(tmp_path / "mine", support, query)
    lab("finetune", "--task", str(own))
    told = {place: written(lab.run() / "finetune" / place / "predictions.csv", 4) for place in ("new", "task-mine")}
    if kind not in OWN_DIFFERS:
        assert told["task-mine"] == told["new"]
    mixed = np.random.default_rng(0).permutation(len(query))[: len(query) // 2 + 1]
    for place, lines in told.items():
        model = lab.run() / "finetune" / place / "adapted.safetensors"
        assert in_python(model, rows.memory(query)) == lines
        assert by_command(model, rows.file(tmp_path / f"new-{place}", query)) == lines
        some_lines = [lines[i] for i in mixed]  # whichever rows are beside it
        assert in_python(model, rows.memory(query[mixed])) == some_lines
        assert by_command(model, rows.file(tmp_path / f"few-{place}", query[mixed])) == some_lines


@pytest.mark.usefixtures("plain")
def test_new_episodes_of_classes_too(tmp_path: Path):
    """Every task of held-out classes has a model with its own classes."""
    data = all_digits()
    config = experiment("{name: digits}").replace("by: site, scale: none", "nodes: 3").replace("natural", "iid")
    kind = "task: {kind: episodic, way: 2, shot: 1, query: 3, new: {from: classes, test: 3}}"
    lab = Lab(tmp_path, "\n".join(kind if line.startswith("task:") else line for line in config.splitlines()))
    lab("run", "finetune.save=all", "finetune.episodes=4")
    with (lab.run() / "finetune/new/predictions.csv").open(newline="") as text:
        found = list(csv.reader(text))[1:]
    for number, model in enumerate(sorted((lab.run() / "finetune/new/adapted").iterdir())):
        lines = [line for line in found if line[0] == str(number)]
        assert in_python(model, data.x[[int(line[2]) for line in lines]]) == [line[4:] for line in lines]


# ------------------------------------------------------------------------------------------- the cases of the issue


def cells(head: str, rows: list[list[object]]) -> str:
    return "\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n"


def in_sites(tmp_path: Path, head: str, row: Callable[[int, int], list[object]], data: str, model: str) -> Lab:
    """Four sites of twenty rows in a table, and an experiment on it. row: (site, number)."""
    rows = [[f"s{site}", *row(site, i)] for site in range(4) for i in range(20)]
    (tmp_path / "d.csv").write_text(cells(f"site,{head}", rows))
    text = experiment(f"{{name: table, path: {tmp_path / 'd.csv'}, groups: [site], {data}}}", scale="train")
    return Lab(tmp_path / "lab", text.replace("{name: mlp, hidden: [8]}", model))


@pytest.mark.usefixtures("plain")
def test_rows_far_from_zero_are_scaled_by_the_saved_model_as_in_training(tmp_path: Path):
    """x is 100 to 119 and the class is whether it is 110 or more: on raw x the model would say one class of all."""
    lab = in_sites(tmp_path, "x,y", lambda _, i: [100 + i, int(i > 9)], "target: y", "{name: logistic}")
    lab("run")
    own = [["support" if i % 2 == 0 else "query", int(i > 9), 100 + i] for i in range(20)]
    (tmp_path / "mine.csv").write_text(cells("part,label,x", own))
    lab("finetune", "--task", str(tmp_path / "mine.csv"))
    folder = lab.run() / "finetune/task-mine"
    x = np.arange(101, 120, 2, dtype=np.float32)
    assert in_python(folder / "adapted.safetensors", x[:, None]) == written(folder / "predictions.csv", 4)
    names = metadist_cli.load(folder / "adapted.safetensors").predict({"x": [101, 119]})
    assert names.tolist() == ["0", "1"]


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("unit", [1, 100])
def test_targets_and_scores_are_in_the_data_sets_units(tmp_path: Path, unit: int):
    """y is 100 to 119: whatever the unit, the same step sizes apart, errors are in y's own unit."""
    data = f"target: y, kind: regression, unit: {unit}"
    lab = in_sites(tmp_path, "x,y", lambda site, i: [i, 100 * site + i], data, "{name: mlp, hidden: [8]}")
    lab("run", "finetune.metrics=[mae, rmse]", "learner.inner_lr=1e-6")
    own = [["support" if i % 2 == 0 else "query", 100 + i, i] for i in range(20)]
    (tmp_path / "mine.csv").write_text(cells("part,target,x", own))
    lab("finetune", "--task", str(tmp_path / "mine.csv"), "finetune.metrics=[mae, rmse]", "learner.inner_lr=1e-6")
    folder = lab.run() / "finetune/task-mine"
    lines = np.array(written(folder / "predictions.csv", 3), dtype=float)
    np.testing.assert_allclose(lines[:, 0], np.arange(101, 120, 2))
    errors = lines[:, 1] - lines[:, 0]
    told = json.loads((folder / "metrics.json").read_text())["after"]
    assert told["mean"] == pytest.approx((errors**2).mean(), rel=1e-5)
    assert told["metrics"]["mae"]["mean"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    assert told["metrics"]["rmse"]["mean"] == pytest.approx((errors**2).mean() ** 0.5, rel=1e-5)


@pytest.mark.usefixtures("plain")
def test_an_own_table_is_matched_by_the_names_of_its_columns(tmp_path: Path):
    def row(site: int, i: int) -> list[object]:
        return [40 + i, 110 + (7 * i + site) % 20, 180 + (11 * i) % 30, int(i > 9)]

    lab = in_sites(tmp_path, "age,bp,chol,sick", row, "target: sick", "{name: logistic}")
    lab("run")
    told = {}
    for name, order in (("right", "age,bp,chol"), ("swapped", "chol,age,bp"), ("named", "age,bp,chole")):
        rows = []
        for i in range(20):
            values: dict[str, object] = dict(zip(("age", "bp", "chol", "sick"), row(0, i), strict=True))
            values["chole"] = values["chol"]
            part = "support" if i % 2 == 0 else "query"
            rows.append([part, values["sick"], *(values[column] for column in order.split(","))])
        (tmp_path / f"{name}.csv").write_text(cells(f"part,label,{order}", rows))
        done = lab("finetune", "--task", str(tmp_path / f"{name}.csv"), code=DATA if name == "named" else 0)
        if name == "named":
            assert "the data set has no column 'chole'" in done.err
            assert "did you mean 'chol'?" in done.err
        else:
            told[name] = (lab.run() / f"finetune/task-{name}/predictions.csv").read_text()
    assert told["right"] == told["swapped"]


# --------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of patients, and beside it the table."""
    folder = tmp_path_factory.mktemp("patients")
    lab = Lab(folder / "lab", of_table(folder, 0, commas, "dates: {seen: days}, missing: mean").config)
    lab("partition")
    lab("run", "finetune.predictions=false")
    return lab.run() / "finetune/new/adapted.safetensors"


def command(*arguments: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def test_predictions_go_to_standard_output_or_a_file_with_a_summary(model: Path, tmp_path: Path):
    columns = some(patients(0), np.arange(7), ("site", "age", "ward", "seen", "dose", "sick"))
    rows = commas(tmp_path / "rows", columns)
    shown = command(model, rows).stdout
    assert shown.splitlines()[0] == "row,prediction,p_no,p_yes"
    assert [line.split(",")[0] for line in shown.splitlines()[1:]] == [f"line {i}" for i in range(2, 9)]
    summary = json.loads(command(model.parent, rows, "--out", tmp_path / "out.csv", "--json").stdout)
    assert (tmp_path / "out.csv").read_text() == shown
    assert summary["rows"] == sum(summary["classes"].values()) == 7
    assert summary["file"] == str(tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (lambda c: {**c, "doze": c.pop("dose")}, "the data set has no column 'doze'", "did you mean 'dose'?"),
        (
            lambda c: {k: v for k, v in c.items() if k != "ward"},
            "the column 'ward' is missing",
            "the features are: age",
        ),
        (
            lambda c: c | {"ward": ["west"] * 7},
            "ward: 'west' is not one of this column's values",
            "did you mean 'east'",
        ),
        (lambda c: c | {"dose": ["much"] * 7}, "holds texts, but numbers are needed", "write numbers"),
        (lambda c: c | {"seen": ["soon"] * 7}, "'soon' is not a date", "correct it"),
    ],
)
def test_wrong_columns_are_refused_in_files_and_in_memory(model: Path, tmp_path: Path, change, message, hint):
    columns = change(some(patients(0), np.arange(7), ("age", "ward", "seen", "dose")))
    told = command(model, commas(tmp_path / "rows", columns), "--out", tmp_path / "out.csv", code=DATA).output
    assert message in told
    assert hint in told
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(Problem) as caught:
        metadist_cli.load(model).predict(columns)
    assert hint.split(" or")[0] in caught.value.hint


def test_wrong_files_and_options_are_refused(model: Path, tmp_path: Path):
    rows = commas(tmp_path / "rows", some(patients(0), np.arange(7), ("age", "ward", "seen", "dose")))
    assert "--out predictions.csv" in command(model, rows, "--json", code=USAGE).output
    assert "name another file" in command(model, rows, "--out", rows, code=USAGE).output
    assert "this is not an adapted model" in command(rows, rows, code=DATA).output
    assert "no such file or folder" in command(model, tmp_path / "none.csv", code=DATA).output
    (tmp_path / "rows.pkl").write_bytes(b"x")
    assert "cannot read rows from a .pkl file" in command(model, tmp_path / "rows.pkl", code=DATA).output


def test_dates_and_numbers_of_numpy_are_those_of_the_file(model: Path):
    columns = some(patients(0), np.arange(7), ("dose", "seen", "ward", "age"))
    arrays = {name: np.array(values) for name, values in columns.items()}
    arrays["seen"] = arrays["seen"].astype("datetime64[D]")
    arrays["age"] = arrays["age"].astype(float)  # None is NaN
    assert in_python(model, arrays) == in_python(model, columns)


def test_a_data_frame_is_a_mapping_of_columns(model: Path):
    pandas = pytest.importorskip("pandas")
    columns = some(patients(0), np.arange(7), ("dose", "seen", "ward", "age"))
    frame = pandas.DataFrame(columns)
    frame["seen"] = pandas.to_datetime(frame["seen"])
    assert in_python(model, frame) == in_python(model, columns)


# ------------------------------------------------------------------------------------- files that are not to be trusted


SPOILT: list[tuple[str, Any]] = [
    *(("kind", "clustering"), ("shape", [0]), ("shape", [3]), ("shape", [1 << 40]), ("divide", 0), ("unit", -1.0)),
    *(("classes", []), ("classes", ["no"]), ("classes", [1, 2]), ("columns", [{"name": "age"}]), ("scale", "node")),
    *(("columns", "age"), ("scale", {"by": "fill", "mean": [1.0], "deviation": [1.0]}), ("more", 1), ("format", 9)),
]


@pytest.mark.parametrize(("key", "value"), SPOILT)
def test_a_header_made_by_a_stranger_is_refused(model: Path, tmp_path: Path, key: str, value: Any):
    tensors, header = files.unpack(model.read_bytes(), "model")
    header["preprocessing"][key] = value
    (tmp_path / "spoilt.safetensors").write_bytes(files.pack(tensors, header))
    with pytest.raises(Problem, match=r"damaged|not an adapted model"):
        metadist_cli.load(tmp_path / "spoilt.safetensors")


@pytest.mark.parametrize(
    "network",
    [
        {"model": {"name": "mlp", "hidden": [20_000, 20_000]}},  # 1.6 GB, in a file of 2 kB
        {"model": {"name": "mlp", "hidden": [1 << 40]}},
        {"model": {"name": "mlp", "hidden": "128"}},
        {"model": {"name": "conv4", "width": [64] * 1000}},
        {"model": {"name": "conv4"}},
        {"model": {"name": "eval"}},
        {"model": ["mlp"]},
        {"outputs": 1 << 40},
        {"outputs": -1},
        {"outputs": True},
        {"bf16": []},
        {"together": "yes"},
    ],
    ids=lambda network: str(network)[:40],
)
def test_a_network_made_by_a_stranger_is_refused_without_its_memory(
    model: Path, tmp_path: Path, network: dict[str, Any]
):
    tensors, header = files.unpack(model.read_bytes(), "model")
    (tmp_path / "spoilt.safetensors").write_bytes(files.pack(tensors, header | network))
    code = (
        "import resource, sys, metadist_cli\n"
        "from metadist_cli.core.errors import Problem\n"
        "from metadist_cli.storage import adapted_model\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = used()\n"
        "try:\n"
        "    metadist_cli.load(sys.argv[1])\n"
        "except Problem as problem:\n"
        "    print(problem.message, (used() - before) >> 10, sep='; ')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "spoilt.safetensors")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    message, megabytes = done.stdout.split("; ")
    assert message == "this is not an adapted model" or message.startswith("tensor ")
    assert int(megabytes) < 600


HEAD = "age,ward,seen,dose\n"
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 1 << 40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.sampled_from(["name", "kind", "by", "x"]), some),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from([*sorted(Preprocessing.model_fields), "model", "outputs", "bf16", "together"]), value=JSON)
def test_any_header_is_a_model_or_a_problem(model: Path, key: str, value: Any):
    tensors, header = files.unpack(model.read_bytes(), "model")
    (header if key in header else header["preprocessing"])[key] = value
    with contextlib.suppress(Problem):
        loaded = unpack_adapted(files.pack(tensors, header), "model")
        with contextlib.suppress(Problem):
            loaded.predict(np.zeros((1, 6), dtype=np.float32))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=99) | st.text('age,wrdsenot\n-129"\0é', max_size=99).map(lambda t: f"{HEAD}{t}".encode()))
def test_any_table_is_predicted_or_a_problem(model: Path, tmp_path: Path, data: bytes):
    (tmp_path / "rows.csv").write_bytes(data)
    by = metadist_cli.load(model).preprocessing
    with contextlib.suppress(Problem):
        rows = read_rows(tmp_path / "rows.csv", by)
        assert np.isfinite(by.scaled(rows.x)).all()


def test_files_of_earlier_versions_say_what_to_do(model: Path, tmp_path: Path):
    (tmp_path / "old.safetensors").write_bytes(files.pack({}, {"format": 1, "divide": 1.0}))
    with pytest.raises(Problem) as caught:
        metadist_cli.load(tmp_path / "old.safetensors")
    assert caught.value.hint == "run metadist finetune again"
    lab = Lab(model.parents[4])
    manifest = lab.shards()
    before = (lab.run() / "shards/manifest.json").read_bytes()
    del manifest["preprocessing"]
    (lab.run() / "shards/manifest.json").write_text(files.to_json(manifest))
    told = CliRunner().invoke(app, ["finetune", str(lab.run()), "finetune.steps=1"])
    assert told.exit_code == DATA
    assert "delete shards/manifest.json and run `metadist partition` again" in told.output
    (lab.run() / "shards/manifest.json").unlink()
    for step in ("partition", "finetune"):
        told = CliRunner().invoke(app, [step, str(lab.run()), "finetune.steps=1"])
        assert told.exit_code == 0, told.output
    assert (lab.run() / "shards/manifest.json").read_bytes() == before
