"""Execution settings: device, precision and block sizes. They change the last bits of a result (bf16: more)."""

from __future__ import annotations

import os
import shutil
from typing import Any, NamedTuple

import torch
from torch.func import vmap

from metadist_cli import config as configs
from metadist_cli.config import Config
from metadist_cli.core import seeds, tree
from metadist_cli.core.errors import SYSTEM, Problem
from metadist_cli.data.readers.folder import cache
from metadist_cli.experiment import Experiment
from metadist_cli.federated.rounds import count
from metadist_cli.models import Model
from metadist_cli.runtime import memory

# On a CPU, the working sets of a block of nodes and of a node's tasks that training is fastest with
_BLOCK_BYTES, _TASKS_BYTES = 128 << 20, 192 << 20
# And of a block that is worth a thread or a process of its own. 100 nodes that take 4 tasks a step, ms a round in
# blocks of 73 and of 25: one thread 1,830 and 1,980, two 1,380 and 1,220, four 1,410 and 780
_WORTH_BYTES, _SIDES = 40 << 20, 4
# On a CPU, the activations of a pass over images from which on vmap gains nothing over plain autograd. conv4, one inner
# step, one thread, ms a step of 32 tasks together and one by one: passes of 5 rows, 1.3 MiB, 370 and 600; of 25 rows,
# 6.5 MiB, 1,600 and 1,450; of 75 rows, 20 MiB, 1,400 and 1,300
_ALONE_BYTES = 4 << 20


class Setting(NamedTuple):
    """An experiment on its own data and this machine, with an algorithm set up as `execution` says."""

    experiment: Experiment
    manifest: dict[str, Any]  # of the partition
    execution: dict[str, Any]  # "device", "block", "tasks_at_once", "compile", "precision", "threads", all settled

    @property
    def device(self) -> torch.device:
        return torch.device(self.execution["device"])

    @property
    def block(self) -> int:
        return self.execution["block"]


def device(name: str) -> torch.device:
    """The torch device of execution.device. Raises Problem(SYSTEM) if this machine does not have it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    chosen = torch.device(name)
    if not there[chosen.type] or (chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count()):
        raise Problem(f"device {name} is not available on this machine", "execution.device", "use auto or cpu", SYSTEM)
    return chosen


def _compiles(device: torch.device) -> None:
    """Raise Problem(SYSTEM) if torch.compile lacks its compiler."""
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        hint = "install g++ or clang++, or set execution.compile to false"
        raise Problem(
            "torch.compile needs a C++ compiler on a CPU, and none was found", "execution.compile", hint, SYSTEM
        )


def has_bf16() -> bool:
    """Whether the CPU has bf16 products; other CPUs emulate them, at half the speed of float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _has_precision(name: str, device: torch.device) -> None:
    """Raise Problem(SYSTEM) if the device does not support this precision."""
    recent = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere, 2020
    cpu = device.type == "cpu" and has_bf16()
    if name != "float32" and not {"tf32": recent, "bf16": recent or cpu}[name]:
        hint = "use float32, or an NVIDIA GPU of 2020 or later"
        hint += ", or a CPU with AVX512-BF16 or AMX" if name == "bf16" else ""
        raise Problem(f"device {device} does not support {name}", "execution.precision", hint, SYSTEM)


def resolve(experiment: Experiment) -> dict[str, Any]:
    """The settings that decide the last bits, with every `auto` resolved; the run stores them."""
    execution = experiment.config.execution
    place = device(execution.device)
    block, few = sizes(experiment, place)
    if execution.compile:
        _compiles(place)
    _has_precision(execution.precision, place)
    return {
        "device": str(place),
        "compile": execution.compile,
        "precision": execution.precision,
        "replay": execution.replay,
        "block": block,
        "tasks_at_once": few,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def computed(experiment: Experiment, execution: dict[str, Any]) -> Experiment:
    """The experiment with its algorithm set up by resolved execution settings."""
    algorithm = experiment.algorithm._replace(
        tasks_at_once=execution["tasks_at_once"], compiled=execution["compile"], replayed=execution["replay"]
    )
    return experiment._replace(algorithm=algorithm)


def settle(precision: str = "float32") -> None:
    """Set up a training process: one torch thread, memory kept between steps, and products of this precision.

    Without it torch uses tf32 for convolutions on every GPU that supports it.
    """
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    memory.keep()
    if (folder := cache()) is not None:  # compiled steps outlive the process
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "compiled"))


def threads(config: Config, device: torch.device, alone: bool) -> int:
    """execution.threads: auto is the cores at hand, 4 at most (Python's lock leaves little to more); 1 on a GPU, with
    compiled steps (each thread would compile them), and beside workers or ranks, where this process is not alone."""
    execution = config.execution
    if execution.threads != "auto":
        return execution.threads
    if device.type != "cpu" or execution.compile:
        return 1
    if not alone and (execution.workers > 1 or "TORCHELASTIC_RUN_ID" in os.environ):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 4)


class _TaskBytes(NamedTuple):
    """What one task of a local step takes.

    activations: what autograd keeps of the passes over its rows. weights: the parameters that the inner loop makes.
    largest_pass: activations of the larger of its two passes. params: the model's own parameters.
    """

    activations: int
    weights: int
    largest_pass: int
    params: int


def _task_bytes(experiment: Experiment) -> _TaskBytes:
    _, support, query = experiment.rows
    params, row = row_bytes(experiment.model, experiment.spec.shape)
    inner = max(1, experiment.algorithm.learner.inner_steps)
    return _TaskBytes(row * (support * inner + query), params * (2 + 2 * inner), row * max(support, query), params)


def sizes(experiment: Experiment, place: torch.device) -> tuple[int, int]:
    """The sizes that `auto` stands for: functions of shapes, nodes a round, kind of device and execution.memory alone.

    Args:
        experiment: shapes, settings and learner.
        place: the device.

    Returns:
        Nodes a block, and how many of a step's tasks are one program.
    """
    execution, task = experiment.config.execution, _task_bytes(experiment)
    vmap_wanted = execution.block not in ("auto", 1) or execution.compile
    one_by_one = not vmap_wanted and apart(experiment, place, task.largest_pass)
    at_once = execution.tasks_at_once
    if at_once == "auto":
        most = _budget(experiment, place, _TASKS_BYTES) // (task.activations + task.weights)
        at_once = 1 if one_by_one else _even(experiment.rows[0], most)
    block = execution.block
    if block == "auto":
        block = 1 if one_by_one else _auto_block(experiment, place, task, at_once)
    return block, at_once


def _auto_block(experiment: Experiment, place: torch.device, task: _TaskBytes, at_once: int) -> int:
    """A round's nodes in even blocks that fit the budget, on a CPU in several where each is worth a thread.

    A second-order step keeps about three times the activations, and the adapted weights of every task.
    """
    nodes = count(experiment.spec.nodes, experiment.config.train.nodes_per_round)
    node = min(at_once, experiment.rows[0]) * (3 * task.activations + task.weights) + 6 * task.params
    most = max(1, _budget(experiment, place, _BLOCK_BYTES) // node)
    sides = min(_SIDES, nodes * node // _WORTH_BYTES) if place.type == "cpu" else 1
    return -(-nodes // max(1, sides, -(-nodes // most)))


def _budget(experiment: Experiment, place: torch.device, on_cpu: int) -> int:
    """Bytes for a program: execution.memory, on a CPU at most `on_cpu`; half where each node has a second model."""
    models = 1 if experiment.algorithm.personal.pull is None else 2
    budget = configs.size(experiment.config.execution.memory) // models
    return min(budget, on_cpu // models) if place.type == "cpu" else budget


def _even(items: int, most: int) -> int:
    """Size of even parts of at most `most` items."""
    return -(-items // -(-items // max(1, most)))


def apart(experiment: Experiment, place: torch.device, activations: int) -> bool:
    """Whether tasks go one by one, by plain autograd: images whose pass keeps more than a CPU's caches hold."""
    return place.type == "cpu" and len(experiment.spec.shape) > 1 and activations > _ALONE_BYTES


def row_bytes(model: Model, shape: tuple[int, ...]) -> tuple[int, int]:
    """(bytes of the parameters, bytes that autograd keeps for one row of data)."""
    params, stats = model.init(seeds.generator(0))
    leaves = {k: v.requires_grad_() for k, v in params.items()}

    def kept(rows: int) -> int:
        count = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            x, seed = torch.zeros(1, rows, *shape), torch.zeros((), dtype=torch.int64)
            vmap(lambda x: model.apply(leaves, stats, x, True, seed)[0])(x)  # the form that keeps more
        return count

    return 4 * tree.size(params), (kept(4) - kept(2)) // 2  # the weights, which are kept too, are not counted
