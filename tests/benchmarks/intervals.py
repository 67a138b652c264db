"""How often the 95% intervals of a report cover the truth, and how often "better" or "worse" is said without a reason.

    python tests/benchmarks/intervals.py                  500 studies of 5, 10 and 30 new nodes, about 2 minutes
    python tests/benchmarks/intervals.py --nodes 300      smaller populations, for a look

A population of nodes is held out from a run of MAML with FedAvg as its baseline. Both are then adapted to the same 60
tasks of each of these nodes. The truth is their mean over all nodes. A study draws a few nodes with at most 600 tasks
in all, and looks at three figures: MAML's accuracy, FedAvg's, and their difference. For the false verdicts the mean
difference over all nodes is taken away, so that the true difference is 0.
offices: those of the quickstart; each has 60 of scikit-learn's digits, drawn with replacement, and class numbers of its
own. users: the data set `synthetic`, where many users have rows of one or two classes alone, so that half of the
differences are close to 0 and few are large; 5 such values say little about their mean.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
from common import metadist, put
from sklearn.datasets import load_digits

from metadist_cli import config as configs
from metadist_cli.commands import finetune
from metadist_cli.core.console import Console
from metadist_cli.evaluation.intervals import Sources, over_sources, over_tasks
from metadist_cli.storage.run_directory import Run

TASKS, EPISODES, SIZES, TRAINED = 60, 600, (5, 10, 30), 20
OFFICES = """\
data: {name: arrays, path: offices.npz, groups: [office]}
task: {kind: local, support: 30, query: rest, new: {from: nodes, test: HELD}}
partition: {name: natural, by: office}
model: {name: mlp, hidden: [128]}
learner: {name: maml, inner_lr: 1.0, inner_steps: 3}
train: {rounds: 15, local_steps: 10, meta_batch: 2, outer: {name: adam, lr: 0.003}}
finetune: {steps: 5, episodes: EPISODES, save: none}
baselines: {fedavg: {learner: {name: supervised, inner_lr: 0.5}, train: {batch: 32, outer: {name: adam, lr: 0.003}}}}
"""
USERS = """\
data: {name: synthetic, nodes: NODES, rows: 60}
task: {kind: local, support: 15, query: 30, new: {from: nodes, test: HELD}}
partition: {name: natural, by: user}
model: {name: logistic}
learner: {name: maml, inner_lr: 0.1, inner_steps: 3}
train: {rounds: 20, local_steps: 5, meta_batch: 2}
finetune: {episodes: EPISODES, save: none}
baselines: {fedavg: {learner: {name: supervised, inner_lr: 0.1}}}
"""


def write_offices(path: Path, nodes: int, rows: int = 60) -> None:
    """Offices with digits drawn with replacement, each with its own numbers for the ten classes."""
    rng = np.random.default_rng(0)
    digits = load_digits()
    drawn = rng.integers(len(digits.target), size=nodes * rows)
    office = np.repeat(np.arange(nodes), rows)
    numbers = rng.permuted(np.tile(np.arange(10), (nodes, 1)), axis=1)
    x = (digits.data[drawn] / 16).astype(np.float32)
    np.savez(path, x=x, y=numbers[office, digits.target[drawn]], office=office)


def population(text: str, nodes: int) -> dict[str, np.ndarray]:
    """The accuracy of each method on each node's tasks, (nodes, TASKS). text: an experiment."""
    scores = []

    def recorded(*arguments: object) -> object:
        outcome = evaluate(*arguments)  # pyright: ignore[reportArgumentType]
        scores.append(outcome.score[:, -1])
        return outcome

    evaluate = finetune.evaluate
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "population.yaml"
        write_offices(Path(folder) / "offices.npz", nodes + TRAINED)
        for mark, number in (("NODES", nodes + TRAINED), ("HELD", nodes), ("EPISODES", nodes * TASKS)):
            text = text.replace(mark, str(number))
        path.write_text(text.replace("offices.npz", str(Path(folder) / "offices.npz")))
        few = "finetune.episodes=1"
        metadist("run", str(path), [few], "population", Path(folder))
        config = configs.load(str(path), (), "population")
        with mock.patch.object(finetune, "evaluate", recorded):
            finetune.finetune(config, Run.at(Path(folder) / "population"), Console(quiet=True))
    maml, fedavg, _ = np.array(scores).reshape(3, nodes, TASKS)
    return {"MAML": maml, "FedAvg": fedavg, "FedAvg - MAML": fedavg - maml}


def studies(values: np.ndarray, nodes: int, count: int, rng: np.random.Generator) -> tuple[list[float], list[float]]:
    """Shares of studies: (covered over nodes, over tasks), and (better, worse over nodes, either over tasks) at 0."""
    truth, tasks = values.mean(), min(TASKS, EPISODES // nodes)
    sources = Sources(np.repeat(np.arange(nodes), tasks))
    means, wide, narrow = np.zeros((3, count))
    for i in range(count):
        drawn = values[rng.choice(len(values), nodes, replace=False), :tasks].ravel()
        means[i], wide[i], narrow[i] = drawn.mean() - truth, over_sources(drawn, sources), over_tasks(drawn)
    covered = [float(np.mean(abs(means) <= wide)), float(np.mean(abs(means) <= narrow))]
    return covered, [float(np.mean(means > wide)), float(np.mean(-means > wide)), 1 - covered[1]]


def table(populations: dict[str, dict[str, np.ndarray]], count: int) -> str:
    """The shares as Markdown."""
    rng = np.random.default_rng(0)
    lines = [
        "| population | nodes | figure | covered, over nodes | over tasks | better / worse at a true 0 | over tasks |",
        "|---|---|---|---|---|---|---|",
    ]
    for whose, nodes in product(populations, SIZES):
        for name, values in populations[whose].items():
            (wide, narrow), (better, worse, either) = studies(values, nodes, count, rng)
            verdicts = f"{better:.3f} / {worse:.3f} | {either:.3f}" if "-" in name else "- | -"
            lines.append(f"| {whose} | {nodes} | {name} | **{wide:.3f}** | {narrow:.3f} | {verdicts} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2000, help="nodes of the population")
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--readme", type=Path, help="a Markdown file in which the table is put between its marks")
    told = parser.parse_args()
    found = {"offices": population(OFFICES, told.nodes), "users": population(USERS, told.nodes)}
    text = table(found, told.studies)
    if told.readme:
        put(text, told.readme, "intervals")
    print(text, end="")


if __name__ == "__main__":
    main()
