"""Console: how a run speaks, to a person, to a program (JSON) and to its log file.

With `json`, standard output carries exactly one JSON object and all else goes to standard error. rich is imported when
the first table or bar is drawn.
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
_PAGE = 100  # columns that a page has at most
_EVERY = 10.0  # seconds between lines where no bar can be drawn: a job of a day must not fill its log


class Console:
    """json: one JSON object on standard output; quiet: warnings and problems alone; verbose: details too."""

    def __init__(self, json: bool = False, quiet: bool = False, verbose: bool = False):
        self.json, self.quiet, self.verbose = json, quiet, verbose
        self._log: Path | None = None
        self._early: list[str] = []  # lines from before the log was opened
        self._warned: set[str] = set()
        self._answered = False

    def say(self, text: str) -> None:
        """A line for the person."""
        self._speak(text, not self.quiet)

    def detail(self, text: str) -> None:
        """A line that only the log and those who ask for details see."""
        self._speak(text, self.verbose and not self.quiet)

    def warn(self, text: str) -> None:
        """A warning, once; quiet does not silence it."""
        if text not in self._warned:
            self._warned.add(text)
            self._speak(f"warning: {text}", True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table, never wider than the terminal: cells are folded. Columns of numbers stand to the right."""
        cells = [["-" if cell is None else printable(str(cell)) for cell in row] for row in rows]
        self._write_log(_table(title, columns, cells, None, False))
        if not self.quiet:
            text = _table(title, columns, cells, _width(self._stream), self._lively)
            _put(self._stream, text)

    def page(self, markdown: str) -> None:
        """A page to read: laid out for the terminal, or as plain text of 80 columns for a pipe or a file."""
        if not (self.quiet or self.json):
            width = min(_width(self._stream) or 80, _PAGE)
            _put(self._stream, _page(markdown, width, self._lively))

    @contextlib.contextmanager
    def progress(self, description: str, total: int | None, done: int = 0) -> Iterator[Progress]:
        """A bar on a terminal; elsewhere a first line, a last one, and one every 10 seconds at most.

        The last word of the description is what is counted ("train: round"). done: what a resumed run starts with.
        """
        with _bar(self._stream) if self._lively else contextlib.nullcontext() as bar:
            progress = Progress(self, bar, description, total, done)
            try:
                yield progress
            finally:
                progress.report()

    def result(self, obj: dict[str, Any]) -> None:
        """The outcome for a program; a person has been told already."""
        if self.json:
            self._answer(obj)

    def problem(self, problem: Problem) -> None:
        """What went wrong: on standard error, or as {"error": {...}} for a program."""
        self._write_log(str(problem))
        if self.json:
            error = {"code": problem.code, **_fields(problem), "all": [_fields(p) for p in problem.all]}
            self._answer({"error": error})
        else:
            _put(sys.stderr, str(problem))

    def open_log(self, path: str | Path) -> None:
        """Append every line, details too, with the time (UTC) to this file; what cannot be logged is let go.

        Where its folder is not there yet, lines wait until it is.
        """
        self._log = Path(path)

    @property
    def _stream(self) -> TextIO:
        return sys.stderr if self.json else sys.stdout

    @property
    def _lively(self) -> bool:
        """Whether bars and colours make sense."""
        environment = os.environ
        dumb = environment.get("TERM", "") in ("", "dumb", "unknown")
        ci = environment.get("CI", "").lower() not in ("", "0", "false")
        return self._stream.isatty() and not (self.quiet or dumb or ci)

    def _speak(self, text: str, shown: bool) -> None:
        text = printable(text)
        self._write_log(text)
        if shown:
            _put(self._stream, text)

    def _answer(self, obj: dict[str, Any]) -> None:
        """One object and no more: a problem that comes after the result goes to standard error."""
        _put(sys.stderr if self._answered else sys.stdout, dumps(obj, allow_nan=False))
        self._answered = True

    def _write_log(self, text: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._early += [f"{now} {line}\n" for line in text.splitlines()]
        with contextlib.suppress(OSError):
            if self._log is not None and self._log.parent.is_dir():
                for line in self._early:
                    self._append(self._log, line)
                self._early = []

    def _append(self, log: Path, line: str) -> None:
        """One write a line, and no open file in between: lines of two processes do not mix."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            fd = os.open(log, flags, 0o666)
            try:
                os.write(fd, line.encode(errors="backslashreplace"))
            finally:
                os.close(fd)


class Progress:
    """How far a piece of work is; made by Console.progress."""

    def __init__(self, console: Console, bar: Bar | None, description: str, total: int | None, done: int):
        self._console, self._bar, self._description, self._total = console, bar, printable(description), total
        self._done = self._start = done
        self._figures: dict[str, object] = {}
        self._began = monotonic()
        self._reported = -1
        if bar:
            self._task = bar.add_task(self._description, total=total, completed=done, figures="")
        self.report()

    def advance(self, n: int = 1, **figures: object) -> None:
        """n more are done; figures, such as loss=1.2, are shown beside."""
        self._done += n
        self._figures |= figures
        if self._bar:
            self._bar.update(self._task, completed=self._done, figures=_said(self._figures))
        if monotonic() - self._last >= _EVERY:
            self.report()

    def report(self) -> None:
        """Write a line now, unless the last one said the same: to the log, and to the console where no bar is."""
        self._last = monotonic()
        if self._done == self._reported:
            return
        self._reported = self._done
        parts = [f"{self._description} {self._done}" + ("" if self._total is None else f"/{self._total}")]
        if self._figures:
            parts.append(_said(self._figures))
        if self._done > self._start:
            unit = self._description.split()[-1]
            each = (self._last - self._began) / (self._done - self._start)
            parts.append(f"{_seconds(each)} {'an' if unit[0] in 'aeiou' else 'a'} {unit}")
        self._console._speak("  ".join(parts), not self._console.quiet and not self._bar)


def _said(figures: dict[str, object]) -> str:
    shown = ((name.replace("_", " "), value) for name, value in figures.items())
    said = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown)
    return printable("  ".join(said))


def _seconds(s: float) -> str:
    return f"{s:.1f} s" if s >= 0.1 else f"{1000 * s:.1f} ms"


def _fields(p: Problem) -> dict[str, str]:
    return {"message": p.message, "where": p.where, "hint": p.hint}


def _put(stream: TextIO, text: str) -> None:
    """Print, with ? for what an ASCII terminal cannot show."""
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:  # the reader has left (`| head`): the work goes on, nobody listens
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _width(stream: TextIO) -> int | None:
    """Columns of the terminal; None where there is none, so that nothing is folded."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return None


def _table(title: str, columns: Sequence[str], cells: list[list[str]], width: int | None, lively: bool) -> str:
    from io import StringIO

    from rich import box
    from rich.console import Console as Rich
    from rich.table import Table
    from rich.text import Text

    rule, style = (box.SIMPLE_HEAD, "bold") if lively else (None, "")
    table = Table(box=rule, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style=style)
    for i, name in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[i]) for row in cells)
        table.add_column(Text(printable(name)), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    out = StringIO()
    system = "auto" if lively else None
    rich = Rich(file=out, force_terminal=lively, color_system=system, width=width or 10_000, highlight=False)
    if title:
        rich.print(Text(printable(title), style=style))
    rich.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def _page(markdown: str, width: int, lively: bool) -> str:
    from io import StringIO

    from rich.console import Console as Rich
    from rich.markdown import Markdown
    from rich.theme import Theme

    if not lively:  # without colours, code keeps its backticks
        parts = _FENCED.split(markdown)
        parts[::2] = [_CODE.sub(lambda code: _PUNCTUATION.sub(r"\\\g<0>", code[0]), part) for part in parts[::2]]
        markdown = "".join(parts)
    out = StringIO()
    look = Theme({"markdown.code": "bold cyan"})  # its own background would be black on a light terminal, too
    rich = Rich(file=out, force_terminal=lively, color_system="auto" if lively else None, width=width, theme=look)
    rich.print(Markdown(markdown, code_theme="ansi_dark", hyperlinks=False))
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())


def _is_number(cell: str) -> bool:
    """1,024  61.2%  0.31 ± 0.02  -  and the like: a digit, or no figure at all, first."""
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
        TextColumn("{task.fields[figures]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        console=Rich(file=stream, force_terminal=True),
        expand=True,  # the figures get what is left of the line
        redirect_stdout=stream is sys.stdout,  # what is said meanwhile appears above the bar
        redirect_stderr=stream is sys.stderr,
    )
