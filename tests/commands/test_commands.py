"""What every command does when it is repeated, late, incomplete or interrupted, and how it speaks."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import time
import tomllib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from runner import ROOT, Lab, contents, environment, proc, process, results
from safetensors.torch import load

from metadist_cli.core import files
from metadist_cli.runtime import execution, memory

COMMANDS = ("partition", "train", "aggregate", "finetune", "run")
ONE, PRECISION = "execution.block=1", "execution.precision=bf16"
pytestmark = pytest.mark.usefixtures("plain")


def still(lab: Lab, command: str, *arguments: str, code: int = 0) -> str:
    """What a command says that must leave everything but the notes of itself as it is."""
    before = substance(lab.run())
    done = lab(command, *arguments, code=code)
    assert substance(lab.run()) == before
    return done.out + done.err


def substance(run: Path) -> dict[str, bytes]:
    notes = ("log.txt", "config.yaml", "manifest.json")
    return {name: data for name, data in contents(run).items() if name not in notes}


# ------------------------------------------------------------------------- repeated, late and incomplete


def test_every_command_may_be_repeated(lab: Lab):
    for command, said in [
        ("partition", "already done"),
        ("train", "round 3/3"),
        ("aggregate", "no round is open"),
        ("finetune", "already done"),
    ]:
        lab(command)
        assert said in still(lab, command)
    assert "round 3 is closed" in still(lab, "train")
    said = still(lab, "run")
    assert said.count("already done") == 3


def test_commands_in_the_wrong_order(lab: Lab):
    for command in ("train", "aggregate", "finetune"):
        done = lab(command, code=4)
        assert "no shards yet" in done.err
        assert "metadist partition" in done.err
        assert not lab.run().exists()
    lab("partition")
    assert "no round is open" in still(lab, "aggregate")
    for next_step in ("metadist run", "metadist aggregate"):  # neither without any round nor with round 0 alone
        said = still(lab, "finetune", code=4)
        assert "no global checkpoint" in said
        assert next_step in said
        lab("train", "--nodes", "0")


def test_training_single_nodes(lab: Lab):
    lab("partition")
    test = next(n["node"] for n in lab.shards()["nodes"] if n["role"] == "test")
    assert f"node {test} is not a training node" in still(lab, "train", "--nodes", str(test), code=2)
    assert "node 99 " in still(lab, "train", "--nodes", "0-3,99", code=2)
    for wrong in ("", "x", "3-1", "-1", "1,,2", "1.5", "0x1", "9" * 30):
        assert "is not a node" in still(lab, "train", "--nodes", wrong, code=2)
    assert "--round needs --nodes" in still(lab, "train", "--round", "1", code=2)
    lab("train", "--nodes", "3")
    assert [p.name for p in (lab.run() / "rounds" / "0001").glob("nodes*")] == ["nodes-003-003.safetensors"]
    assert "already trained" in still(lab, "train", "--nodes", "3")
    assert "already trained" in still(lab, "train", "--nodes", "3", "--round", "1")
    said = still(lab, "train", "--nodes", "3", "--round", "2", code=75)
    assert "round 2 needs the checkpoint of round 1" in said
    assert "metadist aggregate" in said
    lab("train", "train.rounds=1")
    lab("aggregate", "train.rounds=1")
    assert "round 1 is already closed" in still(lab, "train", "--nodes", "3", "--round", "1")
    assert "beyond train.rounds=1" in still(lab, "train", "--nodes", "3", "train.rounds=1")


def test_nodes_that_are_not_drawn(lab: Lab):
    half = "train.nodes_per_round=0.5"
    lab("partition", half)
    files_of = {n: "not sampled" not in lab("train", half, "--nodes", str(n)).out for n in lab.trained()}
    assert sum(files_of.values()) == 3
    lab("aggregate", half)
    assert (lab.run() / "rounds" / "0001" / "global.safetensors").exists()


def test_round_without_all_nodes(lab: Lab, tmp_path: Path):
    lab("partition", ONE)
    nodes = lab.trained()
    lab("train", ONE, "--nodes", ",".join(map(str, nodes)))
    late = {n: shutil.copy(lab.update(1, n), tmp_path) for n in nodes if lab.update(1, n).exists()}
    shutil.rmtree(lab.run() / "rounds" / "0001")
    lab("train", ONE, "--nodes", ",".join(map(str, nodes[:3])))
    said = still(lab, "aggregate", code=75)
    assert f"round 1 lacks 3 of 6 nodes: {', '.join(map(str, nodes[3:]))}" in said
    assert f"--nodes {nodes[3]}" in said
    assert "--min-nodes 3" in said
    assert "lacks 3 of 6" in still(lab, "aggregate", "--min-nodes", "4", code=75)
    told = json.loads(lab("aggregate", "--min-nodes", "3", "--json").out)
    assert told["dropped"] == nodes[3:]
    assert header(lab, 1)["dropped"] == nodes[3:]
    assert header(lab, 1)["nodes"] == 3
    name = Path(next(iter(late.values()))).name if late else "nodes-003-003.safetensors"
    (lab.run() / "rounds" / "0001" / name).write_bytes(b"too late")
    said = still(lab, "aggregate")
    assert f"too late for round 1, not used: {name}" in said
    still(lab, "aggregate", "--min-nodes", "1")


def test_figures_of_different_kinds(lab: Lab, trained: Lab):
    """A node that measures something else, or without sense, has its model used and its figures left out."""
    shutil.copytree(trained.runs, lab.runs)
    for node, figures in [(1, {"loss": 1.0, "speed": 2.0}), (2, {"loss": 1e308, "accuracy": 0.5})]:
        tensors, head = files.unpack(lab.update(1, node).read_bytes(), "")
        lab.update(1, node).write_bytes(files.pack(tensors, head | {"metrics": [figures]}))
    lab("aggregate", ONE)
    assert header(lab, 1)["metrics"] == {}
    assert header(lab, 1)["nodes"] == 6


def header(lab: Lab, number: int) -> dict:
    return files.unpack(lab.checkpoint(number), "")[1]


def test_a_job_that_is_started_again_passes_closed_rounds(lab: Lab):
    """As in the README's batch script: what is closed is left alone, whatever is open."""
    lab("partition", ONE)
    lab("train", ONE, "--nodes", "0-3")
    lab("aggregate", ONE, "--min-nodes", "4", "--round", "1")
    lab("train", ONE, "--nodes", "2-3")
    assert "round 1 is already closed" in still(lab, "aggregate", ONE, "--round", "1")
    assert "lacks" in lab("aggregate", ONE, "--round", "2", code=75).err


def test_new_tasks_are_checked_before_the_training(lab: Lab):
    assert "held-out nodes have too few rows for a new task of" in lab("run", "finetune.task.query=4000", code=3).err
    assert not lab.run().exists()
    assert "nothing is held out" in lab("run", "finetune.held_out=validation", code=3).err
    assert not lab.run().exists()


def test_validation_nodes_are_judged_apart(lab: Lab):
    apart = ("task.new.validation=1",)
    lab("run", *apart)
    lab("finetune", *apart, "finetune.held_out=validation", "finetune.name=valid")
    found = [json.loads((lab.run() / "finetune" / n / "metrics.json").read_text()) for n in ("new", "valid")]
    nodes = [{n["node"] for n in m["per_node"]} for m in found]
    assert nodes[0].isdisjoint(nodes[1])
    assert all(nodes)


@pytest.mark.parametrize("closing", [("aggregate", ONE), ("train", "train.rounds=2")])
def test_frozen_inputs_stay(lab: Lab, monkeypatch: pytest.MonkeyPatch, closing: tuple[str, ...]):
    """Killed after it took stock: a node that comes afterwards does not change the round, whoever closes it."""
    for name in ("tiny", "calm"):
        lab("partition", ONE, name=name)
        lab("train", ONE, "--nodes", "0-1", name=name)
    lab("aggregate", "--min-nodes", "2", ONE, name="calm")
    with monkeypatch.context() as patch:
        patch.setattr("metadist_cli.commands.aggregate.close_frozen", lambda *_: 1 / 0)
        lab("aggregate", "--min-nodes", "2", ONE, code=1)
    lab("train", ONE, "--nodes", "2-3")
    lab(*closing)
    assert lab.checkpoint(1) == lab.checkpoint(1, "calm")
    assert header(lab, 1)["nodes"] == 2


def test_what_nodes_keep_survives_a_frozen_round(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """`run` closes the round that a killed aggregate had begun, and goes on with what the nodes kept from it."""
    settings = (ONE, "train.outer_state=keep", "train.rounds=3")
    for name in ("tiny", "calm"):
        lab("partition", *settings, name=name)
        lab("train", *settings, "--nodes", "0-1", name=name)
    lab("aggregate", *settings, "--min-nodes", "2", name="calm")
    with monkeypatch.context() as patch:
        patch.setattr("metadist_cli.commands.aggregate.close_frozen", lambda *_: 1 / 0)
        lab("aggregate", *settings, "--min-nodes", "2", code=1)
    for name in ("tiny", "calm"):
        lab("run", *settings, name=name)
    assert lab.checkpoint(3) == lab.checkpoint(3, "calm")


def test_other_settings_are_refused(lab: Lab):
    lab("run")
    said = still(lab, "run", "learner.inner_lr=0.2", "partition.nodes=9", "seed=1", code=4)
    for text in ("learner.inner_lr: 0.1, now 0.2", "partition.nodes: 8, now 9", "seed: 0, now 1"):
        assert text in said
    for way in ("--name", "--restart", "set them back"):
        assert way in said
    for command in COMMANDS:
        assert "seed" in still(lab, command, "seed=1", code=4)
    for free in ("execution.memory=1GiB", "train.keep_nodes=last", "finetune.episodes=6", "train.rounds=3"):
        still(lab, "run", free)
    lab("partition", name="late")  # until there is a checkpoint, only what the shards depend on is bound
    lab("train", "learner.inner_lr=0.2", "--nodes", "0", name="late")
    assert "inner_lr: 0.2, now 0.1" in lab("train", "--nodes", "1", name="late", code=4).err
    lab("train", "learner.inner_lr=0.2", "--nodes", "1", name="late")


def test_restart_keeps_the_old_run(lab: Lab):
    lab("partition")
    first = substance(lab.run())
    said = lab("partition", "seed=1", "--restart").out
    assert "tiny.old-1" in said
    assert substance(lab.run("tiny.old-1")) == first
    assert substance(lab.run()).keys() == first.keys()
    assert substance(lab.run()) != first
    lab("run", "seed=2", "--restart")
    assert lab.shards()["basis"]["seed"] == 2
    assert lab.shards("tiny.old-2")["basis"]["seed"] == 1
    lab("run", "--restart", name="new")  # nothing there to be kept
    assert not lab.run("new.old-1").exists()


def test_more_rounds_and_fewer(lab: Lab):
    settings = ("train.outer_state=keep", "aggregate.server={name: adam, lr: 0.1}", "train.nodes_per_round=4")
    lab("run", *settings, "train.rounds=5", name="five")
    lab("run", *settings, "train.rounds=2")
    lab("run", *settings, "train.rounds=5")
    assert results(lab.run()) == {k: v.replace(b'"five"', b'"tiny"') for k, v in results(lab.run("five")).items()}
    for command in ("run", "train", "finetune"):
        said = still(lab, command, *settings, "train.rounds=4")
        assert "train.rounds=4 has no effect: round 5 is closed already" in said
        assert lab.run().joinpath("config.yaml").read_text().count("rounds: 5") == 1  # what is evaluated
    hint = re.findall(r"set (finetune\.round=4)\n", said)
    assert hint
    lab("finetune", *settings, *hint, "finetune.name=four")
    assert json.loads((lab.run() / "finetune" / "four" / "metrics.json").read_text())["round"] == 4


def test_rounds_of_a_baseline_do_not_go_back_either(lab: Lab):
    def settings(rounds: int) -> str:
        return f"baselines={{other: {{train: {{rounds: {rounds}, local_steps: 1}}}}}}"

    lab("run", settings(3), "train.rounds=1")
    lab("run", settings(2), "train.rounds=1")
    assert "rounds: 2" not in lab.run().joinpath("config.yaml").read_text()


def test_a_round_that_asks_for_more_nodes_than_train_says_so(lab: Lab):
    natural = ("data={name: synthetic, nodes: 6, rows: 40}", "partition={name: natural, by: user}")
    said = "train.nodes_per_round is 9, but only 4 nodes train: every round has 4"
    assert said in lab("run", *natural, "train.nodes_per_round=9", "--dry-run").out
    assert said in lab("run", *natural, "train.nodes_per_round=9").out
    assert said not in lab("run", *natural, "train.nodes_per_round=4", name="four").out


def test_sizes_are_in_the_unit_that_suits_them(lab: Lab):
    said = lab("run", "--dry-run", "model.hidden=[400, 800]").out
    assert "1.4 MB and 1.4 MB a node and round" in said
    assert "7.7 kB and 7.7 kB" in lab("run", "--dry-run", "model.hidden=[20, 20]").out


FALLING = "train.outer={name: sgd, lr: 0.1, schedule: linear}"


def moves(lab: Lab, name: str, rounds: int) -> list[float]:
    """How far the global model moved in each round."""
    weights = [load(lab.checkpoint(number, name))["meta/head.weight"] for number in range(rounds + 1)]
    return [float((new - old).norm()) for old, new in pairwise(weights)]


@pytest.mark.parametrize("length", ["train.local_steps=4", "train={local_epochs: 2, batch: 30, outer: {name: sgd}}"])
def test_a_schedule_falls_over_all_rounds_however_many_and_long(lab: Lab, length: str):
    learner = ("learner={name: supervised}", length, FALLING)
    for rounds in (3, 6):
        done = lab("run", *learner, f"train.rounds={rounds}", name=f"of-{rounds}")
        assert "warning" not in done.out + done.err
        found = moves(lab, f"of-{rounds}", rounds)
        assert found[0] > 2 * found[-1] > 0


def test_rounds_in_which_the_step_size_is_0_are_reported_and_change_nothing(lab: Lab):
    early, text = (
        (FALLING, "train.outer.over=2", "train.rounds=4"),
        "0 from round 3 on, so 2 of 4 rounds change nothing",
    )
    for command in (("train",), ("train", "--nodes", "0"), ("run", "--dry-run")):
        if command[0] == "train":
            lab("partition", *early)
        done = lab(*command, *early)
        assert text in " ".join((done.out + done.err).split()), command
    lab("run", *early, name="early")
    assert [move > 0 for move in moves(lab, "early", 4)] == [True, True, False, False]
    told = lab("run", "aggregate.server={name: sgd, schedule: cosine, over: 0.5}", "train.rounds=4", name="server")
    assert text in " ".join((told.out + told.err).split())
    assert [move > 0 for move in moves(lab, "server", 4)] == [True, True, False, False]


def test_a_schedule_that_more_rounds_stretch_is_reported(lab: Lab):
    lab("run", FALLING)
    told = lab("run", FALLING, "train.rounds=5")
    assert "train.rounds was 3 and is 5: from round 4 on" in " ".join((told.out + told.err).split())
    assert all(move > 0 for move in moves(lab, "tiny", 5))
    again = lab("run", FALLING, "train.rounds=5")
    assert "train.rounds was" not in again.out + again.err
    lab("run", name="constant")
    told = lab("run", "train.rounds=5", name="constant")
    assert "train.rounds was" not in told.out + told.err


def test_a_run_by_its_folder(lab: Lab):
    from typer.testing import CliRunner

    from metadist_cli.cli import app

    lab("run", "seed=7", name="seven")
    before = substance(lab.run("seven"))
    again = CliRunner().invoke(app, ["run", str(lab.run("seven"))])
    assert again.exit_code == 0
    assert substance(lab.run("seven")) == before
    more = CliRunner().invoke(app, ["run", str(lab.run("seven")), "train.rounds=4"])
    assert more.exit_code == 0
    lab("run", "seed=7", "train.rounds=4", name="four")
    assert lab.checkpoint(4, "seven") == lab.checkpoint(4, "four")


def test_lock_is_held(lab: Lab):
    lab("partition")
    lab("train", "train.rounds=1")
    with files.lock(lab.run() / ".lock"):
        for command in ("train", "aggregate", "run"):
            assert "another metadist process" in still(lab, command, code=75)
        assert "another metadist process" in still(lab, "run", "--restart", code=75)
        assert not lab.run("tiny.old-1").exists()
        still(lab, "partition")  # is done, asks nothing
        lab("train", "train.rounds=1", "--nodes", "3")  # other nodes, other files: no lock
    lab("aggregate")
    with files.lock(lab.run() / ".lock"):
        still(lab, "finetune", code=75)
    lab("finetune")


@pytest.mark.parametrize(("signal", "code"), [(2, 130), (15, 143)])
def test_stopped_in_training(lab: Lab, signal: int, code: int):
    """Ctrl-C and SIGTERM leave a run that the printed command finishes."""
    lab("run", name="calm")
    stopped = lab.process("run", "train.rounds=3", FAULT=f"synced:16:{signal}")
    assert stopped.code == code, stopped
    assert "Traceback" not in stopped.out + stopped.err
    assert not list(lab.run().rglob(".tmp-*"))
    assert (lab.run() / "rounds" / "0000" / "global.safetensors").exists()
    assert not (lab.run() / "rounds" / "0003" / "global.safetensors").exists()
    command = re.search(r"resume with the same command: metadist (.*)", stopped.err)
    assert command
    if code == 130:
        again = process(*shlex.split(command[1]), "-q")
        assert (again.code, again.out, again.err) == (0, "", "")
    else:
        lab("run")
    assert lab.checkpoint(3) == lab.checkpoint(3, "calm")  # a process of its own comes to the same bits


def test_two_signals_at_once_end_a_command_with_its_message_alone(lab: Lab):
    """As `timeout` and impatient users send them, while threads compute blocks; torch aborted as Python ended."""
    long = ("run", "train.rounds=100000", "execution.threads=2", "execution.block=1")
    command = [sys.executable, "-m", "metadist_cli", *lab.arguments(*long)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        waited = time.monotonic() + 120
        while not (lab.run() / "rounds" / "0003").exists() and time.monotonic() < waited:
            time.sleep(0.05)
        running.terminate()
        running.terminate()
        err = running.communicate(timeout=60)[1]
    assert running.returncode == 143
    assert [line.split(":")[0].strip() for line in err.splitlines()[-2:]] == [
        "stopped; finished work is kept",
        "-> resume with the same command",
    ]
    assert "terminate" not in err


# ------------------------------------------------------------------------------------- damaged and foreign files


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def test_damaged_shard(lab: Lab):
    lab("partition")
    lab("train", "--nodes", "1")
    shard = lab.run() / "shards" / "node-002.safetensors"
    whole = shard.read_bytes()
    damage(shard)
    for command in ("train", "run"):
        said = still(lab, command, code=4)
        assert "node-002.safetensors" in said
        assert "metadist partition" in said
    lab("train", "--nodes", "3")  # the others are as they were
    shard.unlink()
    assert "node-002.safetensors" in still(lab, "train", code=4)
    lab("partition")
    assert shard.read_bytes() == whole
    shard.write_bytes(whole[:-1])
    lab("run")
    assert shard.read_bytes() == whole


def test_damaged_global_checkpoint(lab: Lab):
    lab("run")
    newest = lab.run() / "rounds" / "0003" / "global.safetensors"
    whole = newest.read_bytes()
    damage(newest)
    for command, more in [("train", "train.rounds=4"), ("run", "train.rounds=4"), ("finetune", "finetune.steps=2")]:
        said = still(lab, command, more, code=4)
        assert "0003/global.safetensors" in said
        assert "damaged" in said
    newest.write_bytes(lab.checkpoint(2))
    assert "round 2" in still(lab, "train", "train.rounds=4", code=4)
    newest.unlink()  # then the round is open again, and ends in the same bytes
    lab("run")
    assert newest.read_bytes() == whole


def foreign(lab: Lab, kind: str) -> tuple[Path, str]:
    """Put a wrong node file in place of node 1's; returns it and what is to be said of it."""
    path = lab.update(1, 1)
    data = path.read_bytes()
    tensors, head = files.unpack(data, "")
    match kind:
        case "damaged":
            damage(path)
            return path, "damaged"
        case "empty":
            path.write_bytes(b"")
            return path, "empty"
        case "link":
            path.rename(path.with_name("elsewhere"))
            path.symlink_to("elsewhere")
            return path, "not a regular file"
        case "other round":
            path.write_bytes(files.pack(tensors, head | {"round": 2}))
            return path, "not trained from the checkpoint of round 0"
        case "other parent":
            path.write_bytes(files.pack(tensors, head | {"parent": "0" * 64}))
            return path, "not trained from the checkpoint of round 0"
        case "other model":
            path.write_bytes(files.pack({k: v[:, :1] for k, v in tensors.items()}, head))
            return path, "expected"
        case "not finite":
            path.write_bytes(files.pack({k: v / 0 for k, v in tensors.items()}, head))
            return path, "NaN or infinity"
        case "held-out node":
            test = next(n["node"] for n in lab.shards()["nodes"] if n["role"] == "test")
            path.write_bytes(files.pack(tensors, head | {"nodes": [test]}))
            return path, f"node {test} does not take part"
        case "foreign node":
            path.write_bytes(files.pack(tensors, head | {"nodes": [99]}))
            return path, "node 99 does not take part"
        case "no node":
            path.write_bytes(files.pack(tensors, {k: v for k, v in head.items() if k != "nodes"}))
            return path, "does not name the nodes"
        case "odd node":
            path.write_bytes(files.pack(tensors, head | {"nodes": [[1]]}))
            return path, "does not"
        case "odd metrics":
            path.write_bytes(files.pack(tensors, head | {"metrics": [{"loss": "nan"}]}))
            return path, "does not"
    raise AssertionError(kind)


KINDS = (
    *("damaged", "empty", "link", "other round", "other parent", "other model", "not finite"),
    *("held-out node", "foreign node", "no node", "odd node", "odd metrics"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A run in which every node has trained for round 1, each with a file of its own; to be copied."""
    lab = Lab(tmp_path_factory.mktemp("trained"))
    lab("partition", ONE)
    for node in lab.trained():
        lab("train", ONE, "--nodes", str(node))
    return lab


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_node_file(lab: Lab, trained: Lab, kind: str):
    shutil.copytree(trained.runs, lab.runs)
    path, said = foreign(lab, kind)
    refused = still(lab, "train", ONE, code=4)
    assert path.name in refused
    assert said in refused
    told = still(lab, "aggregate", ONE, code=75)
    assert f"{path.name} is not used: " in told
    assert said in told
    assert "lacks 1 of 6 nodes: 1" in told
    lab("aggregate", ONE, "--min-nodes", "5")
    assert header(lab, 1)["dropped"] == [1]
    assert path.name in files.from_json((path.parent / "inputs.json").read_bytes(), "")["rejected"]


# --------------------------------------------------------------------------------------------- how it speaks


def test_json_is_one_object(lab: Lab):
    for command in ("validate", *COMMANDS):
        arguments = [command, str(lab.config), "--json"]
        if command != "validate":
            arguments += ["--runs-dir", str(lab.runs)]
        for wrong, code in ((), 0), (("trian.rounds=1",), 3), (("train.rounds=-1",), 3):
            from typer.testing import CliRunner

            from metadist_cli.cli import app

            done = CliRunner().invoke(app, [*arguments, *wrong])
            assert done.exit_code == code, done.output
            answer = json.loads(done.stdout)
            assert isinstance(answer, dict)
            assert done.stdout.count("\n") == 1
            if code:
                assert set(answer) == {"error"}
                assert answer["error"]["code"] == code
                assert answer["error"]["message"]
                assert answer["error"]["where"]
                assert {"message", "where", "hint"} == set(answer["error"]["all"][0])
                assert not done.stderr
    for arguments, code in [(("train", "--nodes", "99"), 2), (("run", "seed=1"), 4), (("train", "--nodes", "x"), 2)]:
        answer = json.loads(lab(*arguments, "--json", code=code).out)
        assert answer["error"]["code"] == code
        assert answer["error"]["hint"]


@pytest.mark.parametrize("line", ["run --bogus --json", "run --json", "frobnicate --json"])
def test_a_wrong_command_line_answers_in_json(line: str, monkeypatch: pytest.MonkeyPatch, capsys):
    from metadist_cli.cli import main

    monkeypatch.setattr("sys.argv", ["metadist", *line.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == 2


def test_quiet_prints_nothing(lab: Lab):
    for command in COMMANDS:
        done = lab(command, "-q")
        assert (done.out, done.err) == ("", "")
    assert "partition: 8 shards" in (lab.run() / "log.txt").read_text()
    assert lab("run", "-q", "seed=1", code=4).err


def test_traceback_only_where_something_is_wrong(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    done = lab("run", "-v")
    assert "Traceback" not in done.out + done.err
    assert "Traceback" not in "".join(lab("run", "seed=1", code=4)[1:])
    assert "Traceback" in lab("run", "-v", "seed=1", code=4).out
    monkeypatch.setattr("metadist_cli.commands.run.train", lambda *_, **__: 1 / 0)
    for more, shown in ((), False), (("-v",), True):
        done = lab("run", *more, code=1)
        assert "internal error: ZeroDivisionError" in done.err
        assert ("Traceback" in done.out) == shown
    assert (lab.run() / "log.txt").read_text().count("ZeroDivisionError: division by zero") >= 2


def test_what_may_not_be_read_is_no_bug(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "shards/manifest.json")

    monkeypatch.setattr("metadist_cli.commands.run.pipeline", denied)
    said = lab("run", code=5).err
    assert "shards/manifest.json: cannot use this file: Permission denied" in said
    assert "check the permissions" in said


def test_plain_text_without_a_terminal(lab: Lab):
    for command in COMMANDS:
        done = lab(command)
        assert "\x1b" not in done.out + done.err
        assert "\r" not in done.out + done.err
        steps = {"partition": "train", "train": "aggregate", "aggregate": "finetune"}
        if command in steps:
            assert f"next: metadist {steps[command]} {lab.config} --runs-dir {lab.runs}\n" in done.out


def test_fits_a_terminal_of_80_columns(lab: Lab):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "metadist_cli", "partition", "tiny.yaml", "partition.relabel=true"]
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    ci = {"CI": "", "TERM": "xterm-256color"}
    with subprocess.Popen(command, env=environment(**ci), cwd=lab.folder, **streams) as running:
        os.close(theirs)
        out = b""
        while chunk := chunk_of(ours):
            out += chunk
    os.close(ours)
    assert running.returncode == 0, out.decode()
    assert b"\x1b[" in out
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.decode())
    lines = [line for part in plain.splitlines() for line in part.split("\r")]
    table = [line for line in lines if re.match(r"\s*(node|\d+)\s+(name|node-\d+)", line)]
    assert len(table) == 9
    assert max(map(len, table)) <= 80


def chunk_of(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # Linux says EIO where the other side is closed
        return b""


def test_help_imports_no_torch(tmp_path: Path):
    script = """if True:
        import sys
        from typer.testing import CliRunner
        from metadist_cli.cli import app
        for command in ([], ["validate"], ["partition"], ["train"], ["aggregate"], ["finetune"], ["run"]):
            shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
            assert shown.exit_code == 0, shown
            assert "Example: " in shown.stdout or not command, shown.stdout
            assert max(map(len, shown.stdout.splitlines())) <= 80, shown.stdout
        print(sorted({"torch", "numpy", "matplotlib", "sklearn", "PIL"} & set(sys.modules)))
    """
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_both_doors_agree(lab: Lab):
    door = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["metadist"]
    module, function = door.split(":")
    script = f"import sys; sys.argv[0] = 'metadist'; from {module} import {function}; {function}()"
    for arguments in (["--version"], ["train", "--help"], ["validate", "x"], ["tarin"]):
        by_module = process(*arguments, module=True)
        command = [sys.executable, "-c", script, *arguments]
        by_script = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        for one, other in zip(by_module, (by_script.returncode, by_script.stdout, by_script.stderr), strict=True):
            assert str(one).replace("python -m metadist_cli", "metadist").split() == str(other).split()
        assert by_module.code == (3 if arguments[-1] == "x" else 2 if arguments == ["tarin"] else 0)


def test_dry_run_writes_nothing(lab: Lab):
    for command in COMMANDS:
        done = lab(command, "--dry-run")
        assert "nothing was written" in done.out
        assert not lab.runs.exists()
    lab("run")
    before = contents(lab.folder)
    for command in COMMANDS:
        told = json.loads(lab(command, "--dry-run", "--json").out)
        assert told["closed"] == 3
    lab("run", "--restart", "--dry-run")
    lab("run", "seed=1", "--dry-run", code=4)
    assert contents(lab.folder) == before
    figures = told["runs"]["main"]
    assert (figures["parameters"], figures["nodes_per_round"]) == (64 * 16 + 16 + 160 + 10, 6)
    assert figures["bytes_up"] == figures["bytes_down"] == 4 * figures["parameters"]
    assert lab.checkpoint(3).__len__() - 4 * figures["parameters"] < 2048
    assert (figures["tasks"], figures["support_rows"], figures["query_rows"]) == (3 * 2 * 6 * 2, 5, 10)


def test_bytes_and_seconds_are_what_files_and_clock_say(lab: Lab):
    lab("partition")
    for node in range(6):
        lab("train", "--nodes", str(node), "train.rounds=1")
    here = lab.run() / "rounds" / "0001"
    sent = (here / "nodes-000-000.safetensors").stat().st_size
    told = [json.loads((here / f"job-00{node}-00{node}.json").read_text()) for node in range(6)]
    assert [job["files"] for job in told] == [[f"nodes-00{node}-00{node}.safetensors"] for node in range(6)]
    lab("aggregate", "train.rounds=1")
    assert not [*here.glob("job-*")]  # as the node files
    assert all(job["peak_memory"]["host"] > 0 and job["execution"]["device"] == "cpu" for job in told)
    lab("train", "train.rounds=2")
    lab("aggregate", "train.rounds=2")
    lab("run", "train.rounds=3", "finetune.episodes=2")
    lines = [json.loads(line) for line in (lab.run() / "metrics.jsonl").read_text().splitlines()]
    assert [line["bytes"]["down"] for line in lines] == [len(lab.checkpoint(number)) for number in range(3)]
    assert all(abs(line["bytes"]["up"] - sent) <= 12 for line in lines)  # digits of its loss
    assert all(line["seconds"].keys() == {"train", "aggregate", "files"} for line in lines)
    assert 0 <= lines[0]["seconds"]["train"] - sum(job["seconds"] for job in told) < 5  # to read the files
    assert all(line["seconds"]["train"] > 0 for line in lines)


def test_what_jobs_say_of_themselves_cannot_stop_a_round(lab: Lab):
    """It may be missing, damaged or a lie; what is told of a round is what is known."""
    lab("partition")
    lab("train", "--nodes", "0-2", "train.rounds=1")
    lab("train", "--nodes", "3", "train.rounds=1")
    here = lab.run() / "rounds" / "0001"
    whole = (here / "job-000-002.json").read_text()
    told = json.loads(whole)
    for name, text in {
        "4-004": whole.replace("{", "[" * 100_000),
        "5-005": json.dumps(told | {"seconds": "long"}),
        "6-006": json.dumps(told | {"files": [[1]], "seconds": 1e308}),
        "7-007": json.dumps(told | {"seconds": -1.0}),
        "8-008": json.dumps(told | {"files": ["nodes-008-008.safetensors"], "seconds": 5.0}),
        "9-009": "[]",
    }.items():
        (here / f"job-00{name}.json").write_text(text)
    (here / "job-010-010.json").write_bytes(b"\xff")
    (here / "job-011-011.json").symlink_to("/dev/zero")
    (here / "job-003-003.json").unlink()
    lab("train", "train.rounds=1")
    lab("aggregate", "train.rounds=1")
    line = json.loads((lab.run() / "metrics.jsonl").read_text())
    assert told["seconds"] <= line["seconds"]["train"] < told["seconds"] + 5


def test_seconds_that_nobody_knows_are_not_told(lab: Lab):
    lab("partition")
    lab("train", "train.rounds=1")
    for path in (lab.run() / "rounds" / "0001").glob("job-*"):
        path.unlink()
    lab("aggregate", "train.rounds=1")
    assert json.loads((lab.run() / "metrics.jsonl").read_text())["seconds"].keys() == {"aggregate", "files"}


def test_a_round_that_jobs_began_counts_their_seconds(lab: Lab):
    lab("partition")
    lab("train", "--nodes", "0-2", "train.rounds=1")
    path = lab.run() / "rounds" / "0001" / "job-000-002.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 1000.0}))
    lab("run", "train.rounds=1", "finetune.episodes=2")
    assert 1000 < json.loads((lab.run() / "metrics.jsonl").read_text())["seconds"]["train"] < 1100


def test_older_checkpoints_need_not_be_there(lab: Lab, tmp_path: Path):
    """As where a run goes on with its newest checkpoint alone; its lines are mended with what is known."""
    lab("run", "train.rounds=2", "finetune.episodes=2")
    other = tmp_path / "elsewhere" / "tiny"
    shutil.copytree(lab.run(), other, ignore=shutil.ignore_patterns("0000", "0001", "metrics.jsonl", "finetune"))
    lab.runs = other.parent
    lab("train", "train.rounds=3")
    (line,) = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    assert line["round"] == 2
    assert line["bytes"].keys() == {"up"}


@proc
def test_the_manifest_tells_each_commands_memory(lab: Lab):
    """At least what it holds, at most what it has had in the end."""
    held = np.ones(1 << 26)  # 512 MiB
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    lab("run", "train.rounds=1", "finetune.episodes=2")
    commands = json.loads((lab.run() / "manifest.json").read_text())["commands"]
    for entry in commands:
        assert held.nbytes < pages * os.sysconf("SC_PAGE_SIZE") <= entry["peak_memory"]["host"] <= memory.peak()["host"]


def test_compiling_needs_a_compiler(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    lab("partition")
    monkeypatch.setenv("PATH", str(lab.folder))
    monkeypatch.delenv("CXX", raising=False)
    told = lab("train", "execution.compile=true", code=5).err
    assert told.startswith("execution.compile: torch.compile needs a C++ compiler")
    assert not (lab.run() / "rounds").exists()


def test_a_device_that_is_not_there_is_told(lab: Lab):
    lab("partition", "execution.device=cuda:99", code=5)
    assert not lab.run().exists()
    lab("partition")
    told = lab("train", "execution.device=cuda:99", code=5).err
    assert told.startswith("execution.device: device cuda:99 is not available")
    assert not (lab.run() / "rounds").exists()


def test_a_device_without_a_precision_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(execution, "has_bf16", lambda: False)
    lab("partition")
    for name in ("tf32", "bf16"):
        told = lab("train", f"execution.precision={name}", "execution.device=cpu", code=5).err
        assert told.startswith(f"execution.precision: device cpu does not support {name}\n  -> use float32")
    assert not (lab.run() / "rounds").exists()


@pytest.mark.skipif(not execution.has_bf16(), reason="needs a CPU with AVX512-BF16 or AMX: others are refused")
def test_a_run_in_bf16(lab: Lab):
    """It goes through, is another run than one in float32 and the same in two processes, and says how it was made."""
    for name, more in (("exact", []), ("low", [PRECISION]), ("two", [PRECISION, "execution.workers=2"])):
        lab("run", ONE, *more, name=name)
    exact, low, two = (lab.checkpoint(3, name) for name in ("exact", "low", "two"))
    assert low == two != exact
    assert json.loads((lab.run("low") / "manifest.json").read_text())["execution"]["precision"] == "bf16"
    assert load(low)["meta/head.weight"].dtype == torch.float32


def test_execution_settings_are_kept(lab: Lab):
    """What `auto` came to stays with the run; a change is told; before there is a round nothing depends on it."""
    lab("partition")
    lab("train", "execution.block=2", "train.rounds=1")
    assert "warning" not in lab("aggregate", "execution.block=2", "train.rounds=1").err
    assert "warning" not in lab("train", "train.rounds=2").out  # auto: what the run has
    told = lab("train", "execution.block=3").out
    assert "block 2 -> 3" in told
    manifest = json.loads((lab.run() / "manifest.json").read_text())
    assert manifest["execution"]["block"] == 2
    assert [entry.get("execution", {}).get("block") for entry in manifest["commands"]] == [None, None, None, None, 3]
    assert [entry["command"] for entry in manifest["commands"]] == ["partition", "train", "aggregate", "train", "train"]


def test_a_setting_that_came_later_has_its_default_in_older_runs(lab: Lab):
    lab("partition")
    path = lab.run() / "shards" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["basis"]["partition"].pop("relabel") is not None
    path.write_text(json.dumps(manifest))
    lab("train", "train.rounds=1")
    told = lab("train", "partition.rotate=30", code=4).err
    assert "partition.rotate" in told
    assert "relabel" not in told


@pytest.mark.parametrize("change", [{"strange": 1}, {"shape": None}])
def test_a_partition_of_another_version_is_told(lab: Lab, change: dict[str, object]):
    lab("partition")
    path = lab.run() / "shards" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"spec": manifest["spec"] | change}))
    assert "another version of metadist made it" in lab("train", code=4).err


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_runs_of_earlier_versions_go_on(lab: Lab, device: str):
    """They had float32 on a CPU; on a GPU what torch has by default, so that going on in float32 is told."""
    lab("run", "train.rounds=1", "finetune.episodes=2")
    path = lab.run() / "manifest.json"
    manifest = json.loads(path.read_text())
    for key in ("precision", "compile", "tasks_at_once"):
        del manifest["execution"][key]
    path.write_text(json.dumps(manifest | {"execution": manifest["execution"] | {"device": device}}))
    told = lab("train", "train.rounds=2", "execution.device=cpu").out
    assert ("precision torch's default -> float32" in told) == (device != "cpu")
    assert ("execution settings changed" in told) == (device != "cpu")
