"""The manual: its tables are those of the code, and `metadist help` shows it to people, pipes and programs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from golden import golden
from runner import ROOT, Done, environment, process

from metadist_cli import topics
from metadist_cli.topics import tables

PAGES = [ROOT / "README.md", *sorted(topics.FOLDER.glob("*.md"))]


def help_(*arguments: str, code: int = 0) -> Done:
    from typer.testing import CliRunner

    from metadist_cli.cli import app

    result = CliRunner().invoke(app, ["help", *arguments])
    assert result.exit_code == code, result.output
    return Done(result.exit_code, result.stdout, result.stderr)


def test_a_topic_is_a_file_and_a_line():
    assert sorted(topics.TOPICS) == [path.stem for path in PAGES[1:]]
    assert len(set(topics.TOPICS)) == len(topics.TOPICS)


@pytest.mark.parametrize("path", PAGES, ids=[path.stem for path in PAGES])
def test_tables_are_those_of_the_code(path: Path):
    """METADIST_GOLDEN=write pytest tests/topics writes them anew."""
    now = tables.filled(path.read_text())
    assert golden(path, now) == now


def test_every_registry_section_and_code_is_in_some_table():
    """What a table would show of a new registry or section cannot be forgotten."""
    there = set(re.findall(r"<!-- (?!end of )(.+?) -->", "".join(path.read_text() for path in PAGES)))
    assert [name for name, make in tables.tables().items() if make().count("\n") > 3 and name not in there] == []


def test_every_entry_and_key_is_described():
    for name, make in tables.tables().items():
        assert not re.search(r"\| *\|", make()), name


def test_a_new_learner_is_in_the_manual_without_further_edits(monkeypatch: pytest.MonkeyPatch):
    from metadist_cli.learners import LEARNERS

    def newest(model: object, *, strength: float = 2.5) -> None:
        """Learns nothing at all, https://arxiv.org/abs/0000.00000, section 1."""

    monkeypatch.setitem(LEARNERS, "newest", newest)
    made = tables.tables()
    url = "arxiv.org/abs/0000.00000"
    assert f"| `newest` | Learns nothing at all, section 1. [{url}](https://{url}) |\n" in made["learner entries"]()
    assert "### newest\n\n| key | value | default | meaning |\n" in made["learner options"]()
    assert "| `strength` | a number | 2.5 |  |\n" in made["learner options"]()


def test_settings_have_their_ranges_and_defaults():
    text = (topics.FOLDER / "settings.md").read_text()
    for row in (
        "| `seed` | a whole number >= 0 | 0 |",
        "| `local_epochs` | a whole number >= 1 or null | null |",
        "| `rotate` | a number from 0 to 360 | 0.0 |",
        "| `new.from` | classes or nodes | classes |",
        "| `precision` | float32, tf32 or bf16 | float32 |",
    ):
        assert row in text
    assert text.count("| `name` | iid,") == 1


def test_marks_of_other_programs_are_left_alone():
    text = "<!-- papers -->\n\nfigures\n\n<!-- end of papers -->\n"
    assert tables.filled(text) == text


def test_help_lists_the_topics():
    said = help_().out
    assert [line.split()[0] for line in said.splitlines()[2:]] == list(topics.TOPICS)
    assert max(map(len, said.splitlines())) <= 100


@pytest.mark.parametrize("topic", topics.TOPICS)
def test_a_topic_is_plain_text_in_a_pipe(topic: str):
    said = help_(topic).out
    assert "\x1b" not in said
    assert max(map(len, said.splitlines())) <= 80
    assert "<!--" not in said
    assert not re.search(r"\]\(|^```|^#+ |\*\*", said, re.M), "Markdown is left"
    assert "…" not in said.replace("......", ""), "a word was cut short"
    fenced = re.findall(r"^```\w*\n(.*?)^```$", topics.read(topic), re.M | re.S)
    for line in "".join(fenced).splitlines():
        assert f" {line}".rstrip() in said.splitlines(), "a line of code was folded"


def test_code_keeps_its_backticks_in_a_pipe():
    assert "`rounds/*/state-*`" in help_("federated").out


def test_links_show_where_they_lead():
    text = "[`metadist help data`](data.md) [paper](https://a.b/c) [a.b/c](https://a.b/c)\n"
    assert topics.for_terminal(text) == "`metadist help data` paper (https://a.b/c) a.b/c\n"
    assert topics.for_terminal("<!-- x -->\n```sh\n[a](b)\n```\n") == "```sh\n[a](b)\n```\n"


def test_help_in_json():
    assert json.loads(help_("--json").out) == {"topics": topics.phrases()}
    done = help_("data", "--json")
    assert json.loads(done.out) == {"topic": "data", "text": (topics.FOLDER / "data.md").read_text()}
    assert done.err == ""


def test_an_unknown_topic_names_the_nearest():
    said = help_("metric", code=2).err
    assert "unknown topic `metric`" in said
    assert "did you mean `metrics`?" in said
    said = help_("frobnicate", code=2).err
    assert "did you mean" not in said
    assert "exit-codes" in said
    assert json.loads(help_("metric", "--json", code=2).out)["error"]["code"] == 2


def test_help_does_not_wait_for_torch():
    asked = [sys.executable, "-X", "importtime", "-m", "metadist_cli", "help", "data"]
    done = subprocess.run(asked, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "rich" in imported
    assert imported & {"torch", "numpy", "yaml"} == set()


def test_an_option_of_all_commands_is_one_edit(tmp_path: Path):
    """One parameter more in a copy of the package: every command has it."""
    shutil.copytree(ROOT / "metadist_cli", tmp_path / "metadist_cli", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "metadist_cli" / "commands" / "support" / "invocation.py"
    usual = "verbose: Verbose = False, **options"
    assert file.read_text().count(usual) == 1
    more = 'verbose: Verbose = False, loud: Annotated[bool, typer.Option("--loud")] = False, **options'
    file.write_text(file.read_text().replace(usual, more))
    for command in ("run", "partition", "train", "aggregate", "finetune", "validate", "help"):
        done = process(command, "--help", module=True, cwd=tmp_path, PYTHONPATH=str(tmp_path))
        assert "--loud" in done.out, done
    done = process("validate", "tiny", "--loud", module=True, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.code == 3, "the shipped configs lie beside the package, which is a copy here"
