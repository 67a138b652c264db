"""Error messages for configs that do not fit the schema.

Every message is derived from the JSON Schema of the key, so a new section or registry entry needs no text here.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pydantic import ValidationError

from metadist_cli.config.positions import Path, SourceMap, clip
from metadist_cli.core.errors import Problem

_NOUNS = {
    "data": "data set",
    "partition": "partitioner",
    "outer": "optimizer",
    "server": "optimizer",
    "aggregate": "aggregator",
    "task": "kind of task",
}
_SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_PLAIN = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "null": "null"}
_REPLACED = {
    "decay_steps": "write `schedule: linear` in its place: the step size falls to 0 over all rounds, "
    "or over the first N with `over: N`",
}
_SWITCHES = {"yes", "no", "on", "off", "y", "n"}

Node = dict[str, Any]  # a JSON Schema


class _Field(NamedTuple):
    """A field of the config: its value, its schema, and the section that it is in."""

    path: Path
    value: Any
    node: Node
    section: Node
    label: str  # the section's name in messages; empty at the top of the file
    others: dict[str, Node]  # schemas of the section under its other names, by `name: NAME`


_TAGS = ("name", "kind")  # keys that choose an entry of a registry


def problems(error: ValidationError, tree: dict[str, Any], source_map: SourceMap, schema: Node) -> list[Problem]:
    """Turn pydantic's errors into Problems that users understand.

    Args:
        error: The validation error.
        tree: The config that failed, as plain values.
        source_map: Where its parts are written.
        schema: JSON Schema of the whole config.

    Returns:
        One Problem per invalid field, in the order of the text.
    """
    explainer = _Explainer(schema, tree)
    found: dict[Path, Problem] = {}
    for fault in error.errors(include_url=False, include_input=False):
        field = explainer.locate(fault["loc"])
        reason = str(fault.get("ctx", {}).get("error", "")) if fault["type"] == "value_error" else ""
        kind = "key" if fault["loc"][-1:] == ("[key]",) else fault["type"]
        found[field.path] = explainer.problem(kind, field, source_map, reason)
    items = {path[:-1] for path in found if path and isinstance(path[-1], int)}  # an item is more precise than its list
    order = {path: i for i, path in enumerate(source_map.locations)}
    return [found[path] for path in sorted(found.keys() - items, key=lambda p: (order[source_map.written(p)], str(p)))]


def nearest(word: str, options: Iterable[str]) -> str:
    """A hint for a mistyped word: "did you mean `option`?", or "" if no option is similar."""
    match = difflib.get_close_matches(word.lower(), list(options), 1, 0.6)
    return f"did you mean `{match[0]}`?" if match else ""


def shown(value: Any) -> str:
    """A value as a message shows it."""
    if isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return f"'{clip(value)}'"
    return json.dumps(value)


def phrase(node: Node, schema: Node) -> str:
    """What a value must be, in words: "a whole number >= 1 or null".

    Args:
        node: JSON Schema of the value.
        schema: JSON Schema that contains its references.
    """
    return _Explainer(schema, {}).phrase(node)


class _Explainer:
    """Explains errors in a config tree by its JSON Schema."""

    def __init__(self, schema: Node, tree: dict[str, Any]):
        self.schema, self.tree = schema, tree

    def locate(self, loc: tuple[int | str, ...]) -> _Field:
        """The field at a pydantic location: keys and indices mixed with the names of union branches."""
        field = _Field((), self.tree, self.schema, self.schema, "", {})
        steps = iter(loc)
        for step in steps:
            _, tag = self.branch(field.node, field.value)
            if step == tag:  # the name that chose the section precedes the section's key
                step = next(steps, None)
            if isinstance(field.value, dict) and isinstance(step, str) and step != "[key]":
                field = self.child(field, step)
            elif isinstance(field.value, list) and isinstance(step, int):
                field = self.item(field, step)
        return field

    def child(self, parent: _Field, key: str) -> _Field:
        section, tag = self.branch(parent.node, parent.value)
        dotted = ".".join(map(str, parent.path))
        label = f'{dotted} "{tag}"' if tag else dotted
        chooser, entries = self.tagged(self.optional(parent.node)) if tag else ("", {})
        others = {f"{chooser}: {name}": entry for name, entry in entries.items()}
        return _Field((*parent.path, key), parent.value.get(key), _below(section, key), section, label, others)

    def item(self, parent: _Field, index: int) -> _Field:
        section, _ = self.branch(parent.node, parent.value)
        node = {"description": parent.node.get("description", "")} | section.get("items", {})
        return parent._replace(path=(*parent.path, index), value=parent.value[index], node=node)

    def branch(self, node: Node, value: Any) -> tuple[Node, str | None]:
        """The branch of a union that a value selects, and the tag that selected it (None without a tag)."""
        shape = {dict: "object", list: "array"}.get(type(value))
        node = next((leaf for leaf in self.leaves(node) if _shape(leaf) == shape), self.leaves(node)[0])
        if "discriminator" not in node:
            return node, None
        tag, branches = self.tagged(node)
        usual = next((name for name, b in branches.items() if "default" in b["properties"][tag]), None)
        name = value.get(tag, usual) if isinstance(value, dict) else None
        return (branches[name], name) if isinstance(name, str) and name in branches else ({}, None)

    def tagged(self, node: Node) -> tuple[str, dict[str, Node]]:
        """The key that selects a branch of a tagged union, and the branches by its values."""
        tag = node["discriminator"]["propertyName"]
        branches = [self.leaves(branch)[0] for branch in node["oneOf"]]
        return tag, {b["properties"][tag]["const"]: b for b in branches}

    def leaves(self, node: Node) -> list[Node]:
        """The branches of a plain union with references resolved; any other node by itself."""
        if "$ref" in node:
            node = self.schema["$defs"][node["$ref"].rpartition("/")[2]] | {k: node[k] for k in node if k != "$ref"}
        return [leaf for part in node["anyOf"] for leaf in self.leaves(part)] if "anyOf" in node else [node]

    def problem(self, kind: str, field: _Field, source_map: SourceMap, reason: str) -> Problem:
        """The Problem for pydantic's error type; `reason` replaces the schema's description of a valid value."""
        path, value = field.path, field.value
        key = clip(str(path[-1]), 60) if path else ""
        within = f"in {field.label}" if field.label else "at the top of the file"
        match kind:
            case "extra_forbidden":
                hint = _REPLACED.get(key) or self.keys_hint(key, field)
                return source_map.problem(path, f"unknown key `{key}` {within}", hint, at="key")
            case "key":
                hint = "use 1 to 64 lowercase letters, digits, - and _, starting with a letter or digit"
                return source_map.problem(path, f"`{key}` is not a valid name {within}", hint, at="key")
            case "missing":
                return source_map.problem(path, f"`{key}` is missing {within}", self.missing_hint(key, field.node))
            case "union_tag_not_found":
                tag, branches = self.tagged(self.optional(field.node))
                return source_map.problem(path, f"`{tag}` is missing in {key}", f"add `{tag}:` with {_any(branches)}")
            case "union_tag_invalid":
                tag, branches = self.tagged(self.optional(field.node))
                name, noun = value[tag], _NOUNS.get(key, key)
                hint = f"{nearest(str(name), branches)}  (one of: {', '.join(branches)})".strip()
                name = f"`{clip(name)}`" if isinstance(name, str) else shown(name)
                return source_map.problem((*path, tag), f"unknown {noun} {name}", hint)
        subject = f"item {path[-1] + 1} of `{path[-2]}`" if path and isinstance(path[-1], int) else f"`{key}`"
        instead = "but has no value" if value is None else f"not {shown(value)}"
        message = f"{subject} must be {reason or self.phrase(field.node)}, {instead}"
        return source_map.problem(path, message, self.value_hint(key, field) or field.node.get("description", ""))

    def keys_hint(self, key: str, field: _Field) -> str:
        """The most similar key, otherwise the section that has this key; and the keys of this section."""
        keys = [
            name
            for name, node in field.section.get("properties", {}).items()
            if name not in _TAGS or "const" not in node
        ]
        owner = next((entry for entry, node in field.others.items() if key in node["properties"]), "")
        home = next(self.homes(key, self.schema, self.tree, ""), "")
        elsewhere = f"`{key}` is a key of `{owner}`" if owner else f"`{key}` belongs in {home}" if home else ""
        guess = nearest(key, keys) or elsewhere
        return f"{guess}  ({'keys: ' + ', '.join(keys) if keys else 'no keys except name'})".strip()

    def homes(self, key: str, node: Node, value: Any, within: str) -> Iterator[str]:
        """The sections of this config that have the key."""
        for name, below in self.branch(node, value)[0].get("properties", {}).items():
            if name == key and within:
                yield f"`{within[1:]}`"
            if any(_shape(leaf) == "object" for leaf in self.leaves(below)):
                inner = value.get(name) if isinstance(value, dict) else None
                yield from self.homes(key, below, inner if isinstance(inner, dict) else {}, f"{within}.{name}")

    def optional(self, node: Node) -> Node:
        """The tagged union in a union with null."""
        return next(leaf for leaf in self.leaves(node) if "discriminator" in leaf)

    def missing_hint(self, key: str, node: Node) -> str:
        if "discriminator" in node:
            tag, branches = self.tagged(node)
            return f"for example `{key}: {{{tag}: {next(iter(branches))}}}`  (one of: {', '.join(branches)})"
        return f"{node.get('description', key).rstrip('.')} ({self.phrase(node)})"

    def value_hint(self, key: str, field: _Field) -> str:
        leaves, value = self.leaves(field.node), field.value
        types = {_shape(leaf) for leaf in leaves}
        choices = [c for leaf in leaves for c in leaf.get("enum", [leaf.get("const")]) if c]
        if isinstance(value, str):
            if "boolean" in types and value.lower() in _SWITCHES:
                return "write true or false: yes, no, on and off are text in YAML 1.2"
            if types & {"integer", "number"} and re.fullmatch(r"[-+]?[0-9][0-9_,]*\.?[0-9]*(e[-+]?[0-9]+)?", value):
                return f"write {re.sub('[_,]', '', value)}, without quotes or separators"
            if tagged := next((leaf for leaf in leaves if "discriminator" in leaf), None):
                tag, names = self.tagged(tagged)
                return f"write `{key}: {{{tag}: {value if value in names else next(iter(names))}}}`"
            return nearest(value, choices)
        if value is None and types == {"object"}:
            return f"write `{key}: {{}}`, or leave it out"
        scalar = isinstance(value, bool | int | float)
        return "put it in quotes to make it text" if scalar and types <= {"string", "null"} and not choices else ""

    def phrase(self, node: Node) -> str:
        """What a value must be, in words: "a whole number >= 1 or null"."""
        return _any(dict.fromkeys(self._phrase(leaf) for leaf in self.leaves(node)))

    def _phrase(self, leaf: Node) -> str:
        if "enum" in leaf or "const" in leaf:
            return _any(map(_quoted, leaf.get("enum", [leaf.get("const")])))
        kind = _shape(leaf)
        if kind == "object":
            return "a section"
        if kind == "array":
            least, most = leaf.get("minItems", 0), leaf.get("maxItems")
            kind = f"a list of {least} items" if least == most else "a non-empty list" if least else "a list"
            return f"{kind}, each item {self.phrase(leaf['items'])}"
        if kind == "string":
            return f"text like {_any(leaf['examples'])}" if "examples" in leaf else "text"
        if {"minimum", "maximum"} <= leaf.keys():
            return f"{_PLAIN[kind]} from {leaf['minimum']} to {leaf['maximum']}"
        ranges = [f"{sign} {leaf[key]}" for key, sign in _SIGNS.items() if key in leaf]
        return " ".join([_PLAIN.get(kind, "valid"), " and ".join(ranges)]).strip()


def _below(section: Node, key: str) -> Node:
    named = section.get("properties", {}).get(key)
    return named or next(iter(section.get("patternProperties", {}).values()), {})


def _shape(leaf: Node) -> str:
    return leaf.get("type", "object" if "discriminator" in leaf else "")


def _quoted(word: Any) -> str:
    """A word that the user may write; marks and blanks, such as a delimiter, in quotes."""
    return str(word) if re.search(r"\w", str(word)) else json.dumps(word)


def _any(words: Iterable[str]) -> str:
    *some, last = map(str, words)
    return f"{', '.join(some)} or {last}" if some else last
