"""The one error type that a user can cause, and the exit codes of the command line."""

from __future__ import annotations

OK = 0
BUG = 1
USAGE = 2  # wrong command line
CONFIG = 3  # YAML, override, missing config file
DATA = 4  # missing, corrupt or stale artefact or data
SYSTEM = 5  # device, disk, permission
RETRY = 75  # try again: lock held, node or parent missing
INTERRUPTED = 130
TERMINATED = 143

MEANINGS = {
    OK: "Success; or nothing was left to do.",
    BUG: "Internal error in metadist. Please report it.",
    USAGE: "Wrong command line.",
    CONFIG: "Config: invalid YAML, an unknown key or wrong value, a wrong override, or no such config file.",
    DATA: "Data or a file of the run is missing, corrupt, or belongs to other settings.",
    SYSTEM: "Device, disk space or permission.",
    RETRY: "Try again later: another command is using the run, or a node's file or the round before is missing.",
    INTERRUPTED: "Ctrl-C. Finished work is kept; the same command resumes.",
    TERMINATED: "SIGTERM, for example from a batch system. Finished work is kept; the same command resumes.",
}


class Problem(Exception):
    """Something that the user can mend.

    message: what is wrong, one sentence, with the offending value in it.
    where:   file:line:column, key, node or path; empty where there is no place.
    hint:    what to do about it.
    code:    exit code, one of the constants above.
    snippet: the lines of the file around the place, with a caret line; shown as they are.
    others:  further problems of the same kind that were found in the same reading.
    """

    def __init__(
        self,
        message: str,
        where: str = "",
        hint: str = "",
        code: int = DATA,
        snippet: str = "",
        others: tuple[Problem, ...] = (),
    ):
        super().__init__(message)
        self.message, self.where, self.hint, self.code = message, where, hint, code
        self.snippet, self.others = snippet, others

    @property
    def all(self) -> tuple[Problem, ...]:
        return (self, *self.others)

    def __str__(self) -> str:
        text = "\n".join(_render(p) for p in self.all)
        return f"{text}\n{len(self.all)} problems. Nothing was done." if self.others else text


def _render(p: Problem) -> str:
    head = f"{p.where}: {p.message}" if p.where else p.message
    lines = [printable(head)]
    if p.snippet:
        lines.append("\n".join(printable(line) for line in p.snippet.splitlines()))
    if p.hint:
        lines.append(f"  -> {printable(p.hint)}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """Text with control characters escaped: names in untrusted files may carry terminal codes."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
