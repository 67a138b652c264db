"""The table of scores by node and method that finetune leaves for other programs."""

from __future__ import annotations

from typing import Any

import numpy as np

from metadist_cli.commands.support.finetune_outputs import Evaluation
from metadist_cli.commands.support.metrics_json import answers_of
from metadist_cli.config.schema import Episodic
from metadist_cli.evaluation.summary import metric_over_rows

Row = dict[str, Any]


def node_scores(evaluation: Evaluation) -> list[Row]:
    """A row for each held-out node (or the held-out classes together) and method, before and after adaptation.

    The main metric is the mean over the node's tasks; the others are of all its query rows, None where undefined.
    """
    config, metric = evaluation.config, evaluation.setting.experiment.loss.metric
    names = [name for name in dict.fromkeys([*config.finetune.metrics, evaluation.headline]) if name != metric]
    alike = not isinstance(config.task, Episodic)
    found = []
    for i, task in enumerate(evaluation.tasks):
        if not task.labelled:
            continue
        node = task.shard.node if task.shard.home is None else task.shard.home
        for method, outcomes in evaluation.outcomes.items():
            outcome = outcomes[i]
            for when, step in (("before", 0), ("after", -1)):
                if when == "before" and outcome.score.shape[1] == 1:
                    continue
                row: Row = {"node": node, "name": task.shard.name, "method": method, "when": when}
                row |= {"tasks": len(outcome.score), "rows": outcome.out.shape[0] * outcome.out.shape[1]}
                row[metric] = float(np.mean(outcome.score[:, step]))
                given = answers_of([task], [outcome], step)
                row |= {name: metric_over_rows(name, given, alike) for name in names}
                found.append(row)
    return found
