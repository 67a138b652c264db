"""Experiment files: read, overridden, checked as a whole, and written back.

Whatever is wrong in a file or an override is a Problem(CONFIG) that shows the place, and all of it is told at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from metadist_cli.config.checks import complaints, variants
from metadist_cli.config.messages import nearest, problems
from metadist_cli.config.positions import Marks, Place, Source, Spot, clip, raise_all
from metadist_cli.config.registry_sections import Section, options
from metadist_cli.config.schema import Config, size
from metadist_cli.config.strict_yaml import MAX_BYTES, Dumper, parse_value
from metadist_cli.config.strict_yaml import load as load_yaml
from metadist_cli.core import files
from metadist_cli.core.errors import CONFIG, DATA, SYSTEM, Problem

__all__ = [
    "Config",
    "build",
    "difference",
    "fingerprint",
    "json_schema",
    "load",
    "sections",
    "shipped",
    "size",
    "to_yaml",
    "variants",
]

ABSENT = "(absent)"


def load(file: str | Path, overrides: Sequence[str] = (), name: str | None = None) -> Config:
    """The config of a YAML file, a run directory or a shipped config's name, with `a.b=value` overrides applied.

    name: takes the place of `name` in the file. Raises Problem(CONFIG) with everything that is wrong.
    """
    try:
        path = _find(str(file))
    except OSError as error:
        code = SYSTEM if isinstance(error, PermissionError) else CONFIG
        message, hint = f"cannot be read: {error.strerror}", "check the path and who may read it"
        raise Problem(message, clip(str(file), 80), hint, code) from None
    tree, marks = load_yaml(_read(path), str(path))
    tree.setdefault("name", path.stem)
    faults: list[Problem] = []
    for override in [*overrides, *([] if name is None else [f"name={json.dumps(name)}"])]:
        try:
            _override(tree, marks, override)
        except Problem as fault:
            faults.extend(fault.all)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise_all(faults + problems(error, tree, marks, json_schema()))
        raise
    raise_all(faults + [marks.problem(*complaint) for complaint in complaints(config)])
    return config


@cache
def json_schema() -> dict[str, Any]:
    """The JSON Schema of a config file."""
    schema = Config.model_json_schema()
    schema["required"].remove("name")  # `load` takes it from the file's name
    return schema


def shipped() -> dict[str, Path]:
    """The configs that come with metadist, by name: beside the package in a clone, inside it when installed."""
    package = Path(__file__).parents[1]
    folders = (package / "configs", package.parent / "configs")
    folder = next((f for f in folders if f.is_dir()), folders[0])
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def to_yaml(config: Config) -> str:
    """YAML text that loads back to an equal config."""
    return yaml.dump(config.resolved(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def sections(config: Config, names: Iterable[str], without: Iterable[str] = ()) -> dict[str, Any]:
    """The named sections as plain values; `without` names keys to leave out, such as train.rounds."""
    resolved = config.resolved()
    chosen = {name: resolved[name] for name in names}
    for dotted in without:
        section, _, key = dotted.partition(".")
        chosen.get(section, {}).pop(key)
    return chosen


def fingerprint(values: dict[str, Any]) -> str:
    """SHA-256 of plain values, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def difference(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted keys in which two nested mappings differ, with both values; ABSENT where there is none."""
    found = []
    for key in dict.fromkeys((*a, *b)):
        one, other = a.get(key, ABSENT), b.get(key, ABSENT)
        if isinstance(one, dict) and isinstance(other, dict):
            found += difference(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append((f"{prefix}{key}", one, other))
    return found


def build(section: Section, registry: dict[str, Callable[..., Any]], *args: Any) -> Any:
    """What the registry's builder makes of a section's options, after the program's own arguments."""
    builder = registry[section.name]
    return builder(*args, **{key: getattr(section, key) for key in options(builder)})


def _find(file: str) -> Path:
    path = Path(file)
    if path.is_file():
        return path
    if (path / "config.yaml").is_file():
        return path / "config.yaml"
    known = shipped()
    if file in known:
        return known[file]
    if path.is_dir():
        raise Problem("this folder is not a run: it holds no config.yaml", file, "name a YAML file or a run", CONFIG)
    near = [str(p) for p in sorted(path.parent.glob("*.yaml"))] if path.parent.is_dir() else []
    hint = f"{nearest(file, [*known, *near])}  (shipped: {', '.join(known) or 'none'})".strip()
    raise Problem("there is no such config file", clip(file, 80), hint, CONFIG)


def _read(path: Path) -> bytes:
    try:
        return files.read(path.resolve(), MAX_BYTES, "config file")
    except Problem as problem:
        code = CONFIG if problem.code == DATA else problem.code
        raise Problem(problem.message, str(path), problem.hint, code) from None


def _override(tree: dict[str, Any], marks: Marks, argument: str) -> None:
    """Set one `a.b=value` in the tree and its marks."""
    where = f"override {clip(argument, 60)}"
    source = Source.of(argument, where, argument=True)
    dotted, equals, _ = argument.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        hint = "for example train.rounds=20"
        raise source.problem(Place(1, 1, len(dotted)), "not of the form `section.key=value`", hint)
    value, own = parse_value(argument, len(dotted) + 1, where)
    section, column = tree, 1
    for i, key in enumerate(keys[:-1], 1):
        place = Place(1, column, len(key))
        if section.setdefault(key, {}) is None:
            section[key] = {}
        section = section[key]
        if not isinstance(section, dict):
            raise source.problem(place, f"`{'.'.join(keys[:i])}` holds a value, not a section", "set the whole section")
        marks.spots.setdefault(tuple(keys[:i]), Spot(source, place, place))
        column += len(key) + 1
    section[keys[-1]] = value
    marks.overlay(tuple(keys), own, Place(1, column, len(keys[-1])))
