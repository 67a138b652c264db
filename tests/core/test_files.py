"""Files and formats: never half written, damage and forgery refused, and every failure a Problem."""

import contextlib
import errno
import hashlib
import json
import math
import os
import random
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metadist_cli.core import files
from metadist_cli.core.errors import DATA, RETRY, SYSTEM, Problem

ROOT = Path(__file__).resolve().parents[2]
FLOATS = [torch.float64, torch.float32, torch.float16]
DTYPES = [*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def python(script: str, *args: object, **env: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def temps(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".tmp-")]


# --- writing


@pytest.mark.parametrize("save", [files.write, files.publish])
@pytest.mark.parametrize("data", [b"", b"\x00\xff", "text ü\n", b"x" * 3_000_000])
def test_what_is_written_is_read_back(tmp_path, save, data):
    path = tmp_path / "new" / "folder" / "file"
    save(path, data)
    wanted = data.encode() if isinstance(data, str) else data
    assert path.read_bytes() == wanted
    assert files.read(path, len(wanted), "file") == wanted
    assert temps(path.parent) == []


def test_write_replaces(tmp_path):
    path = tmp_path / "file"
    files.write(path, b"old, and longer")
    files.write(path, b"new")
    assert path.read_bytes() == b"new"


def test_write_replaces_a_link_and_not_what_it_points_to(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    files.write(tmp_path / "link", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"
    assert (tmp_path / "link").read_bytes() == b"new"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077])
def test_umask_decides_who_may_read(tmp_path, mask):
    before = os.umask(mask)
    try:
        files.write(tmp_path / "file", b"data")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize(("save", "placing"), [(files.write, "replace"), (files.publish, "link")])
def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch, save, placing):
    calls = []
    fsync, place = os.fsync, getattr(os, placing)
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(("fsync", os.fstat(fd).st_ino)), fsync(fd))[1])
    monkeypatch.setattr(os, placing, lambda a, b: (calls.append((placing, os.stat(a).st_ino)), place(a, b))[1])
    folder = tmp_path / "a" / "b"
    save(folder / "file", b"data")
    file = (folder / "file").stat().st_ino
    assert calls[-3:] == [("fsync", file), (placing, file), ("fsync", folder.stat().st_ino)]
    made = {tmp_path.stat().st_ino, (tmp_path / "a").stat().st_ino}  # they hold the names of the new folders
    assert {inode for _, inode in calls[:-3]} == made


def half_of(write, error):
    def broken(fd, data):
        if len(data) < 10:
            raise error
        return write(fd, data[: len(data) // 2])

    return broken


def closing(close, error):
    def broken(fd):
        close(fd)
        raise error

    return broken


def failing(call, error):
    def broken(*_args, **_keywords):
        raise error

    return broken


@pytest.mark.parametrize("save", [files.write, files.publish])
@pytest.mark.parametrize(
    ("name", "break_", "number", "hint"),
    [
        ("write", half_of, errno.ENOSPC, "free some space"),
        ("write", half_of, errno.EDQUOT, "quota"),
        ("fsync", failing, errno.ENOSPC, "free some space"),
        ("fsync", failing, errno.EIO, "check the path and the disk"),
        ("close", closing, errno.EDQUOT, "quota"),
        ("open", failing, errno.EACCES, "permissions"),
        ("open", failing, errno.EROFS, "read-only"),
        ("open", failing, errno.EMFILE, "ulimit -n"),
        ("place", failing, errno.EACCES, "permissions"),
        ("place", failing, errno.EXDEV, "check the path and the disk"),
        ("place", failing, errno.EPERM, "hard links"),
    ],
)
def test_a_failing_disk_changes_nothing(tmp_path, monkeypatch, save, name, break_, number, hint):
    path = tmp_path / "file"
    if save is files.write:
        path.write_bytes(b"old")
    called = {"place": "replace" if save is files.write else "link"}.get(name, name)
    with monkeypatch.context() as patch:
        patch.setattr(os, called, break_(getattr(os, called), OSError(number, os.strerror(number))))
        with pytest.raises(Problem) as caught:
            save(path, b"new" * 1000)
    assert caught.value.code == SYSTEM
    assert caught.value.where == str(path)
    assert os.strerror(number) in caught.value.message
    assert hint in caught.value.hint
    assert temps(tmp_path) == []
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([b"old"] if save is files.write else [])
    save(path, b"new")  # once the disk works again, so does writing
    assert path.read_bytes() == b"new"


def test_a_failing_sync_of_the_folder_is_reported(tmp_path, monkeypatch):
    fsync = os.fsync

    def broken(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(Problem) as caught:
        files.write(tmp_path / "file", b"new")
    assert caught.value.code == SYSTEM


def test_an_interruption_leaves_no_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(os.fsync, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_limit_on_file_sizes_is_a_problem(tmp_path):
    script = """
import resource, sys
from metadist_cli.core import files
from metadist_cli.core.errors import Problem
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.write(sys.argv[1], b"x" * 5000)
except Problem as problem:
    print(problem.code, problem.hint)
"""
    done = python(script, tmp_path / "file")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{SYSTEM} ")
    assert "ulimit -f" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("save", [files.write, files.publish])
@pytest.mark.parametrize("kind", ["folder is a file", "target is a folder", "name too long", "zero byte", "surrogate"])
def test_impossible_paths_are_problems(tmp_path, save, kind):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    path = {
        "folder is a file": tmp_path / "file" / "x",
        "target is a folder": tmp_path / "folder",
        "name too long": tmp_path / ("x" * 300),
        "zero byte": tmp_path / "a\0b",
        "surrogate": tmp_path / "a\ud800b",
    }[kind]
    with pytest.raises(Problem) as caught:
        save(path, b"new")
    assert caught.value.code in (SYSTEM, DATA)
    assert temps(tmp_path) == []


def test_a_file_where_a_folder_should_be_is_named_as_such(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(Problem) as caught:
        files.write(tmp_path / "file" / "folder" / "x", b"new")
    assert caught.value.hint.startswith("part of this path is a file, not a folder")


KILLED = """
import os, signal, sys
from metadist_cli.core import files
_, call, stage, path = sys.argv
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if stage == "half":
    write = os.write
    os.write = lambda fd, data: (write(fd, data[: len(data) // 2]), die())
else:
    files._stage = lambda name: die() if name == stage else None
getattr(files, call)(path, b"new" * 1000)
"""


@pytest.mark.parametrize("call", ["write", "publish"])
@pytest.mark.parametrize("stage", ["half", "temp", "synced", "renamed"])
def test_a_kill_at_any_stage_leaves_the_old_or_the_new_content(tmp_path, call, stage):
    path = tmp_path / "file"
    if call == "write":
        path.write_bytes(b"old")
    done = python(KILLED, call, stage, path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    if stage == "renamed":
        assert path.read_bytes() == b"new" * 1000
    elif call == "write":
        assert path.read_bytes() == b"old"
    else:
        assert not path.exists()
    left_over = temps(tmp_path)
    getattr(files, call)(path, b"new" * 1000)  # a leftover temporary file does no harm
    assert path.read_bytes() == b"new" * 1000
    assert temps(tmp_path) == left_over


def test_a_planted_temporary_file_is_not_written_through(tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "guessed")
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / f".tmp-{os.getpid()}-guessed").symlink_to(tmp_path / "precious")
    with pytest.raises(Problem) as caught:
        files.write(tmp_path / "file", b"new")
    assert caught.value.code == SYSTEM
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_first_publisher_wins(tmp_path):
    path = tmp_path / "global"
    files.publish(path, b"one")
    inode = path.stat().st_ino
    files.publish(path, b"one")
    assert path.stat().st_ino == inode
    for other in (b"two", b"", b"one and more"):
        with pytest.raises(Problem) as caught:
            files.publish(path, other)
        assert caught.value.code == DATA
        assert caught.value.where == str(path)
    assert path.read_bytes() == b"one"
    assert temps(tmp_path) == []


def test_concurrent_publishing_has_one_winner(tmp_path):
    won, barrier = [], threading.Barrier(8)

    def contend(number: int) -> None:
        barrier.wait()
        with contextlib.suppress(Problem):
            files.publish(tmp_path / "global", str(number))
            won.append(number)

    threads = [threading.Thread(target=contend, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [str(n) for n in won] == [(tmp_path / "global").read_text()]


# --- reading


def refused(path: str | Path, limit: int = 100) -> Problem:
    with pytest.raises(Problem) as caught:
        files.read(path, limit, "checkpoint of node 3")
    assert str(path) in str(caught.value)
    assert caught.value.hint
    return caught.value


@pytest.mark.timeout(20)
def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tmp_path):
        server.bind("socket")
        for name in ("link", "dangling", "loop", "folder", "pipe", "socket", "/dev/zero", "/dev/null"):
            problem = refused(tmp_path / name)
            assert problem.code == DATA
            assert "checkpoint of node 3" in problem.message
            assert "regular file" in problem.message


def test_missing_and_unreadable(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"data")
    for path in (tmp_path / "nothing", tmp_path / "no" / "folder", tmp_path / "file" / "below"):
        assert refused(path).code == DATA
        assert "is missing" in refused(path).message
    for path in (tmp_path / "a\0b", tmp_path / "a\ud800"):
        with pytest.raises(Problem):
            files.read(path, 1, "file")
    monkeypatch.setattr(os, "open", failing(os.open, PermissionError(errno.EACCES, "Permission denied")))
    assert refused(tmp_path / "file").code == SYSTEM


def test_size_limit_is_exact_and_comes_before_reading(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100)
    assert files.read(tmp_path / "file", 100, "file") == b"x" * 100
    assert "100 bytes" in refused(tmp_path / "file", 99).message
    with open(tmp_path / "sparse", "wb") as f:
        f.truncate(1 << 40)
    assert refused(tmp_path / "sparse", 1 << 30).code == DATA
    (tmp_path / "empty").touch()
    assert files.read(tmp_path / "empty", 0, "file") == b""
    assert files.read(tmp_path / "empty", 1 << 60, "file") == b""  # the limit is not allocated


@pytest.mark.parametrize("change", [b"xx", b"xxxxxxxx"])
def test_a_file_that_changes_while_read_is_refused(tmp_path, monkeypatch, change):
    path, fstat = tmp_path / "file", os.fstat
    path.write_bytes(b"data")

    def changing(fd):
        status = fstat(fd)
        path.write_bytes(change)
        return status

    monkeypatch.setattr(os, "fstat", changing)
    assert "changed while" in refused(path).message


def test_reading_leaves_no_descriptor_open(tmp_path):
    (tmp_path / "file").write_bytes(b"data")
    count = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("needs /proc")
    for name in ("file", "nothing", "."):
        with contextlib.suppress(Problem):
            files.read(tmp_path / name, 2 if name == "file" else 100, "file")
    files.write(tmp_path / "file", b"x")
    assert len(os.listdir("/proc/self/fd")) == count


# --- lock


HOLDER = """
import sys, time
from metadist_cli.core import files
with files.lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


def test_lock_has_one_holder_and_dies_with_it(tmp_path):
    path = tmp_path / "run" / "lock"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], env=environment, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(Problem) as caught, files.lock(path):
                pytest.fail("two holders")
            assert caught.value.code == RETRY
            assert caught.value.where == str(path)
        finally:
            holder.kill()
    with files.lock(path):
        assert path.exists()
    assert path.exists()  # removing it would let two processes in


def test_lock_is_free_after_an_error_and_not_kept_by_children(tmp_path):
    path = tmp_path / "lock"
    with files.lock(path):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], close_fds=False)
    try:
        with pytest.raises(ZeroDivisionError), files.lock(path):
            raise ZeroDivisionError
        with files.lock(path), pytest.raises(Problem), files.lock(path):
            pytest.fail("two holders")
    finally:
        child.kill()
        child.wait()


def test_lock_is_free_although_a_copy_of_its_descriptor_lives(tmp_path, monkeypatch):
    """As it does briefly in every child that starts, and for long in a forked one."""
    opened, real = [], os.open
    monkeypatch.setattr(os, "open", lambda *args: opened.append(real(*args)) or opened[-1])
    with files.lock(tmp_path / "lock"):
        copy = os.dup(opened[-1])
    try:
        with files.lock(tmp_path / "lock"):
            assert os.fstat(copy).st_nlink == 1
    finally:
        os.close(copy)


def test_lock_on_an_impossible_path(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "link", tmp_path):
        with pytest.raises(Problem) as caught, files.lock(path):
            pytest.fail("locked")
        assert caught.value.code == SYSTEM
    monkeypatch.setattr(files.fcntl, "flock", failing(None, OSError(errno.ENOLCK, "No locks available")))
    with files.lock(tmp_path / "lock") as held:  # a file system without locks
        assert held is None
    monkeypatch.setattr(files.fcntl, "flock", failing(None, OSError(errno.EIO, "Input/output error")))
    with pytest.raises(Problem) as caught, files.lock(tmp_path / "lock"):
        pytest.fail("locked")
    assert caught.value.code == SYSTEM


# --- JSON


numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"))
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
@settings(deadline=None)
def test_json_round_trip(value):
    text = files.to_json(value)
    assert text == json.dumps(value, sort_keys=True, indent=1) + "\n"
    assert text.isascii()
    assert text.endswith("\n")
    assert repr(files.from_json(text, "here")) == repr(json.loads(text))
    assert files.from_json(text.encode(), "here") == value


@given(st.binary(max_size=60) | st.text(max_size=60) | st.text('[]{}",:0123456789eE+-.\\ud8nulNaInfity ', max_size=30))
@settings(deadline=None, max_examples=500)
def test_untrusted_json_is_read_as_json_or_refused(data):
    with contextlib.suppress(Problem):
        assert repr(files.from_json(data, "here")) == repr(json.loads(data))


def test_json_is_canonical():
    assert files.to_json({"b": [1, 2.5], "a": {"d": None, "c": "ü"}}) == (
        '{\n "a": {\n  "c": "\\u00fc",\n  "d": null\n },\n "b": [\n  1,\n  2.5\n ]\n}\n'
    )
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="JSON"):
            files.to_json({"x": bad})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "b": 2, "a": 1}', 'duplicate key "a"'),
        ('[{"x": {"\\u001b[31m": 1, "\\u001b[31m": 2}}]', r'duplicate key "\x1b[31m"'),
        ("[NaN]", "not finite"),
        ("[-Infinity]", "not finite"),
        ("[1e999]", "not finite"),
        ("[18446744073709551616]", "64 bits"),
        ("[-9223372036854775809]", "64 bits"),
        ("1" * 100_000, "64 bits"),
        ("[" * 52 + "]" * 52, "nested deeper"),
        ("[" * 200_000, "nested deeper"),
        ('{"a":' * 60 + "1" + "}" * 60, "nested deeper"),
        ('{"a": 1,\n "b" 2}', "line 2, column 6"),
        ("", "not valid JSON"),
        ("{} {}", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
        ('["\\ud800"]', "surrogate"),
        ('{"\\uDFFF": 1}', "surrogate"),
    ],
)
def test_json_traps(text, says):
    with pytest.raises(Problem) as caught:
        files.from_json(text, "manifest.json")
    assert says in caught.value.message
    assert caught.value.where == "manifest.json"
    assert caught.value.code == DATA
    assert len(caught.value.message) < 300


def test_json_limits_are_not_too_tight():
    assert files.from_json("[" * 51 + "]" * 51, "here") is not None
    assert files.from_json("[18446744073709551615, -9223372036854775808]", "here") == [2**64 - 1, -(2**63)]
    assert files.from_json('["\\ud83d\\ude00"]', "here") == ["\N{GRINNING FACE}"]


def test_many_duplicate_keys_are_found_quickly():
    pairs = ",".join(f'"{i}":0' for i in range(200_000))
    with pytest.raises(Problem, match="duplicate key"):
        files.from_json(f'{{{pairs},"199999":0}}', "here")


def test_sha256():
    assert files.sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2


# --- tensors


@st.composite
def tensor_maps(draw) -> dict[str, torch.Tensor]:
    out = {}
    for name in draw(st.lists(texts.filter(lambda t: t != "__metadata__"), max_size=5, unique=True)):
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(st.lists(st.integers(0, 3), max_size=4))
        count = math.prod(shape)
        size = dtype.itemsize
        raw = bytearray(draw(st.binary(min_size=count * size, max_size=count * size)))
        if dtype is torch.bool:
            raw = bytearray(b & 1 for b in raw)
        out[name] = (torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)).reshape(shape)
    return out


def content(tensors: dict[str, torch.Tensor]) -> dict:
    """Bytes instead of values: signs of zeros and bits of NaN matter."""
    return {n: (t.dtype, tuple(t.shape), t.contiguous().numpy().tobytes()) for n, t in tensors.items()}


@given(tensor_maps(), st.dictionaries(texts.filter(lambda k: k != "sha256"), json_values, max_size=3))
@settings(deadline=None)
def test_tensors_round_trip(tensors, header):
    data = files.pack(tensors, header)
    back, back_header = files.unpack(data, "here")
    assert content(back) == content(tensors)
    assert back_header == header
    assert list(back) == sorted(tensors)
    assert content(safetensors.torch.load(data)) == content(tensors)  # the reference reader agrees
    reordered = dict(reversed(tensors.items())), dict(reversed(header.items()))
    assert files.pack(*reordered) == data


def test_views_shared_and_odd_tensors_round_trip():
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "whole": base,
        "again": base,
        "row": base[1],
        "column": base[:, 1],
        "turned": base.t(),
        "wide": base[:1].expand(5, 4),
        "odd": torch.tensor([-0.0, math.nan, math.inf, 1e-45]),
        "needs_grad": torch.ones(2, requires_grad=True),
    }
    back, _ = files.unpack(files.pack(tensors, {}), "here")
    for name, t in tensors.items():
        np.testing.assert_array_equal(back[name].numpy(), t.detach().numpy())
    back["row"][:] = 7  # a separate tensor: writable and not shared
    assert back["whole"][1, 0] == 4


def test_the_seal_is_the_documented_one():
    """Independent reading of the format: struct, json and hashlib alone."""
    data = files.pack({"w": torch.ones(2, 3), "n": torch.tensor(7)}, {"round": 3, "parent": {"sha256": "0" * 64}})
    (length,) = struct.unpack("<Q", data[:8])
    table = json.loads(data[8 : 8 + length])
    assert set(table) == {"__metadata__", "w", "n"}
    assert set(table["__metadata__"]) == {"metadist"}
    header = json.loads(table["__metadata__"]["metadist"])
    seal = header.pop("sha256")
    assert header == {"round": 3, "parent": {"sha256": "0" * 64}}
    assert data.count(seal.encode()) == 1
    assert hashlib.sha256(data.replace(seal.encode(), b"0" * 64)).hexdigest() == seal


SAME = """
import torch
from metadist_cli.core import files
names = {"b.weight", "a.weight", "c", "a.bias", "z", "ü"}
tensors = {n: torch.full((len(n), 3), 0.5) for n in names} | {"steps": torch.tensor([4, 5])}
header = {n: {"x": [1, 2.5, None], "y": n} for n in names}
print(files.sha256(files.pack(tensors, header)), files.sha256(files.to_json(header).encode()))
"""


def test_same_bytes_in_every_process():
    runs = [python(SAME, PYTHONHASHSEED=seed) for seed in ("0", "1", "4242")]
    assert [r.stderr for r in runs] == ["", "", ""]
    assert len({r.stdout for r in runs}) == 1


def test_programming_errors_are_not_problems():
    with pytest.raises(ValueError, match="sha256"):
        files.pack({}, {"sha256": "x"})
    with pytest.raises(ValueError, match="JSON"):
        files.pack({}, {"loss": math.nan})
    for dtype in (torch.complex64, torch.bfloat16, torch.uint16):
        with pytest.raises(ValueError, match=f'"w" is {str(dtype)[6:]}, which a tensor file cannot hold'):
            files.pack({"w": torch.zeros(2, dtype=dtype)}, {})


SMALL = {"w": torch.tensor([[1.0, -2.0]]), "é": torch.tensor([True, False]), "n": torch.tensor(3)}


def small() -> bytes:
    return files.pack(SMALL, {"round": 1, "text": "ü\x1f", "lr": 1e-5})


def refuses(data: bytes, **keywords) -> Problem:
    with pytest.raises(Problem) as caught:
        files.unpack(data, "node-003.safetensors", **keywords)
    assert caught.value.code == DATA
    assert caught.value.where == "node-003.safetensors"
    assert caught.value.hint
    return caught.value


def test_every_flipped_bit_of_a_small_file_is_detected():
    data = small()
    files.unpack(data, "here")
    for bit in range(8 * len(data)):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        refuses(bytes(bad))


def test_flipped_bits_of_a_larger_file_are_detected():
    rng = random.Random(1)
    data = files.pack({f"layer{i}": torch.full((50, 50), 1.0 * i) for i in range(10)}, {"round": 9})
    for _ in range(500):
        bad = bytearray(data)
        bit = rng.randrange(8 * len(data))
        bad[bit // 8] ^= 1 << bit % 8
        refuses(bytes(bad))


def test_truncated_at_every_length():
    data = small()
    for length in range(len(data)):
        refuses(data[:length])
    assert "empty" in refuses(b"").message
    assert "damaged" in refuses(data[:-1]).message
    assert "truncated" in refuses(data[:200]).message


@pytest.mark.parametrize("extra", [b"\0", b" ", b"x" * 1000])
def test_extra_bytes(extra):
    refuses(small() + extra)
    refuses(extra + small())


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_noise_is_refused(noise):
    refuses(noise)
    refuses(small()[:8] + noise)


def test_files_of_other_programs_are_refused(tmp_path):
    class Boom:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    import pickle

    torch.save(SMALL, tmp_path / "model.pt")
    for data in (
        pickle.dumps(Boom()),
        (tmp_path / "model.pt").read_bytes(),
        safetensors.torch.save(SMALL),
        safetensors.torch.save(SMALL, {"format": "pt"}),
        safetensors.torch.save(SMALL, {"metadist": "{}"}),
        b"\x89PNG\r\n\x1a\n" * 50,
    ):
        assert "not a tensor file written by metadist" in refuses(data).message
    assert not (tmp_path / "executed").exists()


def forge(entries: str, body: bytes = b"", meta: str = '"round":1', outside: str = "") -> bytes:
    """A file with a valid seal, as a hostile node could make it; `entries` is the JSON text of the tensor table."""
    inner = json.dumps(f'{{"sha256":"{"0" * 64}",{meta}}}')
    table = f'{{"__metadata__":{{"metadist":{inner}{outside}}}{entries}}}'.encode()
    table += b" " * (-len(table) % 8)
    blank = struct.pack("<Q", len(table)) + table + body
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


def entry(name: str = "w", dtype: str = '"F32"', shape: str = "[2]", offsets: str = "[0,8]", more: str = "") -> str:
    return f',{json.dumps(name)}:{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}{more}}}'


def test_the_forger_can_forge():
    tensors, header = files.unpack(forge(entry(), struct.pack("<2f", 1, 2)), "here")
    assert tensors["w"].tolist() == [1, 2]
    assert header == {"round": 1}


B8 = bytes(8)


@pytest.mark.parametrize(
    "data",
    [
        forge(entry(offsets="[0,1000000000000]"), B8),
        forge(entry(shape="[250000000000]", offsets="[0,1000000000000]"), B8),
        forge(entry(shape="[1000000000000]"), B8),
        forge(entry(shape="[2,-1]"), B8),
        forge(entry(shape="[2.0]"), B8),
        forge(entry(shape="[true,2]"), B8),
        forge(entry(shape='"2"'), B8),
        forge(entry(shape='["2"]'), B8),
        forge(entry(shape="[[2]]"), B8),
        forge(entry(shape="[1,1,1,1,1,1,1,1,2]"), B8),
        forge(entry(shape=f"[{'1,' * 10_000}2]"), B8),
        forge(entry(shape="[0,4611686018427387904,4]", offsets="[0,0]")),
        forge(entry(offsets="[8,0]"), B8),
        forge(entry(offsets="[-8,0]"), B8),
        forge(entry(offsets="[0,8,8]"), B8),
        forge(entry(offsets="[0]"), B8),
        forge(entry(offsets="[0,18446744073709551616]"), B8),
        forge(entry(dtype='"BF16"', shape="[4]"), B8),
        forge(entry(dtype='"F4"', shape="[16]"), B8),
        forge(entry(dtype='"C64"', shape="[1]"), B8),
        forge(entry(dtype='"evil"'), B8),
        forge(entry(dtype="4"), B8),
        forge(entry(dtype='"BOOL"', shape="[8]"), b"\0\1\2\0\0\0\0\0"),
        forge(entry(more=',"extra":1'), B8),
        forge(entry(more=',"dtype":"F32"'), B8),
        forge(entry() + entry(), B8),
        forge(entry() + entry("v"), B8),  # both on the same bytes
        forge(entry(offsets="[8,16]"), B8 * 2),  # a hole
        forge(entry(), B8 + b"hidden"),
        forge(entry() + ',"__metadata__":{}', B8),
        forge(',"w":[1,2]', B8),
        forge(',"w":null', B8),
        forge(',"w":{}', B8),
        forge(",", B8),
        forge("}{", B8),
        forge(f',"w":{"[" * 5000}', B8),
        forge("", outside=',"more":"x"'),
        forge("", outside=',"more":1'),
        forge("", outside=',"metadist":"{}"'),
        forge("", meta='"a":1,"a":2'),
        forge("", meta='"a":NaN'),
        forge("", meta=f'"a":{"[" * 60}{"]" * 60}'),
        forge("", meta='"sha256":"x"'),
        forge("", meta=""),
        forge("", meta='"a":' + "9" * 5000),
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_forged_files_with_a_valid_seal_are_refused(data):
    problem = refuses(data)
    assert "SHA-256" not in problem.message
    assert len(problem.message) < 400


def test_forged_names_cannot_reach_the_terminal():
    for name in ("\x1b[31mred", "a\nb", "\u202egpj", "x" * 100_000):
        problem = refuses(forge(entry(name, dtype='"BF16"'), B8))
        assert problem.message.isprintable()
        assert len(problem.message) < 400


def test_number_of_tensors_is_limited():
    many = forge("".join(entry(str(i), shape="[0]", offsets="[0,0]") for i in range(11)))
    assert len(files.unpack(many, "here", tensors_max=11)[0]) == 11
    assert "11 tensors" in refuses(many, tensors_max=10).message


def test_claimed_header_sizes():
    data = forge(entry(), B8)
    for claim in (100_000_000, 2**63, 2**64 - 1):
        assert "header of" in refuses(struct.pack("<Q", claim) + data[8:]).message
    assert "truncated" in refuses(struct.pack("<Q", 60_000_000) + data[8:]).message
    for claim in (0, 1, 20, 100, 150):
        refuses(struct.pack("<Q", claim) + data[8:])


# --- template


TEMPLATE = {"b": torch.zeros(3), "a": torch.zeros(2, 2), "n": torch.zeros(1, dtype=torch.int64)}


def test_check_accepts_matching_tensors():
    files.check({k: v.clone() + 1 for k, v in TEMPLATE.items()}, TEMPLATE, "here")
    files.check(dict(reversed(TEMPLATE.items())), {k: v.to("meta") for k, v in TEMPLATE.items()}, "here")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"b": None}, 'tensor "b" is missing'),
        ({"a": None, "b": None}, 'tensor "a" is missing'),
        ({"c": torch.zeros(1)}, 'unexpected tensor "c"'),
        ({"\x1b[1m": torch.zeros(1)}, r'unexpected tensor "\x1b[1m"'),
        ({"a": torch.zeros(4)}, '"a" is float32 (4,), expected float32 (2, 2)'),
        ({"a": torch.zeros(2, 2, 1)}, "float32 (2, 2, 1), expected"),
        ({"b": torch.zeros(3, dtype=torch.float64)}, '"b" is float64 (3,), expected float32 (3,)'),
        ({"n": torch.zeros(1, dtype=torch.int32)}, '"n" is int32'),
        ({"b": torch.tensor([0.0, math.nan, 0.0])}, '"b" contains NaN or infinity'),
        ({"b": torch.tensor([0.0, -math.inf, 0.0])}, '"b" contains NaN or infinity'),
    ],
)
def test_check_names_the_first_difference(change, says):
    tensors = {k: v for k, v in {**TEMPLATE, **change}.items() if v is not None}
    with pytest.raises(Problem) as caught:
        files.check(tensors, TEMPLATE, "node-003.safetensors")
    assert says in caught.value.message
    assert (caught.value.where, caught.value.code) == ("node-003.safetensors", DATA)
