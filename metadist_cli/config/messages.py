"""What the schema finds wrong, said in plain words at the place where it is written.

Every message comes from the JSON Schema of the key, so a new section or registry entry needs no words here.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pydantic import ValidationError

from metadist_cli.config.positions import Marks, Path, clip
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
_SWITCHES = {"yes", "no", "on", "off", "y", "n"}

Node = dict[str, Any]  # a JSON Schema


class _Place(NamedTuple):
    """A place in the tree: what stands there, its schema, and the section around it."""

    path: Path
    value: Any
    node: Node
    section: Node
    label: str  # how a message calls the section; empty for the whole file
    others: dict[str, Node]  # what the section would be under other names, by `name: NAME`


def problems(error: ValidationError, tree: dict[str, Any], marks: Marks, schema: Node) -> list[Problem]:
    """One Problem for each wrong place, in the order of the text. schema: the JSON Schema of the whole config."""
    words = _Words(schema, tree)
    found: dict[Path, Problem] = {}
    for fault in error.errors(include_url=False, include_input=False):
        place = words.locate(fault["loc"])
        reason = str(fault.get("ctx", {}).get("error", "")) if fault["type"] == "value_error" else ""
        kind = "key" if fault["loc"][-1:] == ("[key]",) else fault["type"]
        found[place.path] = words.problem(kind, place, marks, reason)
    items = {path[:-1] for path in found if path and isinstance(path[-1], int)}  # an item says more than its list
    order = {path: place for place, path in enumerate(marks.spots)}
    return [found[path] for path in sorted(found.keys() - items, key=lambda p: (order[marks.written(p)], str(p)))]


def nearest(word: str, options: Iterable[str]) -> str:
    """`did you mean ...?` for a mistyped word, or nothing."""
    match = difflib.get_close_matches(word.lower(), list(options), 1, 0.6)
    return f"did you mean `{match[0]}`?" if match else ""


def shown(value: Any) -> str:
    """A value as a message shows it."""
    if isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else f"a list of {len(value)}"
    if isinstance(value, str):
        return f"'{clip(value)}'"
    return json.dumps(value)


def phrase(node: Node, schema: Node) -> str:
    """What a value must be by its schema, in words: "a whole number >= 1 or null". schema: holds what it refers to."""
    return _Words(schema, {}).phrase(node)


class _Words:
    def __init__(self, schema: Node, tree: dict[str, Any]):
        self.schema, self.tree = schema, tree

    def locate(self, loc: tuple[int | str, ...]) -> _Place:
        """The place of pydantic's location, which also holds the names of union branches."""
        here = _Place((), self.tree, self.schema, self.schema, "", {})
        steps = list(loc)
        while steps:
            node, tag = self.branch(here.node, here.value)
            if tag is not None and steps[0] == tag:
                steps.pop(0)
            if not steps:
                break
            step = steps.pop(0)
            if isinstance(here.value, dict) and isinstance(step, str) and step != "[key]":
                dotted = ".".join(map(str, here.path))
                label = f'{dotted} "{tag}"' if tag else dotted
                chooser, entries = self.tagged(self.optional(here.node)) if tag else ("", {})
                others = {f"{chooser}: {name}": entry for name, entry in entries.items()}
                here = _Place((*here.path, step), here.value.get(step), _below(node, step), node, label, others)
            elif isinstance(here.value, list) and isinstance(step, int):
                item = {"description": here.node.get("description", "")} | node.get("items", {})
                here = here._replace(path=(*here.path, step), value=here.value[step], node=item)
        return here

    def branch(self, node: Node, value: Any) -> tuple[Node, str | None]:
        """The schema that holds for a value among those of a union, and the name that chose it."""
        shape = {dict: "object", list: "array"}.get(type(value))
        node = next((leaf for leaf in self.leaves(node) if _shape(leaf) == shape), self.leaves(node)[0])
        if "discriminator" not in node:
            return node, None
        tag, branches = self.tagged(node)
        usual = next((name for name, b in branches.items() if "default" in b["properties"][tag]), None)
        name = value.get(tag, usual) if isinstance(value, dict) else None
        return (branches[name], name) if isinstance(name, str) and name in branches else ({}, None)

    def tagged(self, node: Node) -> tuple[str, dict[str, Node]]:
        """The key that chooses, and the schemas by its values."""
        tag = node["discriminator"]["propertyName"]
        branches = [self.leaves(branch)[0] for branch in node["oneOf"]]
        return tag, {b["properties"][tag]["const"]: b for b in branches}

    def leaves(self, node: Node) -> list[Node]:
        if "$ref" in node:
            node = self.schema["$defs"][node["$ref"].rpartition("/")[2]] | {k: node[k] for k in node if k != "$ref"}
        return [leaf for part in node["anyOf"] for leaf in self.leaves(part)] if "anyOf" in node else [node]

    def problem(self, kind: str, place: _Place, marks: Marks, reason: str) -> Problem:
        path, value = place.path, place.value
        key = clip(str(path[-1]), 60) if path else ""
        within = f"in {place.label}" if place.label else "at the top of the file"
        told = place.node.get("description", "")
        match kind:
            case "extra_forbidden":
                return marks.problem(path, f"unknown key `{key}` {within}", self.keys_hint(key, place), at="key")
            case "key":
                hint = "use 1 to 64 small letters, digits, - and _; begin with a letter or digit"
                return marks.problem(path, f"`{key}` cannot be a name {within}", hint, at="key")
            case "missing":
                return marks.problem(path, f"`{key}` is missing {within}", self.missing_hint(key, place.node))
            case "union_tag_not_found":
                tag, branches = self.tagged(self.optional(place.node))
                return marks.problem(path, f"`{tag}` is missing in {key}", f"write `{tag}:` with {_any(branches)}")
            case "union_tag_invalid":
                tag, branches = self.tagged(self.optional(place.node))
                name, noun = value[tag], _NOUNS.get(key, key)
                hint = f"{nearest(str(name), branches)}  (one of: {', '.join(branches)})".strip()
                name = f"`{clip(name)}`" if isinstance(name, str) else shown(name)
                return marks.problem((*path, tag), f"unknown {noun} {name}", hint)
        subject = f"item {path[-1] + 1} of `{path[-2]}`" if path and isinstance(path[-1], int) else f"`{key}`"
        instead = "but it has no value" if value is None else f"not {shown(value)}"
        message = f"{subject} must be {reason or self.phrase(place.node)}, {instead}"
        return marks.problem(path, message, self.value_hint(key, place) or told)

    def keys_hint(self, key: str, place: _Place) -> str:
        """The nearest valid key, or else the section that the key belongs in; and the valid keys."""
        keys = [name for name in place.section.get("properties", {}) if name not in ("name", "kind") or not place.label]
        owner = next((choice for choice, node in place.others.items() if key in node["properties"]), "")
        home = f"`{owner}`" if owner else next(self.homes(key, self.schema, self.tree, ""), "")
        guess = nearest(key, keys) or (f"`{key}` belongs to {home}" if home else "")
        return f"{guess}  (keys: {', '.join(keys) or 'none but name'})".strip()

    def homes(self, key: str, node: Node, value: Any, within: str) -> Iterator[str]:
        """The sections of this config that know the key."""
        for name, below in self.branch(node, value)[0].get("properties", {}).items():
            if name == key and within:
                yield f"`{within[1:]}`"
            if any(_shape(leaf) == "object" for leaf in self.leaves(below)):
                inner = value.get(name) if isinstance(value, dict) else None
                yield from self.homes(key, below, inner if isinstance(inner, dict) else {}, f"{within}.{name}")

    def optional(self, node: Node) -> Node:
        return next(leaf for leaf in self.leaves(node) if "discriminator" in leaf)

    def missing_hint(self, key: str, node: Node) -> str:
        if "discriminator" in node:
            tag, branches = self.tagged(node)
            return f"for example `{key}: {{{tag}: {next(iter(branches))}}}`  (one of: {', '.join(branches)})"
        return f"{node.get('description', key).rstrip('.')}: {self.phrase(node)}"

    def value_hint(self, key: str, place: _Place) -> str:
        leaves, value = self.leaves(place.node), place.value
        types = {_shape(leaf) for leaf in leaves}
        words = [w for leaf in leaves for w in leaf.get("enum", [leaf.get("const")]) if w]
        if isinstance(value, str):
            if "boolean" in types and value.lower() in _SWITCHES:
                return "write true or false: in this YAML yes, no, on and off are text"
            if types & {"integer", "number"} and re.fullmatch(r"[-+]?[0-9][0-9_,]*\.?[0-9]*(e[-+]?[0-9]+)?", value):
                return f"write {re.sub('[_,]', '', value)}, without quotes or separators"
            if tagged := next((leaf for leaf in leaves if "discriminator" in leaf), None):
                tag, names = self.tagged(tagged)
                return f"write `{key}: {{{tag}: {value if value in names else next(iter(names))}}}`"
            return nearest(value, words)
        scalar = isinstance(value, bool | int | float)
        return "put it in quotes to make it text" if scalar and types <= {"string", "null"} and not words else ""

    def phrase(self, node: Node) -> str:
        """What a value must be, in words."""
        return _any(dict.fromkeys(self._phrase(leaf) for leaf in self.leaves(node)))

    def _phrase(self, leaf: Node) -> str:
        if "enum" in leaf or "const" in leaf:
            return _any(leaf.get("enum", [leaf.get("const")]))
        kind = _shape(leaf)
        if kind == "object":
            return "a section"
        if kind == "array":
            least, most = leaf.get("minItems", 0), leaf.get("maxItems")
            size = f" of {least}" if least == most else " that is not empty" if least else ""
            return f"a list{size}, each item {self.phrase(leaf['items'])}"
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


def _any(words: Iterable[str]) -> str:
    *some, last = map(str, words)
    return f"{', '.join(some)} or {last}" if some else last
