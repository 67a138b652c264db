"""The tables of the manual, made from the code: registries, docstrings, the config's schema, exit codes.

In a Markdown file a table lies between `<!-- NAME -->` and `<!-- end of NAME -->`; `filled` writes it there.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from metadist_cli import topics
from metadist_cli.config import json_schema, shipped
from metadist_cli.config.early_stopping import EarlyStopping
from metadist_cli.config.messages import phrase
from metadist_cli.config.registry_sections import Model, Section, entry, registries
from metadist_cli.config.step_sizes import Outer
from metadist_cli.core.errors import MEANINGS
from metadist_cli.evaluation.metrics import METRICS

_MARK = re.compile(r"<!-- (?!end of )(.+?) -->\n.*?<!-- end of \1 -->", re.S)
_URL = re.compile(r"https://[^\s;)]+[^\s,;).]")
_TOPIC = "[{0}](metadist_cli/topics/{0}.md)"

Node = dict[str, Any]  # a JSON Schema
Rows = Iterable[Sequence[str]]


def filled(text: str) -> str:
    """A Markdown text with its tables as the code has them now; marks of other programs are left alone."""
    known = tables()

    def fill(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- {name} -->\n\n{known[name]()}\n<!-- end of {name} -->" if name in known else found[0]

    return _MARK.sub(fill, text)


def tables() -> dict[str, Callable[[], str]]:
    """What makes each table, by its name: two for each registry, one for each section of a config."""
    found: dict[str, Callable[[], str]] = {
        "topics": lambda: _table(
            ("topic", "about"), [(_TOPIC.format(t), text) for t, text in topics.phrases().items()]
        ),
        "exit codes": lambda: _table(("code", "meaning"), [(str(code), text) for code, text in MEANINGS.items()]),
        "metrics": lambda: _table(("metric", "for", "better", "what it is"), _metrics()),
        "rooms": _rooms,
        "configs": lambda: _table(("config", "what it is"), _configs()),
    }
    for noun in registries():
        found[f"{noun} entries"] = partial(_entries, noun)
        found[f"{noun} options"] = partial(_options, noun)
    found["step size settings"] = partial(_shared, Outer)
    found["early stopping settings"] = partial(_shared, EarlyStopping)
    for name, node in json_schema()["properties"].items():
        if _shape(node) == "object":
            found[f"settings of {name}"] = partial(_section, node)
    found["settings"] = lambda: _settings(json_schema()["properties"], json_schema(), deep=False)
    return found


def _table(head: Sequence[str], rows: Rows) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))


def _shared(section: type[Model]) -> str:
    """The keys of a section that several places of a config have."""
    schema = section.model_json_schema()
    return _settings({key: node for key, node in schema["properties"].items() if key != "name"}, schema)


def _rooms() -> str:
    """The folders of the package, and the modules beside them, each with the first sentence of its docstring."""
    package = topics.FOLDER.parent
    lines = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package).parts
        name = inside[-2] + "/" if path.stem == "__init__" and len(inside) > 1 else path.name
        if name.endswith("/") or (len(inside) == 1 and not path.stem.startswith("__")):
            sentence = re.split(r"\.(?: |$|\n)", ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "")[0]
            label = "  " * (len(inside) - 1 - name.endswith("/")) + name
            lines += textwrap.wrap(f"{label:<18}{sentence}", 78, subsequent_indent=" " * 18, break_on_hyphens=False)
    return "```text\n" + "\n".join(lines) + "\n```\n"


def _configs() -> Rows:
    """The shipped configs, each with the beginning of its comment."""
    for name, path in shipped().items():
        comment = " ".join(line[1:].strip() for line in path.read_text("utf-8").split("\n") if line.startswith("#"))
        yield f"`{name}`", _cell(re.split(r"\.(?: |$)", comment)[0])


def _metrics() -> Rows:
    for name, metric in METRICS.items():
        what = _cell((inspect.getdoc(metric.value) or "").partition("\n")[0])
        what += f" Needs {metric.needs}." if metric.needs else ""
        yield f"`{name}`", metric.kind, "higher" if metric.higher_is_better else "lower", what


def _entries(noun: str) -> str:
    """What each entry of a registry is and where it comes from, from its docstring."""
    rows = []
    for name, builder in registries()[noun].items():
        text = _docstring(name, builder)
        what = _cell(re.sub(r",? ?https://[^\s,;)]+", "", text.partition("\n")[0]))
        links = [f"[{url.removeprefix('https://')}]({url})" for url in _URL.findall(text)[:1]]
        rows.append((f"`{name}`", " ".join([what, *links])))
    return _table(("name", "what it is"), rows)


def _docstring(name: str, builder: Callable[..., Any]) -> str:
    """That of an entry's module, where the module is called after the entry, else the builder's own."""
    module = inspect.getmodule(builder)
    alone = module is not None and module.__name__.rpartition(".")[2] == name
    return inspect.getdoc(module if alone else builder) or ""


def _options(noun: str) -> str:
    """The keys of each entry of a registry, under a heading for each that has some."""
    blocks = []
    for name in registries()[noun]:
        schema = entry(noun, name, Section, False).model_json_schema()
        keys = {key: node for key, node in schema["properties"].items() if key != "name"}
        blocks += [f"### {name}\n\n{_settings(keys, schema)}"] if keys else []
    return "\n".join(blocks)


def _section(node: Node) -> str:
    """The keys of a section: where it chooses an entry of a registry, those that all entries share."""
    schema = json_schema()
    (leaf,) = _leaves(node, schema)
    if "discriminator" not in leaf:
        [below] = [leaf] if "properties" in leaf else leaf["patternProperties"].values()
        return _settings(_leaves(below, schema)[0]["properties"], schema)
    tag = leaf["discriminator"]["propertyName"]
    branches = {b["properties"][tag]["const"]: b["properties"] for one in leaf["oneOf"] for b in _leaves(one, schema)}
    if tag == "kind":
        return "\n".join(f"### {tag}: {name}\n\n{_settings(keys, schema)}" for name, keys in branches.items())
    first, *others = branches.values()
    shared = {key: below for key, below in first.items() if all(b.get(key) == below for b in others)}
    chooser = {"enum": list(branches), "description": first[tag]["description"]}
    return _settings({tag: chooser | {"default": node["default"][tag]}} | shared, schema)


def _settings(keys: dict[str, Node], schema: Node, deep: bool = True) -> str:
    return _table(("key", "value", "default", "meaning"), _rows(keys, schema, "", deep))


def _rows(keys: dict[str, Node], schema: Node, prefix: str, deep: bool) -> Iterator[Sequence[str]]:
    """A row for each key; deep: for the keys of the sections in it, too, by dotted names."""
    for key, node in keys.items():
        leaves = _leaves(node, schema)
        if deep and len(leaves) == 1 and "properties" in leaves[0]:
            yield from _rows(leaves[0]["properties"], schema, f"{prefix}{key}.", deep)
            continue
        default = json.dumps(node["default"], ensure_ascii=False) if "default" in node else "required"
        value = phrase(node, schema)
        for leaf in leaves:
            if "discriminator" in leaf:
                tag = leaf["discriminator"]["propertyName"]
                value = f"a section, `{tag}:` {', '.join(leaf['discriminator']['mapping'])}"
        yield (
            f"`{prefix}{key}`",
            _escaped(value),
            _escaped(default.replace('"', "")),
            _cell(node.get("description", "")),
        )


def _leaves(node: Node, schema: Node) -> list[Node]:
    """The schemas of what a key may hold, references and unions followed."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return [leaf for part in node["anyOf"] for leaf in _leaves(part, schema)] if "anyOf" in node else [node]


def _shape(node: Node) -> str:
    (leaf, *_) = _leaves(node, json_schema())
    return "object" if "discriminator" in leaf else leaf.get("type", "")


def _cell(text: str) -> str:
    """A sentence for a cell: it ends with a full stop and, unless it names a value first, begins with a capital."""
    named = re.match(r"[\w.]+:|\w+[_.]\w", text)
    text = text if named or not text else text[0].upper() + text[1:]
    return _escaped(text + "." if text and not text.endswith(".") else text)


def _escaped(text: str) -> str:
    """Text whose characters mean nothing in Markdown."""
    return re.sub(r"([|*<\\])", r"\\\1", text)
