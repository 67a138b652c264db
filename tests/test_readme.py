"""The README and the topics are run: their commands and snippets, and what they say of files, keys and exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from runner import ROOT, environment

from metadist_cli.core import errors

TOPICS = ROOT / "metadist_cli" / "topics"
PAGES = {"README": ROOT / "README.md"} | {path.stem: path for path in sorted(TOPICS.glob("*.md"))}
TEXTS = {name: path.read_text() for name, path in PAGES.items()}
ALL = "\n".join(TEXTS.values())
CI = (ROOT / ".ci" / "run").read_text()
OMNIGLOT = ("images_background", "images_evaluation")

# What makes long commands short: appended to commands that name the config ("" names all).
SHORTER = {
    "": "execution.threads=1",
    "quickstart": "train.local_steps=2 finetune.episodes=20",
    "run configs/quickstart": "train.rounds=2",
    "run quickstart": "train.rounds=2",
    "sinusoid-maml": "data.functions=300 task.new.test=100 train.local_steps=2 finetune.episodes=20",
    "omniglot-maml": "train.rounds=1 train.local_steps=1 train.meta_batch=1 finetune.episodes=8 finetune.tune=false",
}
# And what is replaced in the text itself; each must be there.
REPLACED = {
    "batch: Jobs that share a folder": [("sinusoid-maml 100", "sinusoid-maml 2")],
    "data: Published data sets": [("~/data", os.environ.get("METADIST_DATA", ""))],
}
# Sections that start from the run of the quickstart.
AFTER_QUICKSTART = ("quickstart: Run", "tasks: Models for devices", "tasks: Your own task")
SLOW = (
    "batch: A node on another machine",
    "batch: Jobs that share a folder",
    "batch: Processes and GPUs",
    "commands: Step by step",
    "config: Overrides",
    "quickstart: Change it",
)

METADIST = """\
#!/bin/bash
case "$1" in run|partition|train|aggregate|finetune) ;; *) exec "$PYTHON" -m metadist_cli "$@";; esac
case "$*" in *--help*) exec "$PYTHON" -m metadist_cli "$@";; esac
all="$*"
while IFS='|' read -r word more; do
    case "$all" in *"$word"*) set -- "$@" $more;; esac
done <<< "$SHORTER"
exec "$PYTHON" -m metadist_cli "$@"
"""
RECORD = """\
#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
"""
SBATCH = """\
#!/bin/bash
# two jobs of an array at the same time, and wait for them
[ "$1" = --wait ] && shift
export SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_COUNT=2 SLURM_ARRAY_TASK_STEP=1
jobs=()
for id in 0 1; do SLURM_ARRAY_TASK_ID=$id bash "$@" & jobs+=($!); done
for job in "${jobs[@]}"; do wait "$job" || exit; done
"""
TORCHRUN = """\
#!/bin/bash
# its own warnings are not ours
PYTHONWARNINGS=default exec "$PYTHON" -m torch.distributed.run "$@"
"""


class Block(NamedTuple):
    """A fenced block: its page and section, language and text."""

    section: str
    language: str
    text: str


def blocks() -> Iterator[Block]:
    for page, text in TEXTS.items():
        title, language, lines = "", None, []
        for line in text.splitlines():
            fence = re.fullmatch(r"```(\w*)", line)
            if fence and language is None:
                language, lines = fence[1], []
            elif fence:
                yield Block(f"{page}: {title}", language or "", "\n".join(lines) + "\n")
                language = None
            elif language is not None:
                lines.append(line)
            elif line.startswith("## "):
                title = line[3:]
        assert language is None, f"{page}: a fence is not closed"


BLOCKS = list(blocks())
RUN = list(dict.fromkeys(b.section for b in BLOCKS if b.language in ("sh", "python")))


def section(page: str, title: str) -> str:
    return re.split(r"^## ", TEXTS[page].split(f"\n## {title}\n")[1], flags=re.M)[0]


def block(name: str, language: str) -> str:
    return next(b.text for b in BLOCKS if b.section == name and b.language == language)


def table(page: str, first: str) -> list[list[str]]:
    """The rows of the table of a page whose first column has this head."""
    rows: list[list[str]] = []
    inside = False
    for line in TEXTS[page].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        inside = line.startswith("|") and (inside or cells[0] == first)
        if inside:
            rows.append(cells)
    return rows[2:]


def words(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


class Place:
    """A copy of what a clone holds, and a PATH on which the programs of the pages are."""

    def __init__(self, folder: Path):
        self.folder, self.calls = folder, folder / "calls.txt"
        programs = folder / "programs"
        programs.mkdir(parents=True)
        shims = {"metadist": METADIST, "pip": RECORD, "pytest": RECORD, "sbatch": SBATCH, "torchrun": TORCHRUN}
        for name, text in shims.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        shutil.copytree(ROOT / "configs", folder / "configs")
        shorter = "\n".join(f"{word}|{more}" for word, more in SHORTER.items())
        more = {"PYTHON": sys.executable, "SHORTER": shorter, "CALLS": str(self.calls)}
        path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = environment(**more, PATH=path, HOME=str(folder), PYTHONUTF8="1")

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=550, check=False
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def shell(self, text: str) -> str:
        return self.run("bash", "-euo", "pipefail", "-c", text)

    def blocks(self, name: str) -> str:
        """Run a section's blocks; what they printed."""
        said, replaced = "", set()
        for one in BLOCKS:
            if one.section != name or one.language not in ("sh", "python"):
                continue
            text = one.text
            for old, new in REPLACED.get(name, []):
                replaced |= {old} if old in text else set()
                text = text.replace(old, new)
            said += self.run(sys.executable, "-c", text) if one.language == "python" else self.shell(text)
        assert replaced == {old for old, _ in REPLACED.get(name, [])}
        return said


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Place:
    """The README's two commands, made short, in a place of their own."""
    place = Place(tmp_path_factory.mktemp("quickstart") / "place")
    place.blocks("README: Two commands")
    return place


@pytest.fixture(scope="module")
def quickstart(first: Place) -> Path:
    """The run of the quickstart."""
    return first.folder / "runs" / "quickstart"


def test_ci_runs_the_two_commands(first: Place):
    ours = [shlex.join(shlex.split(line)) for line in CI.splitlines() if line.startswith(("pip ", "pytest"))]
    for call in first.calls.read_text().splitlines():
        told = shlex.join(shlex.split(call))
        assert any(line == told or line.startswith(told + " -n") for line in ours), f".ci/run does not run {told}"
    assert "\nmetadist run configs/quickstart.yaml\n" in CI


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in RUN if n != "README: Two commands"],
)
def test_commands(name: str, tmp_path: Path, request: pytest.FixtureRequest):
    if "omniglot" in "".join(b.text for b in BLOCKS if b.section == name and b.language == "sh"):
        folder = Path(os.environ.get("METADIST_DATA") or "nowhere") / "omniglot"
        if not all(any((folder / f"{part}{end}").exists() for end in (".zip", "")) for part in OMNIGLOT):
            pytest.skip("the images of Omniglot are not in METADIST_DATA")
    place = Place(tmp_path / "place")
    if name in AFTER_QUICKSTART:
        shutil.copytree(request.getfixturevalue("quickstart"), place.folder / "runs" / "quickstart")
    CHECKS.get(name, lambda place, said: None)(place, place.blocks(name))


def _step_by_step(place: Place, said: str) -> None:
    run = place.folder / "runs" / "by-hand"
    place.shell("metadist run configs/quickstart.yaml --name at-once")  # its first rounds, see SHORTER
    names = [f"rounds/{r:04d}/global.safetensors" for r in range(3)]
    assert all((run / n).read_bytes() == (run.with_name("at-once") / n).read_bytes() for n in names)


def _elsewhere(place: Place, said: str) -> None:
    inputs = json.loads((place.folder / "runs/elsewhere/rounds/0002/inputs.json").read_text())
    assert "nodes-005-005.safetensors" in inputs["files"]
    assert (inputs["dropped"], inputs["rejected"]) == ([], {})


def _jobs(place: Place, said: str) -> None:
    rounds = place.folder / "runs" / "sinusoid-maml" / "rounds"
    assert [(rounds / f"{r:04d}" / "global.safetensors").exists() for r in (1, 2, 3)] == [True, True, False]
    for r in (1, 2):
        frozen = json.loads((rounds / f"{r:04d}" / "inputs.json").read_text())
        assert sorted(frozen["files"]) == ["nodes-000-004.safetensors", "nodes-005-009.safetensors"]


def _own_task(place: Place, said: str) -> None:
    predicted = re.findall(r"'(\d)'", said)
    assert len(predicted) == 30
    assert (place.folder / "runs/quickstart/finetune/task-my-task/predictions.csv").exists()


def _ten_lines(place: Place, said: str) -> None:
    assert "configs/quickstart.yaml: valid" in said
    assert "nothing was written" in said
    assert not (place.folder / "runs").exists()


CHECKS = {
    "README: An experiment in ten lines": _ten_lines,
    "batch: A node on another machine": _elsewhere,
    "batch: Jobs that share a folder": _jobs,
    "commands: Step by step": _step_by_step,
    "tasks: Your own task": _own_task,
}


def test_names_of_sections_are_right():
    assert {*REPLACED, *AFTER_QUICKSTART, *SLOW, *CHECKS} <= set(RUN)


def masked(text: str) -> str:
    """Without what differs from run to run: figures, and milliseconds for seconds."""
    return re.sub(r"# m?s a", "# s a", re.sub(r"[\d.,]*\d", "#", " ".join(text.split())))


@pytest.mark.slow
def test_the_quickstart_prints_what_is_quoted(tmp_path: Path):
    """The real thing, and adapting beats no adaptation, FedAvg and a random start by more than the intervals."""
    place = Place(tmp_path / "place")
    place.environment["SHORTER"] = "|execution.threads=1"
    said = iter([masked(line) for line in place.shell("metadist run configs/quickstart.yaml").splitlines()])
    for quoted in block("README: Two commands", "text").splitlines():
        assert masked(quoted) in said, f"not said, or not in this order: {quoted}"
    metrics = json.loads((place.folder / "runs/quickstart/finetune/new/metrics.json").read_text())
    after = metrics["after"]
    for other in (metrics["before"], metrics["untrained"], metrics["baselines"]["fedavg"]["after"]):
        assert after["mean"] - after["ci95"] > other["mean"] + other["ci95"]


# --- configs


def test_the_ten_lines_are_the_quickstart(tmp_path: Path):
    from metadist_cli import config

    text = block("README: An experiment in ten lines", "yaml")
    assert len(text.splitlines()) == 10
    (tmp_path / "quickstart.yaml").write_text(text)
    ours, shipped = config.load(tmp_path / "quickstart.yaml"), config.load(ROOT / "configs" / "quickstart.yaml")
    assert config.difference(ours.resolved(), shipped.resolved()) == []


YAML = [b for b in BLOCKS if b.language == "yaml"]


@pytest.mark.parametrize("one", YAML, ids=[b.section for b in YAML])
def test_yaml_is_valid(one: Block, tmp_path: Path):
    """Each snippet, with a task where it has none."""
    from metadist_cli import config

    tree = {"task": {"kind": "local", "new": {"from": "rows", "test": 0.2}}, "partition": {"name": "iid", "nodes": 9}}
    (tmp_path / "snippet.yaml").write_text(yaml.safe_dump(tree | yaml.safe_load(one.text)))
    config.load(tmp_path / "snippet.yaml")


def test_settings_of_algorithms_are_valid():
    """The table of federated algorithms, each row as overrides of the quickstart."""
    from metadist_cli import config

    rows = table("federated", "algorithm")
    assert len(rows) >= 11
    for _, settings, _ in rows:
        several = re.findall(r"`([\w.]+): (\{.*?\}+|\w+)`", settings)
        assert several
        config.load("quickstart", [f"{dotted}={value}" for dotted, value in several if "." in dotted or "{" in value])


def test_settings_exist():
    """Dotted settings that the pages name are settings of the shipped configs."""
    from metadist_cli import config

    resolved = [config.load(path).resolved() for path in sorted((ROOT / "configs").rglob("*.yaml"))]
    sections = "|".join(resolved[0])
    text = re.sub(r"^```python\n.*?^```", "", ALL, flags=re.M | re.S)
    for dotted in set(re.findall(rf"(?<![\w/-])((?:{sections})\.[a-z_.]+\w)\b", text)):
        if dotted.endswith((".py", ".yaml", ".png", ".json", ".md", ".txt")):
            continue
        found = []
        for value in resolved:
            for key in dotted.split("."):
                value = value.get(key, KeyError) if isinstance(value, dict) else KeyError
            found.append(value is not KeyError)
        assert any(found), dotted


@pytest.mark.parametrize("line", sorted(set(re.findall(r"`(metadist [^`]+)`", ALL))))
def test_command_lines_in_the_text_are_valid(line: str):
    """Commands, options, topics, and the configs and overrides that they name."""
    import typer

    from metadist_cli import config, topics
    from metadist_cli.cli import app

    commands = typer.main.get_command(app).commands
    name, *words = shlex.split(line)[1:]
    if name == "COMMAND":
        return
    assert name in commands
    known = {option for p in commands[name].params for option in p.opts} | {"--help"}
    assert {word for word in words if word.startswith("-")} <= known
    if name == "help":
        assert set(words) <= {*topics.TOPICS, "TOPIC"}
    elif words and words[0] not in ("CONFIG", "MODEL") and not words[0].startswith("-"):
        config.load(words[0], [word for word in words[1:] if "=" in word])


# --- exit codes, files, metrics


def test_exit_codes():
    ours = {value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)}
    assert {int(row[0]) for row in table("exit-codes", "code")} == ours
    named = re.findall(r"(?:exits? with|[Cc]ode(?: is)?) (\d+)", ALL)
    assert len(named) >= 5
    assert {int(code) for code in named} <= ours


def test_keys_of_metrics(quickstart: Path):
    metrics = json.loads((quickstart / "finetune/new/metrics.json").read_text())
    told: dict[str, set[str]] = {}
    for names, inside, _ in table("files", "key"):
        for name in re.findall(r"`(\w+)`", names):
            told[name] = words(inside)
    assert set(told) == set(metrics)
    metrics |= {key: list(metrics[key].values()) for key in ("baselines", "local", "selection")}
    for name, inside in told.items():
        value = metrics[name][0] if isinstance(metrics[name], list) else metrics[name]
        if isinstance(value, dict):
            assert set(value) == inside, name
    explained = {word for row in table("files", "inside") for word in words(row[0])}
    assert explained | {"n"} == told["before"]
    sentence = re.search(r"A line of\s+`metrics.jsonl`\s+has\s(.*?)\.\n", TEXTS["files"], re.S)
    assert sentence
    line = json.loads((quickstart / "metrics.jsonl").read_text().splitlines()[0])
    assert words(sentence[1]) - {"mse"} == set(line)


@pytest.fixture(scope="module")
def everything(tmp_path_factory, quickstart: Path) -> list[Path]:
    """Runs that leave behind every kind of file: closed and open rounds, node state, all models."""
    place = Place(tmp_path_factory.mktemp("everything") / "place")
    place.shell("""
        metadist run configs/tiny.yaml "seeds=[0, 1]" --name several
        set -- configs/tiny.yaml train.outer_state=keep finetune.predictions=true finetune.save=all
        set -- "$@" finetune.parquet=true train.node_metrics=true
        set -- "$@" "baselines={wild: {learner: {name: supervised}, train: {outer: {name: sgd, lr: 1e+30}}}}"
        metadist run "$@"
        metadist train "$@" train.rounds=3
        metadist aggregate "$@" train.rounds=3
        metadist train "$@" train.rounds=4
    """)
    return [quickstart, place.folder / "runs" / "tiny", place.folder / "runs" / "several"]


def test_files_of_a_run(everything: list[Path]):
    """Every listed name is there in some run, and nothing else is."""
    patterns = [pattern(name) for name in listed()]
    there = {p.relative_to(run).as_posix() for run in everything for p in run.rglob("*") if p.is_file()}
    there = {name for name in there if not Path(name).name.startswith(".lock")}
    assert [p for p in patterns if not any(re.match(p, name) for name in there)] == []
    assert [name for name in there if not any(re.match(p, name) for p in patterns)] == []


def listed() -> Iterator[str]:
    """The names in the list of a run's files; a folder alone on its line holds the names that are indented below it."""
    folder = ""
    for line in block("files: ", "text").splitlines():
        found = re.fullmatch(r"( {0,2})(\S+)( .*)?", line)
        if found and not found[1] and found[2].endswith("/") and not found[3]:
            folder = found[2]
        elif found:
            yield (folder if found[1] else "") + found[2]


def pattern(name: str) -> str:
    """What a listed name stands for: any number, any hash, any name for * and NAME, all that is in a folder."""
    dots = re.sub(r"\d+", r"\\d+", re.escape(name))
    dots = dots.replace(r"\*", "[^/]+").replace("NAME", "[^/]+").replace("HASH", "[0-9a-f]+")
    return dots + ("" if name.endswith("/") else "$")


# --- links and names


@pytest.mark.parametrize("page", PAGES)
def test_links(page: str):
    text = TEXTS[page]
    for shown, target in re.findall(r"\[([^\]]+)\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = PAGES[page].parent / path if path else PAGES[page]
        assert there.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)", there.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        if named := re.fullmatch(r"`metadist help (.*)`", shown):
            assert there == TOPICS / f"{named[1]}.md"


def test_paths_exist():
    for path in re.findall(r"\b(?:configs|tests)/[\w./-]*\w", re.sub(r"\]\([^)]*\)", "", ALL)):
        assert (ROOT / path).exists() or (ROOT / path).with_suffix(".yaml").exists(), path
    for path in re.findall(r"`(\w+/[\w/]*\w+\.py)`", ALL):
        if not path.startswith("tests/"):
            assert (ROOT / "metadist_cli" / path).exists() or Path(path).stem == "NAME", path


@pytest.mark.parametrize(("what", "where"), table("extending", "a new"))
def test_where_a_new_thing_goes_is_right(what: str, where: str):
    """A person's minute: the file or folder is there, and so is the name in its module."""
    names = re.findall(r"`([^`]+)`", where)
    paths = [name for name in names if "/" in name or name == "cli.py"]
    path = ROOT / "metadist_cli" / paths[0]
    text = (path / "__init__.py" if path.is_dir() else path).read_text()
    (name,) = (name for name in names if name not in (*paths, "__init__.py"))
    assert re.search(rf"^ *(def |class )?{name}\b", text, re.M)


def test_options_exist():
    """Options of metadist that the prose names are those of some command."""
    import typer

    from metadist_cli.cli import app

    commands = typer.main.get_command(app).commands.values()
    known = {option for command in commands for p in command.params for option in p.opts} | {"--help"}
    for script in (ROOT / "tests" / "benchmarks").glob("*.py"):
        known |= set(re.findall(r'"(--[a-z-]+)"', script.read_text()))
    told = set(re.findall(r"`(--[a-z-]+)", ALL)) | set(re.findall(r"metadist [^`\n]*?(--[a-z-]+)", ALL))
    assert len(told) > 8
    assert told - known == set()


def test_the_readme_is_short_and_no_page_knows_its_makers():
    assert len(TEXTS["README"].splitlines()) <= 200
    for text in (ALL, CI, (ROOT / "CHANGELOG.md").read_text()):
        assert not re.search(r"(?<!\w)/work\b|/root|/home/|/tmp/rb", text)
    picture = ROOT / ".docs" / "report.png"
    assert picture.stat().st_size < 300_000


def test_changelog_has_this_version():
    import metadist_cli

    assert f"## {metadist_cli.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version = "{metadist_cli.__version__}"' in (ROOT / "pyproject.toml").read_text()
