"""The README is run: its commands, its snippets, and what it says of files, keys and exit codes."""

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
from runner import ROOT, environment

from metadist_cli.core import errors

README = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()
OMNIGLOT = ("images_background", "images_evaluation")

# What makes long commands short: appended to commands that name the config ("" names all).
SHORTER = {
    "": "execution.threads=1",
    "quickstart": "finetune.episodes=20 baselines.fedavg.train.rounds=1",
    "run configs/quickstart": "train.rounds=2",
    "sinusoid-maml": "data.functions=300 task.new.test=100 train.local_steps=2 finetune.episodes=20",
    "omniglot-maml": "train.rounds=1 train.local_steps=1 train.meta_batch=1 finetune.episodes=8",
}
# And what is replaced in the text itself; each must be there.
REPLACED = {
    "In a batch system": [("sinusoid-maml.yaml 100", "sinusoid-maml.yaml 2")],
    "Data sets": [("~/data", os.environ.get("METADIST_DATA", ""))],
}
AFTER_QUICKSTART = ("A task of your own",)  # sections that go on from the quickstart
LONG = ("Step by step", "In a batch system")

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
    """A fenced block: its section, language and text."""

    section: str
    language: str
    text: str


def blocks() -> Iterator[Block]:
    section, language, lines = "", None, []
    for line in README.splitlines():
        fence = re.fullmatch(r"```(\w*)", line)
        if fence and language is None:
            language, lines = fence[1], []
        elif fence:
            yield Block(section, language or "", "\n".join(lines) + "\n")
            language = None
        elif language is not None:
            lines.append(line)
        elif line.startswith("## "):
            section = line[3:]
    assert language is None, "a fence is not closed"


BLOCKS = list(blocks())
RUN = list(dict.fromkeys(b.section for b in BLOCKS if b.language in ("sh", "python")))


def section(title: str) -> str:
    return re.split(r"^## ", README.split(f"\n## {title}\n")[1], flags=re.M)[0]


def block(title: str, language: str) -> str:
    return next(b.text for b in BLOCKS if b.section == title and b.language == language)


class Place:
    """A copy of what a clone holds, and a PATH on which the README's programs are."""

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
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def shell(self, text: str) -> str:
        return self.run("bash", "-euo", "pipefail", "-c", text)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory) -> Path:
    """A run of the quickstart, made short, in its own place."""
    place = Place(tmp_path_factory.mktemp("quickstart"))
    place.shell("metadist run configs/quickstart.yaml")
    return place.folder / "runs" / "quickstart"


@pytest.mark.parametrize("title", [pytest.param(t, marks=pytest.mark.slow) if t in LONG else t for t in RUN])
def test_commands(title: str, tmp_path: Path, request):
    if "omniglot" in "".join(b.text for b in BLOCKS if b.section == title and b.language == "sh"):
        folder = Path(os.environ.get("METADIST_DATA") or "nowhere") / "omniglot"
        if not all(any((folder / f"{part}{end}").exists() for end in (".zip", "")) for part in OMNIGLOT):
            pytest.skip("the images of Omniglot are not in METADIST_DATA")
    place = Place(tmp_path / "place")
    if title in AFTER_QUICKSTART:
        shutil.copytree(request.getfixturevalue("quickstart"), place.folder / "runs" / "quickstart")
    said = ""
    replaced = set()
    for one in BLOCKS:
        if one.section != title or one.language not in ("sh", "python"):
            continue
        text = one.text
        for old, new in REPLACED.get(title, []):
            replaced |= {old} if old in text else set()
            text = text.replace(old, new)
        if one.language == "python":
            said += place.run(sys.executable, "-c", text)
        elif text.startswith("#!"):
            name = re.findall(r"`([\w-]+\.sh)`", section(title))[0]
            (place.folder / name).write_text(text)
        else:
            said += place.shell(text)
    assert replaced == {old for old, _ in REPLACED.get(title, [])}
    if place.calls.exists():
        for call in place.calls.read_text().splitlines():
            told = shlex.join(shlex.split(call))
            ours = [shlex.join(shlex.split(line)) for line in CI.splitlines() if line.startswith(("pip ", "pytest"))]
            assert any(line == told or line.startswith(told + " -n") for line in ours), f".ci/run does not run {told}"
    CHECKS.get(title, lambda place, said: None)(place, said)


def _by_hand(place: Place, said: str) -> None:
    run = place.folder / "runs" / "by-hand"
    inputs = json.loads((run / "rounds/0004/inputs.json").read_text())
    assert "nodes-005-005.safetensors" in inputs["files"]
    assert (inputs["dropped"], inputs["rejected"]) == ([], {})
    place.shell("metadist run configs/quickstart.yaml --name at-once")  # its first rounds, see SHORTER
    names = [f"rounds/{r:04d}/global.safetensors" for r in range(3)]
    assert all((run / n).read_bytes() == (run.with_name("at-once") / n).read_bytes() for n in names)


def _batch(place: Place, said: str) -> None:
    rounds = place.folder / "runs" / "sinusoid-maml" / "rounds"
    assert [(rounds / f"{r:04d}" / "global.safetensors").exists() for r in (1, 2, 3)] == [True, True, False]
    for r in (1, 2):
        frozen = json.loads((rounds / f"{r:04d}" / "inputs.json").read_text())
        assert sorted(frozen["files"]) == ["nodes-000-004.safetensors", "nodes-005-009.safetensors"]


def _own(place: Place, said: str) -> None:
    predicted = re.findall(r"'(\d)'", said)
    assert len(predicted) == 30
    assert (place.folder / "runs/quickstart/finetune/task-my-task/predictions.csv").exists()


def _ten_lines(place: Place, said: str) -> None:
    assert "configs/quickstart.yaml: valid" in said
    assert "nothing was written" in said
    assert not (place.folder / "runs").exists()


CHECKS = {
    "Step by step": _by_hand,
    "In a batch system": _batch,
    "A task of your own": _own,
    "An experiment in ten lines": _ten_lines,
}


def masked(text: str) -> str:
    """Without what differs from run to run: figures, and milliseconds for seconds."""
    return re.sub(r"# m?s a", "# s a", re.sub(r"[\d.,]*\d", "#", " ".join(text.split())))


@pytest.mark.slow
def test_the_quickstart_prints_what_is_quoted(tmp_path: Path):
    """The real thing, and adapting beats no adaptation, FedAvg and a random start by more than the intervals."""
    place = Place(tmp_path / "place")
    place.environment["SHORTER"] = "|execution.threads=1"
    said = iter([masked(line) for line in place.shell("metadist run configs/quickstart.yaml").splitlines()])
    for quoted in block("Two commands", "text").splitlines():
        assert quoted == "..." or masked(quoted) in said, f"not said, or not in this order: {quoted}"
    metrics = json.loads((place.folder / "runs/quickstart/finetune/new/metrics.json").read_text())
    after = metrics["after"]
    for other in (metrics["before"], metrics["scratch"], metrics["baselines"]["fedavg"]["after"]):
        assert after["mean"] - after["ci95"] > other["mean"] + other["ci95"]


def test_the_ten_lines_are_the_quickstart(tmp_path: Path):
    from metadist_cli import config

    text = block("An experiment in ten lines", "yaml")
    assert len(text.splitlines()) == 10
    (tmp_path / "quickstart.yaml").write_text(text)
    ours, shipped = config.load(tmp_path / "quickstart.yaml"), config.load(ROOT / "configs" / "quickstart.yaml")
    assert config.difference(ours.resolved(), shipped.resolved()) == []


def test_names_in_the_ten_lines_are_all_that_there_are():
    from metadist_cli.config.registry_sections import registries

    text = block("An experiment in ten lines", "yaml")
    for noun in ("partitioner", "model"):  # data sets have a table
        assert all(re.search(rf"\b{name}\b", text) for name in registries()[noun]), noun


def test_learners_and_rules_are_all_that_there_are():
    from metadist_cli.config.registry_sections import registries

    text, known = section("Learners, and what a round makes of them"), registries()
    assert re.findall(r"^\| `(\w+)` \|", text, re.M) == list(known["learner"])
    for noun in ("drift correction", "personal part"):
        assert all(re.search(rf"`[^`]*\b{name}\b[^`]*`", text) for name in known[noun] if name != "none"), noun


def test_settings_of_algorithms_are_valid(tmp_path: Path):
    """The snippets of the table of federated algorithms, each as an override of the quickstart."""
    from metadist_cli import config

    rows = re.findall(r"^\| ([\w, -]+) \| (.*) \|$", section("Learners, and what a round makes of them"), re.M)
    settings = [re.findall(r"`([\w.]+): (\{.*?\}+)`", cell) for _, cell in rows]
    assert sum(map(len, settings)) >= 8
    for several in settings:
        config.load("quickstart", [f"{dotted}={value}" for dotted, value in several])


def test_data_sets_are_all_that_there_are():
    from metadist_cli.data.sets import DATASETS

    assert [row[0] for row in table("Data sets", "name")] == [f"`{name}`" for name in DATASETS]


def table(title: str, first: str) -> list[list[str]]:
    """The rows of the table in a section whose first column has this head."""
    rows: list[list[str]] = []
    inside = False
    for line in section(title).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        inside = line.startswith("|") and (inside or cells[0] == first)
        if inside:
            rows.append(cells)
    return rows[2:]


def words(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


def test_exit_codes():
    ours = {value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)}
    told = [int(row[0]) for row in table("Exit codes", "code")]
    assert told == sorted(ours)


def test_keys_of_metrics(quickstart: Path):
    metrics = json.loads((quickstart / "finetune/new/metrics.json").read_text())
    told: dict[str, set[str]] = {}
    for names, inside, _ in table("What a run leaves behind", "key"):
        for name in re.findall(r"`(\w+)`", names):
            told[name] = words(inside)
    assert set(told) == set(metrics)
    metrics["baselines"] = list(metrics["baselines"].values())
    for name, inside in told.items():
        value = metrics[name][0] if isinstance(metrics[name], list) else metrics[name]
        if isinstance(value, dict):
            assert set(value) == inside, name
    sentence = re.search(r"A line of\s+`metrics.jsonl`\s+has\s(.*?)\.", section("What a run leaves behind"), re.S)
    assert sentence
    line = json.loads((quickstart / "metrics.jsonl").read_text().splitlines()[0])
    assert words(sentence[1]) - {"mse"} == set(line)


@pytest.fixture(scope="module")
def everything(tmp_path_factory, quickstart: Path) -> list[Path]:
    """Runs that leave behind everything that there is: closed and open rounds, node state, all models."""
    place = Place(tmp_path_factory.mktemp("everything"))
    place.shell("""
        set -- configs/tiny.yaml train.outer_state=keep finetune.predictions=true finetune.save=all
        metadist run "$@"
        metadist train "$@" train.rounds=3
        metadist aggregate "$@" train.rounds=3
        metadist train "$@" train.rounds=4
    """)
    return [quickstart, place.folder / "runs" / "tiny"]


def test_files_of_a_run(everything: list[Path]):
    """Every listed name is there in some run, and nothing else is."""
    lines = block("What a run leaves behind", "text").splitlines()
    patterns = [pattern(line.split()[0]) for line in lines]
    there = {p.relative_to(run).as_posix() for run in everything for p in run.rglob("*") if p.is_file()}
    there = {name for name in there if not Path(name).name.startswith(".lock")}
    assert [p for p in patterns if not any(re.match(p, name) for name in there)] == []
    assert [name for name in there if not any(re.match(p, name) for p in patterns)] == []


def pattern(name: str) -> str:
    """What a listed name stands for: any number, any hash, any name for *, all that is in a folder."""
    dots = re.sub(r"\d+", r"\\d+", re.escape(name))
    return dots.replace(r"\*", "[^/]+").replace("HASH", "[0-9a-f]+") + ("" if name.endswith("/") else "$")


def test_links_and_paths():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)", README, re.M)
    }
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in anchors
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target
    for path in re.findall(r"\bconfigs/[\w.-]+\.yaml", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:learners|models|datasets)/[\w./]*|\w+\.py)`", README):
        assert (ROOT / "metadist_cli" / path).exists(), path
    for name in re.findall(r"metadist run (\w[\w-]*)(?![\w/-])", README):
        assert (ROOT / "configs" / f"{name}.yaml").exists(), name


def test_options_exist():
    """Options of metadist that the prose names are those of some command."""
    import typer

    from metadist_cli.cli import app

    commands = typer.main.get_command(app).commands.values()
    known = {option for command in commands for p in command.params for option in p.opts} | {"--help"}
    for script in (ROOT / "tests" / "benchmarks").glob("*.py"):
        known |= set(re.findall(r'"(--[a-z-]+)"', script.read_text()))
    told = set(re.findall(r"`(--[a-z-]+)", README)) | set(re.findall(r"metadist [^`\n]*?(--[a-z-]+)", README))
    assert told
    assert told - known == set()


def test_settings_exist():
    """Dotted settings that the README names are settings of the configs that it names them for."""
    from metadist_cli import config

    resolved = [config.load(path).resolved() for path in sorted((ROOT / "configs").rglob("*.yaml"))]
    for dotted in set(
        re.findall(r"\b((?:data|task|partition|learner|train|aggregate|finetune|execution)\.[a-z_.]+\w)\b", README)
    ):
        if dotted.endswith((".py", ".yaml", ".png")) or dotted == "execution.workers":  # told to be missing
            continue
        found = []
        for value in resolved:
            for key in dotted.split("."):
                value = value.get(key, KeyError) if isinstance(value, dict) else KeyError
            found.append(value is not KeyError)
        assert any(found), dotted


def test_it_is_short_and_knows_nothing_of_its_makers():
    assert len(re.sub(r"<!-- papers -->.*<!-- end of papers -->", "", README, flags=re.S).splitlines()) <= 405
    for text in (README, CI, (ROOT / "CHANGELOG.md").read_text()):
        assert not re.search(r"/work|/root|/home/|/tmp/rb", text)
    picture = ROOT / ".docs" / "report.png"
    assert picture.stat().st_size < 300_000


def test_changelog_has_this_version():
    import metadist_cli

    assert f"## {metadist_cli.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version = "{metadist_cli.__version__}"' in (ROOT / "pyproject.toml").read_text()
