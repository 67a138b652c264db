"""Several processes train as one does: the same bytes, and none is left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from runner import ROOT, Lab, contents, environment, proc, results, start

from metadist_cli.core.files import from_json
from metadist_cli.runtime.torchrun import _meeting
from metadist_cli.runtime.workers import _gpu

ONE = "execution.block=1"
SETTINGS = {
    "all nodes": (),
    "a part of the nodes": ("train.nodes_per_round=3",),
    "state at the nodes": (
        "train.outer_state=keep",
        "train.drift={name: scaffold}",
        "train.outer={name: sgd, lr: 0.1}",
    ),
    "blocks of two": ("execution.block=2", "train.personal={name: fedrep}"),
}
LONG = ("train.rounds=100000", "train.local_steps=20", ONE)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_workers_change_no_byte(lab: Lab, settings: tuple[str, ...]):
    alone = trained(lab, "alone", ONE, *settings)
    for workers in (2, 3):
        assert trained(lab, f"w{workers}", ONE, *settings, f"execution.workers={workers}") == alone


@proc
def test_the_memory_of_every_process_is_noted(lab: Lab):
    lab("run", ONE, "execution.workers=3")
    entry = from_json((lab.run() / "manifest.json").read_bytes(), "manifest")["commands"][1]
    assert entry["command"] == "train"
    hosts = [peak["host"] for peak in (entry["peak_memory"], *entry["result"]["peak_memory_of_others"])]
    assert len(hosts) == 3
    assert min(hosts) > 50 << 20  # torch alone takes more


def test_more_workers_than_blocks(lab: Lab):
    """All six nodes are one block, which is told."""
    assert trained(lab, "crowd", "execution.workers=3") == trained(lab, "alone")
    told = lab("run", "execution.workers=3", name="told")
    assert "train: on cpu, all nodes as one block" in told.out
    assert "3 processes share one block of nodes: try execution.block=2" in told.out


def test_processes_without_work_are_left_alone(lab: Lab):
    """As where a baseline has one block, or jobs have trained the others: their answers would be read as later ones."""
    few = ("train.rounds=3", "baselines={central: {pooled: true}}", ONE)
    alone = trained(lab, "alone", *few)
    lab.runs = lab.folder / "crew"
    lab("partition", *few)
    lab("train", *few, "--nodes", "1-5")
    lab("run", *few, "execution.workers=3")
    assert results(lab.run()) == alone


def test_ranks_without_work_are_left_alone(lab: Lab):
    alone = trained(lab, "alone")
    lab.runs = lab.folder / "ranks"
    done = torchrun(3, *lab.arguments("run"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(lab.run()) == alone


def test_open_rounds_and_single_nodes_with_workers(lab: Lab):
    lab("run", ONE, name="alone")
    lab("partition", ONE)
    for number in (1, 2):
        lab("train", ONE, "execution.workers=2", "--nodes", "0-2")
        lab("train", ONE, "execution.workers=2", f"train.rounds={number}")
        lab("aggregate", ONE, f"train.rounds={number}")
    assert lab.checkpoint(2) == lab.checkpoint(2, "alone")


def test_what_goes_wrong_at_a_worker_is_told_as_it_is_alone(lab: Lab):
    wild = ("learner.inner_lr=1e30", ONE)
    alone = lab("run", *wild, code=4, name="alone")
    crew = lab("run", *wild, "execution.workers=2", code=4, name="crew")
    assert "training diverged" in alone.err
    assert re.sub(r"node \d", "node", crew.err) == re.sub(r"node \d", "node", alone.err)


@proc
@pytest.mark.parametrize("victim", ["worker", "leader"])
def test_a_process_that_is_killed(lab: Lab, victim: str):
    """A worker: exit 75, closed rounds stay. The leader: its workers are gone within 5 seconds."""
    running = start(*lab.arguments("run", *LONG, "execution.workers=3"))
    until(lambda: rounds(lab.run()) > 2, running)
    family = descendants(running.pid)
    workers = [pid for pid in family if "forkserver" in command(pid) and command(parent(pid)) == command(pid)]
    assert len(workers) == 2
    os.kill(workers[1] if victim == "worker" else running.pid, signal.SIGKILL)
    out, err = running.communicate(timeout=60)
    if victim == "worker":
        assert running.returncode == 75, out + err
        assert "a training process died" in err
        assert "Traceback" not in err
    until(lambda: not any(map(alive, family)), seconds=5)
    closed = rounds(lab.run())
    lab("run", *LONG[1:], f"train.rounds={closed}", "finetune.save=none")


def test_ranks_of_torchrun_change_no_byte(lab: Lab):
    alone = trained(lab, "alone", ONE)
    lab.runs = lab.folder / "ranks"
    done = torchrun(2, *lab.arguments("run", ONE))
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(lab.run()) == alone
    assert done.stdout.count(" shards in ") == 1  # the leader speaks, and it alone


def test_four_ranks_change_no_byte(lab: Lab):
    alone = trained(lab, "alone", ONE)
    lab.runs = lab.folder / "ranks"
    done = torchrun(4, *lab.arguments("run", ONE))
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(lab.run()) == alone


def test_ranks_that_were_started_anew_meet_under_a_new_name():
    """In torchrun's old store, where the dead ones have left theirs; whoever comes first."""
    store, names = torch.distributed.HashStore(), set()
    store.set_timeout(timedelta(seconds=20))
    for late in (1, 0, 2):
        with ThreadPoolExecutor() as ranks:
            found = []
            for rank in sorted(range(3), key=lambda r: r == late):
                found.append(ranks.submit(_meeting, store, rank, 3))
                time.sleep(0.3)
            met = {name.result() for name in found}
        assert len(met) == 1
        names |= met
    assert len(names) == 3


def test_each_rank_has_a_gpu_of_its_own():
    assert [_gpu("cuda", rank, 2) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [_gpu("cuda:1", rank, 4) for rank in range(4)] == ["cuda:1", "cuda:2", "cuda:3", "cuda:0"]
    assert _gpu("cuda", 0, 0) == "cuda:0"  # which is then told to be missing


def test_a_wrong_config_is_told_once(lab: Lab):
    done = torchrun(2, *lab.arguments("run", "train.round=3"))
    assert done.returncode != 0
    assert done.stderr.count("did you mean") == 1, done.stderr
    assert not lab.run().exists()


def test_two_machines_each_with_its_own_shards(lab: Lab):
    """The second has the shards of every other node alone, and nothing is written there."""
    alone = trained(lab, "alone", ONE)
    lab.runs = lab.folder / "second"
    lab("partition", "--nodes", "1,3,5", ONE)
    before = contents(lab.run())
    there = lab.arguments("run", ONE)
    lab.runs = lab.folder / "first"
    port = free_port()
    agents = [
        popen(
            1,
            *arguments,
            machine=("--nnodes=2", f"--node-rank={i}", "--master-addr=127.0.0.1", f"--master-port={port}"),
        )
        for i, arguments in enumerate((lab.arguments("run", ONE), there))
    ]
    said = [running.communicate(timeout=300) for running in agents]
    assert [running.returncode for running in agents] == [0, 0], said
    assert results(lab.run()) == alone
    lab.runs = lab.folder / "second"
    assert contents(lab.run()) == before


@pytest.mark.slow
@proc
@pytest.mark.parametrize("victim", ["rank", "leader", "agent"])
def test_without_restarts_nothing_is_left_behind(lab: Lab, victim: str):
    """torchrun fails where a rank is gone; where torchrun itself is, its ranks end within 5 s. Closed rounds stay."""
    with popen(2, *lab.arguments("run", *LONG)) as running:
        until(lambda: rounds(lab.run()) > 2, running)
        family = [pid for pid in descendants(running.pid) if "metadist_cli" in command(pid)]
        ranks = sorted(family, key=lambda pid: variable(pid, "RANK"))
        os.kill({"rank": ranks[1], "leader": ranks[0], "agent": running.pid}[victim], signal.SIGKILL)
        running.communicate(timeout=60)
    assert running.returncode != 0
    until(lambda: not any(map(alive, family)), seconds=5)
    closed = rounds(lab.run())
    assert closed > 2
    lab("run", *LONG[1:], f"train.rounds={closed}", "finetune.save=none")


@pytest.mark.slow
@proc
def test_a_rank_that_is_killed_comes_back(lab: Lab):
    """--max-restarts: the ranks begin anew and go on from the last closed round, to the same bytes."""
    settings = ("train.rounds=60", "train.local_steps=5", ONE)
    alone = trained(lab, "alone", *settings)
    lab.runs = lab.folder / "ranks"
    with popen(2, *lab.arguments("run", *settings), restarts=1) as running:
        until(lambda: rounds(lab.run()) > 2, running)
        ranks = [pid for pid in descendants(running.pid) if "metadist_cli" in command(pid)]
        os.kill(max(ranks), signal.SIGKILL)
        out, err = running.communicate(timeout=300)
    assert running.returncode == 0, out + err
    assert results(lab.run()) == alone


@pytest.mark.slow
@proc
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_on_one_of_two_machines_comes_back(lab: Lab, victim: int):
    """Only that machine's torchrun counts a failure, the other starts its rank anew beside it."""
    settings = ("train.rounds=60", "train.local_steps=5", ONE)
    alone = trained(lab, "alone", *settings)
    port = free_port()
    meet = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=two")
    labs = [Lab(lab.folder / name) for name in ("one", "two")]
    for each in labs:
        each("partition", *settings)
    agents = [popen(1, *each.arguments("run", *settings), restarts=2, machine=meet) for each in labs]
    until(lambda: any(rounds(each.run()) > 2 for each in labs), agents[0])
    ranks = [pid for agent in agents for pid in descendants(agent.pid) if "metadist_cli" in command(pid)]
    os.kill(next(pid for pid in ranks if variable(pid, "RANK") == str(victim)), signal.SIGKILL)
    said = [running.communicate(timeout=300) for running in agents]
    assert [running.returncode for running in agents] == [0, 0], said
    whole = [each for each in labs if rounds(each.run()) == 60]
    assert len(whole) == 1  # torchrun chooses who leads
    assert results(whole[0].run()) == alone


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        return free.getsockname()[1]


def trained(lab: Lab, place: str, *settings: str) -> dict[str, bytes]:
    """What a run leaves behind, in a folder of runs of its own, so that its name is the same."""
    lab.runs = lab.folder / place
    lab("run", *settings)
    return results(lab.run())


def torchrun(count: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    with popen(count, *arguments) as running:
        out, err = running.communicate(timeout=300)
    return subprocess.CompletedProcess(running.args, running.returncode, out, err)


def popen(
    count: int, *arguments: str, restarts: int = 0, machine: Sequence[str] = ("--standalone",)
) -> subprocess.Popen[str]:
    door = [sys.executable, "-m", "torch.distributed.run", *machine, f"--nproc-per-node={count}"]
    called = [*door, f"--max-restarts={restarts}", "-m", "metadist_cli", *arguments]
    extra = environment(PYTHONWARNINGS="default")  # torchrun's own
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(called, env=extra, cwd=ROOT, **pipes)


def until(true: Callable[[], bool], running: subprocess.Popen[str] | None = None, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert running is None or running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def rounds(run: Path) -> int:
    log = run / "metrics.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def variable(pid: int, name: str) -> str:
    """Of a process's environment."""
    lines = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)[name]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if parent(int(path.name)) == pid:
                found += [int(path.name), *descendants(int(path.name))]
        except OSError:
            continue
    return found


def test_ranks_meet_again_for_every_seed(lab: Lab):
    several = "seeds=[0, 1]"
    lab("run", ONE, several, name="calm")
    done = torchrun(2, *lab.arguments("run", ONE, several))
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        last = f"seed-{seed}/rounds/0003/global.safetensors"
        assert (lab.run() / last).read_bytes() == (lab.run("calm") / last).read_bytes()
