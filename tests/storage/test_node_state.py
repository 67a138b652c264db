"""What stays at the nodes, in the run directory: however training is cut into commands, nothing is lost or sent."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from maths import EPS
from runner import SAMPLED, SMALL, TINY, Lab, by_hand, contents, crash, node_by_node
from typer.testing import CliRunner

from metadist_cli.cli import app
from metadist_cli.config import load
from metadist_cli.core import files
from metadist_cli.experiment import assemble, initial_state
from metadist_cli.federated.rounds import sample_nodes
from metadist_cli.storage import node_states, run_directory, shard_files

pytestmark = pytest.mark.usefixtures("plain")
ONE, ROUNDS = "execution.block=1", 4
NORM = "model.norm=batch_running"
METHODS = {
    "ditto": ("train.personal={name: ditto, pull: 0.5}",),
    "fedrep": ("train.personal={name: fedrep, head_steps: 1}", "train.outer_state=average"),
    "fedbn": ("train.personal.name=fedbn", NORM),
    "scaffold": ("train.drift.name=scaffold",),
    "everything": ("train.drift.name=scaffold", "train.personal.name=ditto", "train.outer_state=keep", NORM),
}
STAYS = {  # beginnings of the names of leaves that belong to the node
    "ditto": ("mine/",),
    "fedrep": ("meta/head.", "outer/first/"),
    "fedbn": ("meta/norm", "stats/norm"),
    "scaffold": ("node/",),
    "everything": ("node/", "mine/", "outer/"),
}
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, TINY.replace("rounds: 3", f"rounds: {ROUNDS}").replace("iid", "dirichlet"))


def state(lab: Lab, name: str = "tiny", below: int = 99) -> dict[int, dict[str, bytes]]:
    """What every training node has after the rounds below a number; the newest where it has it twice."""
    run = run_directory.Run.at(lab.run(name))
    first = initial_state(assemble(load(run.path), shard_files.spec_in(run_directory.shard_manifest(run))))[1]
    kept = node_states.read_state(run, below, lab.trained(name), first)
    return {node: {k: v.numpy().tobytes() for k, v in own.items()} for node, own in kept.items()}


def state_files(run: Path) -> list[Path]:
    return sorted(run.glob("rounds/*/state-*.safetensors"))


def nodes_in(path: Path) -> list[int]:
    return files.unpack(path.read_bytes(), str(path))[1]["nodes"]


@pytest.mark.parametrize(
    ("method", "sampling"),
    [
        ("everything", SAMPLED),
        *(pytest.param(m, "train.nodes_per_round=all", marks=pytest.mark.slow) for m in METHODS),
    ],
)
def test_run_and_by_hand_and_node_by_node(lab: Lab, method: str, sampling: str):
    settings = (*METHODS[method], sampling)
    lab("run", *settings)
    assert by_hand(lab, *settings, name="hand", rounds=ROUNDS) == lab.checkpoint(ROUNDS)
    assert state(lab) == state(lab, "hand")
    one = (*settings, ONE)
    lab("run", *one, name="one")
    assert by_hand(lab, *one, name="one-hand", rounds=ROUNDS) == lab.checkpoint(ROUNDS, "one")
    assert node_by_node(lab, *one, name="one-node", rounds=ROUNDS) == lab.checkpoint(ROUNDS, "one")
    assert state(lab, "one") == state(lab, "one-hand") == state(lab, "one-node")


def test_settings_that_must_matter(lab: Lab):
    """The equalities above are not those of runs that do nothing."""
    variants = [
        *METHODS.values(),
        ("train.drift={name: fedprox, mu: 0.1}",),
        ("train.drift={name: fedprox, mu: 1.0}",),
        ("train.personal.name=fedrep",),
    ]
    for i, settings in enumerate((*variants, ())):
        lab("run", *settings, "finetune.steps=0", name=f"r{i}")
    *ends, plain = (lab.checkpoint(ROUNDS, f"r{i}") for i in range(len(variants) + 1))
    assert len(set(ends)) == len(ends)
    assert [end for end in ends if end == plain] == ends[:1]  # ditto's shared model is the plain one


@every_method
def test_more_rounds_later(lab: Lab, method: str):
    lab("run", *METHODS[method], SAMPLED)
    lab("run", *METHODS[method], SAMPLED, "train.rounds=1", name="later")
    lab("run", *METHODS[method], SAMPLED, "train.rounds=3", name="later")
    lab("run", *METHODS[method], SAMPLED, name="later")
    assert lab.checkpoint(ROUNDS, "later") == lab.checkpoint(ROUNDS)
    assert state(lab, "later") == state(lab)


@every_method
def test_the_state_of_a_node_that_sits_out_stays(lab: Lab, method: str):
    sizes = []
    for number in range(1, ROUNDS + 1):
        if number == 1:
            lab("partition", *METHODS[method], SAMPLED)
            nodes, before = lab.trained(), None
        lab("train", *METHODS[method], SAMPLED, f"train.rounds={number}")
        lab("aggregate", *METHODS[method], SAMPLED, f"train.rounds={number}")
        now, chosen = state(lab), sample_nodes(0, number, nodes, 0.5)
        assert len(chosen) == 3
        if before is not None:
            assert {n for n in nodes if now[n] != before[n]} == set(chosen)
        newest = {n: path for path in state_files(lab.run()) for n in nodes_in(path)}
        assert set(newest.values()) == set(state_files(lab.run()))  # older files are gone
        sizes.append(len(newest))
        before = now
    assert sizes[0] == 3
    assert sizes[-1] > 3


@every_method
@pytest.mark.parametrize("by", ["run", "hand"])
def test_what_stays_is_in_no_file_that_is_sent(lab: Lab, method: str, by: str):
    settings = (*METHODS[method], ONE, "train.keep_nodes=all")
    if by == "run":
        lab("run", *settings)
    else:
        node_by_node(lab, *settings, name="tiny", rounds=2)
    kept = state(lab)
    own = {k for leaves in kept.values() for k in leaves}
    assert own == {k for k in own if k.startswith(STAYS[method])}
    assert all(any(k.startswith(name) for k in own) for name in STAYS[method])
    traces = {v for leaves in kept.values() for v in leaves.values() if len(v) > 32 and any(v)}
    assert len(traces) >= 6
    sent = {k: v for k, v in contents(lab.run(), "rounds").items() if "nodes-" in k or "global" in k}
    assert sum("nodes-" in k for k in sent) >= 4
    for name, data in sent.items():
        assert not [k for k in files.unpack(data, name)[0] if k.startswith(STAYS[method])], name
    for name, data in contents(lab.run(), "rounds", "shards").items():
        assert any(trace in data for trace in traces) == ("state-" in name), name


def travel(here: Path, there: Path, number: int, node: int) -> set[str]:
    """What must be copied to train a node elsewhere in a round: its own rows and state, nothing of other nodes."""
    carry = {
        "config.yaml",
        "manifest.json",
        "shards/manifest.json",
        f"shards/node-{node:03d}.safetensors",
        f"rounds/{number - 1:04d}/global.safetensors",
    }
    mine = [path for path in state_files(here) if node in nodes_in(path)]
    carry |= {path.relative_to(here).as_posix() for path in mine[-1:]}
    for name in carry:
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(here / name, there / name)
    return carry


@every_method
@pytest.mark.parametrize("sampling", ["train.nodes_per_round=all", SAMPLED])
def test_a_node_is_trained_on_another_machine_in_every_round(lab: Lab, tmp_path: Path, method: str, sampling: str):
    """Each time on a new one, to which its state goes and from which it comes back."""
    settings = (*METHODS[method], sampling, ONE)
    lab("run", *settings, name="whole")
    lab("partition", *settings)
    lab("train", *settings, "--nodes", "0")  # round 0
    here, node, away = lab.run(), 3, 0
    for number in range(1, ROUNDS + 1):
        there = tmp_path / f"elsewhere{number}" / "site"
        carried = travel(here, there, number, node)
        done = CliRunner().invoke(app, ["train", str(there), "--nodes", str(node)])
        assert done.exit_code == 0, done.output
        new = set(contents(there)) - carried - {"log.txt", f"rounds/{number:04d}/job-{node:03d}-{node:03d}.json"}
        if node in sample_nodes(0, number, lab.trained(), 0.5 if sampling == SAMPLED else "all"):
            assert sorted(name.split("-")[0] for name in new) == [
                f"rounds/{number:04d}/{k}" for k in ("nodes", "state")
            ]
            assert all(nodes_in(there / name) == [node] for name in new)
            away += 1
        for name in new:
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(there / name, here / name)
        others = ",".join(str(n) for n in lab.trained() if n != node)
        lab("train", *settings, "--nodes", others)
        lab("aggregate", *settings)
    assert away >= 2
    assert lab.checkpoint(ROUNDS) == lab.checkpoint(ROUNDS, "whole")
    assert state(lab) == state(lab, "whole")


@every_method
def test_a_site_that_keeps_its_nodes_state_to_itself(lab: Lab, tmp_path: Path, method: str):
    """The run elsewhere gets the new checkpoint alone, the run here the node file alone: nobody else sees the state."""
    settings = (*METHODS[method], ONE)
    lab("run", *settings, name="whole")
    lab("partition", *settings)
    lab("train", *settings, "--nodes", "0")
    here, there, node = lab.run(), tmp_path / "elsewhere" / "site", 3
    travel(here, there, 1, node)
    for number in range(1, ROUNDS + 1):
        round_ = f"rounds/{number - 1:04d}"
        (there / round_).mkdir(parents=True, exist_ok=True)
        shutil.copy(here / round_ / "global.safetensors", there / round_ / "global.safetensors")
        done = CliRunner().invoke(app, ["train", str(there), "--nodes", str(node)])
        assert done.exit_code == 0, done.output
        for other in lab.trained():
            if other != node:
                lab("train", *settings, "--nodes", str(other))
        lab.update(number, node).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(there / f"rounds/{number:04d}" / lab.update(number, node).name, lab.update(number, node))
        lab("aggregate", *settings)
    assert lab.checkpoint(ROUNDS) == lab.checkpoint(ROUNDS, "whole")
    assert all(node not in nodes_in(path) for path in state_files(here))
    (newest,) = [path for path in state_files(there) if path.parent.name == f"{ROUNDS:04d}"]
    mine = files.unpack(newest.read_bytes(), "")[0]
    assert {k: v[0].numpy().tobytes() for k, v in mine.items()} == state(lab, "whole")[node]


def test_node_files_that_got_lost(lab: Lab):
    """Their nodes are trained again, from the state before the round; what a third one keeps is not touched."""
    settings, one = (*METHODS["everything"], ONE), "train.rounds=2"
    lab("run", *settings)
    lab("partition", *settings, name="two")
    lab("train", *settings, "train.rounds=1", name="two")
    lab("aggregate", *settings, name="two")
    first, _, third, *_, last = lab.trained("two")
    lab("train", *settings, "--nodes", f"{first},{third},{last}", name="two")
    for node in (first, last):
        lab.update(2, node, "two").unlink()
    lab("train", *settings, one, name="two")
    lab("aggregate", *settings, one, name="two")
    lab("run", *settings, name="two")
    assert lab.checkpoint(ROUNDS, "two") == lab.checkpoint(ROUNDS)
    assert state(lab, "two") == state(lab)


def test_a_node_that_is_dropped_keeps_what_it_had(lab: Lab):
    """It trained, and its node file got lost: what it kept of that round is not used and does not stay."""
    settings = (*METHODS["everything"], ONE)
    for number in (1, 2):
        for node in lab.trained() if number > 1 else range(6):
            if number == 1 and node == 0:
                lab("partition", *settings)
            if node in lab.trained():
                lab("train", *settings, "--nodes", str(node))
        if number == 1:
            lab("aggregate", *settings)
            before = state(lab)
    first, *others = lab.trained()
    lab.update(2, first).unlink()
    lab("aggregate", *settings, "--min-nodes", str(len(others)))
    after = state(lab)
    assert after[first] == before[first]
    assert all(after[node] != before[node] for node in others)
    assert first not in {n for path in state_files(lab.run()) if path.parent.name == "0002" for n in nodes_in(path)}
    lab("run", *settings)  # goes on from there
    assert state(lab)[first] != before[first]


@pytest.mark.parametrize("weight_by", ["uniform", "examples"])
def test_scaffolds_variate_is_the_mean_of_all_nodes(lab: Lab, weight_by: str):
    """Also where nodes sit out, and where some of those that were drawn are dropped; a node without a round has 0."""
    settings = (*METHODS["scaffold"], f"aggregate={{name: mean, weight_by: {weight_by}}}", "train.nodes_per_round=4")
    lab("partition", *settings)
    weights = {n["node"]: n["rows"] if weight_by == "examples" else 1 for n in lab.shards()["nodes"]}
    for number in (1, 2, 3):
        drawn = sample_nodes(0, number, lab.trained(), 4)
        lab("train", *settings, ONE, "--nodes", ",".join(map(str, drawn[: 4 if number < 3 else 2])))
        lab("aggregate", *settings, ONE, "--min-nodes", "2")
        ours = files.unpack(lab.checkpoint(number), "")[0]["control/head.bias"].double()
        nodes = {node: np.frombuffer(own["node/head.bias"], np.float32) for node, own in state(lab).items()}
        mean = np.average(list(nodes.values()), axis=0, weights=[weights[node] for node in nodes])
        largest = max(np.abs(own).max() for own in nodes.values())
        np.testing.assert_allclose(ours, mean, atol=16 * EPS * largest, err_msg=f"round {number}")


def test_a_baseline_keeps_its_own_state(lab: Lab):
    """It is a run of its own on the same shards; the main run beside it keeps something else."""
    train = {"rounds": ROUNDS, "local_steps": 2, "meta_batch": 2}
    scaffold = f"{{train: {train | {'drift': {'name': 'scaffold'}}}}}".replace("'", "")
    lab("run", *METHODS["ditto"], f"baselines={{other: {scaffold}}}")
    for name, settings in (("main", METHODS["ditto"]), ("alone", METHODS["scaffold"])):
        lab("run", *settings, name=name)
    assert lab.checkpoint(ROUNDS) == lab.checkpoint(ROUNDS, "main")
    beside, alone = lab.run() / "baselines" / "other", lab.run("alone")
    assert contents(beside, "rounds") == contents(alone, "rounds")
    assert state_files(beside)


def test_other_settings_are_refused(lab: Lab):
    lab("run", *METHODS["ditto"])
    for settings in (("train.personal={name: ditto, pull: 0.4}",), (), METHODS["scaffold"]):
        assert "train." in lab("train", *settings, "train.rounds=9", code=4).err


def test_a_damaged_state_is_told(lab: Lab):
    lab("run", *METHODS["scaffold"])
    (path,) = state_files(lab.run())
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert path.name in lab("train", *METHODS["scaffold"], "train.rounds=9", code=4).err


# ------------------------------------------------------------------------------------- killed in any of its writes


@pytest.mark.slow
@pytest.mark.parametrize(("by", "method"), [("all", "fedrep"), ("hand", "everything")])
def test_killed_in_any_write(lab: Lab, by: str, method: str):
    settings = (*SMALL, *METHODS[method], ONE, "train.nodes_per_round=2", "train.rounds=3", "train.keep_nodes=last")
    steps = [("partition", *settings)]
    if by == "all":
        steps += [("train", *settings), ("aggregate", *settings)]
    else:
        for number in (1, 2):
            steps += [("train", *settings, "--nodes", n) for n in "210"]
            steps += [("aggregate", *settings, "--round", str(number))]
        steps += [("train", *settings), ("aggregate", *settings)]
    for step in steps:
        lab(*step)
    calm = state(lab), [lab.checkpoint(n) for n in range(4)]
    for n in itertools.count(1):
        stage = ("temp", "synced", "renamed")[n % 3]
        lab.runs = lab.folder / f"runs-{n}"
        died = crash(lab, steps, n, stage)
        assert (state(lab), [lab.checkpoint(n) for n in range(4)]) == calm, f"killed at {stage} of write {n}"
        if not died:
            break
    assert n > 15
