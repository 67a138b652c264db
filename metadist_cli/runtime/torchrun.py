"""The ranks that torchrun started: how they meet, who leads, and when they end."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

from metadist_cli.core.errors import RETRY
from metadist_cli.runtime.transport import Channel, Rank, send

_FOREVER = timedelta(days=365)  # a rank waits while the leader partitions and evaluates


def ranks() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


@contextmanager
def among_ranks(serve: Callable[[Channel], None]) -> Iterator[bool]:
    """Connect to the other ranks of torchrun, if any; yields True for the leader, which does the command's work.

    The others serve it until it is done. If it has died they exit with RETRY, silently, since torchrun reports it.
    serve: does what the leader asks for over a channel.
    """
    if ranks() == 1:
        yield True
        return
    threading.Thread(target=_watch_agent, args=(os.getppid(),), daemon=True).start()
    found, rank, count = next(rendezvous("env://"))
    name = _meeting(found, rank, count)
    mine = torch.distributed.PrefixStore(name, found)  # pyright: ignore[reportPrivateImportUsage]
    torch.distributed.init_process_group("gloo", store=mine, rank=rank, world_size=count, timeout=_FOREVER)
    try:
        if torch.distributed.get_rank() > 0:
            try:
                serve(Rank(0))
            except (EOFError, OSError):
                raise SystemExit(RETRY) from None
            yield False
            return
        yield True
        for rank in range(1, ranks()):
            send(Rank(rank), {"end": True})
    finally:
        torch.distributed.destroy_process_group()


def _meeting(store: Store, rank: int, count: int) -> str:
    """A name that all ranks know and that no earlier start used, agreed on through torchrun's store.

    torchrun keeps its store when it restarts the ranks: under the old names they would find the dead ranks' addresses.
    The number of restarts does not work as a name, because agents on several machines may count differently. So the
    leader makes up a name, the others register for it, and it holds for those that the leader saw.
    """
    me = secrets.token_hex(8)
    if rank == 0:
        store.set("metadist", me)
        seen = [store.get(f"metadist {me} {other}").decode() for other in range(1, count)]
        store.set(f"metadist {me}", " ".join(seen))
        return me
    while True:
        leader = store.get("metadist").decode()  # perhaps a dead one's
        store.set(f"metadist {leader} {rank}", me)
        if store.check([f"metadist {leader}"]) and me in store.get(f"metadist {leader}").decode().split():
            return leader
        time.sleep(0.1)


def _watch_agent(agent: int) -> None:
    """End together with the torchrun process that started this rank; otherwise it would train on and lock the run."""
    while os.getppid() == agent:
        time.sleep(1)
    os._exit(RETRY)
