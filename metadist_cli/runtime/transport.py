"""Messages between the processes of a run: a header and parameters, as sealed safetensors over a channel of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch

from metadist_cli.core import files, tree
from metadist_cli.core.errors import RETRY, Diverged, Problem
from metadist_cli.core.tree import Params


class Channel(Protocol):
    """A connection to one other process; both methods raise OSError or EOFError if that process has ended."""

    def send(self, data: bytes) -> None: ...
    def receive(self) -> bytes: ...


class Pipe(NamedTuple):
    """To a worker on this machine."""

    connection: Any  # multiprocessing's Connection, which is another class on another system

    def send(self, data: bytes) -> None:
        self.connection.send_bytes(data)

    def receive(self) -> bytes:
        return self.connection.recv_bytes()


class Rank(NamedTuple):
    """To a rank of torchrun, over gloo."""

    rank: int

    def send(self, data: bytes) -> None:
        with _lost():
            torch.distributed.send(torch.tensor([len(data)]), self.rank)
            torch.distributed.send(torch.frombuffer(bytearray(data), dtype=torch.uint8), self.rank)

    def receive(self) -> bytes:
        with _lost():
            size = torch.zeros(1, dtype=torch.int64)
            torch.distributed.recv(size, self.rank)
            data = torch.empty(int(size), dtype=torch.uint8)
            torch.distributed.recv(data, self.rank)
        return data.numpy().tobytes()


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo: the other side closed its connection
        raise EOFError(str(error)) from error


def packed(header: dict[str, Any], **parts: Params) -> bytes:
    return files.pack(tree.prefixed(**parts), header)


def unpacked(data: bytes) -> tuple[dict[str, Any], dict[str, Params]]:
    leaves, header = files.unpack(data, "message")
    return header, {name: tree.part(leaves, name) for name in ("shared", "own")}


def send(channel: Channel, header: dict[str, Any], **parts: Params) -> None:
    try:
        channel.send(packed(header, **parts))
    except (EOFError, OSError) as error:
        raise _gone() from error


def receive(channel: Channel) -> tuple[dict[str, Any], dict[str, Params]]:
    try:
        header, parts = unpacked(channel.receive())
    except (EOFError, OSError) as error:
        raise _gone() from error
    if "problem" in header:
        raise (Diverged if header["diverged"] else Problem)(**header["problem"])
    return header, parts


def packed_problem(problem: Problem) -> bytes:
    """The message from which `receive` raises this problem."""
    fields = {"message": problem.message, "where": problem.where, "hint": problem.hint, "code": problem.code}
    return packed({"problem": fields, "diverged": isinstance(problem, Diverged)})


def _gone() -> Problem:
    hint = "closed rounds are kept: run the same command again (with fewer processes if memory ran out)"
    return Problem("a training process died", "", hint, RETRY)
