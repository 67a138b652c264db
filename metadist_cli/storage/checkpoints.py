"""The global checkpoint of each round."""

from __future__ import annotations

from typing import Any, NamedTuple

from metadist_cli.core import files
from metadist_cli.core.errors import Problem
from metadist_cli.core.tree import Params
from metadist_cli.storage.run_directory import Run

_SLACK = 64 << 20  # header and metrics of a checkpoint file


class GlobalModel(NamedTuple):
    """The global model after a closed round, as its checkpoint holds it.

    sha256: of the file. header: "parent" (the hash of the round before), "nodes", "dropped" and "metrics".
    """

    round: int
    params: Params
    sha256: str
    header: dict[str, Any]


def write_global(run: Run, number: int, params: Params, header: dict[str, Any]) -> GlobalModel:
    """Commit a round's global checkpoint; the first writer wins, equal bytes are welcome.

    It holds the result alone, without a run name, time or host, so that equal results have equal hashes.
    """
    data = files.pack(params, {"round": number, **header})
    files.publish(run.checkpoint(number), data)
    return GlobalModel(number, params, files.sha256(data), header)


def read_global(run: Run, number: int, template: Params) -> GlobalModel:
    """The global model of a closed round, checked against the model's own shapes. Raises Problem."""
    path = run.checkpoint(number)
    data = files.read(path, bytes_at_most(template), "global checkpoint")
    params, header = files.unpack(data, str(path))
    files.check(params, template, str(path))
    if header.get("round") != number:
        message = f"this checkpoint is of round {header.get('round')}, not {number}"
        raise Problem(message, str(path), "delete it and run the command again, which trains the round again")
    return GlobalModel(number, params, files.sha256(data), header)


def bytes_at_most(template: Params, copies: int = 1) -> int:
    """Largest size of a file that holds a template's leaves, `copies` times."""
    return copies * sum(v.numel() * v.element_size() for v in template.values()) + _SLACK
