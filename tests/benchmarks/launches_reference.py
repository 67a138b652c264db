"""configs/omniglot-maml.yaml as a bare loop of plain PyTorch: no files but its images, no metrics, nothing of metadist.

Each round every node begins with the shared weights and Adam's shared moments, takes `local_steps` steps of
`meta_batch` tasks, one after the other, and the weights and moments of all are averaged. Then the trained and a random
model adapt to each new task, and answer its query before and after every step, as metadist's report has it.
As a script it takes its work as JSON and prints what it has done.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from meta_loop import Task, Weights, accumulate, descend, forward


class Work(NamedTuple):
    """images: an .npy file of (characters, drawings, height, width), of which `test` characters are for new tasks."""

    images: str
    test: int
    nodes: int
    rounds: int
    local_steps: int
    meta_batch: int
    way: int
    shot: int
    query: int
    steps: int
    lr: float
    first_order: bool
    outer_lr: float
    decay_steps: int
    episodes: int
    new_steps: int


def initial(way: int, draw: torch.Generator) -> Weights:
    """conv4 of 64 filters whose normalisation learns a shift."""
    weights = {}
    for i, before in enumerate((1, 64, 64, 64)):
        bound = math.sqrt(6 / (9 * (before + 64)))
        weights[f"conv{i}.weight"] = torch.empty(64, before, 3, 3).uniform_(-bound, bound, generator=draw)
        weights[f"conv{i}.bias"] = torch.zeros(64)
        weights[f"norm{i}.shift"] = torch.zeros(64)
    weights["head.weight"] = torch.empty(way, 64).uniform_(-1 / 8, 1 / 8, generator=draw)
    weights["head.bias"] = torch.zeros(way)
    return {name: w.requires_grad_() for name, w in weights.items()}


def dealt(w: Work, draw: np.random.Generator) -> tuple[torch.Tensor, list[np.ndarray], np.ndarray]:
    """(images with all quarter turns as further classes, the classes of each node, those for new tasks)."""
    upright = np.load(w.images)
    images = np.concatenate([np.rot90(upright, turn, axes=(2, 3)) for turn in range(4)])
    order = draw.permutation(len(upright))
    turned = len(upright) * np.arange(4)[:, None]
    new, old = ((some + turned).ravel() for some in (order[: w.test], order[w.test :]))
    return torch.from_numpy(images), np.array_split(draw.permutation(old), w.nodes), new


def tasks(w: Work, images: torch.Tensor, classes: np.ndarray, draw: np.random.Generator) -> Iterator[Task]:
    """Without end: `way` of these classes, other drawings of each as support and query."""
    labels = [torch.arange(w.way).repeat_interleave(n) for n in (w.shot, w.query)]
    while True:
        chosen = draw.choice(classes, w.way, replace=False)
        picks = draw.random((w.way, images.shape[1])).argsort(1)[:, : w.shot + w.query]
        x = images[chosen[:, None], picks].float() / 255
        yield Task(x[:, : w.shot].flatten(0, 1), labels[0], x[:, w.shot :].flatten(0, 1), labels[1])


def train(w: Work, params: Weights, nodes: list[Iterator[Task]]) -> dict[str, int]:
    """All rounds, in place; what was done."""
    done = {"tasks": 0, "rows": 0}
    adam = torch.optim.Adam(params.values(), fused=True)
    for p in params.values():
        adam.state[p] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    leaves = [p.detach() for p in params.values()] + [leaf for state in adam.state.values() for leaf in state.values()]
    shared = [leaf.clone() for leaf in leaves]
    for number in range(w.rounds):
        mean = [torch.zeros_like(leaf) for leaf in leaves]
        for node in nodes:
            for leaf, before in zip(leaves, shared, strict=True):
                leaf.copy_(before)
            for step in range(number * w.local_steps, (number + 1) * w.local_steps):
                batch = list(islice(node, w.meta_batch))
                adam.param_groups[0]["lr"] = w.outer_lr * max(0.0, 1 - step / w.decay_steps)
                adam.zero_grad()
                accumulate(w, params, batch)
                adam.step()
                done["tasks"] += len(batch)
                done["rows"] += sum(len(task.support_y) + len(task.query_y) for task in batch)
            for total, leaf in zip(mean, leaves, strict=True):
                total.add_(leaf, alpha=1 / len(nodes))
        shared = mean
    for leaf, last in zip(leaves, shared, strict=True):
        leaf.copy_(last)
    return done


def judge(w: Work, params: Weights, new: list[Task]) -> list[float]:
    """Mean accuracy on new tasks before, and after each step."""
    right = np.zeros(w.new_steps + 1)
    for task in new:
        fast = params
        for step in count():
            with torch.no_grad():
                right[step] += (forward(fast, task.query_x).argmax(1) == task.query_y).double().mean().item()
            if step == w.new_steps:
                break
            fast = descend(fast, task.support_x, task.support_y, w.lr, False)
            fast = {name: v.detach().requires_grad_() for name, v in fast.items()}
    return (right / len(new)).tolist()


def play(w: Work) -> dict[str, Any]:
    """The whole of it: what was done, the accuracies, the seconds of each part."""
    draw, start = np.random.default_rng(0), torch.Generator().manual_seed(0)
    images, nodes, classes = dealt(w, draw)
    params, untrained = initial(w.way, start), initial(w.way, start)
    clock = time.perf_counter()
    done = train(w, params, [tasks(w, images, own, draw) for own in nodes])
    trained = time.perf_counter()
    new = list(islice(tasks(w, images, classes, draw), w.episodes))
    curves = [judge(w, some, new) for some in (params, untrained)]
    done |= {"adaptations": len(curves) * len(new), "steps": w.new_steps}
    done["weights"] = sum(p.numel() for p in params.values())
    return {
        "done": done,
        "accuracy": {"before": curves[0][0], "after": curves[0][-1], "untrained": curves[1][-1]},
        "seconds": {"train": trained - clock, "finetune": time.perf_counter() - trained},
    }


if __name__ == "__main__":
    print(json.dumps(play(Work(**json.loads(sys.argv[1])))))
