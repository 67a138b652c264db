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
from metadist_cli.core import seeds, tree
from metadist_cli.core.console import Console
from metadist_cli.core.errors import BUG, Diverged, Problem
from metadist_cli.core.tree import Params
from metadist_cli.experiment import Experiment, assemble
from metadist_cli.federated.node_training import MemoryLimit, NodeWork, in_blocks, run_nodes
from metadist_cli.federated.updates import Updates
from metadist_cli.partition.pooled import union
from metadist_cli.partition.shards import Shard
from metadist_cli.runtime import memory
from metadist_cli.runtime.divergence import explained
from metadist_cli.runtime.execution import Setting, computed, device, settle
from metadist_cli.runtime.torchrun import ranks
from metadist_cli.runtime.transport import Channel, Pipe, Rank, packed, packed_problem, receive, send, unpacked
from metadist_cli.storage import shard_files
from metadist_cli.storage.run_directory import Run
from metadist_cli.tasks.episodes import Pool


class Order(NamedTuple):
    """What the nodes of a round start from.

    number: of the round. steps_before: local steps in earlier rounds. start: the shared leaves of the global model.
    kept: what each node keeps from its last round.
    """

    number: int
    steps_before: int
    start: Params
    kept: dict[int, Params]


class Member:
    """One process's part in the training of an experiment; it keeps the shards that it has read."""

    def __init__(
        self,
        experiment: Experiment,
        run: Run,
        manifest: dict[str, Any],
        execution: dict[str, Any],
        limit: MemoryLimit,
    ):
        """execution: as in `Setting`."""
        self.experiment, self.execution, self.limit = experiment, execution, limit
        self._run, self._manifest = run, manifest
        self._file = {entry["node"]: entry["file"] for entry in manifest["nodes"] if entry["role"] == "train"}
        self._shards: dict[int, Shard] = {}
        self._pool: tuple[list[int], Pool] | None = None

    def updates(self, nodes: list[int], order: Order) -> Iterator[Updates]:
        """Train these nodes from an order's start, block by block."""
        experiment, device = self.experiment, torch.device(self.execution["device"])
        work = NodeWork(
            experiment.algorithm,
            {k: v.to(device) for k, v in order.start.items()},
            lambda rows: experiment.sampler(rows, order.number),
            order.steps_before,
            experiment.server.uplink,
            seeds.key(experiment.config.seed, "uplink", order.number),
        )

        def kept(node: int) -> Params:
            return {k: v.to(device) for k, v in order.kept[node].items()}

        rows = self._rows(nodes, device)
        try:
            for some in run_nodes(work, rows, kept, self.limit, self.execution["threads"]):
                yield some._replace(shared=_home(some.shared), own=_home(some.own))
        except Diverged as problem:
            raise explained(problem, experiment, rows) from None

    def _rows(self, nodes: list[int], device: torch.device) -> Pool:
        if self._pool is None or self._pool[0] != nodes:
            rows = self.experiment.spec.pool(self._held(nodes), device)
            self._pool = nodes, rows
        return self._pool[1]

    def _held(self, nodes: list[int]) -> list[Shard]:
        """The shards of these nodes. If rounds sample nodes, each file is read once, whole, and kept.

        Pooled: the rows of all training nodes as one node's.
        """
        if self.experiment.config.pooled:
            return [union(shard_files.read_shards(self._run, self._manifest, self._file))]
        if self.experiment.config.train.nodes_per_round == "all":  # asked for once, and the pool is a copy
            return shard_files.read_shards(self._run, self._manifest, nodes)
        wanted = {self._file[node] for node in nodes if node not in self._shards}
        there = [node for node, file in self._file.items() if file in wanted] if wanted else []
        self._shards |= {shard.node: shard for shard in shard_files.read_shards(self._run, self._manifest, there)}
        return [self._shards[node] for node in nodes]


def _home(params: Params) -> Params:
    return {k: v.cpu() for k, v in params.items()}


class Team(NamedTuple):
    """The leader's side: its own part, a channel to each other process, and the memory that each of these has taken."""

    leader: Member
    others: Sequence[Channel]
    peaks: list[dict[str, int]]

    def updates(self, nodes: list[int], order: Order) -> Iterator[Updates]:
        """As `Member.updates`, with blocks dealt in turn. Raises what a process raised, RETRY if one died."""
        blocks = in_blocks(nodes, self.leader.limit.block)
        count = len(self.others) + 1
        for i, channel in enumerate(self.others, 1):
            if mine := blocks[i::count]:  # one without work is not asked: nobody would read its answer
                own = tree.stack(order.kept[node] for block in mine for node in block)
                header = {"round": order.number, "before": order.steps_before, "blocks": mine}
                send(channel, header, shared=order.start, own=own)
        mine = self.leader.updates([node for block in blocks[::count] for node in block], order)
        for i, block in enumerate(blocks):
            left = block
            while left:  # in parts, where memory was short
                some = next(mine) if i % count == 0 else self._received(i % count - 1, left)
                left = left[len(some.nodes) :]
                yield some

    def _received(self, other: int, nodes: list[int]) -> Updates:
        """What another process made of the first of these nodes."""
        header, parts = receive(self.others[other])
        self.leader.limit.lower(header["at_once"])
        self.peaks[other] = header["memory"]
        weights = header["weights"]
        return Updates(nodes[: len(weights)], parts["shared"], parts["own"], weights, header["metrics"])


def _open(others: Sequence[Channel], leader: Member, manifest: dict[str, Any], run: Run) -> Team:
    """The team, after telling every process what to train."""
    header = {
        "config": leader.experiment.config.resolved(),
        "manifest": manifest,
        "folder": str(run.shards.parent.resolve()),
        "execution": leader.execution,
        "at_once": leader.limit.nodes,
    }
    for channel in others:
        send(channel, header)
    return Team(leader, others, [{} for _ in others])


def serve(channel: Channel, folder: Path | None = None) -> None:
    """The other side: train what the leader asks for until it ends.

    folder: this process's own copy of the run directory; None: the leader's. Raises EOFError or OSError if
    the leader has died.
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
            kept = {node: tree.index(parts["own"], i) for i, node in enumerate(nodes)}
            for some in member.updates(nodes, Order(header["round"], header["before"], parts["shared"], kept)):
                figures = {"weights": some.weights, "metrics": some.metrics, "at_once": member.limit.nodes}
                figures["memory"] = memory.peak()
                channel.send(packed(figures, shared=some.shared, own=some.own))
        except Problem as problem:
            channel.send(packed_problem(problem))
        except Exception as error:  # the leader speaks for all, and nobody is to wait for this process
            hint = "run the same command with execution.workers=1 -v, and report the bug with what it prints"
            channel.send(packed_problem(Problem(f"internal error: {type(error).__name__}: {error}", "", hint, BUG)))


def _joined(opened: dict[str, Any], folder: Path | None) -> Member:
    experiment = assemble(Config.model_validate(opened["config"]), shard_files.spec_in(opened["manifest"]))
    run, execution = Run.at(Path(opened["folder"]) if folder is None else folder), opened["execution"]
    if execution["device"].startswith("cuda") and "LOCAL_RANK" in os.environ:
        mine = _gpu(execution["device"], int(os.environ["LOCAL_RANK"]), torch.cuda.device_count())
        execution["device"] = str(device(mine))
    settle(execution["precision"])
    limit = MemoryLimit(execution["block"], opened["at_once"])
    return Member(computed(experiment, execution), run, opened["manifest"], execution, limit)


def _gpu(leaders: str, rank: int, count: int) -> str:
    """The GPU that a rank uses: the machine's GPUs in turn, starting with the leader's."""
    return f"cuda:{((torch.device(leaders).index or 0) + rank) % max(1, count)}"


@contextmanager
def team(setting: Setting, run: Run, console: Console, fits: int | None = None) -> Iterator[Team]:
    """Who trains: the ranks of torchrun, or execution.workers processes on this machine, this one among them.

    fits: nodes at a time that are known to fit into memory. Workers end with this process, however it ends.
    """

    def warn(nodes: int) -> None:
        console.warn(f"out of memory: training {nodes} nodes at a time instead of {setting.block}")

    workers = setting.experiment.config.execution.workers
    crew = [] if ranks() > 1 else [_Worker() for _ in range(workers - 1)]
    others = [Rank(rank) for rank in range(1, ranks())] or [worker.channel for worker in crew]
    limit = MemoryLimit(setting.block, fits, warn)
    leader = Member(setting.experiment, run, setting.manifest, setting.execution, limit)
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
        alive, self._alive = context.Pipe(duplex=False)  # never written to: it breaks when this process ends
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
