"""Other processes that train blocks of nodes: local workers, or the ranks that torchrun started.

Both speak one protocol over a channel of bytes: the leader says which blocks and sends the global parameters, the
others answer block by block, and the leader alone writes the run directory. A block is computed by the same code on the
same rows wherever that is, so the number of processes changes no bit. Each process reads the shards of its blocks from
its own copy of the run, against the hashes that the leader sends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from metadist_cli.config import Config
from metadist_cli.core import tree
from metadist_cli.core.console import Console
from metadist_cli.core.errors import BUG, Problem
from metadist_cli.core.tree import Params
from metadist_cli.experiment import Experiment, assemble
from metadist_cli.federated.aggregators import Updates
from metadist_cli.federated.rounds import Room, run_nodes
from metadist_cli.partition.pooled import union
from metadist_cli.partition.shards import Shard, pool
from metadist_cli.runtime import memory
from metadist_cli.runtime.execution import Setting, computed, device, settle
from metadist_cli.runtime.torchrun import ranks
from metadist_cli.runtime.transport import Channel, Pipe, Rank, packed, receive, send, told, unpacked
from metadist_cli.storage import run_directory
from metadist_cli.storage.run_directory import Run
from metadist_cli.tasks.episodes import Pool


class Member:
    """One process's part in the training of an experiment; it keeps the shards that it has read."""

    def __init__(
        self,
        experiment: Experiment,
        run: Run,
        manifest: dict[str, Any],
        execution: dict[str, Any],
        room: Room,
    ):
        """execution: as in `Setting`."""
        self.experiment, self.execution, self.room = experiment, execution, room
        self._run, self._manifest = run, manifest
        self._file = {entry["node"]: entry["file"] for entry in manifest["nodes"] if entry["role"] == "train"}
        self._shards: dict[int, Shard] = {}
        self._pool: tuple[list[int], Pool] | None = None

    def updates(
        self, nodes: list[int], number: int, before: int, shared: Params, owns: dict[int, Params]
    ) -> Iterator[Updates]:
        """What these nodes make of the global parameters in a round, block by block. before: local steps so far."""
        device = torch.device(self.execution["device"])
        here = {k: v.to(device) for k, v in shared.items()}
        for some in run_nodes(
            self.experiment.algorithm,
            here,
            lambda node: {k: v.to(device) for k, v in owns[node].items()},
            self._rows(nodes, device),
            lambda part: self.experiment.sampler(part, number),
            self.execution["block"],
            before,
            self.execution["threads"],
            self.room,
        ):
            yield some._replace(shared=_home(some.shared), own=_home(some.own))

    def _rows(self, nodes: list[int], device: torch.device) -> Pool:
        if self._pool is None or self._pool[0] != nodes:
            rows = pool(self._held(nodes), self.experiment.spec.divide, device)
            self._pool = nodes, rows
        return self._pool[1]

    def _held(self, nodes: list[int]) -> list[Shard]:
        """The shards of these nodes; where each round has others, files are read once, whole, and kept.

        Pooled: the rows of all training nodes as one node's.
        """
        if self.experiment.config.pooled:
            return [union(run_directory.read_shards(self._run, self._manifest, self._file))]
        if self.experiment.config.train.nodes_per_round == "all":  # asked for once, and the pool is a copy
            return run_directory.read_shards(self._run, self._manifest, nodes)
        wanted = {self._file[node] for node in nodes if node not in self._shards}
        there = [node for node, file in self._file.items() if file in wanted] if wanted else []
        self._shards |= {shard.node: shard for shard in run_directory.read_shards(self._run, self._manifest, there)}
        return [self._shards[node] for node in nodes]


def _home(params: Params) -> Params:
    return {k: v.cpu() for k, v in params.items()}


class Team(NamedTuple):
    """The leader's side: its own part, a channel to each other process, and the memory that each of these has taken."""

    leader: Member
    others: Sequence[Channel]
    peaks: list[dict[str, int]]

    def updates(
        self, nodes: list[int], number: int, before: int, shared: Params, owns: dict[int, Params]
    ) -> Iterator[Updates]:
        """As `Member.updates`, the blocks dealt in turn. Raises what a process raised, RETRY if it is gone."""
        block = self.leader.execution["block"]
        blocks = [nodes[i : i + block] for i in range(0, len(nodes), block)]
        count = len(self.others) + 1
        for i, channel in enumerate(self.others, 1):
            if mine := blocks[i::count]:  # one without work is not asked: nobody would read its answer
                own = tree.stack(owns[node] for block in mine for node in block)
                send(channel, {"round": number, "before": before, "blocks": mine}, shared=shared, own=own)
        mine = self.leader.updates([n for block in blocks[::count] for n in block], number, before, shared, owns)
        for i, block in enumerate(blocks):
            left = block
            while left:  # in parts, where memory was short
                some = next(mine) if i % count == 0 else self._received(i % count - 1, left)
                left = left[len(some.nodes) :]
                yield some

    def _received(self, other: int, nodes: list[int]) -> Updates:
        """What another process made of the first of these nodes."""
        header, parts = receive(self.others[other])
        self.leader.room.lower(header["room"])
        self.peaks[other] = header["memory"]
        weights = header["weights"]
        return Updates(nodes[: len(weights)], parts["shared"], parts["own"], weights, header["metrics"])


def _open(others: Sequence[Channel], leader: Member, manifest: dict[str, Any], run: Run) -> Team:
    """The team, each of which knows what is to be trained."""
    header = {
        "config": leader.experiment.config.resolved(),
        "manifest": manifest,
        "folder": str(run.shards.parent.resolve()),
        "execution": leader.execution,
        "room": leader.room.nodes,
    }
    for channel in others:
        send(channel, header)
    return Team(leader, others, [{} for _ in others])


def serve(channel: Channel, folder: Path | None = None) -> None:
    """The other side: train what the leader asks for until it says that all is done.

    folder: this process's own copy of the run directory; None: the leader's. Raises EOFError or OSError where the
    leader is gone.
    """
    member: Member | None = None
    while True:
        header, parts = unpacked(channel.receive())
        if "end" in header:
            return
        try:
            if "config" in header:
                member = _joined(header, folder)
                continue
            assert member is not None
            nodes = [node for block in header["blocks"] for node in block]
            owns = {node: tree.index(parts["own"], i) for i, node in enumerate(nodes)}
            for some in member.updates(nodes, header["round"], header["before"], parts["shared"], owns):
                figures = {"weights": some.weights, "metrics": some.metrics, "room": member.room.nodes}
                figures["memory"] = memory.peak()
                channel.send(packed(figures, shared=some.shared, own=some.own))
        except Problem as problem:
            channel.send(told(problem))
        except Exception as error:  # the leader speaks for all, and nobody is to wait for this process
            hint = "run the same command with execution.workers=1 -v and send us what it prints"
            channel.send(told(Problem(f"a bug of metadist's: {type(error).__name__}: {error}", "", hint, BUG)))


def _joined(opened: dict[str, Any], folder: Path | None) -> Member:
    experiment = assemble(Config.model_validate(opened["config"]), run_directory.spec_in(opened["manifest"]))
    run, execution = Run.at(Path(opened["folder"]) if folder is None else folder), opened["execution"]
    if execution["device"].startswith("cuda") and "LOCAL_RANK" in os.environ:
        mine = _gpu(execution["device"], int(os.environ["LOCAL_RANK"]), torch.cuda.device_count())
        execution["device"] = str(device(mine))
    settle(execution["precision"])
    return Member(computed(experiment, execution), run, opened["manifest"], execution, Room(opened["room"]))


def _gpu(leaders: str, rank: int, count: int) -> str:
    """Which of a machine's GPUs a rank takes: one after the other from the leader's on, then from the first."""
    return f"cuda:{((torch.device(leaders).index or 0) + rank) % max(1, count)}"


@contextmanager
def team(setting: Setting, run: Run, console: Console, fits: int | None = None) -> Iterator[Team]:
    """Who trains: the ranks of torchrun, or execution.workers processes on this machine, this one among them.

    fits: nodes at a time that are known to fit into memory. Workers end with this process, however it ends.
    """

    def say(nodes: int) -> None:
        console.warn(f"memory ran out: {nodes} nodes at a time from now on, where the block is {setting.block}")

    workers = setting.experiment.config.execution.workers
    crew = [] if ranks() > 1 else [_Worker() for _ in range(workers - 1)]
    others = [Rank(rank) for rank in range(1, ranks())] or [worker.channel for worker in crew]
    room = Room(min(fits or setting.block, setting.block), say)
    leader = Member(setting.experiment, run, setting.manifest, setting.execution, room)
    try:
        yield _open(others, leader, setting.manifest, run)
    finally:
        for worker in crew:
            worker.end()


class _Worker:
    """A process on this machine, one thread, that ends when this one does."""

    def __init__(self):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["metadist_cli.runtime.workers"])
        ours, theirs = context.Pipe()
        alive, self._alive = context.Pipe(duplex=False)  # never written to: it breaks when this process is gone
        self._process = context.Process(target=_work, args=(theirs, alive), daemon=True)
        self._process.start()
        theirs.close()
        alive.close()
        self.channel = Pipe(ours)

    def end(self) -> None:
        self._process.terminate()
        self._process.join()


def _work(connection: Connection, alive: Connection) -> None:
    """A worker's life. Ctrl-C is the leader's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            alive.recv_bytes()
        os._exit(1)  # even in the middle of a block

    threading.Thread(target=watch, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        serve(Pipe(connection))
