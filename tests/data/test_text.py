"""Texts and their windows: against LEAF's own steps written out, the published counts, and plain arrays."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runner import Lab, environment, proc
from texts import PEAK, members, samples, spelt

from metadist_cli.config import load
from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.readers.characters import LEAF, lay
from metadist_cli.data.sets.text import text
from metadist_cli.data.types import Dataset, Group, Windows, build, stack, take
from metadist_cli.partition.accounting import Partitioned
from metadist_cli.partition.held_out import HoldOut
from metadist_cli.partition.partitioners import PARTITIONERS
from metadist_cli.partition.pooled import union
from metadist_cli.partition.shards import PartitionSpec, TaskSize, make_shards, pool
from metadist_cli.partition.spec import spec_of
from metadist_cli.storage import run_directory, shard_files
from metadist_cli.storage.adapted_model import load_adapted
from metadist_cli.tasks.episodes import local
from metadist_cli.tasks.gathering import gather

LINES = "To be, or not to be, that is the question:\nWhether 'tis nobler   in the mind to suffer\n" * 3


def shakespeare(name: str = "by_play_and_character.zip") -> Path:
    path = Path(os.environ.get("METADIST_DATA", "nowhere")) / "shakespeare" / name
    if not path.is_file():
        pytest.skip(f"METADIST_DATA has no shakespeare/{name}")
    return path


def write(folder: Path, **texts: str) -> str:
    for name, content in texts.items():
        (folder / f"{name}.txt").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text(content)
    return str(folder)


# ------------------------------------------------------------------------------------------------------- windows


@st.composite
def windows(draw: st.DrawFn) -> Windows:
    length, size = draw(st.integers(1, 6)), draw(st.integers(6, 60))
    source = draw(st.binary(min_size=size, max_size=size))
    start = draw(st.lists(st.integers(0, size - length), min_size=1, max_size=30))
    return Windows(np.frombuffer(source, dtype=np.uint8), np.array(start), length)


def dense(x: Windows) -> np.ndarray:
    return np.array([list(x.source[s : s + x.length]) for s in x.start], dtype=np.uint8).reshape(len(x.start), x.length)


@given(windows(), st.data())
def test_windows_are_as_an_array(x: Windows, data: st.DataObject) -> None:
    plain = dense(x)
    rows = np.array(data.draw(st.lists(st.integers(0, len(plain) - 1), min_size=1, max_size=20)))
    assert (len(x), x.shape, x.ndim, x.dtype) == (len(plain), plain.shape, plain.ndim, plain.dtype)
    assert np.array_equal(x[rows], plain[rows])
    assert np.array_equal(x[1:4], plain[1:4])
    assert np.array_equal(x[0], plain[0])
    some = take(x, rows)
    assert isinstance(some, Windows)
    assert np.array_equal(some[:], plain[rows])
    covered = {i for s in x.start[rows] for i in range(s, s + x.length)}
    assert len(some.source) <= len(covered) + x.length, "just what the windows cover"
    assert np.array_equal(take(some, np.arange(len(rows)))[:], some[:])
    both = stack([x, some])
    assert np.array_equal(both[:], np.concatenate([plain, plain[rows]]))


@given(windows())
def test_rows_that_follow_each_other_are_held_once(x: Windows) -> None:
    source, start = lay(dense(x))
    assert np.array_equal(Windows(source, start, x.length)[:], x[:])


def test_a_text_is_held_once_by_lay() -> None:
    source = np.arange(200, dtype=np.uint8)
    run = Windows(source, np.arange(191), 10)
    laid, start = lay(run[:])
    assert np.array_equal(laid, source)
    assert np.array_equal(start, run.start)


def test_hash_covers_windows() -> None:
    source, start = np.arange(9, dtype=np.uint8), np.array([0, 4])
    label = np.array([0, 1])
    every = [
        Windows(source, start, 3),
        Windows(source[::-1].copy(), start, 3),
        Windows(source, start + 1, 3),
        Windows(source, start, 4),
    ]
    assert len({build("classification", x, label, ("a", "b")).sha256 for x in every}) == len(every)


def pair(rows: int = 60) -> tuple[Dataset, Dataset]:
    """One data set as windows and as an array."""
    rng = np.random.default_rng(0)
    x = Windows(rng.integers(0, 9, rows + 7, dtype=np.uint8), np.arange(rows), 7)
    groups = {"user": Group(np.arange(rows) * 4 // rows, tuple("abcd"))}
    label = rng.integers(0, 3, rows)
    return tuple(build("classification", kind, label, tuple("xyz"), groups=groups) for kind in (x, x[:]))  # type: ignore[return-value]


@pytest.mark.parametrize("held", [HoldOut("nodes", 1, 0), HoldOut("rows", 0.25, 0.0)])
@pytest.mark.parametrize("relabel", [False, True])
def test_shards_and_tasks_of_windows_are_those_of_an_array(held: HoldOut, relabel: bool, tmp_path: Path) -> None:
    deal = PARTITIONERS["natural"](by="user")
    pairs = [
        make_shards(d, PartitionSpec(deal, None, TaskSize(False, 0, 4), held, relabel=relabel), 3).shards
        for d in pair()
    ]
    for one, other in zip(*pairs, strict=True):
        assert np.array_equal(one.x[:], other.x)
        assert (one.node, one.name, one.role, one.labels, one.home) == (*other[:3], other.labels, other.home)
        assert all(np.array_equal(getattr(one, key), getattr(other, key)) for key in ("label", "row"))
    pools = [pool(shards, 2.0) for shards in pairs]
    plan = local(5, 2, 3, 2, 2)(pools[0], "now")
    tasks = [gather(p, plan.support[:, 0], plan.query[:, 0], None) for p in pools]
    assert all(torch.equal(a, b) for a, b in zip(*tasks, strict=True))
    assert len(pools[0].x.untyped_storage()) < len(pools[1].x.untyped_storage()) / 2
    wholes = [union([s for s in shards if s.role == "train"]) for shards in pairs]
    assert np.array_equal(wholes[0].x[:], wholes[1].x)


@pytest.mark.parametrize("size", [1, 3])
def test_shard_files_hold_windows_and_give_them_back(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "PACK", size)
    data = pair()[0]
    shards = make_shards(
        data, PartitionSpec(PARTITIONERS["natural"](by="user"), None, TaskSize(False, 0, 4), HoldOut("nodes", 1, 0)), 3
    ).shards
    (tmp_path / "own.yaml").write_text("task: {kind: local, support: 2, query: 2}\npartition: {nodes: 4}\n")
    run = run_directory.Run.at(tmp_path / "run")
    manifest = shard_files.write_shards(
        run, Partitioned(shards, []), spec_of(data, shards), data, load(tmp_path / "own.yaml"), {s.node for s in shards}
    )
    back = shard_files.read_shards(run, manifest, range(4))
    for one, other in zip(back, shards, strict=True):
        assert isinstance(one.x, Windows)
        assert len(one.x.source) == len(other.x.source)
        assert np.array_equal(one.x[:], other.x[:])
        assert np.array_equal(one.label, other.label)
        assert np.array_equal(one.row, other.row)


@pytest.mark.parametrize(("more", "says"), [({"scale": "node"}, "or characters"), ({"rotate": 9.0}, "rotated")])
def test_characters_are_neither_scaled_nor_rotated(more: dict, says: str) -> None:
    with pytest.raises(Problem, match=says) as caught:
        make_shards(
            pair()[0], PartitionSpec(PARTITIONERS["iid"](), 4, TaskSize(False, 0, 4), HoldOut("nodes", 1, 0), **more), 0
        )
    assert caught.value.code == CONFIG


# ----------------------------------------------------------------------------------------------------------- text


def test_windows_labels_and_names_are_leafs(tmp_path: Path) -> None:
    d = text(
        0, path=write(tmp_path, HAMLET=LINES, OPHELIA="Good my lord, how does your honour\r\nfor this many a day? " * 2)
    )
    assert spelt(d, members(d, "file", "HAMLET")) == samples(LINES)
    assert d.classes == ("newline", "space", *LEAF[2:])
    assert d.row_role is None
    assert (d.divide, d.x.dtype, len(d.classes)) == (1.0, np.uint8, 80)
    assert isinstance(d.x, Windows)
    assert len(d.x.source) < 2 * len(LINES), "no window is made before it is asked for"


@given(
    raw=st.text("ab \n", min_size=1, max_size=60),
    window=st.integers(1, 9),
    stride=st.integers(1, 5),
)
@settings(deadline=None, max_examples=60)
def test_any_window_and_stride(raw: str, window: int, stride: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    wanted = samples(raw, window)[::stride]
    path = write(tmp_path_factory.mktemp("texts"), a=raw)
    if not wanted:
        with pytest.raises(Problem, match="characters"):
            text(0, path=path, window=window, stride=stride)
        return
    assert spelt(text(0, path=path, window=window, stride=stride)) == wanted


@given(
    size=st.integers(10, 400),
    window=st.integers(1, 20),
    stride=st.integers(1, 7),
    split=st.floats(0.05, 0.95),
    keep=st.integers(1, 60),
)
@settings(deadline=None, max_examples=60)
def test_no_window_is_in_both_parts(
    size: int, window: int, stride: int, split: float, keep: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = "".join(chr(ord("a") + i * i % 26) for i in range(size))
    path = write(tmp_path_factory.mktemp("texts"), a=raw)
    whole = len(range(0, size - window, stride))
    try:
        d = text(0, path=path, window=window, stride=stride, split=split, keep=keep)
    except Problem:
        train = max(1, int(split * whole))
        assert whole < max(keep, 2) or (train - 1) * stride + window > (whole - 1) * stride
        return
    assert isinstance(d.x, Windows)
    assert d.row_role is not None
    train, test = d.x.start[d.row_role == 0], d.x.start[d.row_role == 2]
    assert whole >= keep
    assert len(train) == max(1, int(split * whole))
    assert train.max() + window <= test.min() < train.max() + window + stride, "the first test window that may be"
    assert len(train) + len(test) == len(d.x)
    assert test.max() + window == np.arange(0, size - window, stride).max() + window


def test_the_split_is_leafs(tmp_path: Path) -> None:
    """1,000 windows, 80% of them: 800; then 79 that share characters with them are skipped."""
    d = text(0, path=write(tmp_path, a="x" * 1080), split=0.8)
    assert np.bincount(d.row_role).tolist() == [800, 0, 200 - 79]


def test_vocabulary_of_the_data_is_sorted(tmp_path: Path) -> None:
    raw = "\u0431\u0430\u0432 \u00e9\t" * 5
    d = text(0, path=write(tmp_path, a=raw), window=3, vocabulary="data")
    letters = sorted(set(raw))
    assert d.classes == ("\\t", "space", *letters[2:])
    assert ["".join(letters[c] for c in row) for row in d.x[:].tolist()] == [w for w, _ in samples(raw, 3)]
    assert [letters[c] for c in d.label] == [c for _, c in samples(raw, 3)]


@pytest.mark.parametrize(
    ("file", "options", "says"),
    [
        ("a/b/c", {}, {"file": "c"}),
        ("a/b/c", {"groups": ["shelf", "book"]}, {"shelf": "b", "book": "b/c"}),
        ("x/ann-2020", {"groups": ["who", "year"], "separator": "-"}, {"who": "ann", "year": "ann-2020"}),
        (
            "THE_TRAGEDY_OF_KING_LEAR_FOOL",
            {"groups": ["play", "role"], "separator": "leaf"},
            {"play": "THE_TRAGEDY_OF_KING_LEAR", "role": "THE_TRAGEDY_OF_KING_LEAR_FOOL"},
        ),
        (
            "TWELFTH_NIGHT__OR__WHAT_YOU_WILL_SIR_TOBY",
            {"groups": ["play", "role"], "separator": "leaf"},
            {"play": "TWELFTH_NIGHT__OR__WHAT_YOU_WILL", "role": "TWELFTH_NIGHT__OR__WHAT_YOU_WILL_SIR_TOBY"},
        ),
    ],
)
def test_groups_come_from_names(file: str, options: dict, says: dict[str, str], tmp_path: Path) -> None:
    d = text(0, path=write(tmp_path, **{file: LINES}), **options)
    assert {name: group.names for name, group in d.groups.items()} == {name: (value,) for name, value in says.items()}


def test_a_role_of_two_plays_is_two_roles(tmp_path: Path) -> None:
    d = text(
        0,
        path=write(tmp_path, **{"hamlet/king": LINES, "lear/king": LINES, "lear/fool": LINES}),
        groups=["play", "role"],
    )
    assert d.groups["play"].names == ("hamlet", "lear")
    assert d.groups["role"].names == ("hamlet/king", "lear/fool", "lear/king")
    assert all(len(set(d.groups["play"].code[members(d, "role", name)])) == 1 for name in d.groups["role"].names)


def test_folder_archive_and_single_file_are_read_alike(tmp_path: Path) -> None:
    texts = {"in/a": LINES, "in/b": LINES[5:], "in/short": "To be", "in/.hidden": LINES, "__MACOSX/x": LINES}
    folder = text(0, path=write(tmp_path / "own", **texts))
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        for name in reversed(texts):
            archive.write(tmp_path / "own" / f"{name}.txt", f"{name}.txt")
    packed = text(0, path=str(tmp_path / "own.zip"))
    assert packed.groups["file"].names == ("a", "b"), "neither what is hidden nor what is too short"
    assert packed.sha256 == folder.sha256
    alone = text(0, path=str(tmp_path / "own" / "in" / "a.txt"))
    assert spelt(alone) == samples(LINES)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(LINES)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(Problem, match="not a regular file") as caught:
        text(0, path=str(tmp_path / "own"))
    assert caught.value.code == DATA


# -------------------------------------------------------------------------------------------------- Shakespeare


def test_all_of_shakespeare() -> None:
    path = shakespeare()
    d = text(0, path=str(path), groups=["play", "role"], separator="leaf")
    assert len(d.label) == 4_226_158, "LEAF's published number of samples"
    assert len(d.groups["role"].names) == 1_129, "and of users"
    assert len(d.groups["play"].names) == 36
    assert len(np.unique(d.x.source)) == 79
    with zipfile.ZipFile(path) as archive:
        for name in ("THE_TRAGEDY_OF_MACBETH_PORTER", "KING_JOHN_ARTHUR", "AS_YOU_LIKE_IT_JAQUES_DE_BOYS"):
            raw = archive.read(f"by_play_and_character/{name}.txt").decode()
            assert spelt(d, members(d, "role", name)) == samples(raw)


def test_the_split_gives_the_very_rows_of_leafs_files() -> None:
    """40 roles of at least 400 samples were put into LEAF's format by another program."""
    raw, split = shakespeare(), shakespeare("shakespeare_leaf_40users.zip")
    d = text(0, path=str(raw), groups=["play", "role"], separator="leaf", split=0.8, keep=400)
    assert d.row_role is not None
    assert len(d.groups["role"].names) == 799
    with zipfile.ZipFile(split) as archive:
        parts = [json.loads(archive.read(name)) for name in sorted(archive.namelist(), reverse=True)]
    for part, role in zip(parts, (0, 2), strict=True):
        for name, play, count in zip(part["users"], part["hierarchies"], part["num_samples"], strict=True):
            mine = members(d, "role", name)
            assert {d.groups["play"].names[c] for c in d.groups["play"].code[mine]} == {play}
            mine = mine[d.row_role[mine] == role]
            assert len(mine) == count
            if count < 2_000:
                told = part["user_data"][name]
                assert spelt(d, mine) == list(zip(told["x"], told["y"], strict=True))


@proc
@pytest.mark.slow
def test_partition_of_all_roles_makes_no_windows(tmp_path: Path) -> None:
    """4.2 million windows are 338 MB as bytes, and as many again in the shards and for each copy on the way."""
    (tmp_path / "roles.yaml").write_text(
        f"data: {{name: text, path: {shakespeare()}, groups: [play, role], separator: leaf}}\n"
        "task: {kind: local, support: 1, query: 1, new: {from: nodes, test: 200}}\n"
        "partition: {name: natural, by: role}\nmodel: {name: lstm, hidden: 8, layers: 1}\n"
    )
    began = os.times().elapsed
    command = [sys.executable, "-c", PEAK, "partition", "roles.yaml", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    answer, peak = done.stdout.splitlines()
    print(f"partition: {os.times().elapsed - began:.1f} s, {peak} kB")
    assert json.loads(answer)["rows"]["total"] == 4_226_158
    assert int(peak.split()[1]) < 1 << 20
    sizes = sum(path.stat().st_size for path in (tmp_path / "runs" / "roles" / "shards").glob("*.safetensors"))
    assert sizes < 100 << 20, "20 bytes a row: a label, a place and a start"


# ------------------------------------------------------------------------------------------------- end to end


TINY = """\
data: {{name: text, path: {path}, window: 10, split: 0.6}}
task: {{kind: local, support: 4, query: 4, new: {{from: rows}}}}
partition: {{name: natural, by: file}}
model: {{name: lstm, embedding: 4, hidden: 8, layers: 1}}
learner: {{name: maml, inner_lr: 0.1, inner_steps: 1}}
train: {{rounds: 1, local_steps: 1, meta_batch: 1}}
finetune: {{episodes: 4}}
baselines: {{pooled: {{pooled: true}}}}
execution: {{threads: 1}}
"""


@pytest.fixture
def written(tmp_path: Path) -> Lab:
    path = write(tmp_path / "plays", hamlet=LINES, ophelia=LINES[3:], horatio=LINES[9:])
    return Lab(tmp_path / "lab", TINY.format(path=path))


def test_a_run_on_text(written: Lab) -> None:
    written("run")
    metrics = json.loads((written.run() / "finetune" / "new" / "metrics.json").read_text())
    assert metrics["episodes"] == 3
    assert [node["name"] for node in metrics["per_node"]] == [
        f"{who} (test)" for who in ("hamlet", "horatio", "ophelia")
    ]
    assert metrics["baselines"]["pooled"]["after"]["n"] == 3
    before = written.checkpoint(1)
    written("run", name="again")
    assert written.checkpoint(1, "again") == before


def test_a_model_of_characters_is_used_outside(written: Lab) -> None:
    written("run")
    model = load_adapted(written.run() / "finetune" / "new" / "adapted.safetensors")
    shown = np.array([[LEAF.index(c) for c in "To be, or "]], dtype=np.uint8)
    assert model.classes[:2] == ("newline", "space")
    assert model.predict(shown)[0] in model.classes
    assert model.outputs(["To be, or "]).tolist() == model.outputs(shown).tolist()
    for wrong, message in (("To be", "5 characters, a row of this data set has 10"), ("To be, ör ", "'ö' is not one")):
        with pytest.raises(Problem, match=message):
            model.predict([wrong])


def test_a_task_of_ones_own_is_a_table_of_character_numbers(written: Lab) -> None:
    written("run")
    own = written.folder / "own.csv"
    rows = [
        (["support", "query"][i % 2], LEAF.index(c), w) for i, (w, c) in enumerate(samples("Alas, poor Yorick!", 10))
    ]
    names = ("newline", "space", *LEAF[2:])
    table = io.StringIO()
    print("part,label," + ",".join(f"c{i}" for i in range(10)), file=table)
    for part, label, window in rows:
        quoted = names[label] if names[label] != '"' else '""""'
        print(f"{part},{quoted}," + ",".join(str(LEAF.index(c)) for c in window), file=table)
    own.write_text(table.getvalue())
    written("finetune", "--task", str(own))
    told = (written.run() / "finetune" / "task-own" / "predictions.csv").read_text()
    assert len(told.splitlines()) == 1 + len(rows) // 2
    (written.folder / "bad.csv").write_text(table.getvalue().replace(",c9", ""))
    assert "column" in written("finetune", "--task", str(written.folder / "bad.csv"), code=DATA).err
