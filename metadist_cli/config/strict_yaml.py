"""Strict YAML: text from anywhere becomes plain values and their places, or a Problem that shows the line.

Plain scalars follow the core schema of YAML 1.2: `no`, dates and `12:30:45` are text, `1e-3` is a number.
What makes a small file expensive or ambiguous is refused: anchors, tags, merge keys, duplicate keys, deep nesting.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

import yaml

from metadist_cli.config.positions import Marks, Path, Place, Source, Spot, clip, raise_all
from metadist_cli.core.errors import CONFIG, Problem

MAX_BYTES, MAX_DEPTH, MAX_EVENTS, MAX_DIGITS = 256 * 1024, 20, 10_000, 18
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"": None, "~": None} | {
    form(word): value
    for word, value in {"null": None, "true": True, "false": False}.items()
    for form in (str.lower, str.title, str.upper)
}
_SYNTAX = {  # part of PyYAML's message -> what is wrong in plain words (or as PyYAML says it), what to do
    "\\t": ("a tab stands where only spaces may", "indent with spaces"),
    "cannot start any token": ("", "put text that begins with this character in quotes"),
    "mapping values are not allowed": (
        "no `key:` can stand here",
        'indent the keys of a section equally; put text that holds ": " in quotes',
    ),
    "expected <block end>": ("the line is indented otherwise than its section", "indent it like the lines above"),
    "expected ','": ("a bracket or brace is not closed", "close it, and put a comma between the values"),
    "could not find expected ':'": ("a key has no colon", "write `key: value`, with a colon and a space"),
    "end of stream": ("a quote, bracket or brace is never closed", "close it"),
    "escape": ("", "use single quotes where a backslash means itself"),
}


def load(text: str | bytes, name: str) -> tuple[dict[str, Any], Marks]:
    """The mapping that a YAML document holds, and its places. Raises Problem(CONFIG) with every fault found."""
    text = _decoded(text, name)
    tree, marks = _parse(text, Source.of(text, name))
    if isinstance(tree, dict):
        return tree, marks
    if tree is None:
        raise marks.problem((), "the file is empty", "write at least the sections `task` and `partition`")
    kind = "a list" if isinstance(tree, list) else "a single value"
    raise marks.problem((), f"the file holds {kind}, not sections", "begin with `key: value` lines, such as `seed: 0`")


def parse_value(text: str, start: int = 0, name: str = "value") -> tuple[Any, Marks]:
    """The value of text[start:] by the same rules (`a.b=VALUE`: start is after the `=`), and its places in text."""
    text = _decoded(text, name, argument=True)
    return _parse(" " * start + text[start:], Source.of(text, name, argument=True), start)


class Dumper(yaml.SafeDumper):
    """Writes values so that both this reader and YAML 1.1 readers get them back."""


Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^(?:{_FLOAT.pattern})$"), None)
Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(rf"^(?:{_INT.pattern})$"), None)


def _decoded(text: str | bytes, name: str, argument: bool = False) -> str:
    """Text of allowed size and characters, without a byte order mark."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if len(raw) > MAX_BYTES:
        raise Problem(f"larger than {MAX_BYTES // 1024} KiB", name, "is this really a metadist config?", CONFIG)
    try:
        text, bad, what = raw.decode("utf-8-sig"), None, ""
    except UnicodeDecodeError as error:
        text = raw.decode("utf-8", "replace")
        bad, what = len(raw[: error.start].decode("utf-8")), "a byte that is not UTF-8 text"
    if bad is None and (match := yaml.reader.Reader.NON_PRINTABLE.search(text)):
        bad, what = match.start(), f"the control character U+{ord(match.group()):04X}"
    if what and bad is not None:
        before = Source.of(text[:bad], name).lines
        place = Place(len(before), len(before[-1]) + 1)
        raise Source.of(text, name, argument).problem(place, f"holds {what}", "save the file as plain UTF-8 text")
    return text


def _parse(text: str, source: Source, start: int = 0) -> tuple[Any, Marks]:
    loader = yaml.SafeLoader(text)
    builder = _Builder(loader, Marks(source, start))
    tree = None
    try:
        tree = builder.document()
    except yaml.MarkedYAMLError as error:
        place = _place(error.problem_mark or error.context_mark or loader.get_mark())
        builder.problems.append(_syntax(source, text, place, error.problem or error.context or ""))
    except (ValueError, OverflowError):  # PyYAML's own slips: "\U00FFFFFF", a %YAML version of 5,000 digits
        builder.problems.append(_syntax(source, text, _place(loader.get_mark()), "a number that is too large"))
    except Problem as problem:  # a limit
        builder.problems.append(problem)
    raise_all(builder.problems)
    return tree, builder.marks


def _syntax(source: Source, text: str, place: Place, problem: str) -> Problem:
    if re.search(r"^(<<<<<<<|>>>>>>>)", text, re.MULTILINE):
        return source.problem(place, "a merge conflict is left in the file", "choose one side and take the marks out")
    plain, hint = next((said for part, said in _SYNTAX.items() if part in problem), ("", "check the lines around"))
    return source.problem(place, f"not valid YAML: {plain or problem}", hint)


class _Builder:
    """Builds the tree from the parser's events in one pass, so that nothing is expanded before it is checked."""

    def __init__(self, loader: yaml.SafeLoader, marks: Marks):
        self.loader, self.marks, self.source = loader, marks, marks.spots[()].source
        self.problems: list[Problem] = []
        self.count = 0

    def complain(self, event: yaml.Event, message: str, hint: str) -> None:
        self.problems.append(self.source.problem(_place(event.start_mark, event.end_mark), message, hint))

    def next(self) -> yaml.Event:
        self.count += 1
        event = self.loader.get_event()
        if self.count > MAX_EVENTS:
            place = _place(event.start_mark)
            raise self.source.problem(place, f"more than {MAX_EVENTS:,} values", "is this really a metadist config?")
        return event

    def document(self) -> Any:
        tree = None
        while not isinstance(event := self.next(), yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                if self.count > 2:  # the first event begins the stream, the second the document
                    self.complain(event, "a second document begins here", "keep one in a file: take out the `---`")
                    break
                top = self.next()
                self.marks.spots[()] = self.marks.spots[()]._replace(value=_place(top.start_mark, top.end_mark))
                tree = self.node(top, (), 1)
        return tree

    def node(self, event: yaml.Event, path: Path, depth: int) -> Any:
        if depth > MAX_DEPTH:
            place = _place(event.start_mark)
            raise self.source.problem(place, f"nested deeper than {MAX_DEPTH} levels", "no config needs that")
        if isinstance(event, yaml.AliasEvent):
            self.complain(
                event, f"the alias *{clip(event.anchor or '')} is not allowed", "write the value out where it is needed"
            )
            return None
        if isinstance(event, yaml.NodeEvent) and event.anchor:
            self.complain(
                event, f"the anchor &{clip(event.anchor)} is not allowed", "take it out; write values where needed"
            )
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag:
            self.complain(
                event,
                f"the tag {clip(event.tag.replace('tag:yaml.org,2002:', '!!'))} is not allowed",
                "take it out; use quotes for text",
            )
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        return self.items(path, depth) if isinstance(event, yaml.SequenceStartEvent) else self.section(path, depth)

    def items(self, path: Path, depth: int) -> list[Any]:
        out: list[Any] = []
        while not isinstance(event := self.next(), yaml.SequenceEndEvent):
            place = _place(event.start_mark, event.end_mark)
            here = (*path, len(out))
            self.marks.spots[here] = Spot(self.source, place, place)
            out.append(self.node(event, here, depth + 1))
        return out

    def section(self, path: Path, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            key = self.key(event, path, depth)
            below = self.next()
            if key in out:
                first = self.marks.spots[(*path, key)].key.line
                self.complain(
                    event, f"duplicate key `{clip(key)}`: it is already on line {first}", "keep one of the two"
                )
            place = _place(event.start_mark, event.end_mark)
            block = isinstance(below, yaml.CollectionStartEvent) and not below.flow_style
            spot = Spot(self.source, place, place if block else _place(below.start_mark, below.end_mark))
            here = (*path, key)
            if key not in out:
                self.marks.spots[here] = spot
            out[key] = self.node(below, here, depth + 1)
        return out

    def key(self, event: yaml.Event, path: Path, depth: int) -> str:
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and not event.style:
            self.complain(event, "the merge key << is not allowed", "write the keys out where they are needed")
            return "<<"
        key = self.node(event, (*path, "?"), depth + 1)
        if not isinstance(key, str):
            self.complain(event, "a key must be text", "put the key in quotes")
        return str(key)

    def scalar(self, event: yaml.ScalarEvent) -> Any:
        text = event.value
        bad = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), None)
        if bad:
            self.complain(event, f"the text holds the character U+{ord(bad):04X}", "take the escape out")
        if event.style or event.tag:  # quoted, or refused already
            return text
        try:
            return _plain(text)
        except ValueError as error:
            message, hint = error.args
            self.complain(event, message, hint)
            return None


def _plain(text: str) -> Any:
    """The value of an unquoted scalar by the core schema of YAML 1.2. Raises ValueError(message, hint)."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if re.match(r"[-+]?0[0-9]", text):
            raise ValueError(f"the number {clip(text)} has a leading zero", "take the zero out, or put it in quotes")
        if len(text) > 30 or abs(value := int(text, 0)) >= 10**MAX_DIGITS:
            raise ValueError(f"the number {clip(text)} has more than {MAX_DIGITS} digits", "use a smaller number")
        return value
    finite = not _NOT_FINITE.fullmatch(text)
    if finite and not _FLOAT.fullmatch(text):
        return text
    if not finite or not math.isfinite(float(text)):
        raise ValueError(f"{clip(text)} is not a finite number", "use a number below 1e308, or quotes for text")
    return float(text)


def _place(start: yaml.Mark, end: yaml.Mark | None = None) -> Place:
    width = 1 if end is None else 80 if end.line > start.line else end.column - start.column
    return Place(start.line + 1, start.column + 1, max(1, width))
