"""The command line: the commands, their own options, and the functions that do the work.

Without `from __future__ import annotations`: typer needs the options' annotations as objects, torch waits for a body.
"""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from metadist_cli import __version__
from metadist_cli.commands.support.invocation import File, Overrides, Terminated, command, experiment
from metadist_cli.core.errors import INTERRUPTED, TERMINATED, USAGE, Problem

if TYPE_CHECKING:
    from metadist_cli.config import Config
    from metadist_cli.core.console import Console
    from metadist_cli.storage.run_directory import Run

app = typer.Typer(
    name="metadist",
    help="Distributed meta-learning from one YAML file.",
    epilog="Start with: metadist run quickstart. Read on with: metadist help",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Restart = Annotated[bool, typer.Option("--restart", help="Start over; the old run is kept as NAME.old-1.")]
Wait = Annotated[
    str | None,
    typer.Option("--wait", help="How long to wait for missing files, e.g. 90s, 30m, 2h; then exit with 75."),
]


def main() -> None:
    """The entry point `metadist`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in a shell's background jobs
            signal.signal(number, _stop)
    try:
        code = _run()
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    if code in (INTERRUPTED, TERMINATED):
        os._exit(code)  # not after the blocks that other threads compute: torch aborts where Python ends before them
    sys.exit(code)


def _run() -> int:
    if "--json" not in sys.argv[1:]:
        app()
    try:
        return app(standalone_mode=False) or 0
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's errors about the command line have it
            raise
        from metadist_cli.core.console import Console

        message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        Console(json=True).problem(Problem(message, "command line", "see metadist --help", USAGE))
        return USAGE


def _stop(number: int, _: object) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):  # one is enough; a second would cut the first one's message
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"metadist {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: metadist run quickstart train.rounds=20")
@experiment
def run(config: "Config", run: "Run", console: "Console", *, restart: Restart = False) -> dict[str, Any]:
    """Run the whole experiment: partition, train, aggregate, fine-tune. Resumes where it stopped."""
    from metadist_cli.commands.run import pipeline

    _start_over(run, console, restart)
    return pipeline(config, run, console)


@app.command(epilog="Example: metadist partition quickstart partition.nodes=60")
@experiment
def partition(
    config: "Config",
    run: "Run",
    console: "Console",
    *,
    nodes: Annotated[
        str | None,
        typer.Option("--nodes", help="Write only these shards: 0-9,12, or one part of several, e.g. 2/8, or slurm."),
    ] = None,
    restart: Restart = False,
) -> dict[str, Any]:
    """Split the data into one shard per node; hold out classes, nodes or rows for new tasks."""
    from metadist_cli.commands.partition import draw, partition
    from metadist_cli.commands.support.node_selection import which_nodes

    _start_over(run, console, restart)
    result = partition(config, run, console, None if nodes is None else which_nodes(nodes))
    draw(run, console)
    return result if nodes is None else result | {"next": f"train --nodes {nodes}"}


@app.command(epilog="Example: metadist train quickstart --nodes 0-3,7")
@experiment
def train(
    config: "Config",
    run: "Run",
    console: "Console",
    *,
    nodes: Annotated[
        str | None,
        typer.Option("--nodes", help="Train only these nodes, for one round: 0-9,12, or a part, e.g. 2/8, or slurm."),
    ] = None,
    round_: Annotated[
        int | None, typer.Option("--round", min=1, help="With --nodes: the round to train (default: the open one).")
    ] = None,
    wait: Wait = None,
) -> dict[str, Any]:
    """Train every node on its own shard up to round train.rounds, which stays open for aggregate."""
    from metadist_cli.commands.support.node_selection import patiently, which_nodes
    from metadist_cli.commands.train import train, train_nodes

    if nodes is None:
        if round_ is not None:
            raise Problem("--round needs --nodes", "--round", "to train all nodes, set train.rounds=N", USAGE)
        return patiently(lambda last: train(config, run, console), wait, console)
    which = which_nodes(nodes)
    return patiently(lambda last: train_nodes(config, run, console, which, round_), wait, console)


@app.command(epilog="Example: metadist aggregate quickstart --min-nodes 18")
@experiment
def aggregate(
    config: "Config",
    run: "Run",
    console: "Console",
    *,
    min_nodes: Annotated[
        int | None,
        typer.Option(
            "--min-nodes",
            min=1,
            help="After --wait, close the round if at least N nodes have reported; drop the rest.",
            metavar="N",
        ),
    ] = None,
    round_: Annotated[
        int | None,
        typer.Option(
            "--round", min=1, help="Round to close (default: the open one); a closed round is left unchanged."
        ),
    ] = None,
    wait: Wait = None,
) -> dict[str, Any]:
    """Combine the nodes' updates of the open round into the next global model."""
    from metadist_cli.commands.aggregate import aggregate
    from metadist_cli.commands.support.node_selection import patiently

    open_now = max(run.last_closed(), 0) + 1
    meant = open_now if wait and round_ is None and open_now <= config.train.rounds else round_

    def once(last: bool) -> dict[str, Any]:
        return aggregate(config, run, console, min_nodes if last else None, meant, again=not last)

    return patiently(once, wait, console)


@app.command(epilog="Example: metadist finetune quickstart --task my_letters/")
@experiment
def finetune(
    config: "Config",
    run: "Run",
    console: "Console",
    *,
    task: Annotated[
        Path | None,
        typer.Option("--task", help="Your own task: a folder of images by class, or an .npz or .csv file."),
    ] = None,
) -> dict[str, Any]:
    """Adapt the global model to new tasks; write metrics.json, report.html and the adapted model."""
    from metadist_cli.commands.finetune import finetune

    return finetune(config, run, console, task)


@app.command(epilog="Example: metadist predict runs/quickstart/finetune/new my_digits.npz --out predictions.csv")
@command
def predict(
    console: "Console",
    *,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An adapted.safetensors that finetune wrote, or its folder.")
    ],
    rows: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Rows in the data set's own columns and units: a table such as .csv or .parquet, an .npz, or images.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The .csv file to write (default: standard output).")
    ] = None,
) -> dict[str, Any]:
    """Predict new rows with an adapted model; neither the run nor its data are needed."""
    from metadist_cli.commands.predict import predict

    return predict(model, rows, out, console)


@app.command(epilog="Example: metadist export runs/quickstart/finetune/new --format onnx")
@command
def export(
    console: "Console",
    *,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An adapted.safetensors that finetune wrote, or its folder.")
    ],
    format_: Annotated[
        Literal["torch", "onnx"],
        typer.Option("--format", help="torch.export's .pt2, or .onnx (pip install 'metadist[onnx]')."),
    ] = "torch",
    out: Annotated[Path | None, typer.Option("--out", help="The file to write (default: beside the model).")] = None,
) -> dict[str, Any]:
    """Write an adapted model for devices, its preprocessing inside; show its size and speed."""
    from metadist_cli.commands.export import export_model

    return export_model(model, format_, out, console)


@app.command(epilog="Example: metadist validate configs/quickstart.yaml train.rounds=20")
@command
def validate(console: "Console", *, file: File, overrides: Overrides = None) -> dict[str, Any]:
    """Check a config: its keys, their values, and how they fit together. Reads no data, writes nothing."""
    from metadist_cli import config as configs

    config = configs.load(file, overrides or ())
    console.say(f"{file}: valid")
    notices = configs.notices(config)
    for notice in notices:
        console.warn(notice)
    console.detail(configs.to_yaml(config))
    return {"valid": True, "warnings": notices, "config": config.resolved()}


@app.command("help", epilog="Example: metadist help data")
@command
def help_(
    console: "Console",
    *,
    topic: Annotated[str | None, typer.Argument(metavar="TOPIC", help="What to read about; none: list them.")] = None,
) -> dict[str, Any]:
    """Read about a topic: data sets, settings, files, exit codes and more."""
    from metadist_cli import topics

    if topic is None:
        phrases = topics.phrases()
        console.table("metadist help TOPIC", ("topic", "about"), list(phrases.items()))
        return {"topics": phrases}
    text = topics.read(topic)
    console.page(topics.for_terminal(text))
    return {"topic": topic, "text": text}


def _start_over(run: "Run", console: "Console", restart: bool) -> None:
    from metadist_cli.storage import run_directory

    if restart and (kept := run_directory.archive(run)):
        console.say(f"the old run is kept in {kept}")
