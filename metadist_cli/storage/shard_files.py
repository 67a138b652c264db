"""Shards on disk: files of stacked nodes, and the partition manifest that names and seals them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from metadist_cli.config import Config
from metadist_cli.core import files
from metadist_cli.core.errors import Problem
from metadist_cli.core.tree import Params
from metadist_cli.data.preprocessing import Preprocessing, read_preprocessing
from metadist_cli.data.sets import Dataset
from metadist_cli.data.standardise import Moments
from metadist_cli.data.types import Feature, Windows, stack, take
from metadist_cli.partition.accounting import Partitioned
from metadist_cli.partition.assign import class_runs
from metadist_cli.partition.scale import fit
from metadist_cli.partition.shards import Shard
from metadist_cli.partition.spec import Spec
from metadist_cli.partition.too_small import LeftOut
from metadist_cli.storage.run_directory import PACK, SHARDS, Run, basis


def write_shards(
    run: Run, made: Partitioned, spec: Spec, data: Dataset, config: Config, wanted: set[int]
) -> dict[str, Any]:
    """Write the files that hold wanted nodes. Returns the manifest of all nodes; writing it last is the commit."""
    shards = made.shards
    entries: list[dict[str, Any]] = []
    stored: dict[str, dict[str, Any]] = {}
    size = 1 if len(shards) <= PACK else PACK
    for begin in range(0, len(shards), size):
        pack = shards[begin : begin + size]
        first, last = pack[0].node, pack[-1].node
        name = f"node-{first:03d}.safetensors" if size == 1 else f"nodes-{first:05d}-{last:05d}.safetensors"
        packed = files.pack(_pack_shards(pack), {"nodes": [s.node for s in pack]})
        if wanted.intersection(s.node for s in pack):
            files.write(run.shards / name, packed)
        stored[name] = {"sha256": files.sha256(packed), "bytes": len(packed)}
        entries += _entries(pack, name)
    by = fit(data, shards, config.partition.scale, config.partition.clip)
    by = by.changed(target_mean=spec.target_mean, target_deviation=spec.target_deviation)
    return {
        "format": 1,
        "preprocessing": by.model_dump(mode="json"),
        "data": {"name": config.data.name, "sha256": data.sha256},
        "basis": basis(config, SHARDS),
        "spec": {**spec._asdict(), "classes": len(spec.classes)},
        "classes": list(spec.classes),
        **({"features": [_feature(feature) for feature in data.features]} if data.features else {}),
        "nodes": entries,
        "files": stored,
        "rows": made.account(data),
        **({"left_out": [one._asdict() for one in made.left_out]} if made.left_out else {}),
    }


def _feature(feature: Feature) -> dict[str, Any]:
    """A feature without its values: the manifest goes to every node."""
    return {key: value for key, value in feature._asdict().items() if key != "first"}


def features_in(manifest: dict[str, Any]) -> tuple[Feature, ...]:
    """The features that a partition manifest names; none in those of version 0.1.0. Raises Problem like `spec_in`."""
    try:
        return tuple(Feature(**entry, first=()) for entry in manifest.get("features", []))
    except TypeError:
        raise _unreadable() from None


def preprocessing_in(manifest: dict[str, Any]) -> Preprocessing:
    """How rows become inputs. Raises Problem(DATA) for the manifest of an earlier version, which does not say it."""
    where = "shards/manifest.json"
    if "preprocessing" not in manifest:
        message = "an earlier version of metadist made these shards, and did not note how rows become inputs"
        hint = "delete shards/manifest.json and run `metadist partition` again: rounds that are trained remain"
        raise Problem(message, where, hint)
    return read_preprocessing(manifest["preprocessing"], where)


def left_out_in(manifest: dict[str, Any]) -> list[LeftOut]:
    """The nodes and classes that a partition left out. Raises Problem like `spec_in`."""
    try:
        return [LeftOut(**entry) for entry in manifest.get("left_out", [])]
    except TypeError:
        raise _unreadable() from None


def _pack_shards(pack: list[Shard]) -> Params:
    x = stack([s.x for s in pack])
    rows = {"source": x.source, "start": x.start.astype(np.int32)} if isinstance(x, Windows) else {"x": x}
    columns = {
        **rows,
        "label": np.concatenate([s.label for s in pack]),
        "row": np.concatenate([s.row for s in pack]),
    }
    if pack[0].target is not None:
        columns["target"] = np.concatenate([s.target for s in pack if s.target is not None])
    if found := [s.scale for s in pack if s.scale is not None]:
        none = Moments(*(np.full_like(found[0].mean, np.nan) for _ in Moments._fields))  # of nodes without a scale
        scales = [none if s.scale is None else s.scale for s in pack]
        columns |= {"mean": np.stack([s.mean for s in scales]), "deviation": np.stack([s.deviation for s in scales])}
    return {name: torch.from_numpy(column) for name, column in columns.items()}


def _entries(pack: list[Shard], name: str) -> Iterator[dict[str, Any]]:
    """The manifest's entries for the shards in a file."""
    label, count = np.concatenate([s.label for s in pack]), np.array([len(s.label) for s in pack])
    first, bounds = class_runs(label, count)
    classes = np.stack([label[first], np.diff(first, append=len(label))], axis=1).tolist()
    for shard, start, (a, b) in zip(pack, (np.cumsum(count) - count).tolist(), pairwise(bounds), strict=True):
        yield _entry(shard, name, start, classes[a:b])


def _entry(shard: Shard, name: str, start: int, classes: list[list[int]]) -> dict[str, Any]:
    entry = {
        "node": shard.node,
        "name": shard.name,
        "role": shard.role,
        "rows": len(shard.label),
        "classes": classes,
        "file": name,
        "start": start,
    }
    own = {"angle": shard.angle or None, "labels": shard.labels, "home": shard.home}
    return entry | {key: value for key, value in own.items() if value is not None}


def spec_in(manifest: dict[str, Any]) -> Spec:
    """The Spec that a partition manifest holds. Raises Problem(DATA) if it is damaged or of another version."""
    try:
        spec = manifest["spec"]
        nodes = sum(node["role"] == "train" for node in manifest["nodes"])
        fields = {"rows": manifest["rows"]["train"], "nodes": nodes, **spec}  # version 0.1.0 has these two here only
        moments = {key: tuple(spec.get(key, ())) for key in ("target_mean", "target_deviation")}
        return Spec(**{**fields, "shape": tuple(spec["shape"]), "classes": tuple(manifest["classes"]), **moments})
    except (KeyError, TypeError):
        raise _unreadable() from None


def _unreadable() -> Problem:
    message = "the partition manifest is damaged, or another version of metadist made it"
    return Problem(
        message, "shards/manifest.json", "use the version of metadist that made it, or choose another --name"
    )


def read_shards(run: Run, manifest: dict[str, Any], nodes: Iterable[int]) -> list[Shard]:
    """The shards of some nodes, each file checked against the manifest's hash."""
    wanted = set(nodes)
    entries = [e for e in manifest["nodes"] if e["node"] in wanted]
    packs: dict[str, dict[str, np.ndarray]] = {}
    for name in dict.fromkeys(e["file"] for e in entries):
        if not re.fullmatch(r"nodes?-[0-9]+(-[0-9]+)?\.safetensors", name):
            where = str(run.shards / "manifest.json")
            raise Problem(f"{name!r} is not a valid name of a shard file", where, "run `metadist partition` again")
        entry = manifest["files"][name]
        if not (run.shards / name).exists():
            node = next(e["node"] for e in entries if e["file"] == name)
            hint = f"copy it here, or make it from the data: metadist partition {run.path} --nodes {node}"
            raise Problem("the shard is missing", str(run.shards / name), hint)
        data = files.read(run.shards / name, entry["bytes"], "shard")
        if files.sha256(data) != entry["sha256"]:
            raise Problem(
                "the shard differs from the one in the partition manifest (SHA-256)",
                str(run.shards / name),
                "copy it again, or delete it and run `metadist partition` again",
            )
        packs[name] = {key: column.numpy() for key, column in files.unpack(data, str(run.shards / name))[0].items()}
    shape = manifest["spec"]["shape"]
    return [_read_shard(e, packs[e["file"]], shape) for e in entries]


def _read_shard(entry: dict[str, Any], pack: dict[str, np.ndarray], shape: list[int]) -> Shard:
    rows = slice(entry["start"], entry["start"] + entry["rows"])
    if "x" in pack:
        x = pack["x"][rows]
    else:
        x = take(Windows(pack["source"], pack["start"], shape[0]), np.arange(rows.start, rows.stop))
    target = pack["target"][rows] if "target" in pack else None
    labels = tuple(entry["labels"]) if "labels" in entry else None
    scale = None
    if "mean" in pack:
        place = entry["node"] - int(re.findall("[0-9]+", entry["file"])[0])  # in a file of consecutive nodes
        scale = None if np.isnan(pack["mean"][place]).any() else Moments(pack["mean"][place], pack["deviation"][place])
    own = (entry.get("angle", 0.0), labels, entry.get("home"), scale)
    return Shard(entry["node"], entry["name"], entry["role"], x, pack["label"][rows], target, pack["row"][rows], *own)
