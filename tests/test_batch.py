"""Jobs of a batch system: parts of the nodes, waiting, a quorum, and the script for Slurm under a scheduler of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from runner import ROOT, Lab, environment

from metadist_cli.errors import USAGE, Problem
from metadist_cli.stages.waiting import seconds, which_nodes

SCRIPT = ROOT / "configs" / "batch" / "array.sh"
ONE = "execution.block=1"
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
        ("", "'' is no node and no range of nodes"),
        ("5-3", "'5-3' is no node and no range of nodes"),
        ("0-9999999", "'0-9999999' is more than a million nodes"),
        ("8/8", "there is no part 8/8"),
        ("0/0", "there is no part 0/0"),
        ("slurm", "--nodes slurm, but SLURM_ARRAY_TASK_ID is not set"),
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
    with pytest.raises(Problem, match="is no length of time"):
        seconds(text)


def test_aggregate_waits_for_a_node_that_is_late(lab: Lab):
    lab("partition", ONE)
    lab("train", ONE, "--nodes", "0-4")
    late = threading.Timer(3, lambda: lab.process("train", ONE, "--nodes", "5"))
    late.start()
    done = lab("aggregate", ONE, "--wait", "120s", "--round", "1")
    late.join()
    assert "waiting: round 1 lacks 1 of 6 nodes: 5" in done.out
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
    assert "nothing is open" in lab("aggregate", ONE, "--round", "1", code=0).out or lab.checkpoint(1)


@pytest.mark.slow
def test_the_script_for_slurm(lab: Lab, tmp_path: Path):
    """Three tasks; one is killed in its work and started again, one comes late: the bytes of an undisturbed run."""
    lab("run", ONE, "train.rounds=2", name="calm")
    lab("partition", ONE)
    tasks = [submit(lab, tmp_path, task) for task in (0, 1)]
    time.sleep(4)
    os.killpg(tasks[1].pid, signal.SIGKILL)
    tasks[1].communicate()
    time.sleep(1)
    tasks[1] = submit(lab, tmp_path, 1)
    tasks.append(submit(lab, tmp_path, 2))
    for task in tasks:
        out, _ = task.communicate(timeout=300)
        assert task.returncode == 0, out
    assert lab.checkpoint(2) == lab.checkpoint(2, "calm")
    assert not list((lab.run() / "rounds").glob("*/inputs.json")) or inputs(lab, 2)["dropped"] == []


def submit(lab: Lab, folder: Path, task: int) -> subprocess.Popen[str]:
    """Task `task` of an array of three, as Slurm would start it."""
    program = folder / "programs" / "metadist"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/bash\nexec "{sys.executable}" -m metadist_cli "$@" {ONE} --runs-dir "{lab.runs}"\n')
    program.chmod(0o755)
    ids = {"ID": str(task), "MIN": "0", "MAX": "2", "STEP": "1", "COUNT": "3"}
    slurm = {f"SLURM_ARRAY_TASK_{name}": value for name, value in ids.items()}
    place = environment(PATH=f"{program.parent}:{os.environ['PATH']}", **slurm)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    called = ["bash", str(SCRIPT), str(lab.config), "2"]
    return subprocess.Popen(called, env=place, start_new_session=True, **pipes)


def inputs(lab: Lab, number: int) -> dict:
    return json.loads((lab.run() / "rounds" / f"{number:04d}" / "inputs.json").read_text())
