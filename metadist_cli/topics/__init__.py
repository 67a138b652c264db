"""The manual: one Markdown file a topic, read on the web and by `metadist help`.

A topic is a file NAME.md in this folder and its name in TOPICS. Its first line is "# Title: what it is about".
"""

from __future__ import annotations

import re
from pathlib import Path

from metadist_cli.core.errors import USAGE, Problem

FOLDER = Path(__file__).parent
TOPICS = (  # in the order of a first reading
    "quickstart",
    "concepts",
    "commands",
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
_FENCED = re.compile(r"(^```.*?^```$)", re.M | re.S)
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def read(topic: str) -> str:
    """The Markdown of a topic. Raises Problem(USAGE)."""
    if topic not in TOPICS:
        from metadist_cli.config.messages import nearest

        near = nearest(topic, TOPICS)
        hint = f"{near}  (topics: {', '.join(TOPICS)}; of a command: metadist COMMAND --help)".strip()
        raise Problem(f"unknown topic `{topic[:60]}`", "help", hint, USAGE)
    return (FOLDER / f"{topic}.md").read_text("utf-8")


def phrases() -> dict[str, str]:
    """What each topic is about, in a phrase: its title after the colon."""
    found = {topic: read(topic).partition("\n")[0].partition(": ")[2] for topic in TOPICS}
    return {topic: phrase[0].upper() + phrase[1:] for topic, phrase in found.items()}


def for_terminal(text: str) -> str:
    """Markdown without what only the web shows: comments, and links to other files."""
    parts = _FENCED.split(text)
    parts[::2] = [_LINK.sub(_said, re.sub(r"<!-- .*? -->\n*", "", part)) for part in parts[::2]]
    return "".join(parts)


def _said(link: re.Match[str]) -> str:
    """A link as text, with its address if that is on the web and is not the text itself."""
    text, target = link.groups()
    return f"{text} ({target})" if target.startswith("http") and text not in target else text
