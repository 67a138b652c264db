"""The command line: parse, load the config, call a stage, turn a Problem into a message and an exit code."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metadist_cli import __version__
from metadist_cli.core.errors import BUG, INTERRUPTED, TERMINATED, USAGE, Problem

if TYPE_CHECKING:
    from metadist_cli.config import Config
    from metadist_cli.core.console import Console
    from metadist_cli.storage.run_directory import Run

app = typer.Typer(
    name="metadist",
    help="Distributed meta-learning from one YAML file.",
    epilog="Begin with: metadist run quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[
    str, typer.Argument(metavar="CONFIG", help="YAML file, name of a shipped config, or a run's directory.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings instead of the file's: train.rounds=20.")
]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Where runs are kept.", envvar="METADIST_RUNS")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the run; default: the config's, or its file's.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, all else on standard error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Details; a traceback where something breaks.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Check everything, show shapes and sizes, write nothing.")]
Wait = Annotated[
    str | None, typer.Option("--wait", help="Wait so long (90s, 30m, 2h) for what is missing, before exit code 75.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew; the old run is kept as NAME.old-1.")]

_RUNS = Path("runs")
_LATER = 5.0  # seconds


class _Terminated(BaseException):
    pass


def main() -> None:
    """The entry point `metadist`."""
    signal.signal(signal.SIGTERM, _terminate)
    if "--json" not in sys.argv[1:]:
        app()
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer says of a wrong command line
            raise
        from metadist_cli.core.console import Console

        message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        Console(json=True).problem(Problem(message, "command line", "see metadist --help", USAGE))
        code = USAGE
    sys.exit(code or 0)


def _terminate(*_: object) -> None:
    raise _Terminated


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and leave.", is_eager=True, callback=lambda v: _version(v)),
    ] = False,
) -> None:
    pass


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"metadist {__version__}")
        raise typer.Exit


@app.command(epilog="Example: metadist run quickstart train.rounds=20")
def run(
    file: File,
    overrides: Overrides = None,
    runs_dir: RunsDir = _RUNS,
    name: Name = None,
    restart: Restart = False,
    dry_run: Dry = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """All of it: partition, train and aggregate for every round, finetune; goes on where it was stopped."""

    def body(config: Config, run: Run, console: Console) -> dict[str, Any]:
        from metadist_cli.commands.run import pipeline

        return pipeline(config, run, console)

    _stage(body, file, overrides, runs_dir, name, (json, quiet, verbose), dry_run, restart)


@app.command(epilog="Example: metadist partition quickstart partition.nodes=60")
def partition(
    file: File,
    overrides: Overrides = None,
    nodes: Annotated[
        str | None,
        typer.Option("--nodes", help="Write only these nodes' shards: 0-9,12, or a part, 0/8 to 7/8, or slurm."),
    ] = None,
    runs_dir: RunsDir = _RUNS,
    name: Name = None,
    restart: Restart = False,
    dry_run: Dry = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Split the data over nodes, one shard a node; keep some classes or nodes for new tasks."""

    def body(config: Config, run: Run, console: Console) -> dict[str, Any]:
        from metadist_cli.commands.partition import draw
        from metadist_cli.commands.partition import partition as stage
        from metadist_cli.commands.support.node_selection import which_nodes

        result = stage(config, run, console, None if nodes is None else which_nodes(nodes))
        draw(run, console)
        return result if nodes is None else result | {"next": f"train --nodes {nodes}"}

    _stage(body, file, overrides, runs_dir, name, (json, quiet, verbose), dry_run, restart)


@app.command(epilog="Example: metadist train quickstart --nodes 0-3,7")
def train(
    file: File,
    overrides: Overrides = None,
    nodes: Annotated[
        str | None,
        typer.Option("--nodes", help="Only these nodes of the open round: 0-9,12, or a part, 0/8 to 7/8, or slurm."),
    ] = None,
    round_: Annotated[
        int | None, typer.Option("--round", min=1, help="With --nodes: the round that is meant; default: the open one.")
    ] = None,
    wait: Wait = None,
    runs_dir: RunsDir = _RUNS,
    name: Name = None,
    dry_run: Dry = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Meta-train every node on its own shard, up to round train.rounds; the last one stays open for aggregate."""

    def body(config: Config, run: Run, console: Console) -> dict[str, Any]:
        from metadist_cli.commands.support.node_selection import patiently, which_nodes
        from metadist_cli.commands.train import train as stage
        from metadist_cli.commands.train import train_nodes

        if nodes is None:
            if round_ is not None:
                raise Problem("--round goes with --nodes", "--round", "use train.rounds=N for all nodes", USAGE)
            return patiently(lambda last: stage(config, run, console), wait, console)
        which = which_nodes(nodes)
        return patiently(lambda last: train_nodes(config, run, console, which, round_), wait, console)

    _stage(body, file, overrides, runs_dir, name, (json, quiet, verbose), dry_run)


@app.command(epilog="Example: metadist aggregate quickstart --min-nodes 18")
def aggregate(
    file: File,
    overrides: Overrides = None,
    min_nodes: Annotated[
        int | None,
        typer.Option(
            "--min-nodes", min=1, help="Close the round with so many, when the wait is over; drop the others."
        ),
    ] = None,
    round_: Annotated[
        int | None, typer.Option("--round", min=1, help="The round that is meant; one that is closed is left alone.")
    ] = None,
    wait: Wait = None,
    runs_dir: RunsDir = _RUNS,
    name: Name = None,
    dry_run: Dry = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Average the nodes' checkpoints of the open round into the next global one."""

    def body(config: Config, run: Run, console: Console) -> dict[str, Any]:
        from metadist_cli.commands.aggregate import aggregate as stage
        from metadist_cli.commands.support.node_selection import patiently

        open_now = max(run.last_closed(), 0) + 1
        meant = open_now if wait and round_ is None and open_now <= config.train.rounds else round_

        def once(last: bool) -> dict[str, Any]:
            return stage(config, run, console, min_nodes if last else None, meant, again=not last)

        return patiently(once, wait, console)

    _stage(body, file, overrides, runs_dir, name, (json, quiet, verbose), dry_run)


@app.command(epilog="Example: metadist finetune quickstart --task my_letters/")
def finetune(
    file: File,
    overrides: Overrides = None,
    task: Annotated[
        Path | None,
        typer.Option("--task", help="A task of your own: a folder of images by class, or an .npz or .csv file."),
    ] = None,
    runs_dir: RunsDir = _RUNS,
    name: Name = None,
    dry_run: Dry = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Adapt the global model to new tasks; write the adapted model, metrics.json and report.html."""

    def body(config: Config, run: Run, console: Console) -> dict[str, Any]:
        from metadist_cli.commands.finetune import finetune as stage

        return stage(config, run, console, task)

    _stage(body, file, overrides, runs_dir, name, (json, quiet, verbose), dry_run)


@app.command(epilog="Example: metadist validate configs/*.yaml")
def validate(
    file: File,
    overrides: Overrides = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Check a config: keys, values, and whether they fit together. Reads no data, writes nothing."""

    def body(console: Console) -> dict[str, Any]:
        from metadist_cli import config as configs

        config = configs.load(file, overrides or ())
        console.say(f"{file}: valid")
        console.detail(configs.to_yaml(config))
        return {"valid": True, "config": config.resolved()}

    _speak(body, json, quiet, verbose)


def _stage(
    body: Callable[[Config, Run, Console], dict[str, Any]],
    file: str,
    overrides: list[str] | None,
    runs_dir: Path,
    name: str | None,
    voice: tuple[bool, bool, bool],
    dry: bool,
    restart: bool = False,
) -> None:
    """Load the config, open the run, do the work and say what comes next."""

    def work(console: Console) -> dict[str, Any]:
        from metadist_cli import config as configs
        from metadist_cli.storage import run_directory

        config = configs.load(file, overrides or (), name)
        path = Path(file) if (Path(file) / "config.yaml").is_file() and name is None else runs_dir / config.name
        run = run_directory.Run.at(path)
        from metadist_cli.runtime.torchrun import among_ranks
        from metadist_cli.runtime.workers import serve

        with among_ranks(lambda leader: serve(leader, path)) as leads:
            if not leads:
                return {}
            if dry:
                from metadist_cli.commands.dry_run import plan

                return plan(config, run, console)
            if restart and (kept := run_directory.archive(run)):
                console.say(f"the old run is kept in {kept}")
            console.open_log(path / "log.txt")
            result = body(config, run, console)
            if step := result.get("next"):
                console.say(f"next: metadist {step} {_again(file, overrides, runs_dir, name)}")
            return result

    _speak(work, *voice)


def _again(file: str, overrides: list[str] | None, runs_dir: Path, name: str | None) -> str:
    """The arguments that name this run again."""
    options = [] if runs_dir == _RUNS else ["--runs-dir", str(runs_dir)]
    options += [] if name is None else ["--name", name]
    return shlex.join([file, *(overrides or ()), *options])


def _speak(work: Callable[[Console], dict[str, Any]], json: bool, quiet: bool, verbose: bool) -> None:
    """Run a command's body; every way out has its message and its exit code."""
    from metadist_cli.core.console import Console

    ranked = "TORCHELASTIC_RUN_ID" in os.environ
    if ranked and os.environ["RANK"] != "0":  # one rank tells what is done
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    console = Console(json=json, quiet=quiet, verbose=verbose)
    command = shlex.join(["metadist", *sys.argv[1:]])
    try:
        console.result(work(console))
    except Problem as problem:
        if verbose:
            console.detail(_traceback())
        if not ranked or os.environ["LOCAL_RANK"] == "0":  # and one of each machine, what is wrong there
            console.problem(problem)
        else:  # torchrun ends all ranks when one has failed: let the one that tells be the first
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(_LATER)
        raise typer.Exit(problem.code) from None
    except (KeyboardInterrupt, _Terminated) as stop:
        code = INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED
        hint = f"go on with the same command: {command}"
        console.problem(Problem("stopped; what was finished is kept", hint=hint, code=code))
        raise typer.Exit(code) from None
    except PermissionError as error:
        from metadist_cli.core.files import failed

        console.detail(_traceback())
        problem = failed("use", error.filename or "", error)
        console.problem(problem)
        raise typer.Exit(problem.code) from None
    except Exception as error:
        console.detail(_traceback())
        hint = "run the same command with -v and send us what it prints" if not verbose else "send us what stands above"
        console.problem(Problem(f"a bug of metadist's: {type(error).__name__}: {error}", hint=hint, code=BUG))
        raise typer.Exit(BUG) from None


def _traceback() -> str:
    import traceback

    return traceback.format_exc()
