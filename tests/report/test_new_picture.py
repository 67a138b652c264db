"""Adding a picture to the report is one file and one line of its registry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from runner import ROOT, TINY, process

NEW = '''\
"""The number of rows of each node, as bars."""

from metadist_cli.report.canvas import COLUMN, picture
from metadist_cli.report.types import Picture, Results


def sizes(results: Results) -> Picture:
    """Bars of the nodes' rows."""
    rows = [node["rows"] for node in results.shards["nodes"]]
    draw = lambda figure: figure.subplots().bar(range(len(rows)), rows)
    return Picture(picture(draw, COLUMN, 2.0), "Bars of rows by node.", f"{sum(rows)} rows in all.")
'''
REGISTRY = "PICTURES: dict[str, tuple[str, Callable[[Results], Picture | None]]] = {\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The package with one more picture."""
    shutil.copytree(ROOT / "metadist_cli", tmp_path / "metadist_cli", ignore=shutil.ignore_patterns("__pycache__"))
    pictures = tmp_path / "metadist_cli" / "report" / "pictures"
    (pictures / "sizes.py").write_text(NEW)
    start, registry, rest = (pictures / "__init__.py").read_text().partition(REGISTRY)
    imported = "from metadist_cli.report.pictures.sizes import sizes\n\n"
    (pictures / "__init__.py").write_text(start + imported + registry + '    "sizes": ("Training", sizes),\n' + rest)
    (tmp_path / "new.yaml").write_text(TINY)
    return tmp_path


def test_a_new_picture_is_one_file_and_one_line(folder: Path) -> None:
    """It is drawn, written as a file of the results, and put on the page in its section."""
    done = process("run", "new.yaml", "--runs-dir", "runs", module=True, cwd=folder, PYTHONPATH=str(folder))
    assert done.code == 0, done.out + done.err
    [path] = (folder / "runs" / "new").rglob("metrics.json")
    assert "sizes.png" in json.loads(path.read_bytes())["files"]
    assert (path.parent / "sizes.png").read_bytes().startswith(b"\x89PNG")
    training = (path.parent / "report.html").read_text().split("<h2>Training</h2>")[1].split("<h2>")[0]
    assert 'alt="Bars of rows by node."' in training


def test_every_picture_has_a_section_on_the_page() -> None:
    from metadist_cli.report import SECTIONS
    from metadist_cli.report.pictures import PICTURES

    assert {section for section, _ in PICTURES.values()} <= set(SECTIONS)
