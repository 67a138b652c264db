"""Broken data of every reader: the whole message, a fitting exit code, no traceback, and nothing half written.

The files are made by broken_*.py; broken/READER/CASE.txt is the whole message. After a change of messages rewrite them
with METADIST_GOLDEN=write, then read the diff.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from golden import golden
from typer.testing import CliRunner

from metadist_cli.cli import app
from metadist_cli.core.errors import CONFIG, DATA

BROKEN = Path(__file__).parent / "broken"
READERS = ("arrays", "images", "leaf", "table")
CASES = [(reader, *case) for reader in READERS for case in import_module(f"broken_{reader}").CASES.items()]
CONFIG_TEXT = """\
data: {section}
task: {{kind: local, support: 1, query: 1, new: {{test: 1}}}}
partition: {{name: iid, nodes: 2}}
"""


def message(reader: str, name: str) -> Path:
    return BROKEN / reader / (re.sub(r"\W+", "-", name).strip("-") + ".txt")


def test_every_message_has_its_case() -> None:
    assert {message(*case[:2]) for case in CASES} == set(BROKEN.rglob("*.txt"))
    assert len(CASES) >= 150


@pytest.mark.parametrize(("reader", "name", "make"), CASES, ids=[f"{reader}: {name}" for reader, name, _ in CASES])
def test_broken_data(
    reader: str, name: str, make: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METADIST_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "broken.yaml").write_text(CONFIG_TEXT.format(section=make(tmp_path)))
    done = CliRunner().invoke(app, ["partition", "broken.yaml"])
    assert done.exit_code in (CONFIG, DATA)
    assert done.stderr == golden(message(reader, name), done.stderr)
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "runs").exists()
