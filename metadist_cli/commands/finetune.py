"""finetune: the global model adapts to new tasks; the adapted model, its figures and a report are written."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from metadist_cli.commands.support.finetune_outputs import (
    Chosen,
    Evaluation,
    Tasks,
    Trained,
    write_results,
)
from metadist_cli.commands.support.methods import (
    SAMPLE,
    Part,
    at_rate,
    chosen,
    classical,
    headline,
    judge,
    local_only,
    merged,
    support_folds,
    untrained,
)
from metadist_cli.commands.support.metrics_json import FORMAT, metrics_json
from metadist_cli.commands.support.new_tasks import drawn_tasks
from metadist_cli.commands.support.node_scores import node_scores
from metadist_cli.commands.support.run_context import command, open_setting
from metadist_cli.commands.support.user_task import task_folder, user_task
from metadist_cli.commands.support.validation import chosen_round, selection
from metadist_cli.config import Config, fingerprint, sections, variants
from metadist_cli.core.console import Console
from metadist_cli.core.errors import DATA, Problem
from metadist_cli.core.files import sha256
from metadist_cli.evaluation.evaluate import Outcome
from metadist_cli.experiment import Experiment, assemble, for_new_tasks, initial_state
from metadist_cli.federated.personalization import Personal
from metadist_cli.federated.rounds import sample_nodes
from metadist_cli.runtime.execution import Setting
from metadist_cli.storage import checkpoints, node_files, node_states, run_directory
from metadist_cli.storage.csv_tables import as_csv, as_parquet
from metadist_cli.storage.run_directory import TRAINING, Run, basis


def finetune(config: Config, run: Run, console: Console, own: Path | None = None) -> dict[str, Any]:
    """Adapt the global model to new tasks and write finetune/<task>/.

    Args:
        config: the experiment.
        run: its run directory, with a closed round.
        console: where to report.
        own: a task of the user's own; None: the held-out tasks.

    Returns:
        The content of metrics.json.
    """
    run_directory.agree(config, run)
    setting = open_setting(config, run, console, alone=True)
    main = _trained(config, run, setting.experiment)
    others = _baselines(config, run, setting, console)
    if own is None:
        tasks = drawn_tasks(config, run, setting, config.finetune.held_out, config.finetune.episodes)
    else:
        tasks = [user_task(config, setting, own)]
    main = _ready(main, run, setting, tasks)
    others = {name: _ready(trained, run.baseline(name), setting, tasks) for name, trained in others.items()}
    folder = run.path / "finetune" / (config.finetune.name if own is None else task_folder(own))
    inputs = _inputs(config, main, others, setting.manifest, tasks if own else [])
    found = _finished(folder, inputs)
    if found is not None:
        console.say(f"finetune: already done, {folder}")
        return found
    with command("finetune", config, run, setting.experiment) as result:
        began = time.monotonic()
        evaluation = _evaluated({"main": main, **others}, tasks, run, setting, console)
        metrics = metrics_json(evaluation)
        lost = {name: run_directory.divergence(run.baseline(name)) for name in variants(config)}
        metrics["diverged"] = {name: reason for name, reason in lost.items() if reason}
        metrics["selection"] = {name: trained.selection for name, trained in {"main": main, **others}.items()}
        metrics |= {"task": "new" if own is None else folder.name, "inputs": inputs}
        metrics["seconds"] = {"evaluate": round(time.monotonic() - began, 3)}
        write_results(evaluation, run, folder, metrics, _tables(evaluation) if own is None else {})
        result |= {key: metrics[key] for key in ("metric", "before", "after", "untrained")}
    if not tasks[0].labelled:
        console.say(
            f"finetune: {tasks[0].plan.query.shape[-1]} query rows predicted; they carry no labels, so no score"
        )
    else:
        from metadist_cli import report

        for table in report.narrow(metrics):
            console.table(table.title, table.heads, table.rows)
        if text := report.choice(metrics, "main"):
            console.say(f"finetune: {text}")
        console.say(report.headline(metrics))
    console.say(f"finetune: results in {folder}: {', '.join(metrics['files'])}, metrics.json")
    return metrics


def _evaluated(
    methods: dict[str, Trained], tasks: list[Tasks], run: Run, setting: Setting, console: Console
) -> Evaluation:
    """All methods on all tasks: the main model and the trained baselines, and what a node can do alone."""
    config = setting.experiment.config
    methods = {**methods, "untrained": untrained(methods["main"])}
    longest = max(trained.experiment.algorithm.learner.inner_steps for trained in methods.values())
    steps = longest if config.finetune.steps is None else config.finetune.steps
    lead = headline(setting.experiment, tasks)
    balanced = lead == "balanced_accuracy"
    parts = _to_choose_by(config, run, setting, tasks) if config.finetune.tune else []
    if parts:
        methods["local-only"] = local_only(methods["main"], setting)
    choices: dict[str, Chosen] = {}
    outcomes: dict[str, list[Outcome]] = {}
    with console.progress("finetune: method", len(methods)) as progress:
        for name, trained in methods.items():
            many = steps
            if name not in ("main", "untrained") and (choice := chosen(trained, parts, setting, balanced)):
                choices[name], many = choice, choice.steps
                methods[name] = trained = at_rate(trained, choice.inner_lr)
            outcomes[name] = [judge(trained, task, task.plan, many, setting) for task in tasks]
            progress.advance()
    texts = {"local-only": "the same model from a random start, trained on the support"} if parts else {}
    for name, text, found in classical(setting.experiment, tasks, parts, balanced):
        texts[name], outcomes[name] = text, found
    in_units = {name: [t.in_units(o) for t, o in zip(tasks, found, strict=True)] for name, found in outcomes.items()}
    return Evaluation(setting, methods, tasks, in_units, steps, lead, choices, texts)


def _tables(evaluation: Evaluation) -> dict[str, bytes]:
    rows = node_scores(evaluation)
    return {"nodes.csv": as_csv(rows)} | (
        {"nodes.parquet": as_parquet(rows)} if evaluation.config.finetune.parquet else {}
    )


def _trained(config: Config, run: Run, experiment: Experiment) -> Trained:
    """The newest closed round of a run, or the one that finetune.round names."""
    closed, wanted = run.last_closed(), config.finetune.round
    untrained = closed == 0 and config.train.rounds > 0 and wanted in (None, "best")
    if closed < 0 or untrained or (isinstance(wanted, int) and wanted > closed):
        have = f"round {closed} is the newest" if closed > 0 else "no round is closed yet"
        waits = bool(node_files.update_files(run, closed + 1))
        hint = "close the open round: metadist aggregate" if waits else "train first: metadist run does everything"
        raise Problem(f"this run has no global checkpoint to adapt ({have})", str(run.path), hint, DATA)
    first, own = initial_state(experiment)
    newest = checkpoints.read_global(run, closed, first)
    number = chosen_round(config, run, newest)
    model = newest if number == closed else checkpoints.read_global(run, number, first)
    return Trained(experiment, model.params, number, model.sha256, own, {}, selection(config, newest))


def _ready(trained: Trained, run: Run, setting: Setting, tasks: list[Tasks]) -> Trained:
    """The model set up for these tasks: their number of classes, and what the nodes keep on whose rows it is tested.

    Raises Problem if the learner cannot have that number of classes, or if what nodes keep is missing.
    """
    config = trained.experiment.config
    trained = trained._replace(experiment=for_new_tasks(trained.experiment, len(tasks[0].names) or None))
    homes = [task.shard.home for task in tasks if task.shard.home is not None]
    if not homes or trained.experiment.algorithm.personal == Personal():
        return trained
    if trained.round != run.last_closed() and config.finetune.round != "best":  # whose states are kept as well
        hint = "remove finetune.round"
        raise Problem("what nodes keep is available only after the newest round", "finetune.round", hint, DATA)
    nodes = sorted(n["node"] for n in setting.manifest["nodes"] if n["role"] == "train")
    chosen = partial(sample_nodes, config.seed, nodes=nodes, per_round=config.train.nodes_per_round)
    return trained._replace(owns=node_states.read_kept(run, trained.round + 1, homes, trained.own, chosen))


def _baselines(config: Config, run: Run, setting: Setting, console: Console) -> dict[str, Trained]:
    """Those baselines that were trained."""
    found = {}
    for name, variant in variants(config).items():
        place = run.baseline(name)
        if reason := run_directory.divergence(place):
            console.say(f"finetune: baseline {name} is left out: {reason}")
            continue
        if place.last_closed() < min(1, variant.train.rounds):
            console.say(f"finetune: baseline {name} is left out, since it is not trained yet (metadist run trains it)")
            continue
        run_directory.agree(variant, place)
        found[name] = _trained(variant, place, assemble(variant, setting.experiment.spec))
    return found


def _inputs(
    config: Config, main: Trained, others: dict[str, Trained], manifest: dict[str, Any], own: list[Tasks]
) -> str:
    """Hash of everything that the results depend on."""
    settings = {"finetune": sections(config, ["finetune"])["finetune"], "training": basis(config, TRAINING)}
    learners = {name: basis(variant, TRAINING) for name, variant in variants(config).items() if name in others}
    sources = {name: trained.sha256 for name, trained in {"main": main, **others}.items()}
    rows = [sha256(task.pool.x.cpu().numpy().tobytes() + task.pool.y.cpu().numpy().tobytes()) for task in own]
    settings["precision"] = config.execution.precision
    choices = {name: trained.selection for name, trained in {"main": main, **others}.items()}
    if any(choice and choice["metric"] for choice in choices.values()):  # the report shows all scores
        settings["selection"] = choices
    known = {"baselines": learners, "sources": sources, "files": manifest["files"], "own": rows}
    return fingerprint({**settings, **known})


def _finished(folder: Path, inputs: str) -> dict[str, Any] | None:
    """metrics.json of a finished evaluation of exactly these inputs; it is written last."""
    path = folder / "metrics.json"
    if not path.exists():
        return None
    metrics = run_directory.read_json(path, "metrics")
    there = all((folder / name).is_file() for name in metrics.get("files", []))
    current = metrics.get("format") == FORMAT and metrics.get("inputs") == inputs
    return metrics if current and there else None


def _to_choose_by(config: Config, run: Run, setting: Setting, tasks: list[Tasks]) -> list[Part]:
    """Folds of the new tasks' support; with one row a class, whole tasks of training nodes."""
    if found := support_folds(tasks):
        return found
    try:
        return merged([(task, task.plan) for task in drawn_tasks(config, run, setting, "train", SAMPLE)])
    except Problem:  # a training node may have too few rows for a new task
        return []
