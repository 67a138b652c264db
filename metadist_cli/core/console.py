"""Output of a run: text for people, JSON for programs, and a log file.

With `json`, standard output carries exactly one JSON object and everything else goes to standard error. rich is
imported when the first table or progress bar is drawn.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from json import dumps
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO

from metadist_cli.core.errors import Problem, printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

_FENCED = re.compile(r"(^```.*?^```$)", re.M | re.S)
_CODE = re.compile(r"`[^`]+`")
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
_PAGE = 100  # widest page, in columns
_INTERVAL = 10.0  # seconds between progress lines without a bar: a day-long job must not flood its log


class Console:
    """Where a command reports what it does.

    Args:
        json: Print one JSON object to standard output and everything else to standard error.
        quiet: Show only warnings and errors.
        verbose: Show details as well, unless quiet.
    """

    def __init__(self, json: bool = False, quiet: bool = False, verbose: bool = False):
        self.json, self.quiet, self.verbose = json, quiet, verbose
        self._log: Path | None = None
        self._unlogged: list[str] = []  # lines from before the log was opened
        self._warned: set[str] = set()
        self._printed_object = False

    def say(self, text: str) -> None:
        """Print and log a line."""
        self._emit(text, not self.quiet)

    def detail(self, text: str) -> None:
        """Log a line; print it only if verbose."""
        self._emit(text, self.verbose and not self.quiet)

    def warn(self, text: str) -> None:
        """Print and log a warning, once per text, even if quiet."""
        if text not in self._warned:
            self._warned.add(text)
            self._emit(f"warning: {text}", True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], logged: bool = True) -> None:
        """Print and log a table, folding cells to the width of the terminal; numeric columns are right-aligned.

        Args:
            title: Line above the table; "" for none.
            columns: Headers.
            rows: One sequence of cells per row; None is shown as "-".
            logged: False for what must not be in a file that travels with the run, such as values of the data.
        """
        cells = [["-" if cell is None else printable(str(cell)) for cell in row] for row in rows]
        if logged:
            self._write_log(_table(title, columns, cells, None, False))
        if not self.quiet:
            _print(self._stream, _table(title, columns, cells, _width(self._stream), self._interactive))

    def page(self, markdown: str) -> None:
        """Print a page of Markdown: formatted on a terminal, plain text of 80 columns otherwise."""
        if not (self.quiet or self.json):
            width = min(_width(self._stream) or 80, _PAGE)
            _print(self._stream, _page(markdown, width, self._interactive))

    @contextlib.contextmanager
    def progress(self, description: str, total: int | None, done: int = 0) -> Iterator[Progress]:
        """Show progress: a bar on a terminal, otherwise a first line, a last line and one at most every 10 seconds.

        Args:
            description: Its last word is the unit: "train: round".
            total: Number of units; None if unknown.
            done: Units that a resumed run starts with.

        Yields:
            A Progress to advance.
        """
        with _bar(self._stream) if self._interactive else contextlib.nullcontext() as bar:
            progress = Progress(self, bar, description, total, done)
            try:
                yield progress
            finally:
                progress.report()

    def result(self, obj: dict[str, Any]) -> None:
        """Print the result as one JSON object if `json` is set. ValueError for NaN or infinity."""
        if self.json:
            self._print_object(obj)

    def problem(self, problem: Problem) -> None:
        """Print an error to standard error, or as the JSON object {"error": {...}}."""
        self._write_log(str(problem))
        if self.json:
            error = {"code": problem.code, **_fields(problem), "all": [_fields(p) for p in problem.all]}
            self._print_object({"error": error})
        else:
            _print(sys.stderr, str(problem))

    def open_log(self, path: str | Path) -> None:
        """Append every line to this file from now on, details included, each with its UTC time.

        Earlier lines are written first. Lines wait until the folder exists; a line that cannot be written is dropped.
        """
        self._log = Path(path)

    @property
    def _stream(self) -> TextIO:
        return sys.stderr if self.json else sys.stdout

    @property
    def _interactive(self) -> bool:
        """Whether to draw bars and colours."""
        environment = os.environ
        dumb = environment.get("TERM", "") in ("", "dumb", "unknown")
        ci = environment.get("CI", "").lower() not in ("", "0", "false")
        return self._stream.isatty() and not (self.quiet or dumb or ci)

    def _emit(self, text: str, shown: bool) -> None:
        text = printable(text)
        self._write_log(text)
        if shown:
            _print(self._stream, text)

    def _print_object(self, obj: dict[str, Any]) -> None:
        """Print one object at most: an error after the result goes to standard error."""
        _print(sys.stderr if self._printed_object else sys.stdout, dumps(obj, allow_nan=False))
        self._printed_object = True

    def _write_log(self, text: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._unlogged += [f"{now} {line}\n" for line in text.splitlines()]
        with contextlib.suppress(OSError):
            if self._log is not None and self._log.parent.is_dir():
                for line in self._unlogged:
                    self._append(self._log, line)
                self._unlogged = []

    def _append(self, log: Path, line: str) -> None:
        """Write a line in one call and close the file, so that lines of two processes do not interleave."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            fd = os.open(log, flags, 0o666)
            try:
                os.write(fd, line.encode(errors="backslashreplace"))
            finally:
                os.close(fd)


class Progress:
    """Progress of one piece of work; created by Console.progress."""

    def __init__(self, console: Console, bar: Bar | None, description: str, total: int | None, done: int):
        self._console, self._bar, self._description, self._total = console, bar, printable(description), total
        self._done = self._start = done
        self._metrics: dict[str, object] = {}
        self._began = monotonic()
        self._reported = -1
        if bar:
            self._task = bar.add_task(self._description, total=total, completed=done, metrics="")
        self.report()

    def advance(self, n: int = 1, **metrics: object) -> None:
        """Count n more units as done and show metrics, such as loss=1.2, beside the progress."""
        self._done += n
        self._metrics |= metrics
        if self._bar:
            self._bar.update(self._task, completed=self._done, metrics=_metrics_text(self._metrics))
        if monotonic() - self._last >= _INTERVAL:
            self.report()

    def report(self) -> None:
        """Write a line if anything advanced: to the log, and to the console unless it shows a bar."""
        self._last = monotonic()
        if self._done == self._reported:
            return
        self._reported = self._done
        parts = [f"{self._description} {self._done}" + ("" if self._total is None else f"/{self._total}")]
        if self._metrics:
            parts.append(_metrics_text(self._metrics))
        if self._done > self._start:
            unit = self._description.split()[-1]
            each = (self._last - self._began) / (self._done - self._start)
            parts.append(f"{_seconds(each)} {'an' if unit[0] in 'aeiou' else 'a'} {unit}")
        self._console._emit("  ".join(parts), not self._console.quiet and not self._bar)


def _metrics_text(metrics: dict[str, object]) -> str:
    parts = []
    for name, value in metrics.items():
        number = f"{value:.4g}" if isinstance(value, float) else value
        parts.append(f"{name.replace('_', ' ')} {number}")
    return printable("  ".join(parts))


def _seconds(s: float) -> str:
    return f"{s:.1f} s" if s >= 0.1 else f"{1000 * s:.1f} ms"


def _fields(p: Problem) -> dict[str, str]:
    return {"message": p.message, "where": p.where, "hint": p.hint}


def _print(stream: TextIO, text: str) -> None:
    """Print with ? for characters that the stream cannot encode."""
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:  # the reader has gone (`| head`): go on without output
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _width(stream: TextIO) -> int | None:
    """Columns of the terminal; None without a terminal, so that nothing is folded."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return None


def _table(title: str, columns: Sequence[str], cells: list[list[str]], width: int | None, interactive: bool) -> str:
    from io import StringIO

    from rich import box
    from rich.console import Console as Rich
    from rich.table import Table
    from rich.text import Text

    rule, style = (box.SIMPLE_HEAD, "bold") if interactive else (None, "")
    table = Table(box=rule, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style=style)
    for i, name in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[i]) for row in cells)
        table.add_column(Text(printable(name)), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    out = StringIO()
    system = "auto" if interactive else None
    rich = Rich(file=out, force_terminal=interactive, color_system=system, width=width or 10_000, highlight=False)
    if title:
        rich.print(Text(printable(title), style=style))
    rich.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def _page(markdown: str, width: int, interactive: bool) -> str:
    from io import StringIO

    from rich.console import Console as Rich
    from rich.markdown import Markdown
    from rich.theme import Theme

    if not interactive:  # without colours, code keeps its backticks
        parts = _FENCED.split(markdown)
        parts[::2] = [_CODE.sub(lambda code: _PUNCTUATION.sub(r"\\\g<0>", code[0]), part) for part in parts[::2]]
        markdown = "".join(parts)
    out = StringIO()
    look = Theme({"markdown.code": "bold cyan"})  # rich's default has a black background, even on a light terminal
    system = "auto" if interactive else None
    rich = Rich(file=out, force_terminal=interactive, color_system=system, width=width, theme=look)
    rich.print(Markdown(markdown, code_theme="ansi_dark", hyperlinks=False))
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())


def _is_number(cell: str) -> bool:
    """Whether a cell reads as a number: 1,024, 61.2%, 0.31 ± 0.02 or the placeholder -."""
    return cell == "-" or cell.lstrip("+-−").lstrip(".")[:1].isdigit()


def _bar(stream: TextIO) -> Bar:
    from rich.console import Console as Rich
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[metrics]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        console=Rich(file=stream, force_terminal=True),
        expand=True,  # the metrics get the rest of the line
        redirect_stdout=stream is sys.stdout,  # other output appears above the bar
        redirect_stderr=stream is sys.stderr,
    )
