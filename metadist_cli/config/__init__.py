"""Experiment files: load them, apply overrides, validate them as a whole, write them back.

Every error in a file or an override is reported at once, as a Problem(CONFIG) that shows where it is.
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

from metadist_cli.config.checks import conflicts, variant, variants
from metadist_cli.config.messages import nearest, problems
from metadist_cli.config.positions import Location, Source, SourceMap, Span, clip, raise_all
from metadist_cli.config.registry_sections import Section, options
from metadist_cli.config.schema import Config
from metadist_cli.config.schema_running import size
from metadist_cli.config.step_sizes import idle_rounds
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
    "notices",
    "sections",
    "shipped",
    "size",
    "to_yaml",
    "variant",
    "variants",
]

ABSENT = "(absent)"


def load(file: str | Path, overrides: Sequence[str] = (), name: str | None = None) -> Config:
    """Load and validate an experiment.

    Args:
        file: A YAML file, a run folder, or the name of a shipped config.
        overrides: Settings such as "train.rounds=20", applied in order.
        name: Replaces the file's `name`.

    Returns:
        The config with every default filled in.

    Raises:
        Problem: CONFIG with every error in the file and the overrides; SYSTEM if the file cannot be read.
    """
    try:
        path = _find(str(file))
    except OSError as error:
        code = SYSTEM if isinstance(error, PermissionError) else CONFIG
        message, hint = f"cannot be read: {error.strerror}", "check the path and its permissions"
        raise Problem(message, clip(str(file), 80), hint, code) from None
    tree, source_map = load_yaml(_read(path), str(path))
    tree.setdefault("name", path.stem)
    faults: list[Problem] = []
    for override in [*overrides, *([] if name is None else [f"name={json.dumps(name)}"])]:
        try:
            _override(tree, source_map, override)
        except Problem as fault:
            faults.extend(fault.all)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise_all(faults + problems(error, tree, source_map, json_schema()))
        raise
    raise_all(faults + [source_map.problem(*conflict) for conflict in conflicts(config)])
    return config


@cache
def json_schema() -> dict[str, Any]:
    """The JSON Schema of a config file, for editors and error messages."""
    schema = Config.model_json_schema()
    schema["required"].remove("name")  # `load` takes it from the file's name
    return schema


def shipped() -> dict[str, Path]:
    """The shipped configs, path by name; beside the package in a clone, inside it when installed."""
    package = Path(__file__).parents[1]
    folders = (package / "configs", package.parent / "configs")
    folder = next((f for f in folders if f.is_dir()), folders[0])
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def notices(config: Config) -> list[str]:
    """What is valid but hardly meant: a sentence for each schedule that leaves rounds in which nothing changes."""
    found = idle_rounds(config)
    for name, other in variants(config).items():
        found += [f"baselines.{name}.{text}" for text in idle_rounds(other) if text not in found]
    return found


def to_yaml(config: Config) -> str:
    """YAML text that loads back to an equal config."""
    return yaml.dump(config.resolved(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def sections(config: Config, names: Iterable[str], without: Iterable[str] = ()) -> dict[str, Any]:
    """Some sections of a config as plain values.

    Args:
        config: The config.
        names: Sections to return.
        without: Keys to leave out, such as "train.rounds".

    Returns:
        Section values by section name.
    """
    resolved = config.resolved()
    chosen = {name: resolved[name] for name in names}
    for dotted in without:
        section, _, key = dotted.partition(".")
        chosen.get(section, {}).pop(key)
    return chosen


def fingerprint(values: dict[str, Any]) -> str:
    """SHA-256 of plain values (64 hex digits), independent of the order of keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def difference(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Compare two nested dicts.

    Args:
        a: One dict.
        b: The other.
        prefix: Prepended to every key.

    Returns:
        (dotted key, value in a, value in b) for every difference; a missing value is ABSENT.
    """
    found = []
    for key in dict.fromkeys((*a, *b)):
        one, other = a.get(key, ABSENT), b.get(key, ABSENT)
        if isinstance(one, dict) and isinstance(other, dict):
            found += difference(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append((f"{prefix}{key}", one, other))
    return found


def build(section: Section, registry: dict[str, Callable[..., Any]], *args: Any) -> Any:
    """Build the registry entry that a section names.

    Args:
        section: A section such as `learner: {name: maml, inner_lr: 0.1}`.
        registry: Builders by name; their keyword-only parameters are the section's keys.
        *args: Positional arguments for the builder, such as the model.

    Returns:
        builder(*args, **the section's options).
    """
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
        hint = "name a YAML file or a run folder"
        raise Problem("this folder is not a run: it contains no config.yaml", file, hint, CONFIG)
    near = [str(p) for p in sorted(path.parent.glob("*.yaml"))] if path.parent.is_dir() else []
    shelf = ", ".join(name for name in known if "/" not in name)
    hint = (
        nearest(file, [*known, *near])
        or f"shipped: {shelf}; for more, in papers/ and scenes/, see `metadist help config`"
    )
    raise Problem("config file not found", clip(file, 80), hint, CONFIG)


def _read(path: Path) -> bytes:
    try:
        return files.read(path.resolve(), MAX_BYTES, "config file")
    except Problem as problem:
        code = CONFIG if problem.code == DATA else problem.code
        raise Problem(problem.message, str(path), problem.hint, code) from None


def _override(tree: dict[str, Any], source_map: SourceMap, argument: str) -> None:
    """Apply one `a.b=value` to the tree and its source map."""
    where = f"override {clip(argument, 60)}"
    source = Source.of(argument, where, argument=True)
    dotted, equals, _ = argument.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        hint = "for example train.rounds=20"
        if argument.endswith((".yaml", ".yml")):
            hint = "name one config at a time; what follows it are overrides, " + hint
        raise source.problem(Span(1, 1, len(dotted)), "an override must have the form `section.key=value`", hint)
    value, own = parse_value(argument, len(dotted) + 1, where)
    section, column = tree, 1
    for i, key in enumerate(keys[:-1], 1):
        span = Span(1, column, len(key))
        if section.setdefault(key, {}) is None:
            section[key] = {}
        section = section[key]
        if not isinstance(section, dict):
            above = ".".join(keys[:i])
            raise source.problem(span, f"`{above}` is a value, not a section", f"set it as a whole: `{above}=VALUE`")
        source_map.locations.setdefault(tuple(keys[:i]), Location(source, span, span))
        column += len(key) + 1
    section[keys[-1]] = value
    source_map.overlay(tuple(keys), own, Span(1, column, len(keys[-1])))
