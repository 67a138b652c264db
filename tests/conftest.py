"""Fixtures that several test files share."""

from __future__ import annotations

import pytest
from runner import TINY, Lab


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
