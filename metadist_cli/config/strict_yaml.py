"""A strict YAML parser for untrusted text: plain values and their source positions, or a Problem that shows the line.

Plain scalars follow the core schema of YAML 1.2: `no`, dates and `12:30:45` are text, `1e-3` is a number. Anything
that makes a small file expensive or ambiguous is refused: anchors, tags, merge keys, duplicate keys, deep nesting.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

import yaml

from metadist_cli.config.positions import Location, Path, Source, SourceMap, Span, clip, raise_all
from metadist_cli.core.errors import CONFIG, Problem

MAX_BYTES, MAX_DEPTH, MAX_EVENTS, MAX_DIGITS = 256 * 1024, 20, 10_000, 18
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONSTANTS = {"": None, "~": None} | {
    form(word): value
    for word, value in {"null": None, "true": True, "false": False}.items()
    for form in (str.lower, str.title, str.upper)
}
_SYNTAX = {  # part of PyYAML's message -> a plainer message (empty: keep PyYAML's), hint
    "\\t": ("tabs cannot be used for indentation", "indent with spaces"),
    "cannot start any token": ("", "put text that starts with this character in quotes"),
    "mapping values are not allowed": (
        "`key:` is not allowed here",
        "check the line above for a missing colon, indent the keys of a section equally, and put text that contains "
        '": " in quotes',
    ),
    "expected <block end>": (
        "the indentation does not match the section",
        "indent it like the other keys of its section",
    ),
    "expected ','": ("a bracket or brace is not closed", "close it, and separate the values with commas"),
    "could not find expected ':'": ("a key has no colon", "write `key: value`, with a colon and a space"),
    "end of stream": ("a quote, bracket or brace is never closed", "close it"),
    "escape": ("", "use single quotes, which keep backslashes as they are"),
}


def load(text: str | bytes, name: str) -> tuple[dict[str, Any], SourceMap]:
    """Parse a YAML document that contains a mapping.

    Args:
        text: The document; bytes must be UTF-8.
        name: The file's name, for messages.

    Returns:
        Nested dicts, lists, strings, numbers, booleans and None; and where each of them is written.

    Raises:
        Problem: CONFIG, with every error found.
    """
    text = _decoded(text, name)
    tree, source_map = _parse(text, Source.of(text, name))
    if isinstance(tree, dict):
        return tree, source_map
    if tree is None:
        raise source_map.problem((), "the file is empty", "add at least the sections `task` and `partition`")
    kind = "a list" if isinstance(tree, list) else "a single value"
    raise source_map.problem(
        (), f"the file contains {kind} instead of sections", "write `key: value` lines, such as `seed: 0`"
    )


def parse_value(text: str, start: int = 0, name: str = "value") -> tuple[Any, SourceMap]:
    """Parse the value of an override by the same rules.

    Args:
        text: The whole argument, such as "train.rounds=20".
        start: Where the value starts in it.
        name: The argument as messages show it.

    Returns:
        The value, and where its parts are written in text.

    Raises:
        Problem: CONFIG, with every error found.
    """
    text = _decoded(text, name, argument=True)
    return _parse(" " * start + text[start:], Source.of(text, name, argument=True), start)


class Dumper(yaml.SafeDumper):
    """Writes values that both this parser and YAML 1.1 parsers read back."""


Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^(?:{_FLOAT.pattern})$"), None)
Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(rf"^(?:{_INT.pattern})$"), None)


def _decoded(text: str | bytes, name: str, argument: bool = False) -> str:
    """Decode UTF-8, drop a byte order mark, and check size and characters."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if len(raw) > MAX_BYTES:
        raise Problem(f"larger than {MAX_BYTES // 1024} KiB", name, "check that this is a metadist config", CONFIG)
    try:
        text, bad, what, hint = raw.decode("utf-8-sig"), None, "", ""
    except UnicodeDecodeError as error:
        text = raw.decode("utf-8", "replace")
        bad, what = len(raw[: error.start].decode("utf-8")), "a byte that is not UTF-8 text"
        hint = "save the file as UTF-8"
    if bad is None and (match := yaml.reader.Reader.NON_PRINTABLE.search(text)):
        bad, what = match.start(), f"the control character U+{ord(match.group()):04X}"
        hint = "delete this character"
    if what and bad is not None:
        before = Source.of(text[:bad], name).lines
        span = Span(len(before), len(before[-1]) + 1)
        raise Source.of(text, name, argument).problem(span, f"contains {what}", hint)
    return text


def _parse(text: str, source: Source, start: int = 0) -> tuple[Any, SourceMap]:
    loader = yaml.SafeLoader(text)
    source_map = SourceMap(source, start)
    builder = _Builder(loader, source_map)
    tree = None
    try:
        tree = builder.document()
    except yaml.MarkedYAMLError as error:
        span = _span(error.problem_mark or error.context_mark or loader.get_mark())
        builder.problems.append(_syntax(source, text, span, error.problem or error.context or ""))
    except (ValueError, OverflowError):  # PyYAML lets these escape: "\U00FFFFFF", a %YAML version of 5,000 digits
        builder.problems.append(_syntax(source, text, _span(loader.get_mark()), "a number that is too large"))
    except Problem as problem:  # a limit
        builder.problems.append(problem)
    raise_all(builder.problems)
    return tree, source_map


def _syntax(source: Source, text: str, span: Span, problem: str) -> Problem:
    if re.search(r"^(<<<<<<<|>>>>>>>)", text, re.MULTILINE):
        return source.problem(span, "unresolved merge conflict", "keep one side and delete the conflict markers")
    known = (texts for part, texts in _SYNTAX.items() if part in problem)
    plain, hint = next(known, ("", "check this line and the one above"))
    return source.problem(span, f"not valid YAML: {plain or problem}", hint)


class _Builder:
    """Builds the tree from PyYAML's events in one pass, so that nothing is expanded before it is checked."""

    def __init__(self, loader: yaml.SafeLoader, source_map: SourceMap):
        self.loader, self.locations = loader, source_map.locations
        self.source = self.locations[()].source
        self.problems: list[Problem] = []
        self.count = 0

    def complain(self, event: yaml.Event, message: str, hint: str) -> None:
        self.problems.append(self.source.problem(_span(event.start_mark, event.end_mark), message, hint))

    def next(self) -> yaml.Event:
        self.count += 1
        event = self.loader.get_event()
        if self.count > MAX_EVENTS:
            span = _span(event.start_mark)
            raise self.source.problem(span, f"more than {MAX_EVENTS:,} values", "check that this is a metadist config")
        return event

    def document(self) -> Any:
        tree = None
        while not isinstance(event := self.next(), yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                if self.count > 2:  # the first event starts the stream, the second the document
                    self.complain(event, "a second YAML document starts here", "keep one document per file")
                    break
                top = self.next()
                self.locations[()] = self.locations[()]._replace(value=_span(top.start_mark, top.end_mark))
                tree = self.node(top, (), 1)
        return tree

    def node(self, event: yaml.Event, path: Path, depth: int) -> Any:
        if depth > MAX_DEPTH:
            span = _span(event.start_mark)
            raise self.source.problem(span, f"nested deeper than {MAX_DEPTH} levels", "check the brackets on this line")
        if isinstance(event, yaml.AliasEvent):
            self.complain(event, f"aliases are not allowed: *{clip(event.anchor or '')}", "write out the value here")
            return None
        if isinstance(event, yaml.NodeEvent) and event.anchor:
            hint = "remove it and write out the value wherever it is used"
            self.complain(event, f"anchors are not allowed: &{clip(event.anchor)}", hint)
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag:
            tag = clip(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self.complain(event, f"tags are not allowed: {tag}", "remove it; to make a value text, put it in quotes")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        return self.items(path, depth) if isinstance(event, yaml.SequenceStartEvent) else self.section(path, depth)

    def items(self, path: Path, depth: int) -> list[Any]:
        out: list[Any] = []
        while not isinstance(event := self.next(), yaml.SequenceEndEvent):
            span = _span(event.start_mark, event.end_mark)
            here = (*path, len(out))
            self.locations[here] = Location(self.source, span, span)
            out.append(self.node(event, here, depth + 1))
        return out

    def section(self, path: Path, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            key = self.key(event, path, depth)
            below = self.next()
            if key in out:
                first = self.locations[(*path, key)].key.line
                self.complain(event, f"duplicate key `{clip(key)}` (first on line {first})", "keep one of the two")
            span = _span(event.start_mark, event.end_mark)
            block = isinstance(below, yaml.CollectionStartEvent) and not below.flow_style
            location = Location(self.source, span, span if block else _span(below.start_mark, below.end_mark))
            here = (*path, key)
            if key not in out:
                self.locations[here] = location
            out[key] = self.node(below, here, depth + 1)
        return out

    def key(self, event: yaml.Event, path: Path, depth: int) -> str:
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and not event.style:
            self.complain(event, "merge keys are not allowed: <<", "write out the keys here")
            return "<<"
        key = self.node(event, (*path, "?"), depth + 1)
        if not isinstance(key, str):
            self.complain(event, "a key must be text", "put the key in quotes")
        return str(key)

    def scalar(self, event: yaml.ScalarEvent) -> Any:
        text = event.value
        bad = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), None)
        if bad:
            self.complain(event, f"the text contains the character U+{ord(bad):04X}", "remove this escape sequence")
        if event.style or event.tag:  # quoted, or refused already
            return text
        try:
            return _plain(text)
        except ValueError as error:
            message, hint = error.args
            self.complain(event, message, hint)
            return None


def _plain(text: str) -> Any:
    """The value of an unquoted scalar in the core schema of YAML 1.2. Raises ValueError(message, hint)."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        if re.match(r"[-+]?0[0-9]", text):
            raise ValueError(f"the number {clip(text)} has a leading zero", "remove the zero, or put text in quotes")
        if len(text) > 30 or abs(value := int(text, 0)) >= 10**MAX_DIGITS:
            raise ValueError(
                f"the number {clip(text)} has more than {MAX_DIGITS} digits",
                "use a smaller number, or put text in quotes",
            )
        return value
    finite = not _NOT_FINITE.fullmatch(text)
    if finite and not _FLOAT.fullmatch(text):
        return text
    if not finite or not math.isfinite(float(text)):
        raise ValueError(f"{clip(text)} is not a finite number", "use a number below 1e308, or put text in quotes")
    return float(text)


def _span(start: yaml.Mark, end: yaml.Mark | None = None) -> Span:
    width = 1 if end is None else 80 if end.line > start.line else end.column - start.column
    return Span(start.line + 1, start.column + 1, max(1, width))
