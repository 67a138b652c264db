"""Whatever kills a command and whenever: the same command again ends in the same bytes."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from runner import SMALL, TINY, Done, Killed, Lab, Step, crash, kill, results, start

from metadist_cli.core import files
from metadist_cli.federated import node_training
from metadist_cli.federated.updates import Updates


def sweep(lab: Lab, steps: Sequence[Step], outcome: Callable[[Path], object], *stages: str) -> int:
    """Kill at every write of the steps; the outcome never changes. Returns the number of writes."""
    for step in steps:
        lab(*step)
    calm = outcome(lab.run())
    assert calm
    for n in itertools.count(1):
        died = []
        for stage in stages:
            lab.runs = lab.folder / f"runs-{n}-{stage}"
            died.append(crash(lab, steps, n, stage))
            assert outcome(lab.run()) == calm, f"killed at {stage} of write {n}"
        if not any(died):
            return n - 1
        assert all(died)
    raise AssertionError


def test_killed_in_any_write_of_a_run(lab: Lab, plain: None):
    writes = sweep(lab, [("run", *SMALL)], results, "temp", "renamed")
    assert writes >= 15  # config, manifests, 4 shards, 3 global checkpoints, model, report and metrics


def test_killed_in_any_write_of_a_run_with_node_state(personal_lab: Lab, plain: None):
    settings = (*SMALL, "finetune.save=none", "train.nodes_per_round=2", "train.keep_nodes=last")
    sweep(personal_lab, [("run", *settings)], with_state, "renamed")


@pytest.mark.slow
def test_killed_in_any_write_by_hand(personal_lab: Lab, plain: None):
    """Nodes one by one and all at once, two rounds; what nodes keep survives as well."""
    settings = (*SMALL, "execution.block=1")
    by_hand = [
        ("partition", *settings),
        ("train", *settings, "--nodes", "1"),
        ("train", *settings, "train.rounds=1"),
        ("aggregate", *settings),
        ("train", *settings),
        ("aggregate", *settings),
    ]
    sweep(personal_lab, by_hand, with_state, "renamed")


def with_state(run: Path) -> dict[str, object]:
    """Global checkpoints, and what every node keeps after the last round, in whatever files."""
    from metadist_cli.config import load
    from metadist_cli.experiment import assemble
    from metadist_cli.experiment import initial_state as first
    from metadist_cli.storage import node_states, run_directory, shard_files

    place = run_directory.Run.at(run)
    own = first(assemble(load(run), shard_files.spec_in(run_directory.shard_manifest(place))))[1]
    nodes = [n["node"] for n in run_directory.shard_manifest(place)["nodes"] if n["role"] == "train"]
    kept = node_states.read_state(place, 99, nodes, own)
    assert any(state["mine/met"] and state["node/head.bias"].any() for state in kept.values())
    found = {name: data for name, data in results(run).items() if name.endswith("global.safetensors")}
    return found | {str(n): {k: v.tolist() for k, v in state.items()} for n, state in kept.items()}


def test_no_leftovers(lab: Lab, plain: None):
    """What a killed write left is gone once the run goes on."""
    for n in range(3, 15, 2):
        lab.runs = lab.folder / f"runs-{n}"
        assert crash(lab, [("run", *SMALL)], n, "synced")
        lab("finetune", *SMALL, "finetune.steps=2")
        assert not list(lab.run().rglob(".tmp-*"))


def test_a_line_of_metrics_that_was_cut_short(lab: Lab, plain: None):
    lab("run", *SMALL)
    log = lab.run() / "metrics.jsonl"
    whole = log.read_text()
    assert whole.count("\n") == 2
    log.write_text(whole[:-20])
    lab("run", *SMALL, "train.rounds=3")
    lines = [files.from_json(line.encode(), "") for line in log.read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3]
    told = files.from_json(whole.splitlines()[1].encode(), "")
    assert {**told, **lines[1]} == told  # all but the times are in the checkpoint's header


def test_a_run_short_of_memory_goes_on_with_as_few_nodes(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """What memory held is logged with every round, so nothing runs out again and the bytes are those of one go."""
    tried: list[int] = []
    computed = node_training.train_block

    def short(*given: Any) -> Updates:
        tried.append(len(given[1].nodes))
        if tried[-1] > 3:
            raise MemoryError
        return computed(*given)

    monkeypatch.setattr(node_training, "train_block", short)
    block = "execution.block=6"
    told = lab("run", block, "train.rounds=2")
    assert "out of memory: training 3 nodes at a time instead of 6" in told.out
    assert tried == [6, 3, 3, 3, 3]
    lab("run", block, "train.rounds=4")
    assert tried[5:] == [3] * 4
    lines = (lab.run() / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["at_once"] for line in lines] == [3] * 4
    lab("run", block, "train.rounds=4", name="calm")
    assert lab.checkpoint(4) == lab.checkpoint(4, "calm")


def test_killed_between_two_evaluations(lab: Lab, plain: None):
    """Killed half-way to other settings, then set back: the old settings' results, not the other's files."""
    lab("run", *SMALL, "finetune.save=all")
    before = results(lab.run())
    for n in range(1, 6):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "_stage", kill(n, "renamed"))
            with pytest.raises(Killed):
                lab("finetune", *SMALL, "finetune.save=all", "finetune.steps=3")
        lab("finetune", *SMALL, "finetune.save=all")
        assert results(lab.run()) == before


# ------------------------------------------------------------------------------------------- real processes


LONG = TINY.replace("rounds: 3", "rounds: 40").replace("local_steps: 2", "local_steps: 4") + (
    "data: {name: synthetic, nodes: 8, rows: 40, features: 12}\n"
)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The results of a run that nothing disturbs."""
    lab = Lab(tmp_path_factory.mktemp("calm"), LONG)
    assert lab.process("run").code == 0
    return results(lab.run())


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["temp:5", "synced:20", "temp:30", "synced:55"])
def test_killed_in_a_write(tmp_path: Path, calm: dict[str, bytes], moment: str):
    lab = Lab(tmp_path, LONG)
    done = lab.process("run", FAULT=f"{moment}:{signal.SIGKILL}")
    assert done.code == -signal.SIGKILL
    assert list(lab.run().rglob(".tmp-*"))
    goes_on(lab, done, calm)


@pytest.mark.slow
@pytest.mark.parametrize("there", ["shards", "rounds/0000", "rounds/0003", "rounds/0021", "rounds/0040", "finetune"])
def test_killed_once_something_is_there(tmp_path: Path, calm: dict[str, bytes], there: str):
    """So between two writes, or in any of those that follow: in training, mostly."""
    lab = Lab(tmp_path, LONG)
    with start(*lab.arguments("run")) as process:
        while process.poll() is None and not (lab.run() / there).exists():
            time.sleep(0.001)
        process.kill()
        out, err = process.communicate(timeout=120)
    assert process.returncode in (0, -signal.SIGKILL), err
    goes_on(lab, Done(process.returncode, out, err), calm)


def goes_on(lab: Lab, done: Done, calm: dict[str, bytes]) -> None:
    """The command that was killed, once more, comes to what it would have come to."""
    again = lab.process("run")
    assert again.code == 0, again
    assert "Traceback" not in done.out + done.err + again.out + again.err + (lab.run() / "log.txt").read_text()
    assert results(lab.run()) == calm
