"""metadist: distributed meta-learning from one YAML file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from metadist_cli.storage.adapted_model import AdaptedModel

__version__ = "0.1.0"


def load(path: str | Path) -> AdaptedModel:
    """An adapted model that `metadist finetune` wrote: its `predict(rows)` gives class names, or values."""
    from metadist_cli.storage.adapted_model import (
        load_adapted,  # torch takes seconds to import, `metadist --help` must not
    )

    return load_adapted(path)
