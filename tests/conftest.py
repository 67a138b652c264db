"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from runner import TINY, Lab, personal


@pytest.fixture
def lab(tmp_path) -> Lab:
    """A folder with a tiny experiment, and its command line."""
    return Lab(tmp_path)


@pytest.fixture
def plain(monkeypatch) -> None:
    """Reports without pictures, which cost most of a second each."""
    from metadist_cli import report

    monkeypatch.setattr(report, "render", lambda *figures: {"report.html": b"stands in for a report\n"})
    monkeypatch.setattr("metadist_cli.report.pictures.partition_png", lambda manifest: b"stands in for a picture\n")


@pytest.fixture
def personal_lab(tmp_path) -> Iterator[Lab]:
    """The tiny experiment with a learner whose nodes keep something."""
    from metadist_cli.config.schema import Config
    from metadist_cli.learners import LEARNERS

    LEARNERS["personal"] = personal
    Config.model_rebuild(force=True)  # the union of learners may have been built already
    learner = "learner: {name: maml, inner_lr: 0.1, inner_steps: 1}"
    assert learner in TINY
    yield Lab(tmp_path, TINY.replace(learner, "learner: {name: personal}"))
    del LEARNERS["personal"]
    Config.model_rebuild(force=True)
