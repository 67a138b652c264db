"""Robust and clipped scaling, and scaling by the support of a task alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runner import Lab
from scipy import stats

from metadist_cli.data.standardise import moments, quartiles, standardise

CONFIG = """\
data: {name: table, path: rows.csv, target: y, groups: [site]}
task: {kind: local, support: 8, query: 10, new: {from: nodes, test: 2}}
partition: {name: natural, by: site}
model: {name: mlp, hidden: [4]}
learner: {name: maml, inner_lr: 0.1}
train: {rounds: 1, local_steps: 1, meta_batch: 1}
finetune: {episodes: 4, predictions: true}
execution: {threads: 1}
"""


def rows(nodes: int = 6, each: int = 20) -> np.ndarray:
    """(nodes, each, 2): sites of unlike levels and spreads."""
    rng = np.random.default_rng(3)
    level, spread = rng.normal(0, 50, (nodes, 1, 2)), rng.uniform(1, 20, (nodes, 1, 2))
    return (level + spread * rng.normal(size=(nodes, each, 2))).round(3)


def write(folder: Path, x: np.ndarray) -> Lab:
    lines = [f"{'abcdefgh'[s]},{a},{b},{i % 2}" for s, site in enumerate(x) for i, (a, b) in enumerate(site)]
    lab = Lab(folder, CONFIG.replace("rows.csv", str(folder / "rows.csv")))
    (folder / "rows.csv").write_text("\n".join(["site,u,v,y", *lines]) + "\n")
    return lab


def test_quartiles_are_scipys_and_one_outlier_moves_them_by_one_rank() -> None:
    parts = [np.random.default_rng(i).normal(5, 3, (40, 2)).astype(np.float32) for i in range(3)]
    whole = np.concatenate(parts).astype(float)
    found = quartiles(parts)
    np.testing.assert_allclose(found.mean, np.median(whole, 0))
    np.testing.assert_allclose(found.deviation, stats.iqr(whole, 0, scale="normal"), rtol=1e-12)
    parts[1][7, 0] = 1e6
    moved, plain = quartiles(parts), moments(parts)
    assert abs(moved.mean[0] - found.mean[0]) < 0.2
    assert abs(moved.deviation[0] - found.deviation[0]) < 0.2
    assert plain.deviation[0] > 1e4


def test_quartiles_of_missing_rare_and_constant_values() -> None:
    x = np.full((20, 4), np.nan, dtype=np.float32)
    x[:, 1] = 7
    x[:, 2] = [0] * 18 + [1, 1]  # a rare category: the quartiles are equal
    x[:10, 3] = np.arange(10)
    found = quartiles([x])
    np.testing.assert_allclose(found.mean, [0, 7, 0, 4.5])
    np.testing.assert_allclose(found.deviation[:3], [1, 1, x[:, 2].astype(float).std(ddof=1)])
    assert found.deviation[3] == pytest.approx(4.5 / 1.3489795)
    signal = np.random.default_rng(0).normal(size=(6, 3, 50)).astype(np.float32)
    np.testing.assert_allclose(quartiles([signal]).mean[:, 0], np.median(signal.transpose(1, 0, 2).reshape(3, -1), 1))


def test_a_clipped_value_is_the_limit_and_others_keep_their_bits() -> None:
    x = np.array([[0.0], [1.0], [2.0], [3.0], [100.0], [np.nan]], dtype=np.float32)
    by = quartiles([x])
    plain, cut = standardise(x, by), standardise(x, by, 2.0)
    assert cut[4] == 2
    np.testing.assert_array_equal(cut[[0, 1, 2, 3, 5]], plain[[0, 1, 2, 3, 5]])


@pytest.mark.usefixtures("plain")
def test_one_outlier_spoils_plain_scaling_and_not_robust_and_clipped_scaling(tmp_path: Path) -> None:
    """The other rows of all nodes keep a spread that a model can see, and the row itself is at the limit."""
    x = rows()
    x[0, 3, 0] = 1e6
    lab = write(tmp_path, x)
    lab("partition", "partition.scale=train", name="plain")
    lab("run", "partition.scale=robust", "partition.clip=4", name="robust")
    others = {name: np.delete(shards_of(lab, name)[:, 0], 3) for name in ("plain", "robust")}
    assert others["plain"].std() < 0.01
    assert 0.5 < others["robust"].std() < 3
    assert shards_of(lab, "robust").max() == 4
    task = tmp_path / "mine.csv"
    task.write_text(
        "part,label,u,v\n" + "".join(f"{'support' if i < 4 else 'query'},{i % 2},{i},1e9\n" for i in range(8))
    )
    lab("finetune", "partition.scale=robust", "partition.clip=4", "--task", str(task), name="robust")


def shards_of(lab: Lab, name: str) -> np.ndarray:
    """The features of all training nodes, rows in the order of the data."""
    from metadist_cli.storage import run_directory, shard_files
    from metadist_cli.storage.run_directory import Run

    run = Run.at(lab.run(name))
    shards = shard_files.read_shards(run, run_directory.shard_manifest(run), lab.trained(name))
    order = np.argsort(np.concatenate([s.row for s in shards]))
    return np.concatenate([s.x for s in shards])[order]


# ------------------------------------------------------------------------------------------- by the support alone


def outputs(lab: Lab, name: str) -> dict[tuple[str, str], str]:
    """The probability of class 0 by episode and row."""
    lines = (lab.run(name) / "finetune" / "new" / "predictions.csv").read_text().splitlines()
    table = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    return {(row["episode"], row["row"]): row["p0"] for row in table}


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("scale", ["support", "node"])
def test_with_support_no_query_row_decides_how_others_are_seen(tmp_path: Path, scale: str) -> None:
    """A query row of a held-out node becomes huge: its own output changes, and with scale node all others do too."""
    x = rows()
    before, after = write(tmp_path / "one", x), write(tmp_path / "two", x)
    before("run", f"partition.scale={scale}", "finetune.episodes=2")
    first = outputs(before, "tiny")
    row = next(int(row) for episode, row in first if episode == "0")
    changed = x.copy().reshape(-1, 2)
    changed[row] += 1e4
    after = write(tmp_path / "two", changed.reshape(x.shape))
    after("run", f"partition.scale={scale}", "finetune.episodes=2")
    second = outputs(after, "tiny")
    mine = {key for key in first if key[0] == "0" and int(key[1]) != row}
    assert [first[key] != second[key] for key in mine] == [scale == "node"] * len(mine)
    text = json.loads((before.run() / "finetune" / "new" / "metrics.json").read_text())["task_text"]
    assert ("queries included" in text) == (scale == "node")


@pytest.mark.usefixtures("plain")
def test_with_support_a_task_is_seen_by_the_moments_of_its_own_support(tmp_path: Path) -> None:
    from metadist_cli.commands.support.new_tasks import new_tasks
    from metadist_cli.config import load
    from metadist_cli.storage import run_directory, shard_files
    from metadist_cli.storage.run_directory import Run
    from metadist_cli.tasks.gathering import gather

    x = rows()
    lab, setting = write(tmp_path, x), ("partition.scale=support", "partition.clip=1.5")
    lab("run", *setting)
    run = Run.at(lab.run())
    manifest = run_directory.shard_manifest(run)
    [shard] = shard_files.read_shards(run, manifest, [len(lab.trained())])
    pool, plan = new_tasks(load(lab.config, setting), shard_files.spec_in(manifest), shard, None, 3)
    raw = x.reshape(-1, 2).astype(np.float32)
    np.testing.assert_array_equal(pool.x.numpy(), raw[shard.row])
    seen = gather(pool, plan.support, plan.query, plan.labels)
    for i in range(3):
        near, far = (
            x.reshape(-1, 2)[shard.row[part[0, 0, i]]].astype(np.float32) for part in (plan.support, plan.query)
        )
        by = (near.astype(float).mean(0), near.astype(float).std(0, ddof=1))
        for plain, ours in ((near, seen.support_x), (far, seen.query_x)):
            expected = ((plain - by[0]) / by[1]).clip(-1.5, 1.5)
            np.testing.assert_allclose(ours[0, 0, i].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(gather(pool, plan.support[0, 0, 1], plan.query[0, 0, 1], None).query_x, seen.query_x[0, 0, 1])
