"""partition: a data set becomes one shard per node, and a manifest of who has what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from metadist_cli.commands.support.feature_table import show_features
from metadist_cli.commands.support.new_tasks import check_rows, episode_rows, new_tasks
from metadist_cli.commands.support.run_context import command
from metadist_cli.config import Config, variants
from metadist_cli.config.schema import Episodic, Local
from metadist_cli.core import files
from metadist_cli.core.console import Console
from metadist_cli.core.errors import CONFIG, USAGE, Problem
from metadist_cli.data.names import listed
from metadist_cli.data.sets import Dataset
from metadist_cli.experiment import assemble_all, deal, load_data
from metadist_cli.partition.heterogeneity import (
    Composition,
    Skew,
    label_skew,
    of_manifest,
    of_shards,
    summary,
    with_skew,
)
from metadist_cli.partition.shards import Shard
from metadist_cli.partition.spec import Spec, spec_of
from metadist_cli.partition.too_small import LeftOut
from metadist_cli.runtime.execution import resolve
from metadist_cli.storage import run_directory, shard_files
from metadist_cli.storage.run_directory import Run

_SHOWN = 12  # nodes in the table
_ROOM = 20  # columns of it for the rows of each class
_BARS = 24  # classes at most that are shown as bars
_LEVELS = "·▁▂▃▄▅▆▇█"


def partition(
    config: Config, run: Run, console: Console, which: Callable[[list[int]], list[int]] | None = None
) -> dict[str, Any]:
    """Assign the data to nodes, unless the run has its shards already. Returns nodes, rows and skew by role.

    which: (all training nodes) -> those whose shards are written here (with all nodes in their files). The manifest
    covers all nodes, so that what other machines write from the same data fits together.
    """
    run_directory.agree(config, run)
    if manifest := complete(run, which):
        console.say(f"partition: already done, {run.shards}")
        return _summary(manifest, run)
    data = load_data(config)
    made = deal(config, data)
    shards = made.shards
    spec = spec_of(data, shards, config.partition.targets)
    experiment = assemble_all(config, spec)["main"]  # what does not fit is refused before anything is written
    resolve(experiment)  # and so is a device that this machine lacks
    _same_data(run, data)
    check_new_tasks(config, spec, shards)
    wanted = _wanted({shard.node: shard.role for shard in shards}, which)
    held = of_shards(shards, data)
    skew = label_skew(held)
    for note in data.notes:
        console.say(note)
    show_features(data.features, console)
    show(held, skew, made.account(data), spec, console)
    warn_of_left_out(made.left_out, console)
    warn_of_small_classes(config, held, console)
    warn_of_new_classes(config, held, console)
    with command("partition", config, run, experiment) as result:
        manifest = with_skew(shard_files.write_shards(run, made, spec, data, config, wanted), held, skew)
        del data, shards, made  # the text of a manifest of 100,000 nodes takes as much room
        (run.shards / "partition.png").unlink(missing_ok=True)  # of other shards
        files.write(run.shards / "manifest.json", files.to_json(manifest))
        result |= _summary(manifest, run)
    of = f" of {len(manifest['nodes']):,}" if which else ""
    console.say(f"partition: {len(wanted):,}{of} shards in {run.shards}")
    return result


def draw(run: Run, console: Console) -> None:
    """Write partition.png if it is missing. A step of its own, because it costs half a second of imports."""
    path = run.shards / "partition.png"
    if not path.exists():
        from metadist_cli.report.heatmap import partition_png

        files.write(path, partition_png(run_directory.shard_manifest(run)))
        console.say(f"partition: picture in {path}")


def _same_data(run: Run, data: Dataset) -> None:
    """Raise Problem if missing shards would be made from other data than the manifest's."""
    if (run.shards / "manifest.json").exists() and run_directory.shard_manifest(run)["data"]["sha256"] != data.sha256:
        raise Problem(
            "shards are missing, and the data set has changed since they were made",
            str(run.shards),
            "restore the data, or start over with --restart",
        )


def complete(run: Run, which: Callable[[list[int]], list[int]] | None = None) -> dict[str, Any] | None:
    """The manifest, if it exists and every wanted file has the size that it names."""
    if not (run.shards / "manifest.json").exists():
        return None
    manifest = run_directory.shard_manifest(run)
    wanted = _wanted({node["node"]: node["role"] for node in manifest["nodes"]}, which)
    for name in {node["file"] for node in manifest["nodes"] if node["node"] in wanted}:
        path = run.shards / name
        if not path.is_file() or path.stat().st_size != manifest["files"][name]["bytes"]:
            return None
    return manifest


def _wanted(roles: dict[int, str], which: Callable[[list[int]], list[int]] | None) -> set[int]:
    """The nodes whose shards are wanted. roles: of all nodes."""
    nodes = list(roles) if which is None else which([node for node, role in roles.items() if role == "train"])
    if strangers := [node for node in nodes if node not in roles]:
        raise Problem(f"node {strangers[0]} does not exist", "--nodes", f"nodes: 0 to {max(roles)}", USAGE)
    return set(nodes)


def _summary(manifest: dict[str, Any], run: Run) -> dict[str, Any]:
    roles = [node["role"] for node in manifest["nodes"]]
    nodes = {role: roles.count(role) for role in ("train", "validation", "test")}
    held = of_manifest(manifest)
    found = {"nodes": nodes, "rows": manifest["rows"], "skew": summary(held, label_skew(held))}
    return found | {"shards": str(run.shards), "next": "train"}


def check_new_tasks(config: Config, spec: Spec, shards: list[Shard]) -> None:
    """Raise Problem if new tasks would find no held-out shard, or one with too few rows for them."""
    rules = [some.train.early_stopping for some in (config, *variants(config).values())]
    for wanted in (config.finetune.held_out, *(rule.on for rule in rules if rule)):
        if wanted not in {shard.role for shard in shards}:
            message = f"nothing is held out for {wanted}, so new tasks have no source"
            raise Problem(message, f"task.new.{wanted}", f"hold some {config.task.new.from_} out", CONFIG)
    if isinstance(config.task, Local) and config.task.new.from_ == "nodes":
        check_rows(
            config.task,
            config.finetune.task,
            {shard.name: len(shard.label) for shard in shards if shard.role != "train"},
        )
    tried: set[tuple[int, int]] = set()
    for shard in shards:
        home = None if shard.home is None else shards[shard.home]
        sizes = len(shard.label), 0 if home is None else len(home.label)
        if shard.role != "train" and sizes not in tried:
            new_tasks(config, spec, shard, home, 1)
            if isinstance(config.task, Local):  # nothing but sizes decides: 100,000 nodes have a few
                tried.add(sizes)


def warn_of_left_out(left_out: Sequence[LeftOut], console: Console) -> None:
    """Warn of nodes and classes that are too small for a task."""
    for one in left_out:
        console.warn(f"left out: {one.text}")


def warn_of_small_classes(config: Config, held: Composition, console: Console) -> None:
    """Warn of held-out classes that are large enough in training, but not for new tasks, which are larger."""
    if not isinstance(config.task, Episodic) or held.bins:
        return
    need = sum(episode_rows(config.task, config.finetune.task))
    small = (held.role[held.node] != "train") & (held.count < need)
    if small.any():
        named = listed(
            [f"{held.kinds[kind]} has {rows}" for kind, rows in zip(held.kind[small], held.count[small], strict=True)]
        )
        console.warn(f"held-out classes that new tasks leave out, because they have fewer than {need} rows: {named}")


def warn_of_new_classes(config: Config, held: Composition, console: Console) -> None:
    """Warn of held-out nodes none of whose classes is trained, where tasks keep the classes of the data set."""
    if not isinstance(config.task, Local) or config.task.new.from_ != "nodes" or held.bins or config.partition.relabel:
        return
    train = held.role == "train"
    known = np.isin(held.kind, held.kind[train[held.node]])
    strange = np.flatnonzero(~train & (np.bincount(held.node, known, len(train)) == 0))
    if not len(strange):
        return
    apart = getattr(config.data, "shared", True) is False and len(getattr(config.data, "folders", ())) > 1
    way = "data.shared: true makes folders of one name one class" if apart else "use kind: episodic for new classes"
    named = listed([held.name[i] for i in strange.tolist()])
    console.warn(f"no class of these held-out nodes occurs in training: {named}; {way}")


def show(held: Composition, skew: Skew, rows: dict[str, int], spec: Spec, console: Console) -> None:
    """Print who has what and how unlike the nodes are. rows: as `account` counts them."""
    heads, cells = _kinds(held, len(held.rows[:_SHOWN]))
    columns = ["node", "name", "role", "rows", *heads, "entropy", "distance"]
    table: list[list[object]] = []
    for i, kinds in enumerate(cells):
        name = f"{held.name[i]} {round(held.angle[i])}°" if held.angle.any() else held.name[i]
        figures = (f"{skew.entropy[i]:.2f}", f"{skew.distance[i]:.2f}")
        table.append([i, name, held.role[i], f"{held.rows[i]:,}", *kinds, *figures])
    if left := len(held.rows) - len(table):
        rest = {"name": f"{left:,} more", "role": "", "rows": f"{held.rows[_SHOWN:].sum():,}"}
        table.append([rest.get(column) for column in columns])
    console.table(f"{spec.kind}, rows of shape {'x'.join(map(str, spec.shape))}", columns, table)
    found = summary(held, skew)
    lines = [
        ["nodes", *(f"{part['nodes']:,}" for part in found.values())],
        *([f"{key} a node", *(_span(part[key]) for part in found.values())] for key in ("rows", "classes")),
        *([f"mean {key}", *(f"{part[key]:.3f}" for part in found.values())] for key in ("entropy", "distance")),
        ["if IID", *(f"{part['chance']:.3f}" for part in found.values())],
    ]
    console.table("", ["", *found], lines)
    console.say(
        f"entropy: of a node's rows by {'range of the target' if held.bins else 'class'}, "
        f"in bits (at most {np.log2(len(held.kinds)):.2f})\n"
        "distance: total variation from all training rows (0: identical, 1: disjoint)\n"
        "if IID: mean distance of a random assignment; means are weighted by rows"
    )
    kept = rows["validation"] + rows["test"]
    spare = f"{rows['left_out']:,} rotated copies left out, " if rows["left_out"] else ""
    spare += f"{rows['too_small']:,} left out as too small, " if "too_small" in rows else ""
    console.say(
        f"{rows['total']:,} rows: {rows['train']:,} for training, {kept:,} held out for new tasks; "
        f"{spare}{rows['lost']} lost, {rows['duplicated']} duplicated"
    )


def _span(least_median_most: list[int]) -> str:
    low, middle, high = least_median_most
    return f"{low:,}" if low == high else f"{low:,} to {high:,}, median {middle:,}"


def _kinds(held: Composition, nodes: int) -> tuple[list[str], list[list[object]]]:
    """(heads, cells of the first nodes): rows by class if classes are few, else their number and bars of shares."""
    kinds, first, classes = len(held.kinds), held.node < nodes, [f"{count:,}" for count in held.classes[:nodes]]
    table = np.zeros((nodes, kinds), dtype=np.int64)
    table[held.node[first], held.kind[first]] = held.count[first]
    if not held.bins and sum(max(len(name), 3) + 2 for name in held.kinds) <= _ROOM:
        return list(held.kinds), [[f"{count:,}" for count in row] for row in table]
    if kinds > _BARS:
        return ["classes"], [[count] for count in classes]
    share = table / table.sum(1, keepdims=True)
    level = np.ceil(share / share.max() * (len(_LEVELS) - 1)).astype(int)
    bars = ["".join(_LEVELS[i] for i in row) for row in level]
    return ["classes", "by target" if held.bins else "by class"], [
        list(both) for both in zip(classes, bars, strict=True)
    ]
