"""What nodes keep between rounds: files that stay with them and never reach the aggregator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from metadist_cli.core import files, tree
from metadist_cli.core.errors import Problem
from metadist_cli.core.tree import Params
from metadist_cli.federated.updates import Updates, joined
from metadist_cli.storage.checkpoints import bytes_at_most
from metadist_cli.storage.run_directory import PACK, Run, dropped_nodes

_ANY = 1 << 40  # bytes of a file whose size is not known beforehand; its parser has limits of its own


def write_state(run: Run, number: int, updates: list[Updates]) -> None:
    """Write what nodes keep after a round; nothing if they keep nothing."""
    kept = [some._replace(shared={}) for some in updates if some.own]
    if not kept:
        return
    whole = joined(kept)
    for begin in range(0, len(whole.nodes), PACK):
        nodes = whole.nodes[begin : begin + PACK]
        which = files.sha256(repr(nodes).encode())[:8]  # two sets of nodes may begin and end alike
        name = f"state-{nodes[0]:03d}-{nodes[-1]:03d}-{which}.safetensors"
        own = {k: v[begin : begin + PACK] for k, v in whole.own.items()}
        files.write(run.round(number) / name, files.pack(own, {"round": number, "nodes": nodes}))


def read_state(run: Run, before: int, nodes: Iterable[int], first: Params) -> dict[int, Params]:
    """What nodes kept when they last took part in a round below `before`; `first` if they never did.

    A node that was dropped from a round did not take part in it, whatever it kept.
    """
    missing = set(nodes)
    found: dict[int, Params] = {}
    for number in range(before - 1, 0, -1) if first else ():
        if not missing:
            break
        dropped = dropped_nodes(run, number)
        for path in sorted(run.round(number).glob("state-*.safetensors")):
            stacked, header = files.unpack(files.read(path, bytes_at_most(first, PACK), "state of nodes"), str(path))
            there = header["nodes"]
            files.check(stacked, {k: v.expand(len(there), *v.shape) for k, v in first.items()}, str(path))
            for i, node in enumerate(there):
                if node in missing and node not in dropped:
                    found[node] = tree.index(stacked, i)
                    missing.discard(node)
    return found | dict.fromkeys(missing, first)


def read_kept(
    run: Run, before: int, nodes: Iterable[int], first: Params, sampled: Callable[[int], list[int]]
) -> dict[int, Params]:
    """`read_state`, where a missing state is an error; sampled(round): the nodes that were sampled for it.

    Raises Problem if a node took part in a closed round and its state is missing.
    """
    kept = read_state(run, before, nodes, first)
    fresh = {node for node, own in kept.items() if own is first} if first else set()
    for number in range(before - 1, 0, -1) if fresh else ():
        took_part = fresh & set(sampled(number)) - dropped_nodes(run, number)
        if took_part:
            raise Problem(
                f"the state of node {min(took_part)} after round {number} is missing",
                str(run.round(number)),
                "put its state file there; if nodes keep theirs on other machines, train only yours with --nodes",
            )
    return kept


def prune_states(run: Run, closed: int, best: int | None = None) -> None:
    """Delete state files that neither the closed round needs nor the best one, in rounds up to the closed one.

    A round needs the files of the nodes that have no newer state then.
    """
    held = {
        path: (number, set(files.unpack(files.read(path, _ANY, "state of nodes"), str(path))[1]["nodes"]))
        for number in range(closed, 0, -1)
        for path in sorted(run.round(number).glob("state-*.safetensors"))
    }
    needed: set[Path] = set()
    for after in {closed, closed if best is None else best}:
        newer: set[int] = set()
        for path, (number, there) in held.items():
            nodes = there - dropped_nodes(run, number)
            if number <= after:
                needed |= set() if newer.issuperset(nodes) else {path}
                newer |= nodes
    for path in held.keys() - needed:
        path.unlink(missing_ok=True)
