"""What all commands share: their options, the console, the config and its run, an exit code for every way out.

A command's keyword-only parameters are its own options. `experiment` adds the arguments and options of the commands
that work on a run, `command` the options of every command.

Without `from __future__ import annotations`: typer needs the options' annotations as objects.
"""

import inspect
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.models import ArgumentInfo

from metadist_cli.core.errors import BUG, INTERRUPTED, TERMINATED, Problem

if TYPE_CHECKING:
    from metadist_cli.config import Config
    from metadist_cli.core.console import Console

File = Annotated[
    str, typer.Argument(metavar="CONFIG", help="YAML file, name of a shipped config, or a run's directory.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override settings, e.g. train.rounds=20.")
]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds all runs.", envvar="METADIST_RUNS")]
Name = Annotated[
    str | None, typer.Option("--name", help="Name of the run; default: `name` in the config, or its file's name.")
]
Dry = Annotated[bool, typer.Option("--dry-run", help="Check everything, show nodes, shapes and sizes; write nothing.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to standard output, the rest to standard error.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print details, and a traceback with every error.")]

_RUNS = Path("runs")
_LATER = 5.0  # seconds


class Terminated(BaseException):
    """SIGTERM; main() raises it, so that it unwinds as Ctrl-C does."""


def command(body: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """`body(console, **options)` as a function that typer can call, with the options that every command has."""

    def call(*, json: Json = False, quiet: Quiet = False, verbose: Verbose = False, **options: Any) -> None:
        _speak(lambda console: body(console, **options), json, quiet, verbose)

    return _with_options(call, body)


def experiment(body: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """`body(config, run, console, **options)` as a command on the run of a config.

    A key "next" in its result, a command and its options, is suggested to the user as the next step.
    """

    def work(
        console: "Console",
        *,
        file: File,
        overrides: Overrides = None,
        runs_dir: RunsDir = _RUNS,
        name: Name = None,
        dry_run: Dry = False,
        **options: Any,
    ) -> dict[str, Any]:
        from metadist_cli import config as configs
        from metadist_cli.runtime.torchrun import among_ranks
        from metadist_cli.runtime.workers import serve
        from metadist_cli.storage.run_directory import Run, reached

        config = configs.load(file, overrides or (), name)
        path = Path(file) if (Path(file) / "config.yaml").is_file() and name is None else runs_dir / config.name

        def once(config: "Config", path: Path) -> dict[str, Any] | None:
            run = Run.at(path)
            with among_ranks(lambda leader: serve(leader, path)) as leads:
                if not leads:
                    return None
                asked, config = config.train.rounds, reached(config, run)
                if config.train.rounds > asked:
                    console.warn(
                        f"train.rounds={asked} has no effect: round {config.train.rounds} is closed already; "
                        f"to evaluate the model of round {asked}, set finetune.round={asked}"
                    )
                if dry_run:
                    from metadist_cli.commands.dry_run import plan

                    return plan(config, run, console)
                console.open_log(path / "log.txt")
                return body(config, run, console, **options)

        if config.seeds is None:
            result = once(config, path)
        else:
            from metadist_cli.commands.support.seeds import over_seeds

            result = over_seeds(config, path, once, console, dry_run)
        if result and (step := result.get("next")):
            console.say(f"next: metadist {step} {_again(file, overrides, runs_dir, name)}")
        return result or {}

    return command(_with_options(work, body))


def _with_options(call: Callable[..., Any], body: Callable[..., Any]) -> Callable[..., Any]:
    """`call` under the name and help of `body`, with the keyword-only parameters of both in its signature."""
    both = [*inspect.signature(body).parameters.values(), *inspect.signature(call).parameters.values()]
    parameters = [p for p in both if p.kind is p.KEYWORD_ONLY]
    parameters.sort(key=lambda p: not isinstance(p.annotation.__metadata__[0], ArgumentInfo))  # arguments come first
    call.__name__, call.__doc__ = body.__name__, body.__doc__
    call.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    return call


def _again(file: str, overrides: list[str] | None, runs_dir: Path, name: str | None) -> str:
    """The arguments that name this run again."""
    options = [] if runs_dir == _RUNS else ["--runs-dir", str(runs_dir)]
    options += [] if name is None else ["--name", name]
    return shlex.join([file, *(overrides or ()), *options])


def _speak(work: Callable[["Console"], dict[str, Any]], json: bool, quiet: bool, verbose: bool) -> None:
    """Run a command's body; every way out has its message and its exit code."""
    from metadist_cli.core.console import Console

    ranked = "TORCHELASTIC_RUN_ID" in os.environ
    if ranked and os.environ["RANK"] != "0":  # one rank reports progress
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    console = Console(json=json, quiet=quiet, verbose=verbose)
    try:
        console.result(work(console))
    except Problem as problem:
        if verbose:
            console.detail(traceback.format_exc())
        if not ranked or os.environ["LOCAL_RANK"] == "0":  # one rank of each machine reports the problem
            console.problem(problem)
        else:  # torchrun ends all ranks when one has failed: the one that reports has to be the first
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(_LATER)
        raise typer.Exit(problem.code) from None
    except (Exception, KeyboardInterrupt, Terminated) as error:
        problem = _explained(error, verbose)
        if isinstance(error, Exception):
            console.detail(traceback.format_exc())
        console.problem(problem)
        raise typer.Exit(problem.code) from None


def _explained(error: BaseException, verbose: bool) -> Problem:
    """What to tell the user about an error that is not a Problem."""
    if isinstance(error, KeyboardInterrupt | Terminated):
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else TERMINATED
        again = shlex.join(["metadist", *sys.argv[1:]])
        return Problem("stopped; finished work is kept", hint=f"resume with the same command: {again}", code=code)
    if isinstance(error, PermissionError):
        from metadist_cli.core.files import os_problem

        return os_problem("use", error.filename or "", error)
    again = "run the same command with -v and report the output"
    hint = "please report it with the traceback above" if verbose else again
    return Problem(f"internal error: {type(error).__name__}: {error}", hint=hint, code=BUG)
