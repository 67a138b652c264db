"""Broken data of every reader: the whole message, a fitting exit code, no traceback, and nothing half written."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metadist_cli.cli import app
from metadist_cli.core.errors import CONFIG, DATA

READERS = ("arrays", "images", "leaf", "table")
CASES = [(f"{reader}: {case[0]}", *case[1:]) for reader in READERS for case in import_module(f"broken_{reader}").CASES]
CONFIG_TEXT = """\
data: {section}
task: {{kind: local, support: 1, query: 1, new: {{test: 1}}}}
partition: {{name: iid, nodes: 2}}
"""


def test_there_are_enough_kinds():
    assert len(CASES) >= 25
    assert len({name for name, *_ in CASES}) == len(CASES)


@pytest.mark.parametrize(("make", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_broken_data(make: Callable[[Path], str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METADIST_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "broken.yaml").write_text(CONFIG_TEXT.format(section=make(tmp_path)))
    done = CliRunner().invoke(app, ["partition", "broken.yaml"])
    assert done.stderr.rstrip("\n") == message
    assert done.exit_code in (CONFIG, DATA)
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "runs").exists()
