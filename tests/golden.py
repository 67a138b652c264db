"""Golden text: whole messages, each in a .txt file. METADIST_GOLDEN=write rewrites them; then read the diff."""

from __future__ import annotations

import os
from pathlib import Path


def golden(path: Path, text: str) -> str:
    """The text that is expected: that of the file, which METADIST_GOLDEN=write replaces by `text` first."""
    if os.environ.get("METADIST_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path.read_text()
