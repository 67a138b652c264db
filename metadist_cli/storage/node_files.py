"""Node files: what nodes send in an open round, and which of them the round is closed with."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from metadist_cli.core import files, tree
from metadist_cli.core.errors import Problem
from metadist_cli.core.tree import Params
from metadist_cli.federated.updates import Updates, joined
from metadist_cli.storage import node_states
from metadist_cli.storage.checkpoints import bytes_at_most
from metadist_cli.storage.run_directory import PACK, Run, frozen_inputs

_AT_RISK = 30.0  # seconds of work that a kill may cost a job beside its running block
_ANY = 1 << 40  # bytes of a file whose size is not known beforehand; its parser has limits of its own


def leave_open(run: Run, number: int, parent: str, updates: Iterable[Updates]) -> list[str]:
    """Write the node files of an open round: consecutive nodes together, up to 1,000 a file. Returns their names.

    No finished update waits for more than half a minute of later work. What nodes keep is written first, so
    that an update never exists without it.
    """
    names = []
    for group in _consecutive(updates):
        node_states.write_state(run, number, [group])
        name = f"nodes-{group.nodes[0]:03d}-{group.nodes[-1]:03d}.safetensors"
        files.write(run.round(number) / name, _node_file(number, parent, group))
        names.append(name)
    return names


def _node_file(number: int, parent: str, updates: Updates) -> bytes:
    metrics = [{name: values[i] for name, values in updates.metrics.items()} for i in range(len(updates.nodes))]
    header = {"round": number, "parent": parent, "nodes": updates.nodes, "metrics": metrics}
    return files.pack(updates.shared, header)


def node_bytes(template: Params, metric: str) -> int:
    """Size of the file in which one node sends its update, as it is serialised."""
    figures = {"loss": [1 / 3], metric: [1 / 3]}  # as many digits as most have
    return len(_node_file(1, files.sha256(b""), Updates([0], tree.expand(template, 1), {}, [1], figures)))


def _consecutive(updates: Iterable[Updates]) -> Iterator[Updates]:
    """Cut where a number is left out, at a thousand nodes, and where a kill would lose too much."""
    group: list[Updates] = []
    written = time.monotonic()
    for some in updates:
        for places in _runs(some.nodes):
            follows = group and some.nodes[places[0]] == group[-1].nodes[-1] + 1
            if group and not (follows and sum(len(g.nodes) for g in group) + len(places) <= PACK):
                yield joined(group)
                group = []
            group.append(some.take(places))
        if time.monotonic() - written > _AT_RISK:
            yield joined(group)
            group, written = [], time.monotonic()
    if group:
        yield joined(group)


def _runs(nodes: list[int]) -> list[list[int]]:
    """The places of consecutive numbers, at most a thousand together."""
    runs: list[list[int]] = []
    for place, node in enumerate(nodes):
        if not runs or node != nodes[place - 1] + 1 or len(runs[-1]) == PACK:
            runs.append([])
        runs[-1].append(place)
    return runs


def update_files(run: Run, number: int) -> list[Path]:
    return sorted(run.round(number).glob("nodes-*.safetensors"))


def named_nodes(run: Run, number: int) -> set[int] | None:
    """The nodes in the names of a round's node files; None if a name, which may be anything, does not tell."""
    found: set[int] = set()
    for path in update_files(run, number):
        ends = re.fullmatch(r"nodes-([0-9]{3,7})-([0-9]{3,7})\.safetensors", path.name)
        first, last = map(int, ends.groups()) if ends else (0, PACK)
        if last - first >= PACK:
            return None
        found.update(range(first, last + 1))
    return found


def read_updates(path: Path, number: int, parent: str, template: Params, weights: dict[int, int]) -> Updates:
    """The updates in one node file, which is untrusted; weights: the sampled nodes' rows, from the partition manifest.

    Raises Problem if the file is damaged, of another round or parent, or of nodes that were not sampled.
    """
    data = files.read(path, bytes_at_most(template, min(PACK, len(weights))), "node file")
    stacked, header = files.unpack(data, str(path))
    if header.get("round") != number or header.get("parent") != parent:
        raise Problem(
            f"these nodes were not trained from the checkpoint of round {number - 1}",
            str(path),
            f"delete the file and train its nodes for round {number} again: metadist train CONFIG --nodes ...",
        )
    nodes, metrics = _reported(header)
    if not nodes:
        raise Problem(
            "the header does not name the nodes in this file", str(path), "delete the file and train its nodes again"
        )
    strangers = [n for n in nodes if n not in weights]
    if strangers:
        raise Problem(f"node {strangers[0]} does not take part in round {number}", str(path), "delete the file")
    files.check(stacked, {k: v.expand(len(nodes), *v.shape) for k, v in template.items()}, str(path))
    figures = {name: [m[name] for m in metrics] for name in metrics[0]}
    return Updates(nodes, stacked, {}, [weights[n] for n in nodes], figures)


def _reported(header: dict[str, Any]) -> tuple[list[int], list[dict[str, float]]]:
    """(nodes, their metrics) in an untrusted header; empty unless it names each node once, with the same metrics."""
    nodes, metrics = header.get("nodes"), header.get("metrics")
    if not (isinstance(nodes, list) and isinstance(metrics, list) and 0 < len(nodes) == len(metrics)):
        return [], []
    figures = [m for m in metrics if isinstance(m, dict) and all(type(v) is float for v in m.values())]
    kinds = {tuple(sorted(m)) for m in figures}
    sound = all(type(n) is int for n in nodes) and len(set(nodes)) == len(figures) == len(nodes) and len(kinds) == 1
    return (nodes, figures) if sound else ([], [])


def frozen_updates(
    run: Run, number: int, parent: str, template: Params, weights: dict[int, int], inputs: dict[str, Any]
) -> Iterator[Updates]:
    """The updates in the frozen files, in the order of nodes; of two files with the same node, the first counts."""

    @lru_cache(maxsize=4)  # files of neighbouring nodes: not all of them are in memory at once
    def there(name: str) -> Updates:
        return read_updates(run.round(number) / name, number, parent, template, weights)

    owner: dict[int, str] = {}
    for name, sha256 in inputs["files"].items():
        path = run.round(number) / name
        if not path.exists() or file_sha256(path) != sha256:
            raise Problem(
                "this node file changed after the round began to close with it",
                str(path),
                f"put the file back, or delete {path.with_name('inputs.json')} to rescan the node files",
            )
        for node in there(name).nodes:
            owner.setdefault(node, name)
    for name, nodes in groupby(sorted(owner), key=owner.__getitem__):
        some = there(name)
        place = {node: i for i, node in enumerate(some.nodes)}
        yield some.take([place[node] for node in nodes])


def late_files(run: Run, number: int) -> list[str]:
    """Names of the node files of a round that came after it was closed with others."""
    inputs = frozen_inputs(run, number)
    return [] if inputs is None else [f.name for f in update_files(run, number) if f.name not in inputs["files"]]


def file_sha256(path: Path) -> str:
    """SHA-256 of a node file."""
    return files.sha256(files.read(path, _ANY, "node file"))
