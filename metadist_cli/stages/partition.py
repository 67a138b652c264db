"""partition: a data set becomes one shard a node, and a manifest that says who has what."""

from __future__ import annotations

from typing import Any

import numpy as np

from metadist_cli import files, store
from metadist_cli.config import Config
from metadist_cli.console import Console
from metadist_cli.datasets import Dataset
from metadist_cli.errors import CONFIG, Problem
from metadist_cli.experiment import Spec, assemble_all, deal, load_data, new_tasks, spec_of
from metadist_cli.shards import Shard, account
from metadist_cli.stages.setting import command
from metadist_cli.store import Run

_SHOWN = 12  # nodes in the table


def partition(config: Config, run: Run, console: Console) -> dict[str, Any]:
    """Deal the data out, unless the run has its shards already. Returns what there is: nodes and rows by role."""
    store.agree(config, run)
    if _complete(run):
        manifest = store.shard_manifest(run)
        console.say(f"partition: already done, {run.shards}")
        return _summary(manifest, run)
    data = load_data(config)
    shards = deal(config, data)
    spec = spec_of(data, shards)
    experiment = assemble_all(config, spec)["main"]  # whatever does not fit is told before anything is written
    _same_data(run, data)
    check_new_tasks(config, spec, shards)
    show(data, shards, spec, console)
    with command("partition", config, run, experiment) as result:
        manifest = store.write_shards(run, shards, spec, data, config)
        from metadist_cli.report.pictures import partition_png

        files.write(run.shards / "partition.png", partition_png(manifest))
        files.write(run.shards / "manifest.json", files.to_json(manifest))
        result |= _summary(manifest, run)
    console.say(f"partition: {len(shards)} shards in {run.shards}, picture in partition.png")
    return result


def _same_data(run: Run, data: Dataset) -> None:
    """Raises Problem where lost shards would be made again from other data than those of the manifest."""
    if (run.shards / "manifest.json").exists() and store.shard_manifest(run)["data"]["sha256"] != data.sha256:
        raise Problem(
            "shards are missing, and the data set is no longer the one that they were made from",
            str(run.shards),
            "put the data back, or begin anew with --restart",
        )


def _complete(run: Run) -> bool:
    """Whether the manifest is there and every file that it names has its size."""
    if not (run.shards / "manifest.json").exists():
        return False
    told = store.shard_manifest(run)["files"]
    return all(
        (run.shards / name).is_file() and (run.shards / name).stat().st_size == f["bytes"] for name, f in told.items()
    )


def _summary(manifest: dict[str, Any], run: Run) -> dict[str, Any]:
    roles = [node["role"] for node in manifest["nodes"]]
    nodes = {role: roles.count(role) for role in ("train", "validation", "test")}
    return {"nodes": nodes, "rows": manifest["rows"], "shards": str(run.shards), "next": "train"}


def check_new_tasks(config: Config, spec: Spec, shards: list[Shard]) -> None:
    """Raises Problem where finetune will find no held-out shard, or one too poor for its new tasks."""
    wanted = config.finetune.held_out
    if wanted not in {shard.role for shard in shards}:
        message = f"nothing is held out for {wanted}, so new tasks have no source"
        raise Problem(message, f"task.new.{wanted}", f"hold some {config.task.new.from_} out", CONFIG)
    for shard in shards:
        if shard.role != "train":
            new_tasks(config, spec, shard, None if shard.home is None else shards[shard.home], 1)


def show(data: Dataset, shards: list[Shard], spec: Spec, console: Console) -> None:
    """Who has what, as a table."""
    rows = []
    for shard in shards[:_SHOWN]:
        counts = np.unique(shard.label, return_counts=True)[1]
        own = [f"turned {shard.angle:.0f} degrees"] if shard.angle else []
        own += ["own numbering"] if shard.labels else []
        per_class = f"{counts.min()} to {counts.max()}"
        rows.append(
            [shard.node, shard.name, shard.role, len(shard.label), len(counts), per_class, ", ".join(own) or "-"]
        )
    if len(shards) > _SHOWN:
        rows.append(["...", f"{len(shards) - _SHOWN} more", "", sum(len(s.label) for s in shards[_SHOWN:]), "", "", ""])
    columns = ["node", "name", "role", "rows", "classes", "rows a class", "its own"]
    console.table(f"{spec.kind}, rows of shape {'x'.join(map(str, spec.shape))}", columns, rows)
    rows_in = account(data, shards)
    kept = rows_in["validation"] + rows_in["test"]
    spare = f"{rows_in['left_out']:,} turned copies left out, " if rows_in["left_out"] else ""
    console.say(
        f"{rows_in['total']:,} rows: {rows_in['train']:,} to train on, {kept:,} kept for new tasks; "
        f"{spare}{rows_in['lost']} lost, {rows_in['duplicated']} doubled"
    )
