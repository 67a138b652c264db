"""The reader `arrays`: its rows against numpy's own, files of three formats, and broken ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from runner import ROOT, Lab
from safetensors.numpy import save_file

from metadist_cli.core.errors import Problem
from metadist_cli.data.sets import DATASETS
from metadist_cli.data.types import Cast, Dataset
from metadist_cli.partition.held_out import HoldOut
from metadist_cli.partition.partitioners import PARTITIONERS
from metadist_cli.partition.shards import PartitionSpec, TaskSize, make_shards

RNG = np.random.default_rng(0)
SIGNALS = {
    "x": RNG.normal(size=(60, 3, 16)).astype(np.float16) * np.float16(3) + np.float16(2),
    "y": np.arange(60, dtype=np.uint8) % 4,
    "who": np.repeat([10, 9, 2], 20),
}


def read(path: Path, **options: Any) -> Dataset:
    return DATASETS["arrays"](0, path=str(path), **options)


def npz(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(folder / "some.npz", **arrays)
    return folder / "some.npz"


# ------------------------------------------------------------------------------------------------------- what is read


def test_rows_classes_and_groups(tmp_path: Path) -> None:
    d = read(npz(tmp_path, **SIGNALS), groups=["who"])
    assert (d.kind, d.x.shape, d.x.dtype, d.divide) == ("classification", (60, 3, 16), np.float32, 1.0)
    assert d.classes == ("0", "1", "2", "3")
    np.testing.assert_array_equal(d.label, SIGNALS["y"])
    assert d.groups["who"].names == ("2", "9", "10"), "numbers by size"
    np.testing.assert_array_equal(d.groups["who"].code, np.repeat([2, 1, 0], 20))
    for index in (7, slice(3, 9), np.array([5, 2, 5])):
        rows = d.x[index]
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, SIGNALS["x"].astype(np.float32)[index])


def test_three_formats_hold_the_same(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, array in SIGNALS.items():
        np.save(tmp_path / "folder" / f"{name}.npy", array if name != "x" else np.asfortranarray(array))
    save_file(SIGNALS, tmp_path / "some.safetensors")  # its own library writes it, ours reads it
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "some.safetensors")
    full = npz(tmp_path, **SIGNALS | {"x": SIGNALS["x"].astype(np.float32)})
    hashes = {
        read(path, groups=["who"]).sha256
        for path in (full, tmp_path / "folder", tmp_path / "some.safetensors", tmp_path / "link.safetensors")
    }
    assert len(hashes) == 1
    assert read(npz(tmp_path, **SIGNALS), groups=["who"]).sha256 in hashes
    other = SIGNALS["x"].copy()
    other[59, 2, 15] += 1
    assert read(npz(tmp_path, **SIGNALS | {"x": other}), groups=["who"]).sha256 not in hashes


@pytest.mark.parametrize("name", ["folder", "some.safetensors"])
def test_rows_of_large_files_stay_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for key, array in SIGNALS.items():
        np.save(tmp_path / "folder" / f"{key}.npy", array)
    save_file(SIGNALS, tmp_path / "some.safetensors")
    d = read(tmp_path / name)
    assert isinstance(d.x, Cast)
    assert isinstance(d.x.source, np.memmap)
    assert not d.x.source.flags.writeable


def test_a_file_larger_than_memory_is_read(tmp_path: Path) -> None:
    """512 MiB of float16, 1 GiB as float32, in a process that may have 300 MiB more than it starts with."""
    rows = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float16, (1 << 12, 1 << 16))  # a hole: no disk
    rows[-1, -1] = 1
    rows.flush()
    np.save(tmp_path / "y.npy", np.arange(1 << 12) % 2)
    code = f"""if True:
        import re, resource
        from metadist_cli.data.sets import DATASETS
        used = int(re.search(r"VmData:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10
        resource.setrlimit(resource.RLIMIT_DATA, (used + (300 << 20),) * 2)
        data = DATASETS["arrays"](0, path={str(tmp_path)!r})
        assert data.x[(1 << 12) - 1].sum() == 1
        try:
            bytearray(512 << 20)
        except MemoryError:
            print("the limit holds")
    """
    if sys.platform != "linux":
        pytest.skip("memory is limited in the way of Linux")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "the limit holds\n"), done.stderr


def test_pictures_are_divided_by_255(tmp_path: Path) -> None:
    pictures = RNG.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    path = npz(tmp_path, x=pictures, y=np.array(list("abcabc")))
    d = read(path, channels="last")
    assert (d.x.shape, d.x.dtype, d.divide) == ((6, 3, 5, 4), np.uint8, 255.0)
    np.testing.assert_array_equal(d.x[4], pictures[4].transpose(2, 0, 1))
    assert (read(path).x.shape, read(path, divide=16).divide) == ((6, 5, 4, 3), 16)
    assert read(npz(tmp_path, x=pictures.transpose(0, 3, 1, 2), y=np.array(list("abcabc")))).sha256 == d.sha256


def test_classes_may_be_named(tmp_path: Path) -> None:
    d = read(npz(tmp_path, x=np.ones((3, 1)), y=np.array([2, 0, 2])), classes=["a", "b", "c"])
    assert (d.classes, d.label.tolist()) == (("a", "b", "c"), [2, 0, 2])
    text = npz(tmp_path, x=np.ones((3, 1)), y=np.array(["c10", "c9", "c10"]))
    assert (read(text).classes, read(text).label.tolist()) == (("c9", "c10"), [1, 0, 1])
    d = read(text, classes=["c10", "c9", "c8"])
    assert (d.classes, d.label.tolist()) == (("c10", "c9", "c8"), [0, 1, 0])
    d = read(npz(tmp_path, x=np.ones((3, 1)), y=np.array([True, False, True])), classes=["no", "yes"])
    assert d.label.tolist() == [1, 0, 1]


def test_targets_of_a_regression(tmp_path: Path) -> None:
    y = RNG.normal(size=(5, 2))
    d = read(npz(tmp_path, x=np.ones((5, 3)), y=y, who=np.array([1, 1, 2, 2, 2])), kind="regression", groups=["who"])
    np.testing.assert_array_equal(d.target, y.astype(np.float32))
    assert (d.classes, d.label.tolist(), d.groups["who"].code.tolist()) == (("y",), [0] * 5, [0, 0, 1, 1, 1])
    flat = read(npz(tmp_path, x=np.ones((5, 3)), y=np.arange(5)), kind="regression")
    np.testing.assert_array_equal(flat.target, np.arange(5.0)[:, None])


@pytest.mark.parametrize(
    "part",
    [
        np.array([True, False, True, True, False, True]),
        np.array([0, 2, 0, 0, 2, 0]),
        np.array(["train", "test", "train", "train", "test", "train"]),
    ],
)
def test_a_split_is_of_rows_or_of_whole_classes(part: np.ndarray, tmp_path: Path) -> None:
    path = npz(
        tmp_path, x=np.ones((6, 1)), mixed=np.array([0, 0, 0, 1, 1, 1]), whole=np.array([5, 7, 5, 5, 7, 6]), p=part
    )
    d = read(path, y="mixed", split="p")
    assert d.role is None
    assert d.row_role.tolist() == [0, 2, 0, 0, 2, 0]
    d = read(path, y="whole", split="p")
    assert d.row_role is None
    assert dict(zip(d.classes, d.role.tolist(), strict=True)) == {"5": 0, "6": 0, "7": 2}


def test_a_group_of_whole_classes_clusters_them(tmp_path: Path) -> None:
    y, above, who = np.array([0, 0, 1, 1, 2, 2]), np.array(list("aabbbb")), np.array([0, 1] * 3)
    d = read(npz(tmp_path, x=np.ones((6, 1)), y=y, above=above, who=who), groups=["who", "above"])
    assert d.cluster == "above"
    assert read(npz(tmp_path, x=np.ones((6, 1)), y=y, who=who), groups=["who"]).cluster is None


KINDS = st.sampled_from(["u1", "i2", "<i4", ">i8", "<f2", ">f4", "<f8", "?"])


@settings(max_examples=100, deadline=None)
@given(KINDS.flatmap(lambda kind: arrays_of.arrays(kind, arrays_of.array_shapes(min_dims=2, max_dims=4, min_side=2))))
def test_any_numbers_are_numpys_float32(tmp_path_factory: pytest.TempPathFactory, x: np.ndarray) -> None:
    path = npz(tmp_path_factory.mktemp("any"), x=x, y=np.arange(len(x)))
    with np.errstate(over="ignore"):
        wanted = x.astype(np.float32)
    if not np.isfinite(wanted).all():
        with pytest.raises(Problem, match="the number is not finite"):
            read(path)
        return
    d = read(path)
    assert d.x.dtype == (np.uint8 if x.dtype == np.uint8 else np.float32)
    np.testing.assert_array_equal(d.x[:], wanted)


# ------------------------------------------------------------------------------------------------------------ scaling


@pytest.mark.parametrize("scale", ["train", "node"])
def test_channels_of_signals_are_scaled(scale: str, tmp_path: Path) -> None:
    d = read(npz(tmp_path, **SIGNALS), groups=["who"])
    deal = PARTITIONERS["natural"](by="who")
    shards = make_shards(
        d, PartitionSpec(deal, None, TaskSize(False, 0, 2), HoldOut("nodes", ["9"], 0), scale=scale), 0
    ).shards
    plain = SIGNALS["x"].astype(np.float64)
    for shard in shards:
        of = SIGNALS["who"] == int(shard.name) if scale == "node" else SIGNALS["who"] != 9
        mean = plain[of].mean((0, 2), keepdims=True)[0]
        deviation = np.concatenate(plain[of], axis=1).std(1, ddof=1)[:, None]
        np.testing.assert_allclose(shard.x[:], (plain[shard.row] - mean) / deviation, atol=1e-5)


def test_pictures_are_not_scaled(tmp_path: Path) -> None:
    d = read(npz(tmp_path, x=np.ones((6, 3, 4, 4)), y=np.arange(6) % 2))
    with pytest.raises(Problem, match="signals can be scaled"):
        make_shards(
            d, PartitionSpec(PARTITIONERS["iid"](), 2, TaskSize(False, 0, 2), HoldOut("nodes", 1, 0), scale="train"), 0
        )


# ------------------------------------------------------------------------------------------------------- broken files


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = npz(tmp_path, x=np.zeros((4, 4 << 20), np.float32), y=np.arange(4))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(Problem, match="would unpack to 67,108,992"):
        read(path)


@pytest.mark.parametrize("name", ["some.npz", "some.safetensors", "x.npy"])
def test_any_damage_is_a_problem_or_other_numbers(name: str, tmp_path: Path) -> None:
    path = npz(tmp_path, **SIGNALS)
    save_file(SIGNALS, tmp_path / "some.safetensors")
    for key, array in SIGNALS.items():
        np.save(tmp_path / f"{key}.npy", array)
    path, whole, bad = tmp_path / name, (tmp_path / name).read_bytes(), 0
    good = SIGNALS["x"].astype(np.float32)
    for _ in range(1000):
        data = bytearray(whole)
        for at in RNG.integers(min(len(data), 1000), size=RNG.integers(1, 4)):
            data[at] = RNG.integers(256)
        path.write_bytes(data[: RNG.integers(1, len(data))] if RNG.random() < 0.1 else data)
        try:
            d = read(tmp_path if name == "x.npy" else path, groups=["who"])
        except Problem:
            bad += 1
            continue
        assert np.isfinite(d.x[:]).all()
        assert name != "some.npz" or (d.x[:] == good).all(), "an archive has checksums"
    assert bad > 300


# ------------------------------------------------------------------------------------------------------ from end to end


def test_people_who_took_no_part_adapt(tmp_path: Path, plain: None) -> None:
    """Signals of two activities, told apart by the channel that swings; each person wears the device in another way."""
    rng, rows = np.random.default_rng(1), []
    for turned in range(12):
        y = np.arange(40) % 2
        x = rng.normal(size=(40, 2, 16)) * 0.1
        x[np.arange(40), y ^ (turned % 2)] += np.sin(np.arange(16) + rng.uniform(0, 6, (40, 1)))
        rows.append((x, y, np.full(40, turned)))
    x, y, who = (np.concatenate(column) for column in zip(*rows, strict=True))
    lab = Lab(
        tmp_path,
        f"""\
data: {{name: arrays, path: {npz(tmp_path, x=x, y=y, who=who)}, groups: [who]}}
task: {{kind: local, support: 6, query: 20, new: {{test: ["10", "11"]}}}}
partition: {{name: natural, by: who}}
model: {{name: conv1d, width: 8, depth: 2, norm: none}}
learner: {{name: maml, inner_lr: 0.5, inner_steps: 2}}
train: {{rounds: 12, local_steps: 5, meta_batch: 4, outer: {{name: adam, lr: 0.01}}}}
finetune: {{steps: 2, episodes: 40}}
""",
    )
    lab("run")
    assert lab.shards()["spec"]["shape"] == [2, 16]
    accuracy = yaml.safe_load((lab.run() / "finetune" / "new" / "metrics.json").read_text())
    assert found(accuracy, "before") < 0.7 < 0.85 < found(accuracy, "after")


def found(metrics: dict[str, Any], moment: str) -> float:
    return metrics[moment]["mean"]


# ------------------------------------------------------------------------------------------------------------ UCI HAR


@pytest.fixture(scope="module")
def har() -> dict[str, np.ndarray]:
    path = Path(os.environ.get("METADIST_DATA", "")) / "uci_har" / "uci_har_by_subject.npz"
    if not os.environ.get("METADIST_DATA") or not path.exists():
        pytest.skip("needs METADIST_DATA/uci_har/uci_har_by_subject.npz")
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


TRAIN = (1, 3, 5, 6, 7, 8, 11, 14, 15, 16, 17, 19, 21, 22, 23, *range(25, 31))  # UCI's training people


def test_uci_har(har: dict[str, np.ndarray]) -> None:
    classes = ["walking", "upstairs", "downstairs", "sitting", "standing", "laying"]
    d = read(Path("uci_har/uci_har_by_subject.npz"), groups=["subject"], classes=classes)
    assert (d.x.shape, d.x.dtype) == ((10299, 9, 128), np.float32)
    assert np.bincount(d.label).tolist() == [1722, 1544, 1406, 1777, 1906, 1944]
    people = np.bincount(d.groups["subject"].code)
    assert d.groups["subject"].names == tuple(str(i) for i in range(1, 31))
    assert (people.min(), people.max()) == (281, 409)
    assert sum(people[i - 1] for i in TRAIN) == 7352
    rows = RNG.permutation(10299)[:200]
    np.testing.assert_array_equal(d.x[rows], har["x"][rows].astype(np.float32))
    assert d.x[:][:, 6].mean() == pytest.approx(0.81, abs=0.01), "gravity lies on the sixth channel"
    split = read(Path("uci_har/uci_har_by_subject.npz"), split="is_train")
    assert (split.row_role == 0).sum() == 7715
    assert (split.row_role == 2).sum() == 10299 - 7715


def test_uci_har_by_person(har: dict[str, np.ndarray], tmp_path: Path, plain: None) -> None:
    held = [str(i) for i in range(1, 31) if i not in TRAIN]
    lab = Lab(
        tmp_path,
        f"""\
data: {{name: arrays, path: uci_har/uci_har_by_subject.npz, groups: [subject]}}
task: {{kind: local, support: 18, query: 60, new: {{test: {held}}}}}
partition: {{name: natural, by: subject, scale: train}}
model: {{name: conv1d, width: 8}}
""",
    )
    lab("partition")
    nodes = lab.shards()["nodes"]
    rows = {node["name"]: node["rows"] for node in nodes}
    assert rows == {str(i): int((har["subject"] == i).sum()) for i in range(1, 31)}
    assert {node["name"] for node in nodes if node["role"] == "test"} == set(held)
    trains = np.isin(har["subject"], TRAIN)
    mean = har["x"][trains].mean((0, 2), dtype=np.float64)
    np.testing.assert_allclose(np.array(lab.shards()["preprocessing"]["scale"]["mean"]), mean, atol=1e-9)
