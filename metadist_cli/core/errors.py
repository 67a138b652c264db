"""The one exception for errors that a user can fix, and the exit codes of the command line."""

from __future__ import annotations

from collections.abc import Sequence

OK = 0
BUG = 1
USAGE = 2  # wrong command line
CONFIG = 3  # YAML, override, missing config file
DATA = 4  # missing, corrupt or outdated file or data
SYSTEM = 5  # device, disk, permission
RETRY = 75  # try again later: lock held, node or parent missing
INTERRUPTED = 130
TERMINATED = 143

MEANINGS = {
    OK: "Success; or nothing was left to do.",
    BUG: "Internal error in metadist. Please report it.",
    USAGE: "Wrong command line.",
    CONFIG: "Config: invalid YAML, an unknown key or wrong value, an invalid override, or a missing config file.",
    DATA: "Data or a file of the run is missing, corrupt, or belongs to other settings.",
    SYSTEM: "Device, disk space or permission.",
    RETRY: "Try again later: another command is using the run, or a node's file or the round before is missing.",
    INTERRUPTED: "Ctrl-C. Finished work is kept; the same command resumes.",
    TERMINATED: "SIGTERM, for example from a batch system. Finished work is kept; the same command resumes.",
}


class Problem(Exception):
    """An error that the user can fix.

    Attributes:
        message: What is wrong, in one sentence that contains the offending value.
        where: file:line:column, key, node or path; empty if unknown.
        hint: How to fix it.
        code: Exit code, one of the constants above.
        snippet: Source lines around the error with a caret line, printed as they are.
        others: Further problems found in the same pass (see `combined`).
    """

    def __init__(self, message: str, where: str = "", hint: str = "", code: int = DATA, snippet: str = ""):
        super().__init__(message)
        self.message, self.where, self.hint, self.code, self.snippet = message, where, hint, code, snippet
        self.others: tuple[Problem, ...] = ()

    @classmethod
    def combined(cls, problems: Sequence[Problem]) -> Problem:
        """A copy of the first problem that carries the rest in `others`."""
        first, *others = problems
        problem = cls(first.message, first.where, first.hint, first.code, first.snippet)
        problem.others = tuple(others)
        return problem

    @property
    def all(self) -> tuple[Problem, ...]:
        return (self, *self.others)

    def __str__(self) -> str:
        text = "\n".join(_render(p) for p in self.all)
        return f"{text}\n{len(self.all)} problems. Nothing was run." if self.others else text


class Diverged(Problem):
    """A node's training left the finite numbers. node: its number."""

    node = 0


def _render(p: Problem) -> str:
    head = f"{p.where}: {p.message}" if p.where else p.message
    lines = [printable(head)]
    if p.snippet:
        lines.append("\n".join(printable(line) for line in p.snippet.splitlines()))
    if p.hint:
        lines.append(f"  -> {printable(p.hint)}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """Escape control characters: names in untrusted files may carry terminal codes."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
