"""The manual: one Markdown file a topic, read on the web and by `metadist help`.

A topic is a file NAME.md in this folder and its name in TOPICS. Lists of topics show its first line, `# Title`.
"""

from __future__ import annotations

import re
from pathlib import Path

from metadist_cli.core.errors import USAGE, Problem

FOLDER = Path(__file__).parent
TOPICS = (  # in the order of a first reading
    "quickstart",
    "concepts",
    "config",
    "settings",
    "data",
    "partition",
    "tasks",
    "models",
    "learners",
    "federated",
    "metrics",
    "files",
    "execution",
    "batch",
    "reproducibility",
    "trust",
    "results",
    "extending",
    "exit-codes",
)
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def read(topic: str) -> str:
    """The Markdown of a topic. Raises Problem(USAGE)."""
    if topic not in TOPICS:
        from metadist_cli.config.messages import nearest

        near = nearest(topic, TOPICS)
        hint = f"{near}  (topics: {', '.join(TOPICS)}; of a command: metadist COMMAND --help)".strip()
        raise Problem(f"unknown topic `{topic[:60]}`", "help", hint, USAGE)
    return (FOLDER / f"{topic}.md").read_text("utf-8")


def titles() -> dict[str, str]:
    """What each topic is about."""
    return {topic: read(topic).partition("\n")[0].removeprefix("# ") for topic in TOPICS}


def for_terminal(text: str) -> str:
    """Markdown without what only the web shows: comments, targets of links to other files, tables' link syntax."""
    text = re.sub(r"<!-- .*? -->\n*", "", text)
    return "".join(part if FENCE.fullmatch(part) else _LINK.sub(_said, part) for part in _parts(text))


def _parts(text: str) -> list[str]:
    """The fenced blocks of a text, and what is between them."""
    return re.split(f"({FENCE.pattern})", text, flags=FENCE.flags)


def _said(link: re.Match[str]) -> str:
    """A link as text: with its address where that is on the web and is not the text itself."""
    text, target = link.groups()
    return f"{text} ({target})" if target.startswith("http") and text not in target else text
