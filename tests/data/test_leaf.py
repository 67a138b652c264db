"""LEAF's files: against the plain json module, and the counts of files that others wrote; and 100,000 users."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runner import Lab, environment, proc
from texts import PEAK, members, samples, spelt

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.new_rows import rows_in_memory
from metadist_cli.data.readers.characters import LEAF
from metadist_cli.data.sets.leaf import leaf
from metadist_cli.data.types import Dataset, Windows
from metadist_cli.storage import run_directory, shard_files

Users = dict[str, tuple[list, list]]  # name -> x, y


def real(*parts: str) -> Path:
    path = Path(os.environ.get("METADIST_DATA", "nowhere"), *parts)
    if not path.exists():
        pytest.skip(f"METADIST_DATA has no {'/'.join(parts)}")
    return path


def content(users: Users, **more: Any) -> dict[str, Any]:
    return {
        "users": list(users),
        "num_samples": [len(y) for _, y in users.values()],
        "user_data": {user: {"x": x, "y": y} for user, (x, y) in users.items()},
        **more,
    }


def write(path: Path, users: Users, **more: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content(users, **more)))
    return str(path)


def one(path: Path, x: list, y: list, **options: Any) -> Dataset:
    return leaf(0, path=write(path / "own.json", {"ann": (x, y)}), **options)


def test_rows_may_name_pictures(tmp_path: Path):
    """CelebA's: the pixels are those that Pillow decodes, and no name leads out of the folder."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (4, 10, 10, 3), dtype=np.uint8)
    names = [f"{i:06d}.png" for i in range(4)]
    (tmp_path / "faces").mkdir()
    for name, pixels in zip(names, noise, strict=True):
        Image.fromarray(pixels).save(tmp_path / "faces" / name)
    users = {"ann": (names[:1], [1]), "bob": (names[1:], [0, 1, 0])}
    options = {"path": write(tmp_path / "own.json", users), "images": str(tmp_path / "faces")}
    data = leaf(0, size=10, **options)
    assert np.array_equal(data.x[np.arange(4)], noise.transpose(0, 3, 1, 2))
    assert (data.divide, data.label.tolist(), data.groups["user"].code.tolist()) == (255.0, [1, 0, 1, 0], [0, 1, 1, 1])
    assert leaf(0, size=5, **options).x.shape == (4, 3, 5, 5)
    (tmp_path / "secret.png").write_bytes((tmp_path / "faces" / names[0]).read_bytes())
    for name in ("../secret.png", str(tmp_path / "secret.png"), "notes.txt"):
        with pytest.raises(Problem, match="row 1 names no image"):
            one(tmp_path, [names[0], name], [0, 1], images=options["images"])
    (tmp_path / "faces" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(Problem, match="not a regular file"):
        one(tmp_path, ["link.png"], [0], images=options["images"])


# ----------------------------------------------------------------------------------------------- rows and labels


def test_numbers(tmp_path: Path) -> None:
    d = leaf(0, path=write(tmp_path / "a.json", {"bob": ([[0, 1.5], [2, -3]], [7, 3.0]), "ann": ([[1e-3, 9]], [7])}))
    assert d.x.dtype == np.float32
    assert np.array_equal(d.x, np.array([[0, 1.5], [2, -3], [1e-3, 9]], dtype=np.float32))
    assert (d.classes, d.label.tolist()) == (("3", "7"), [1, 0, 1])
    assert (d.groups["user"].names, d.groups["user"].code.tolist()) == (("bob", "ann"), [0, 0, 1])
    assert (d.row_role, d.divide, set(d.groups)) == (None, 1.0, {"user"})


def test_pictures_in_the_shape_of_femnist(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (3, 784)) / 255
    d = one(tmp_path, x.tolist(), [0, 61, 5], shape=[28, 28], classes=62)
    assert d.x.shape == (3, 28, 28)
    assert np.array_equal(d.x[:], x.astype(np.float32).reshape(-1, 28, 28))
    assert (len(d.classes), d.label.tolist()) == (62, [0, 61, 5])


def test_rows_of_more_axes(tmp_path: Path) -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(one(tmp_path, x.tolist(), [0, 1]).x[:], x)


def test_labels_that_are_names(tmp_path: Path) -> None:
    d = one(tmp_path, [[1], [2], [3]], ["up", "down 10", "down 9"])
    assert (d.classes, d.label.tolist()) == (("down 9", "down 10", "up"), [2, 1, 0])


def test_next_characters_become_windows(tmp_path: Path) -> None:
    pairs = samples("It is a tale told by an idiot, full of sound and fury, signifying nothing. " * 3)
    x, y = map(list, zip(*pairs, strict=True))
    d = one(tmp_path, x, y)
    assert isinstance(d.x, Windows)
    assert spelt(d) == pairs
    assert len(d.x.source) == len(x) + 79, "the text is held once"
    d = one(tmp_path, x[::2], y[::2], vocabulary="data")
    letters = sorted(set("".join(x[::2] + y[::2])))
    assert ["".join(letters[c] for c in row) for row in d.x[:].tolist()] == x[::2]
    assert [letters[c] for c in d.label] == y[::2]
    assert d.classes == ("space", *letters[1:])


def test_free_text_of_sent140(tmp_path: Path) -> None:
    rows = [
        ["1", "Mon", "q", "ann", "so \u2665 sad"],
        ["2", "Tue", "q", "ann", "what a long, long day"],
        ["3", "", "", "", ""],
    ]
    d = one(tmp_path, rows, [0, 1, 0], column=4, length=10)
    assert ["".join(LEAF[c] for c in row) for row in d.x[:].tolist()] == ["   so  sad", "what a lon", " " * 10]
    assert d.classes == ("0", "1")
    d = one(tmp_path, ["good", "bad news"], ["4", "0"], length=8)
    assert (d.classes, d.label.tolist()) == (("0", "4"), [1, 0])


def test_hierarchies_are_a_group(tmp_path: Path) -> None:
    users = {"a": ([[1]], [0]), "b": ([[2], [3]], [0, 1]), "c": ([[4]], [1])}
    d = leaf(0, path=write(tmp_path / "a.json", users, hierarchies=["north", "south", "north"]))
    assert d.groups["hierarchy"].names == ("north", "south")
    assert d.groups["hierarchy"].code.tolist() == [0, 1, 1, 0]


def test_keep_is_leafs_k(tmp_path: Path) -> None:
    users = {"a": ([[1]], [0]), "b": ([[2], [3]], [0, 1]), "c": ([[4], [5], [6]], [1, 1, 0])}
    d = leaf(0, path=write(tmp_path / "a.json", users), keep=2)
    assert d.groups["user"].names == ("b", "c")
    assert d.x[:, 0].tolist() == [2, 3, 4, 5, 6]


def test_users_without_rows_need_not_be_listed(tmp_path: Path) -> None:
    """LEAF's split_data.py leaves empty ones behind in user_data."""
    data = content({"a": ([[1]], [0]), "b": ([[2]], [1])})
    data["user_data"]["gone"] = {"x": [], "y": []}
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert leaf(0, path=str(tmp_path)).groups["user"].names == ("a", "b")


@pytest.mark.parametrize(
    ("x", "y", "options", "says"),
    [
        ([[1], [2]], ["a", 1], {}, "not text"),
        ([[1], [2]], [1, "a"], {}, "whole numbers"),
        ([[1], [2]], [True, False], {}, "whole numbers"),
        ([[1], [None]], [0, 1], {}, "lists of numbers"),
        ([[True], [False]], [0, 1], {}, "lists of numbers"),
        ([[1], [10**400]], [0, 1], {}, "lists of numbers"),
        ([1, 2], [0, 1], {}, "lists of numbers"),
        ([[]], [0], {}, "lists of numbers"),
        ([[1], [2]], [0, 2**60], {}, "whole numbers"),
        (["abc", [1]], [0, 1], {}, "not text"),
        (["abc", "abd"], ["a", "bc"], {}, "not a single character"),
        (["", ""], ["a", "b"], {}, "0 characters"),
        (["abc"], ["a"], {"column": 1}, "not every row"),
        ([["a"], ["a", "b"]], [0, 1], {"column": 1, "length": 4}, "not every row"),
        (["abc", "abd"], ["up", "down"], {"classes": 2}, "labels are text"),
        ([[1]] * 20_000, list(range(20_000)), {}, "different labels"),
        (["\ud800bc", "abc"], [0, 1], {"vocabulary": "data"}, "surrogate"),
    ],
)
def test_what_is_no_row_or_label_is_refused(x: list, y: list, options: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=says) as caught:
        one(tmp_path, x, y, **options)
    assert caught.value.code in (DATA, CONFIG)
    assert len(caught.value.message) < 300


DAMAGE = [b"", b'"', b"{", b"[[", b"1e999", b"-", b",", b"\xff", b"null"]


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_a_damaged_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Nothing but a Problem comes out of a file in which some bytes are others, gone or doubled."""
    text = bytearray(json.dumps(content({"ann": ([[0, 1.5], [2, 3]], [0, 1]), "bob": ([[4, 5]], [1])})).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at, size = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 6))
        text[at : at + size] = data.draw(
            st.sampled_from([b"", b'"', b"{", b"[[", b"1e999", b"-", b",", b"\xff", b"null"])
        )
    path = tmp_path_factory.mktemp("own") / "own.json"
    path.write_bytes(text)
    with contextlib.suppress(Problem):
        assert np.isfinite(leaf(0, path=str(path)).x[:]).all()


# ------------------------------------------------------------------------------------------------ files and parts


@st.composite
def crowds(draw: st.DrawFn) -> Users:
    width = draw(st.integers(1, 4))
    number = st.floats(-1e6, 1e6, width=32)
    rows = st.lists(st.lists(number, min_size=width, max_size=width), min_size=0, max_size=5)
    names = draw(st.lists(st.text("abcxyz _-01", min_size=1, max_size=6), min_size=1, max_size=8, unique=True))
    users = {name: draw(rows) for name in names}
    return {name: (x, [draw(st.integers(0, 4)) for _ in x]) for name, x in users.items()}


@given(crowds(), st.integers(1, 3), st.booleans())
@settings(deadline=None, max_examples=60)
def test_however_many_files_hold_them(
    tmp_path_factory: pytest.TempPathFactory, users: Users, files: int, packed: bool
) -> None:
    folder = tmp_path_factory.mktemp("leaf")
    names = list(users)
    for i in range(files):
        write(folder / "data" / f"all_data_{i}.json", {name: users[name] for name in names[i::files]})
    path = folder / "data"
    if packed:
        path = folder / "data.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in (folder / "data").iterdir():
                archive.write(file, f"data/{file.name}")
    wanted = [(name, x, y) for i in range(files) for name in names[i::files] for x, y in zip(*users[name], strict=True)]
    if not wanted:
        with pytest.raises(Problem, match="no user has rows"):
            leaf(0, path=str(path))
        return
    d = leaf(0, path=str(path))
    owner = [d.groups["user"].names[code] for code in d.groups["user"].code]
    found = zip(owner, d.x[:].tolist(), [int(d.classes[label]) for label in d.label], strict=True)
    assert list(found) == wanted


def parts(folder: Path) -> str:
    """LEAF's folder after its preprocessing, all steps of it."""
    write(folder / "all_data" / "all_data.json", {"a": ([[1], [2], [3]], [0, 1, 0]), "b": ([[4], [5]], [1, 0])})
    write(folder / "train" / "all_data_train_6.json", {"a": ([[1], [3]], [0, 0]), "b": ([[4]], [1])})
    write(folder / "test" / "all_data_test_6.json", {"a": ([[2]], [1]), "b": ([[5]], [0])})
    return str(folder)


def test_parts_are_roles_of_rows(tmp_path: Path) -> None:
    d = leaf(0, path=parts(tmp_path / "data"))
    assert d.row_role is not None
    by_role = {role: sorted(d.x[d.row_role == role][:, 0].tolist()) for role in (0, 1, 2)}
    assert by_role == {0: [1, 3, 4], 1: [], 2: [2, 5]}
    assert len(d.groups["user"].names) == 2, "one person by their name"
    d = leaf(0, path=parts(tmp_path / "data"), split="random")
    assert d.row_role is None
    assert sorted(d.x[:, 0].tolist()) == [1, 2, 3, 4, 5], "and what the parts were made from is not read again"


@pytest.mark.parametrize("name", ["train", "test"])
def test_one_part_alone_is_no_split(name: str, tmp_path: Path) -> None:
    parts(tmp_path)
    only = leaf(0, path=str(tmp_path / name))
    assert only.row_role is None
    nested = tmp_path / "other" / name
    nested.mkdir(parents=True)
    (tmp_path / name / f"all_data_{name}_6.json").rename(nested / "a.json")
    assert leaf(0, path=str(tmp_path / "other")).row_role is None


def test_a_user_of_two_hierarchies_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train" / "a.json", {"a": ([[1]], [0])}, hierarchies=["north"])
    write(tmp_path / "test" / "a.json", {"a": ([[2]], [0])}, hierarchies=["south"])
    with pytest.raises(Problem, match="'north'"):
        leaf(0, path=str(tmp_path))


# --------------------------------------------------------------------------------------------------- real files


def test_leafs_shakespeare_of_40_users() -> None:
    path = real("shakespeare", "shakespeare_leaf_40users.zip")
    d = leaf(0, path=str(path))
    assert d.row_role is not None
    assert isinstance(d.x, Windows)
    assert len(d.groups["user"].names) == 40
    assert len(d.groups["hierarchy"].names) == 28
    assert np.bincount(d.row_role).tolist() == [128_697, 0, 29_035]
    assert len(d.x.source) < 170_000, "not 80 bytes a row"
    sizes = np.bincount(d.groups["user"].code[d.row_role == 0])
    assert (sizes.min(), sizes.max(), np.median(sizes)) == (341, 20_004, 1_132)
    with zipfile.ZipFile(path) as archive:
        told = [json.loads(archive.read(name)) for name in sorted(archive.namelist(), reverse=True)]
    for part, role in zip(told, (0, 2), strict=True):
        for user in part["users"][:4]:
            mine = members(d, "user", user)
            x, y = part["user_data"][user]["x"], part["user_data"][user]["y"]
            assert spelt(d, mine[d.row_role[mine] == role]) == list(zip(x, y, strict=True))


@pytest.mark.parametrize(("name", "rows", "least", "most"), [("1_1", 1_084, 5, 662), ("iid", 805, 6, 360)])
def test_fedproxs_synthetic(name: str, rows: int, least: int, most: int) -> None:
    path = real("leaf_synthetic", f"synthetic_{name}")
    d = leaf(0, path=str(path), classes=10)
    assert d.x.shape == (rows, 60)
    assert len(d.groups["user"].names) == 30
    sizes = np.bincount(d.groups["user"].code)
    assert (sizes.min(), sizes.max()) == (least, most)
    told = json.loads((path / "data" / "test" / "mytest.json").read_text())
    assert d.groups["user"].names == tuple(told["users"]), "whatever the order of user_data, which is another"
    for user, data in told["user_data"].items():
        mine = members(d, "user", user)
        assert np.array_equal(d.x[mine], np.array(data["x"], dtype=np.float32))
        assert d.label[mine].tolist() == data["y"]
    assert (3 in d.label) == (name == "1_1")
    assert len(leaf(0, path=str(path)).classes) == 9 + (name == "1_1")


# --------------------------------------------------------------------------------------------------- end to end


CONFIG_TEXT = """\
data: {{name: leaf, path: {path}{options}}}
task: {{kind: local, support: 2, query: 2, new: {{{new}}}}}
partition: {{name: natural, by: user}}
model: {{name: logistic}}
learner: {{name: maml, inner_lr: 0.1, inner_steps: 1}}
train: {{rounds: 1, local_steps: 1, meta_batch: 1}}
finetune: {{episodes: 6, predictions: true}}
execution: {{threads: 1}}
"""
Make = Callable[..., Lab]


@pytest.fixture
def crowd(tmp_path: Path) -> Make:
    """A lab on six users of ten training and four test rows each; a row's number is its first feature."""
    rng = np.random.default_rng(1)
    rows = iter(range(1_000))
    for name, count in (("train", 10), ("test", 4)):
        users = {
            f"user {u}": ([[next(rows), *rng.normal(size=3)] for _ in range(count)], rng.integers(0, 3, count).tolist())
            for u in range(6)
        }
        write(tmp_path / "data" / name / "a.json", users)

    def make(new: str, options: str = "") -> Lab:
        return Lab(tmp_path / "lab", CONFIG_TEXT.format(path=tmp_path / "data", new=new, options=options))

    return make


def firsts(lab: Lab, role: str) -> set[int]:
    """The numbers of the rows in the shards of a role."""
    run = run_directory.Run.at(lab.run())
    nodes = [n["node"] for n in lab.shards()["nodes"] if n["role"] == role]
    return {int(number) for s in shard_files.read_shards(run, lab.shards(), nodes) for number in s.x[:][:, 0]}


def test_from_rows_judges_on_leafs_test_part(crowd: Make) -> None:
    lab = crowd("from: rows")
    lab("run")
    assert firsts(lab, "train") == set(range(60))
    assert firsts(lab, "test") == set(range(60, 84))
    folder = lab.run() / "finetune" / "new"
    assert json.loads((folder / "metrics.json").read_text())["episodes"] == 6
    assert len((folder / "predictions.csv").read_text().splitlines()) == 1 + 24


def test_free_text_is_cut_and_padded_by_the_preprocessing_too(tmp_path: Path) -> None:
    users = {"u": {"x": ["so it is", "so be it, then", "é is so"], "y": [0, 1, 0]}}
    told = {"users": ["u"], "num_samples": [3], "user_data": users}
    (tmp_path / "all.json").write_text(json.dumps(told))
    data = leaf(0, path=str(tmp_path / "all.json"), length=10)
    np.testing.assert_array_equal(rows_in_memory(users["u"]["x"], data.preprocessing), data.x[:])


def test_from_nodes_holds_users_out_with_all_their_rows(crowd: Make) -> None:
    lab = crowd("from: nodes, test: [user 1, user 4]", ", split: random")
    lab("run")
    wanted = {*range(10, 20), *range(40, 50), *range(64, 68), *range(76, 80)}
    assert firsts(lab, "test") == wanted
    assert firsts(lab, "train") == set(range(84)) - wanted
    names = [n["name"] for n in lab.shards()["nodes"]]
    assert names == ["user 0", "user 2", "user 3", "user 5", "user 1", "user 4"]


def test_from_nodes_needs_the_parts_merged(crowd: Make) -> None:
    told = crowd("from: nodes, test: 2")("partition", code=CONFIG).err
    assert "the data set's own split holds out rows" in told
    assert "data.split: random" in told


@proc
@pytest.mark.slow
def test_partition_of_100_000_users(tmp_path: Path) -> None:
    """100 files of 1,000 users with 30 rows of 10 numbers, 17 digits each: 600 MB of JSON."""
    rng = np.random.default_rng(0)
    bodies = [
        json.dumps({"x": rng.normal(size=(30, 10)).tolist(), "y": rng.integers(0, 10, 30).tolist()}) for _ in range(200)
    ]
    folder = tmp_path / "data"
    folder.mkdir()
    for file in range(100):
        names = [f"f{file:03d}_{user:05d}" for user in range(1_000)]
        head = json.dumps({"users": names, "num_samples": [30] * 1_000})[:-1]
        people = ", ".join(f'"{name}": {bodies[(7 * file + i) % 200]}' for i, name in enumerate(names))
        (folder / f"all_data_{file}.json").write_text(f'{head}, "user_data": {{{people}}}}}')
    text = CONFIG_TEXT.format(path=folder, options="", new="from: nodes, test: 1000")
    (tmp_path / "many.yaml").write_text(text)
    began = os.times()
    command = [sys.executable, "-c", PEAK, "partition", "many.yaml", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    answer, peak = done.stdout.splitlines()
    ended = os.times()
    used = ended.children_user + ended.children_system - began.children_user - began.children_system
    print(f"partition: {ended.elapsed - began.elapsed:.1f} s, {used:.1f} s of a core, {peak} kB")
    assert json.loads(answer)["rows"]["total"] == 3_000_000
    assert json.loads(answer)["nodes"] == {"train": 99_000, "validation": 0, "test": 1_000}
    assert int(peak.split()[1]) < 1 << 20
    shutil.rmtree(folder)
