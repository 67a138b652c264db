"""Fixtures that several test files share, and the suite's own time."""

from __future__ import annotations

import os
import resource
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from runner import TINY, Lab

# As metadist itself sets it: torch's threads wait for each other by spinning, which on a busy machine costs most of the
# CPU time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SECONDS = "metadist/seconds"  # in pytest's cache: CPU seconds of each test when it last ran


@pytest.fixture
def lab(tmp_path) -> Lab:
    """A folder with a tiny experiment, and its command line."""
    return Lab(tmp_path)


@pytest.fixture
def plain(monkeypatch) -> None:
    """Reports without pictures, which cost most of a second each."""
    from metadist_cli import report

    monkeypatch.setattr(report, "render", lambda *figures: {"report.html": b"stands in for a report\n"})
    monkeypatch.setattr("metadist_cli.report.heatmap.partition_png", lambda manifest: b"stands in for a picture\n")


@pytest.fixture
def personal_lab(tmp_path) -> Lab:
    """The tiny experiment with everything that a node can keep: a control variate and a model of its own."""
    train = "train: {rounds: 3, "
    assert train in TINY
    return Lab(tmp_path, TINY.replace(train, train + "drift: {name: scaffold}, personal: {name: ditto}, "))


# ------------------------------------------------------------------------------------------------- the suite's time


class Clock:
    """CPU seconds of this process and of its children that ended; other work on the machine does not change them."""

    def __init__(self) -> None:
        self.began, self.last, self.tests = time.monotonic(), self.now(), defaultdict[str, float](float)

    def now(self) -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in used)

    def lap(self) -> float:
        before, self.last = self.last, self.now()
        return self.last - before


clock = Clock()


def pytest_collection_finish() -> None:
    clock.lap()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Any:
    report = (yield).get_result()
    report.cpu_seconds = clock.lap()  # xdist sends the attribute along


def pytest_runtest_logreport(report: Any) -> None:
    clock.tests[report.nodeid] += report.cpu_seconds


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not clock.tests or hasattr(config, "workerinput"):
        return
    cache = getattr(config, "cache", None)
    before: dict[str, float] = cache.get(SECONDS, {}) if cache else {}
    rooms = defaultdict[str, list[str]](list)
    for test in clock.tests:
        rooms[Path(test.split("::")[0]).parts[1]].append(test)
    terminalreporter.section("CPU seconds by room")
    for room, tests in sorted(rooms.items(), key=lambda entry: -sum(clock.tests[test] for test in entry[1])):
        terminalreporter.line(_seconds(room, tests, before))
    terminalreporter.line(_seconds("all", list(clock.tests), before))
    terminalreporter.line(f"{time.monotonic() - clock.began:.0f} s by the wall clock")
    if cache:
        cache.set(SECONDS, before | {test: round(used, 3) for test, used in clock.tests.items()})


def _seconds(room: str, tests: list[str], before: dict[str, float]) -> str:
    line = f"{room:<20}{sum(clock.tests[test] for test in tests):8.1f}  {len(tests)} tests"
    known = [test for test in tests if test in before]
    if known:
        change = sum(clock.tests[test] - before[test] for test in known)
        line += f"  ({change:+.1f} since {len(known)} of them last ran)"
    return line
