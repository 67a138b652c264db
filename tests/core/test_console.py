"""The console: at most one JSON object on standard output, lines that fit, no bars or colours without a terminal."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from datetime import datetime
from pathlib import Path

import pytest
from rich.cells import cell_len

from metadist_cli.core import console as module
from metadist_cli.core.console import Console
from metadist_cli.core.errors import CONFIG, DATA, Problem

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ("CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


def environment(**extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in PLAIN}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **extra}


def on_terminal(script: str, columns: int = 80, **extra: str) -> str:
    """What a terminal of this width receives from both streams of a script."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-c", script]
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with subprocess.Popen(command, env=environment(**extra), **streams) as process:
        os.close(theirs)
        out = b""
        while chunk := _read(ours):
            out += chunk
    os.close(ours)
    assert process.returncode == 0, out.decode()
    return out.decode()


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # Linux reports EIO once the other side is closed
        return b""


def piped(script: str, **extra: str) -> tuple[str, str]:
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment(**extra), capture_output=True, timeout=60, check=True)
    return done.stdout.decode(), done.stderr.decode()


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


# --- where things go


def test_text_goes_to_standard_output(capsys):
    c = Console()
    c.say("said")
    c.detail("detailed")
    c.warn("warned")
    c.result({"a": 1})
    assert capsys.readouterr() == ("said\nwarning: warned\n", "")


def test_verbose_and_quiet(capsys):
    Console(verbose=True).detail("detailed")
    assert capsys.readouterr().out == "detailed\n"
    quiet = Console(quiet=True, verbose=True)
    quiet.say("said")
    quiet.detail("detailed")
    quiet.table("title", ["a"], [[1]])
    with quiet.progress("train: round", 2) as p:
        p.advance()
    assert capsys.readouterr() == ("", "")
    quiet.warn("warned")
    quiet.problem(Problem("wrong"))
    assert capsys.readouterr() == ("warning: warned\n", "wrong\n")


def test_with_json_only_the_result_goes_to_standard_output(capsys):
    c = Console(json=True, verbose=True)
    c.say("said")
    c.detail("detailed")
    c.warn("warned")
    c.table("title", ["a"], [[1]])
    with c.progress("train: round", 2) as p:
        p.advance()
    c.result({"rounds": 3, "loss": [0.5, None], "name": "ü\n"})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"rounds": 3, "loss": [0.5, None], "name": "ü\n"}
    assert out.count("\n") == 1
    for word in ("said", "detailed", "warned", "title", "round 1/2"):
        assert word in err


PROBLEM = Problem.combined(
    [
        Problem("unknown key `iner_steps`", "a.yaml:9:3", "did you mean `inner_steps`?", CONFIG),
        Problem("two", code=DATA),
    ]
)


def test_a_problem_is_text_on_standard_error(capsys):
    Console().problem(PROBLEM)
    assert capsys.readouterr() == ("", str(PROBLEM) + "\n")


def test_with_json_a_problem_is_an_object(capsys):
    Console(json=True).problem(PROBLEM)
    out, err = capsys.readouterr()
    first = {"message": PROBLEM.message, "where": "a.yaml:9:3", "hint": PROBLEM.hint}
    second = {"message": "two", "where": "", "hint": ""}
    assert json.loads(out) == {"error": {"code": 3, **first, "all": [first, second]}}
    assert err == ""


def test_a_problem_after_the_result_does_not_spoil_it(capsys):
    c = Console(json=True)
    c.result({"a": 1})
    c.problem(Problem("late"))
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": 1}
    assert json.loads(err)["error"]["message"] == "late"


def test_nan_is_never_printed_as_json():
    with pytest.raises(ValueError, match="JSON"):
        Console(json=True).result({"loss": float("nan")})


def test_text_from_files_cannot_control_the_terminal(capsys):
    c = Console()
    c.say("\x1b[31mred")
    c.table("\x1b]0;title\x07", ["\x1b[1m"], [["\x1b[2J[red]x[/red]"]])
    with c.progress("\x1b[5mround", 1) as p:
        p.advance(name="\x1b[1m")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[red]x[/red]" in out  # not interpreted as markup


def test_an_ascii_stream_gets_question_marks():
    script = (
        "from metadist_cli.core.console import Console; c = Console(); c.say('96 ± 1'); c.table('é', ['ü'], [['ö']])"
    )
    assert piped(script, PYTHONIOENCODING="ascii") == ("96 ? 1\n?\n?\n?\n", "")


# --- tables


ROWS = [["maml, second order", "19.8%", "96.1% ± 0.4", 1024], ["fedavg", "10.0%", "8.5% ± 0.4", None]]


def test_a_plain_table_is_aligned(capsys):
    Console().table("600 new tasks", ["method", "before", "after", "tasks"], ROWS)
    assert capsys.readouterr().out == (
        "600 new tasks\n"
        "method              before        after  tasks\n"
        "maml, second order   19.8%  96.1% ± 0.4   1024\n"
        "fedavg               10.0%   8.5% ± 0.4      -\n"
    )


def test_tables_without_rows_or_title(capsys):
    Console().table("", ["a", "b"], [])
    assert capsys.readouterr().out == "a  b\n"


def test_a_piped_table_is_not_folded(capsys):
    Console().table("", ["a", "b"], [["x" * 300, "y"]])
    assert capsys.readouterr().out == f"a{' ' * 299}  b\n{'x' * 300}  y\n"


LONG = """
from metadist_cli.core.console import Console
Console().table("A title that is itself much longer than the terminal is wide, " * 2,
    ["method", "description", "path", "%"],
    [["maml", "words " * 30, "/" + "x" * 200, "1%"], ["日本語" * 20, "short", None, "100%"]])
"""


@pytest.mark.parametrize("columns", [80, 40, 132])
@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_a_table_fits_the_terminal_and_loses_nothing(columns, term):
    text = on_terminal(LONG, columns, TERM=term)
    assert ("\x1b" in text) == (term != "dumb")
    lines = without_codes(text).splitlines()
    assert max(cell_len(line) for line in lines) <= columns
    assert text.count("x") == 200
    assert without_codes(text).count("words") == 30
    assert sum(text.count(c) for c in "日本語") == 60


# --- progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def test_progress_lines_come_first_last_and_every_ten_seconds(capsys, clock):
    with Console().progress("train: round", 50) as p:
        for i in range(50):
            clock.now += 0.8
            p.advance(loss=1.2034567, accuracy=f"{i}%", test_loss=12345678.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: round 0/50"
    assert lines[1] == "train: round 13/50  loss 1.203  accuracy 12%  test loss 1.235e+07  0.8 s a round"
    assert [line.split()[2] for line in lines] == ["0/50", "13/50", "26/50", "39/50", "50/50"]


def test_progress_ends_where_the_work_stopped_and_repeats_no_line(capsys, clock):
    def work(p: module.Progress) -> None:
        clock.now += 0.02
        p.advance(2, loss=3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Console().progress("train: episode", 9, done=4) as p:
        work(p)
    assert capsys.readouterr().out == "train: episode 4/9\ntrain: episode 6/9  loss 3  10.0 ms an episode\n"
    with Console().progress("partition", None) as p:
        clock.now += 11
        p.advance()
    assert capsys.readouterr().out == "partition 0\npartition 1  11.0 s a partition\n"
    with Console().progress("nothing", 0):
        pass
    assert capsys.readouterr().out == "nothing 0/0\n"


TRAIN = """
from metadist_cli.core.console import Console
import sys
c = Console(json="json" in ARGS, quiet="quiet" in ARGS)
with c.progress("train: round", 30) as p:
    for i in range(30):
        p.advance(loss=2.5 / (i + 1), accuracy="61.2%", a_figure_with_a_long_name=1e-9, and_yet_another_one=3.25)
        if i == 10:
            c.say("said meanwhile")
            c.table("", ["a", "b"], [["cell", "x" * 100]])
c.result({"done": True})
"""


@pytest.mark.parametrize("columns", [80, 60])
def test_a_bar_fits_the_terminal(columns):
    text = on_terminal("ARGS=''\n" + TRAIN, columns)
    lines = re.split(r"[\r\n]+", without_codes(text))
    assert "\x1b[" in text
    assert "━" in text
    assert "30/30" in text
    assert "loss 0.083" in text
    assert [line.rstrip() for line in lines].count("said meanwhile") == 1
    assert max(cell_len(line) for line in lines) <= columns
    assert "\x1b[?25h" in text.split("\x1b[?25l")[-1]  # the cursor is shown again


@pytest.mark.parametrize("extra", [{"TERM": "dumb"}, {"CI": "true"}, {"CI": "1"}, {"TERM": ""}])
def test_no_bar_on_dumb_terminals_or_in_ci(extra):
    text = on_terminal("ARGS=''\n" + TRAIN, **extra)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "train: round 0/30"
    assert lines[-1].startswith("train: round 30/30  loss 0.08333  accuracy 61.2%")
    assert len([line for line in lines if line.startswith("train")]) == 2


def test_ci_false_allows_a_bar():
    assert "━" in on_terminal("ARGS=''\n" + TRAIN, CI="false")


def test_no_color():
    colour = re.compile(r"\x1b\[[0-9;]*(3[0-9]|4[0-9]|38;5;[0-9]+)m")
    assert colour.search(on_terminal("ARGS=''\n" + TRAIN))
    without = on_terminal("ARGS=''\n" + TRAIN, NO_COLOR="1")
    assert not colour.search(without)
    assert "━" in without


def test_quiet_bar():
    assert on_terminal("ARGS='quiet'\n" + TRAIN) == ""


def test_piped_progress():
    out, err = piped("ARGS=''\n" + TRAIN)
    assert err == ""
    assert "\x1b" not in out
    assert "\r" not in out
    assert len(out.splitlines()) == 5
    out, err = piped("ARGS='json'\n" + TRAIN)
    assert json.loads(out) == {"done": True}
    assert len(err.splitlines()) == 5


def test_bar_on_the_terminal_with_the_result_piped(tmp_path):
    """`metadist train x.yaml --json > out.json`: the terminal shows the bar, the file holds one object."""
    script = f"import sys; sys.stdout = open({str(tmp_path / 'out')!r}, 'w')\nARGS='json'\n{TRAIN}\nsys.stdout.close()"
    text = on_terminal(script)
    assert "━" in text
    assert "said meanwhile" in text
    assert json.loads((tmp_path / "out").read_text()) == {"done": True}


# --- log


def logged(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    for line in lines:
        assert datetime.fromisoformat(line.split(" ", 1)[0]).tzinfo is not None
    return [line.split(" ", 1)[1] for line in lines]


def test_the_log_holds_everything(tmp_path, capsys, clock):
    c = Console(quiet=True)
    c.say("before the log was open")
    c.open_log(tmp_path / "log.txt")
    c.say("said\nin two lines")
    c.detail("detailed \x1b[1m")
    c.warn("warned")
    c.table("title", ["a", "b"], [["x", 1]])
    with c.progress("train: round", 2) as p:
        p.advance(2)
    c.problem(Problem("wrong", hint="fix it"))
    assert logged(tmp_path / "log.txt") == [
        "before the log was open",
        *("said", "in two lines", r"detailed \x1b[1m", "warning: warned"),
        *("title", "a  b", "x  1"),
        *("train: round 0/2", "train: round 2/2  0.0 ms a round"),
        *("wrong", "  -> fix it"),
    ]
    again = Console()
    again.open_log(tmp_path / "log.txt")
    again.say("appended")
    assert logged(tmp_path / "log.txt")[-2:] == ["  -> fix it", "appended"]


def test_a_log_waits_for_its_folder(tmp_path):
    """A new run's folder is created by its first command, which may stop at any moment after."""
    c = Console(quiet=True)
    c.open_log(tmp_path / "run" / "log.txt")
    c.say("before there was a run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    c.say("then")
    assert logged(tmp_path / "run" / "log.txt") == ["before there was a run", "then"]


@pytest.mark.timeout(20)
def test_a_log_that_cannot_be_written_is_no_error(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    for path in (tmp_path, tmp_path / "no" / "folder", tmp_path / "pipe", tmp_path / "link", "/dev/full"):
        c = Console()
        c.open_log(path)
        c.say("said")
    assert capsys.readouterr() == ("said\n" * 5, "")
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_bar_is_logged_as_lines(tmp_path):
    script = TRAIN.replace("with c.progress", f"c.open_log({str(tmp_path / 'log')!r})\nwith c.progress")
    assert "━" in on_terminal("ARGS=''\n" + script)
    lines = logged(tmp_path / "log")
    assert lines[0] == "train: round 0/30"
    assert lines[-1].startswith("train: round 30/30")
    assert "said meanwhile" in lines


def test_plain_output_does_not_import_rich():
    script = """
import sys
from metadist_cli.core.console import Console
Console().say("said")
with Console().progress("round", 1) as p:
    p.advance()
print([m for m in ("rich", "torch", "numpy", "pydantic") if m in sys.modules])
"""
    out, err = piped(script)
    assert out.splitlines()[-1] == "[]"
    assert err == ""
