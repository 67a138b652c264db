"""The features of a data set by name, for the person who deals it out."""

from __future__ import annotations

from collections.abc import Sequence

from metadist_cli.core.console import Console
from metadist_cli.data.types import Feature

_SHOWN = 12
_NAME, _KIND, _VALUES = 24, 14, 20  # columns of each: with the others the table fits into 80


def show_features(features: Sequence[Feature], console: Console) -> None:
    """Name, kind, share of missing cells and first values of the first features, on the console and in no file."""
    rows: list[list[object]] = []
    for feature in features[:_SHOWN]:
        first = _cut(", ".join(feature.first), _VALUES) if feature.first else None
        kind = _cut(f"{feature.kind} {feature.unit}".strip(), _KIND)
        missing = f"{feature.missing:.1%}" if feature.missing else "0"
        rows.append([_cut(feature.name, _NAME), kind, feature.size or "left out", missing, first])
    if len(features) > _SHOWN:
        rows.append([f"... and {len(features) - _SHOWN:,} more", "", "", "", ""])
    if rows:
        console.table("features", ["name", "kind", "inputs", "missing", "first values"], rows, logged=False)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
