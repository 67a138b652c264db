"""Clients, users and classes that are too small: named, refused or left out, and the run goes on with the others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from runner import Lab

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.types import Group, build
from metadist_cli.partition.accounting import Partitioned
from metadist_cli.partition.held_out import HoldOut
from metadist_cli.partition.partitioners import PARTITIONERS
from metadist_cli.partition.shards import PartitionSpec, TaskSize, make_shards

pytestmark = pytest.mark.usefixtures("plain")
DROP = "partition.too_small=drop"


def sizes_of_groups() -> list[int]:
    """203 sizes, of which 123 are below 10."""
    rng = np.random.default_rng(0)
    return rng.permutation([*rng.integers(1, 10, 123), *rng.integers(10, 60, 80)]).tolist()


def federation(path: Path, sizes: list[int]) -> str:
    """A table with a client of each size; the `data:` of its config."""
    rng = np.random.default_rng(1)
    lines = ["client,a,b,sick"]
    for client, size in enumerate(sizes):
        for a, b in rng.normal(size=(size, 2)):
            lines.append(f"client {client:03d},{a:.3f},{b:.3f},{'yes' if a + b > 0 else 'no'}")
    path.write_text("\n".join(lines) + "\n")
    return f"data={{name: table, path: {path}, target: sick, groups: [client]}}"


def natural(data: str, *more: str, by: str = "client", new: str = "{test: 20}") -> tuple[str, ...]:
    task = f"task={{kind: local, support: 5, query: 5, new: {new}}}"
    return (data, task, f"partition={{name: natural, by: {by}}}", *more)


def test_a_federation_most_of_whose_groups_are_too_small_runs_with_one_setting(lab: Lab):
    sizes = sizes_of_groups()
    data = federation(lab.folder / "clients.csv", sizes)
    small = [f"client {i:03d}" for i, size in enumerate(sizes) if size < 10]
    assert (len(sizes), len(small)) == (203, 123)

    said = lab("run", *natural(data), code=3).err
    named = ", ".join(f"{name} has {sizes[int(name[7:])]} row{'s' * (sizes[int(name[7:])] != 1)}" for name in small[:5])
    assert f"123 of 203 nodes are too small: {named} and 118 more; a task needs 10 rows" in said
    assert not lab.run().exists()

    [setting] = re.findall(r"partition\.too_small: drop", said)
    setting = setting.replace(": ", "=")
    for command in (("run", "--dry-run"), ("run",), ("run", "--dry-run")):
        said = lab(*command, *natural(data, setting)).out
        assert f"warning: left out: 123 of 203 nodes are too small: {named} and 118 more" in said
    manifest = lab.shards()
    assert {node["name"] for node in manifest["nodes"]} == {f"client {i:03d}" for i in range(203)} - {*small}
    assert manifest["rows"]["too_small"] == sum(size for size in sizes if size < 10)
    assert (manifest["rows"]["lost"], manifest["rows"]["duplicated"]) == (0, 0)
    assert [node["role"] for node in manifest["nodes"]].count("test") == 20


def test_where_none_is_large_enough_the_hint_is_not_to_drop(lab: Lab):
    data = federation(lab.folder / "clients.csv", [4] * 6)
    said = lab("run", *natural(data, DROP, new="{test: 1}"), code=3).err
    assert "6 of 6 nodes are too small" in said
    assert "too_small: drop" not in said
    assert "-> lower task.support or task.query" in said
    lab("run", *natural(data, new="{test: 1}"), "task.support=2", "task.query=2", "--dry-run")


def test_a_client_that_is_too_small_cannot_be_held_out_by_name(lab: Lab):
    data = federation(lab.folder / "clients.csv", [20, 20, 20, 4])
    said = lab("run", *natural(data, DROP, new="{test: [client 003]}"), code=3).err
    assert "the node 'client 003' cannot be held out: it has 4 rows, a task needs 10 rows" in said
    lab("run", *natural(data, DROP, new="{test: [client 002]}"))


def test_clients_that_hold_out_rows_are_judged_by_what_is_left(lab: Lab):
    data = federation(lab.folder / "clients.csv", [40, 12, 30, 2])
    new = "{from: rows, test: 0.3}"
    said = lab("run", *natural(data, new=new), code=3).err
    assert "2 of 4 nodes are too small: client 001 has 8 rows for training and 4 for testing, client 003" in said
    assert "a task needs 10 rows for training and 1 for testing" in said
    lab("run", *natural(data, DROP, new=new))
    assert [node["name"] for node in lab.shards()["nodes"]][:2] == ["client 000", "client 002"]


def test_users_of_leaf_are_left_out_alike(lab: Lab):
    rng, sizes = np.random.default_rng(0), {"ann": 30, "bob": 3, "cyd": 25, "dan": 20}
    users = {
        user: {"x": rng.normal(size=(n, 4)).tolist(), "y": (np.arange(n) % 2).tolist()} for user, n in sizes.items()
    }
    leaf = {"users": [*users], "num_samples": [*sizes.values()], "user_data": users}
    (lab.folder / "leaf.json").write_text(json.dumps(leaf))
    setting = natural(f"data={{name: leaf, path: {lab.folder / 'leaf.json'}}}", by="user", new="{test: 1}")
    assert "1 of 4 nodes is too small: bob has 3 rows; a task needs 10 rows" in lab("run", *setting, code=3).err
    assert "bob has 3 rows" in lab("run", *setting, DROP).out
    assert {node["name"] for node in lab.shards()["nodes"]} == {"ann", "cyd", "dan"}
    kept = (*setting, "data.keep=22")
    note = "data.keep leaves out 2 of 4 users with fewer than 22 rows: bob has 3, dan has 20"
    assert note in lab("run", *kept, "--dry-run", name="kept").out


def test_a_class_that_is_too_small_is_left_out_of_tasks_with_a_warning(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(lab.folder / "cache"))
    rng = np.random.default_rng(0)
    for kind in range(8):
        for i in range(16 if kind else 4):
            place = lab.folder / "pics" / f"bird {kind}" / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype("uint8")).save(place)
    data = f"data={{name: image_folder, path: {lab.folder / 'pics'}, folders: [class], size: 8}}"

    def setting(shot: int, test: str = "2") -> tuple[str, str]:
        return data, f"task={{kind: episodic, way: 2, shot: {shot}, query: 5, new: {{from: classes, test: {test}}}}}"

    said = lab("run", *setting(5), "partition.nodes=2").out
    assert "left out: 1 of 8 classes is too small: bird 0 has 4 rows; a task needs 10 rows" in said
    manifest = lab.shards()
    used = {manifest["classes"][c] for node in manifest["nodes"] for c, _ in node["classes"]}
    assert used == {f"bird {c}" for c in range(1, 8)}
    larger = (*setting(2, "[bird 0, bird 1, bird 2]"), "partition.nodes=1", "task.query=2", "finetune.task.shot=6")
    for command in (("run", "--dry-run"), ("run",)):
        said = lab(*command, *larger, name="larger").out
        assert "held-out classes that new tasks leave out, because they have fewer than 8 rows: bird 0 has 4" in said
    said = lab("run", *setting(5, "[bird 0, bird 1]"), "partition.nodes=2", code=3, name="named").err
    assert "the class 'bird 0' cannot be held out: it has 4 rows, a task needs 10 rows" in said
    said = lab("run", *setting(12), "partition.nodes=2", code=3, name="none").err
    assert "8 of 8 classes are too small: bird 0 has 4 rows" in said
    assert "-> lower task.shot or task.query" in said


def test_held_out_nodes_with_too_few_rows_for_a_larger_new_task_are_named(lab: Lab):
    data = federation(lab.folder / "clients.csv", [40, 12, 30, 15, 60])
    held = natural(data, new="{test: [client 001, client 003, client 004]}")
    said = lab("run", *held, "finetune.task={support: 20, query: rest}", code=3).err
    assert "2 of 3 held-out nodes have too few rows for a new task of 20 support rows and at least 1 query row" in said
    assert "client 001 has 12, client 003 has 15" in said
    [most] = re.findall(r"set finetune\.task\.support to at most ([0-9]+)\n", said)
    lab("run", *held, f"finetune.task={{support: {most}, query: rest}}")
    for query in ("12", "rest"):
        said = lab("run", *held, f"finetune.task={{support: 8, query: {query}}}", code=0 if query == "rest" else 3).err
        assert (
            query == "rest"
            or "let support and query take at most 12 rows together, or set finetune.task.query: rest" in said
        )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=3, max_size=9), st.integers(2, 8), st.integers(0, 99))
def test_exactly_the_groups_that_are_large_enough_become_nodes(sizes: list[int], need: int, seed: int) -> None:
    label = np.zeros(sum(sizes), dtype=np.int64)
    who = np.repeat(np.arange(len(sizes)), sizes)
    x = np.arange(len(who), dtype=np.float32)[:, None]
    names = tuple(f"g{i}" for i in range(len(sizes)))
    data = build("classification", x, label, ("one", "two"), groups={"who": Group(who, names)})
    rich = [i for i, size in enumerate(sizes) if size >= need]
    spec = PartitionSpec(
        PARTITIONERS["natural"](by="who"), None, TaskSize(False, 0, need), HoldOut("nodes", 1, 0), too_small="drop"
    )

    def made() -> Partitioned:
        return make_shards(data, spec, seed)

    if len(rich) < 2:
        with pytest.raises(Problem) as caught:
            made()
        assert caught.value.code == CONFIG
        return
    shards, left_out = made()
    assert sorted(s.name for s in shards) == [f"g{i}" for i in rich]
    for s in shards:
        assert s.row.tolist() == np.flatnonzero(who == int(s.name[1:])).tolist()
    assert [name for one in left_out for name in one.names] == [f"g{i}" for i in range(len(sizes)) if i not in rich]
    if len(rich) < len(sizes):
        with pytest.raises(Problem, match="too small"):
            make_shards(data, spec._replace(too_small="refuse"), seed)
