"""Jobs of a batch system: parts of the nodes, waiting, a quorum, and the script for Slurm under a scheduler of ours."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runner import ROOT, Lab, environment

from metadist_cli.commands.support.node_selection import seconds, which_nodes
from metadist_cli.core.errors import USAGE, Problem
from metadist_cli.federated.updates import Updates
from metadist_cli.storage import node_files
from metadist_cli.storage.run_directory import Run

SCRIPT = ROOT / "configs" / "batch" / "array.sh"
ONE = "execution.block=1"
Scheduler = Callable[..., subprocess.Popen[str]]
ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "4"}


@pytest.mark.parametrize(("text", "found"), [("3", [3]), ("0-2,5", [0, 1, 2, 5]), ("2,0", [0, 2])])
def test_numbers_of_nodes(text: str, found: list[int]):
    assert which_nodes(text)([]) == found


def test_parts_hold_every_node_once():
    nodes = list(range(3, 20))
    for parts in (1, 3, 17, 30):
        dealt = [which_nodes(f"{part}/{parts}")(nodes) for part in range(parts)]
        assert [node for part in dealt for node in part] == nodes
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_the_part_of_an_array_task(monkeypatch: pytest.MonkeyPatch):
    """sbatch --array=3-9:2 has tasks 3, 5, 7 and 9: number 7 is the third of four."""
    for name, value in {**ARRAY, "SLURM_ARRAY_TASK_STEP": "2"}.items():
        monkeypatch.setenv(name, value)
    assert which_nodes("slurm")(list(range(8))) == [4, 5]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is not a node or a range of nodes"),
        ("5-3", "'5-3' is not a node or a range of nodes"),
        ("0-9999999", "'0-9999999' is more than a million nodes"),
        ("8/8", "8/8 is not a valid part"),
        ("0/0", "0/0 is not a valid part"),
        ("slurm", "slurm, but SLURM_ARRAY_TASK_ID is not set"),
    ],
)
def test_wrong_nodes(text: str, told: str, monkeypatch: pytest.MonkeyPatch):
    for name in ARRAY:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Problem) as caught:
        which_nodes(text)
    assert (caught.value.message, caught.value.code, caught.value.where) == (told, USAGE, "--nodes")


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400), ("0s", 0)])
def test_lengths_of_time(text: str, value: float):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "90", "1.5h", "m", "-3s", "2 h"])
def test_wrong_lengths_of_time(text: str):
    with pytest.raises(Problem, match="is not a valid duration"):
        seconds(text)


def test_aggregate_waits_for_a_node_that_is_late(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """It looks again and again; the node is trained between its third look and its fourth."""
    lab("partition", ONE)
    lab("train", ONE, "--nodes", "0-4")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            lab("train", ONE, "--nodes", "5")

    monkeypatch.setattr("metadist_cli.commands.support.node_selection.time.sleep", pause)
    done = lab("aggregate", ONE, "--wait", "10h", "--round", "1")
    assert len(pauses) == 3
    assert all(0 < seconds <= 600 for seconds in pauses)
    assert "waiting: round 1 lacks 1 of 6 nodes: 5" in done.out
    assert inputs(lab, 1)["dropped"] == []


def test_waiting_alone_means_the_round_that_is_open(lab: Lab):
    """Also where no job has begun; when all rounds are closed there is nothing to wait for."""
    lab("partition", ONE)
    assert "round 1 needs" in lab("aggregate", ONE, "--wait", "1s", "train.rounds=1", code=75).err
    lab("train", ONE, "train.rounds=1", "--nodes", "0-5")
    lab("aggregate", ONE, "--wait", "60s", "train.rounds=1")
    assert "no round is open; round 1 is closed" in lab("aggregate", ONE, "--wait", "60s", "train.rounds=1").out
    assert "beyond train.rounds=1" in lab("aggregate", ONE, "--wait", "60s", "train.rounds=1", "--round", "3").out


def test_files_are_not_read_while_their_names_lack_nodes(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """A hundred jobs may have sent gigabytes, and the next look is in a few seconds. Other names may be anything."""
    read: list[str] = []
    of = node_files.read_updates
    monkeypatch.setattr(node_files, "read_updates", lambda path, *rest: read.append(path.name) or of(path, *rest))
    lab("partition", ONE)
    lab("train", ONE, "--nodes", "0,1,3,4")
    lab("aggregate", ONE, "--wait", "3s", "--round", "1", code=75)
    assert read == ["nodes-000-001.safetensors", "nodes-003-004.safetensors"]  # once, when the wait is over
    for name in read:
        (lab.run() / "rounds/0001" / name).rename(lab.run() / "rounds/0001" / f"nodes-of-{name}")
    lab("train", ONE, "--nodes", "2,5")
    assert "lacks" not in lab("aggregate", ONE, "--wait", "60s", "--round", "1").out
    assert inputs(lab, 1)["dropped"] == []


def test_quorum_counts_when_the_wait_is_over(lab: Lab):
    """Then the others are dropped by name, and what they send later is named and not used."""
    lab("partition", ONE)
    lab("train", ONE, "--nodes", "0,1,3,4")
    began = time.monotonic()
    few = lab("aggregate", ONE, "--wait", "3s", "--min-nodes", "5", "--round", "1", code=75)
    assert time.monotonic() - began >= 3
    assert "round 1 lacks 2 of 6 nodes: 2, 5" in few.err
    lab("aggregate", ONE, "--wait", "1s", "--min-nodes", "4", "--round", "1")
    assert inputs(lab, 1)["dropped"] == [2, 5]
    again = lab("aggregate", ONE, "--round", "1")
    assert "round 1 is already closed, nothing to do" in again.out


def test_a_round_that_has_not_begun_is_waited_for(lab: Lab):
    lab("partition", ONE)
    lab("aggregate", ONE, "--round", "1", code=75)
    lab("train", ONE, "--nodes", "0", "--round", "2", code=75)
    lab("train", ONE, "--nodes", "0-5", "--round", "1")
    lab("aggregate", ONE, "--round", "2", code=75)
    assert "no round is open" in lab("aggregate", ONE, "--round", "1", code=0).out or lab.checkpoint(1)


def test_a_job_that_comes_too_late_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """The others' round was closed with a quorum while it trained."""
    lab("partition", ONE)
    lab("train", ONE, "--nodes", "0-4")
    write = node_files.leave_open

    def late(*given: Any) -> list[str]:
        lab("aggregate", ONE, "--min-nodes", "5", "--round", "1")
        return write(*given)

    monkeypatch.setattr(node_files, "leave_open", late)
    told = lab("train", ONE, "--nodes", "5").out
    assert "round 1 was closed in the meantime, so these files are not used: nodes-005-005.safetensors" in told
    monkeypatch.setattr(node_files, "leave_open", write)
    lab("train", ONE, "train.rounds=2")
    lab("aggregate", ONE)
    entries = json.loads((lab.run() / "manifest.json").read_text())["commands"]
    assert entries[-1]["result"]["late"] == ["nodes-005-005.safetensors"]


def test_a_job_that_is_killed_keeps_what_it_has_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """But for the last half minute: files come while later nodes are trained, not when all are done."""
    run = Run.at(tmp_path)

    def trained() -> Iterator[Updates]:
        for node in (3, 4, 5):
            yield Updates([node], {"meta/w": torch.full((1, 2), float(node))}, {}, [7], {"loss": [0.5]})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        node_files.leave_open(run, 1, "parent", trained())
    assert not node_files.update_files(run, 1)
    monkeypatch.setattr(node_files, "_AT_RISK", -1.0)
    with pytest.raises(KeyboardInterrupt):
        node_files.leave_open(run, 1, "parent", trained())
    template, weights = {"meta/w": torch.zeros(2)}, dict.fromkeys((3, 4, 5), 7)
    there = [node_files.read_updates(file, 1, "parent", template, weights) for file in node_files.update_files(run, 1)]
    assert [(some.nodes, some.shared["meta/w"].tolist()) for some in there] == [([n], [[n, n]]) for n in (3, 4, 5)]


@pytest.mark.slow
def test_the_script_for_slurm(lab: Lab, scheduler: Scheduler):
    """Three tasks; one is killed in its work and submitted again, one comes late: the bytes of an undisturbed run."""
    lab("run", ONE, "train.rounds=2", name="calm")
    lab("partition", ONE)
    first, killed = scheduler(0), scheduler(1)
    time.sleep(4)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    time.sleep(1)
    for task in (first, scheduler(1, again=True), scheduler(2)):
        out, _ = task.communicate(timeout=300)
        assert task.returncode == 0, out
    assert lab.checkpoint(2) == lab.checkpoint(2, "calm")
    assert not list((lab.run() / "rounds").glob("*/inputs.json")) or inputs(lab, 2)["dropped"] == []


@pytest.fixture
def scheduler(lab: Lab, tmp_path: Path) -> Iterator[Scheduler]:
    """Starts task 0, 1 or 2 of an array of three as Slurm would, and ends what still works after the test.

    again: submitted by itself with `PARTS=3 sbatch --array=1`, which is another array.
    """
    # written once: what is open for writing cannot be started ("Text file busy")
    program = tmp_path / "programs" / "metadist"
    program.parent.mkdir()
    program.write_text(f'#!/bin/bash\nexec "{sys.executable}" -m metadist_cli "$@" {ONE} --runs-dir "{lab.runs}"\n')
    program.chmod(0o755)
    place = environment(PATH=f"{program.parent}:{os.environ['PATH']}", PATIENCE="4m")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    tasks: list[subprocess.Popen[str]] = []

    def start(task: int, again: bool = False, **extra: str) -> subprocess.Popen[str]:
        called = ["bash", str(SCRIPT), str(lab.config), "2"]
        ids = {"ID": task, "MIN": task, "COUNT": 1} if again else {"ID": task, "MIN": 0, "COUNT": 3}
        slurm = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in ids.items()}
        here = place | slurm | ({"PARTS": "3"} if again else {}) | extra
        tasks.append(subprocess.Popen(called, env=here, start_new_session=True, **pipes))
        return tasks[-1]

    yield start
    for task in tasks:
        with task, contextlib.suppress(ProcessLookupError):
            os.killpg(task.pid, signal.SIGKILL)


def test_a_part_of_an_array_is_not_taken_for_all_of_it(lab: Lab, scheduler: Scheduler):
    """`sbatch --array=1` without PARTS: task 1 would else train all nodes."""
    task = scheduler(1, again=True, PARTS="")
    out, _ = task.communicate(timeout=60)
    assert task.returncode == 2
    assert "PARTS" in out


def inputs(lab: Lab, number: int) -> dict:
    return json.loads((lab.run() / "rounds" / f"{number:04d}" / "inputs.json").read_text())
