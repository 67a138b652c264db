"""The layers hold, the command line starts without torch, and nothing that runs foreign code is in the package."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "metadist_cli"
SOURCES = {p.relative_to(ROOT / PACKAGE).as_posix(): p.read_text() for p in (ROOT / PACKAGE).rglob("*.py")}

# Rooms from the ground up: a module may import from its own room and from those before it.
ROOMS = (
    *("core", "tasks", "models", "learners", "data", "partition", "evaluation", "federated", "config", "experiment"),
    *("storage", "report", "runtime", "commands", "topics", "cli", "__main__"),
    "__init__",  # a door from outside; its __version__ is for everybody
)
PURE = {"tasks", "models", "learners", "partition", "evaluation", "federated"}  # with core: no disk, no console
CORE_WITH_DISK = {"core/console.py", "core/files.py"}
OUTSIDE_WORLD = {
    *("argparse", "io", "logging", "matplotlib", "multiprocessing", "os", "pathlib", "rich", "shutil", "socket"),
    *("subprocess", "sys", "tempfile", "typer", "urllib", "yaml", "zipfile"),
}
LAZY = {
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openpyxl",
    "pyarrow",
    "rich",
    "sklearn",
}  # slow to import and rarely needed: inside functions only


def room(module: str) -> str:
    """Room of a file below the package: "data/sets/omniglot.py" is in "data", "cli.py" is a room by itself."""
    return module.split("/")[0].removesuffix(".py")


def floor(module: str) -> int:
    """Place of a file's room in ROOMS."""
    if room(module) not in ROOMS:
        pytest.fail(f"{module} is in no room: add it to ROOMS in tests/test_floors.py")
    return ROOMS.index(room(module))


def imports(tree: ast.AST, module: str, at_start: bool = False) -> Iterator[str]:
    """Dotted names that a module imports; at_start: only those that run when it is imported itself."""
    package = [PACKAGE, *module.split("/")[:-1]]
    for node in _at_start(tree) if at_start else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{name}.{alias.name}" for alias in node.names)


def _at_start(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not typing and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _at_start(child)


def own(dotted: str, modules: set[str]) -> str | None:
    """The file of our package that a dotted name comes from; None for other packages."""
    parts = dotted.split(".")
    if parts[0] != PACKAGE:
        return None
    path = "/".join(parts[1:])
    parent = "/".join(parts[1:-1])
    tried = (f"{path}.py", f"{path}/__init__.py", f"{parent}.py", f"{parent}/__init__.py".lstrip("/"))
    return next((name for name in tried if name in modules), f"{parts[1]}/")  # named, but not written yet


def upward(sources: dict[str, str]) -> list[str]:
    found = []
    for module, text in sources.items():
        for name in imports(ast.parse(text), module):
            target = own(name, set(sources))
            if target is not None and name != f"{PACKAGE}.__version__" and floor(target) > floor(module):
                found.append(f"{module} imports {target}")
    return found


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_every_module_is_in_a_room(module):
    assert room(module) in ROOMS


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_no_module_is_longer_than_300_lines(module):
    assert len(SOURCES[module].splitlines()) <= 300


def test_the_rooms_are_few_and_all_are_there():
    assert {room(module) for module in SOURCES} == set(ROOMS)
    assert len(ROOMS) <= 18


def test_imports_go_downwards():
    assert upward(SOURCES) == []


def test_no_circles_at_import():
    graph = {}
    for module, text in SOURCES.items():
        named = {own(name, set(SOURCES)) for name in imports(ast.parse(text), module, at_start=True)}
        graph[module] = {name for name in named if name in SOURCES and name != module}
    assert len(list(TopologicalSorter(graph).static_order())) == len(SOURCES)  # raises CycleError


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_mathematics_knows_no_disk_and_no_console(module):
    if room(module) not in PURE | {"core"} or module in CORE_WITH_DISK:
        return
    tree = ast.parse(SOURCES[module])
    named = set(imports(tree, module))
    assert {name.split(".")[0] for name in named} & OUTSIDE_WORLD == set()
    assert not CORE_WITH_DISK & {own(name, set(SOURCES)) for name in named}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert called & {"open", "print", "input"} == set()


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_slow_libraries_are_imported_where_they_are_needed(module):
    named = imports(ast.parse(SOURCES[module]), module, at_start=True)
    assert {name.split(".")[0] for name in named} & LAZY == set()


def test_the_rules_can_be_broken():
    """The checks above see what they should see."""
    sources = {
        "core/errors.py": "",
        "__init__.py": "def load():\n    from metadist_cli.config import f",
        "core/seeds.py": "from metadist_cli import __version__, load",
        "core/tree.py": "def f():\n    from metadist_cli import config",
        "config/__init__.py": "import metadist_cli.core.errors",
        "data/sets/__init__.py": "from ...commands.train import run\nfrom ...core import errors",
        "data/types.py": "from metadist_cli.cli import main",
        "commands/train.py": "from metadist_cli.core.errors import Problem\nfrom metadist_cli import config",
        "cli.py": "import torch\nif TYPE_CHECKING:\n    import numpy\nclass A:\n    import rich",
    }
    assert upward(sources) == [
        "core/seeds.py imports __init__.py",
        "core/tree.py imports config/__init__.py",
        "data/sets/__init__.py imports commands/train.py",
        "data/types.py imports cli.py",
    ]
    assert list(imports(ast.parse(sources["cli.py"]), "cli.py", at_start=True)) == ["torch", "rich"]
    assert list(imports(ast.parse(sources["core/tree.py"]), "core/tree.py", at_start=True)) == []
    with pytest.raises(pytest.fail.Exception, match=r"add it to ROOMS"):
        floor("surprise.py")


# --- starting quickly


def imported_by(*command: str) -> set[str]:
    """Top-level packages that a Python command imports."""
    command = (sys.executable, "-X", "importtime", *command)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}


@pytest.mark.parametrize("command", [("-m", PACKAGE, "--help"), ("-c", f"import {PACKAGE}.cli")])
def test_help_does_not_wait_for_torch(command):
    assert imported_by(*command) & {"torch", "matplotlib", "openpyxl", "pyarrow", "sklearn", "safetensors"} == set()


def test_files_and_the_console_do_not_wait_for_torch():
    packages = imported_by("-c", f"import {PACKAGE}.core.files, {PACKAGE}.core.console")
    assert PACKAGE in packages
    assert packages & {"torch", "numpy", "rich"} == set()
    assert "torch" in imported_by("-c", f"import {PACKAGE}.core.tree")  # the measure sees it where it is


# --- nothing that runs what a stranger wrote


FORBIDDEN = [
    r"\b(c?[Pp]ickle|cloudpickle|dill|joblib|marshal|shelve)\b",
    r"(?<!\.)\btorch\.(load|save)\(",
    r"\byaml\.(load|load_all|full_load|unsafe_load)\(",
    r"\b(UnsafeLoader|FullLoader)\b",
    r"(?<![\w.])(eval|exec|__import__)\(",
    r"\.(extractall|extract)\(",
    r"\ballow_pickle=(?!False\b)",
    r"\bos\.(system|popen)\(",
    r"\bshell=True",
]


def code(text: str) -> str:
    """Source without comments and strings, spaces only between words."""
    skipped = {tokenize.COMMENT, tokenize.STRING, tokenize.NL, tokenize.INDENT, tokenize.DEDENT}
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in skipped]
    return re.sub(r"(?<!\w) +| +(?!\w)", "", " ".join(t.string for t in tokens if t.string.strip() or t.string == "\n"))


def forbidden(text: str) -> list[str]:
    return [match.group() for pattern in FORBIDDEN for match in re.finditer(pattern, code(text))]


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_nothing_that_runs_foreign_code(module):
    assert forbidden(SOURCES[module]) == []


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from pickle import loads", "import numpy as np; np.load(f, allow_pickle=True)"),
        *("torch.load(path)", "torch . save (x, path)", "yaml.load(text, Loader=L)", "x = eval(text)", "exec(text)"),
        *("archive.extractall()", "np.load(f, allow_pickle=flag)", "subprocess.run(c, shell=True)"),
    ],
)
def test_the_search_finds(line):
    assert len(forbidden(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        *("'no pickle'", "# pickle", "np.load(f, allow_pickle=False)", "model.eval()", "safetensors.torch.load(data)"),
        *("yaml.safe_load(text)", "yaml.compose(text)", "evaluate(x)", "retrieval(x)"),
    ],
)
def test_the_search_does_not_cry_wolf(line):
    assert forbidden(line) == []
