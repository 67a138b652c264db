"""The reader `image_folder`: pixels against Pillow's and those of Omniglot's reader, benchmarks, broken files."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_images import picture, write
from PIL import Image
from runner import Lab

from metadist_cli.core.errors import Problem
from metadist_cli.data.sets import DATASETS
from metadist_cli.data.types import Dataset

MODULE = sys.modules[DATASETS["image_folder"].__module__]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "metadist"


@pytest.fixture
def lists() -> Path:
    folder = Path(os.environ.get("METADIST_DATA", ""))
    if not os.environ.get("METADIST_DATA") or not (folder / "mini_imagenet_split").exists():
        pytest.skip("needs METADIST_DATA with mini_imagenet_split and cifar100_splits")
    return folder


def read(path: Path, **options: Any) -> Dataset:
    return DATASETS["image_folder"](0, path=str(path), **options)


def folder(root: Path, names: str, count: int = 2, **of: Any) -> Path:
    """Pictures NAME/0.png, ... for each of some folders."""
    return write(
        root,
        {f"{name}/{i}.png": picture(7 * k + i, **of) for k, name in enumerate(names.split()) for i in range(count)},
    )


def test_a_held_out_user_whose_classes_nobody_else_has_is_named(tmp_path: Path, lab: Lab):
    root = folder(tmp_path / "pics", "ann/cat ann/dog bob/cat bob/dog cyd/cat cyd/dog", count=6)
    data = f"data={{name: image_folder, path: {root}, folders: [user, class], size: 8}}"
    task = "task={kind: local, support: 4, query: 4, new: {test: [cyd]}}"
    settings = (data, task, "partition={name: natural, by: user}")
    told = "no class of these held-out nodes occurs in training: cyd; data.shared: true makes"
    for command in (("run", "--dry-run"), ("partition",)):
        assert told in lab(*command, *settings, name="apart").out
        assert "no class of these" not in lab(*command, *settings, "data.shared=true", name="shared").out


def zipped(path: Path, root: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root.parent))
    return path


# ------------------------------------------------------------------------------------------------------- what is read


def test_folders_are_classes(tmp_path: Path) -> None:
    root = folder(tmp_path / "own", "class10 class9", 3)
    (root / "README").write_text("not a picture")
    (root / "class9" / ".DS_Store").write_text("neither")
    d = read(root)
    assert (d.classes, d.label.tolist(), d.groups, d.divide) == (("class9", "class10"), [0, 0, 0, 1, 1, 1], {}, 255.0)
    assert (d.x.shape, d.x.dtype) == ((6, 3, 5, 6), np.uint8)
    for row, name in enumerate([f"{c}/{i}" for c in d.classes for i in range(3)]):
        np.testing.assert_array_equal(d.x[row], np.asarray(Image.open(root / f"{name}.png")).transpose(2, 0, 1))
    inverted = read(root, invert=True)
    np.testing.assert_array_equal(inverted.x, 255 - d.x)
    assert read(zipped(tmp_path / "own.zip", root)).sha256 == d.sha256


def test_pictures_become_grey_and_small_by_the_mean_of_boxes(tmp_path: Path) -> None:
    root = folder(tmp_path / "own", "a b", size=(12, 8), mode="L")
    d = read(root, size=4, colour="grey")
    assert d.x.shape == (4, 4, 4)
    exact = np.asarray(Image.open(root / "a" / "0.png"), dtype=float).reshape(4, 2, 4, 3).mean((1, 3))
    np.testing.assert_allclose(d.x[0], exact, atol=1)  # Pillow rounds twice, after rows and after columns
    colours = read(root, size=4)
    assert colours.x.shape == (4, 3, 4, 4)
    np.testing.assert_array_equal(colours.x[:, 1], d.x)


def test_jpeg_and_turned_cameras(tmp_path: Path) -> None:
    root = folder(tmp_path / "own", "a b")
    lying, exif = Image.open(root / "a" / "0.png"), Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    lying.rotate(90, expand=True).save(root / "a" / "0.png", exif=exif)
    np.testing.assert_array_equal(read(root).x[0], np.asarray(lying).transpose(2, 0, 1))
    out = io.BytesIO()
    lying.save(out, "JPEG")
    write(root, {"a/2.JPG": out.getvalue()})
    np.testing.assert_array_equal(read(root).x[2], np.asarray(Image.open(out)).transpose(2, 0, 1))


def test_levels_of_folders(tmp_path: Path) -> None:
    root = folder(tmp_path / "own", "Greek/1 Greek/2 Latin/1")
    d = read(root, folders=["alphabet", "class"])
    assert d.classes == ("Greek/1", "Greek/2", "Latin/1")
    assert (d.groups["alphabet"].names, d.groups["alphabet"].code.tolist()) == (("Greek", "Latin"), [0, 0, 0, 0, 1, 1])
    assert d.cluster == "alphabet"
    d = read(root, folders=["user", "class"], shared=True)
    assert (d.classes, d.label.tolist(), d.cluster) == (("1", "2"), [0, 0, 1, 1, 0, 0], None)
    d = read(root, folders=["class", "user"])
    assert (d.classes, d.groups["user"].names, d.label.tolist()) == (("Greek", "Latin"), ("1", "2"), [0] * 4 + [1] * 2)


def test_folders_may_say_the_split(tmp_path: Path) -> None:
    d = read(folder(tmp_path / "whole", "train/a train/b val/c test/d"), folders=["split", "class"])
    assert (d.classes, d.role.tolist(), d.row_role) == (("a", "b", "c", "d"), [0, 0, 1, 2], None)
    d = read(folder(tmp_path / "rows", "train/a train/b test/a test/b"), folders=["split", "class"])
    assert (d.classes, d.label.tolist(), d.role) == (("a", "b"), [0, 0, 1, 1, 0, 0, 1, 1], None)
    assert d.row_role.tolist() == [2, 2, 2, 2, 0, 0, 0, 0]
    with pytest.raises(Problem, match="'trian' is not a part of a split"):
        read(folder(tmp_path / "rows", "trian/a"), folders=["split", "class"])


def test_one_list_with_groups(tmp_path: Path) -> None:
    root = write(tmp_path / "own", {f"{i}.png": picture(i) for i in range(5)})
    text = (
        'filename,label,user,split\n3.png,b,eve,train\n0.png,a,eve,test\n1.png,a,"adam, b",train\n4.png,b,adam,train\n'
    )
    (tmp_path / "list.csv").write_text(text)
    d = read(root, lists=str(tmp_path / "list.csv"))
    assert (d.classes, d.label.tolist(), d.row_role.tolist()) == (("a", "b"), [1, 0, 0, 1], [0, 2, 0, 0])
    assert (d.groups["user"].names, d.groups["user"].code.tolist()) == (("adam", "adam, b", "eve"), [2, 2, 1, 0])
    np.testing.assert_array_equal(d.x[0], np.asarray(Image.open(root / "3.png")).transpose(2, 0, 1))
    assert read(zipped(tmp_path / "own.zip", root), lists=str(tmp_path / "list.csv")).sha256 == d.sha256


# ------------------------------------------------------------------------------------------- the layouts of benchmarks


def test_mini_imagenet(lists: Path, tmp_path: Path) -> None:
    """The lists of Ravi and Larochelle, cut to a few classes, whose pictures are made here: 600 of each."""
    parts = {"train": 5, "val": 2, "test": 3}
    names: dict[str, list[str]] = {}
    tiny = [picture(i, (4, 4), "JPEG") for i in range(50)]
    for part, count in parts.items():
        with (lists / "mini_imagenet_split" / f"{part}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert set(Counter(row["label"] for row in rows).values()) == {600}
        chosen = sorted({row["label"] for row in rows})[:count]
        names[part] = chosen
        rows = [row for row in rows if row["label"] in chosen]
        write(tmp_path / "images", {row["filename"]: tiny[i % 50] for i, row in enumerate(rows)})
        text = "".join(f"{row['filename']},{row['label']}\n" for row in rows)
        write(tmp_path / "lists", {f"{part}.csv": b"filename,label\n" + text.encode()})
    d = read(tmp_path / "images", lists=str(tmp_path / "lists"))
    assert d.x.shape == (6000, 3, 4, 4)
    assert d.classes == tuple(sorted(name for some in names.values() for name in some))
    assert (np.bincount(d.label) == 600).all()
    for number, part in enumerate(parts):
        assert [name for name, role in zip(d.classes, d.role, strict=True) if role == number] == names[part]
    with pytest.raises(Problem, match=r"train\.csv:3002: the image 'n01843383"):
        read(tmp_path / "images", lists="mini_imagenet_split")


def cifar(lists: Path, benchmark: str) -> dict[str, list[Any]]:
    return {
        p: json.loads((lists / "cifar100_splits" / benchmark / f"{p}.json").read_text())
        for p in ("train", "val", "test")
    }


@pytest.mark.parametrize("benchmark", ["cifar-fs", "fc100"])
@pytest.mark.parametrize("flat", [False, True])
def test_cifar(benchmark: str, flat: bool, lists: Path, tmp_path: Path) -> None:
    """100 classes of 20 above them: 64/16/20 of CIFAR-FS, 60/20/20 of FC100."""
    pairs = [pair for part in cifar(lists, "cifar-fs").values() for pair in part]
    assert (len(pairs), len({above for above, _ in pairs})) == (100, 20)
    root = folder(
        tmp_path / "cifar100", " ".join(name if flat else f"{above}/{name}" for above, name in pairs), size=(2, 2)
    )
    options = {"folders": ["class"] if flat else ["above", "class"], "lists": f"cifar100_splits/{benchmark}"}
    if flat and benchmark == "fc100":
        with pytest.raises(Problem, match=r"train\.json\[0\]: the list names 'fish', but no folder"):
            read(root, **options)
        return
    d = read(root, **options)
    assert np.bincount(d.role).tolist() == ([64, 16, 20] if benchmark == "cifar-fs" else [60, 20, 20])
    above = dict(map(reversed, pairs))
    for number, told in enumerate(cifar(lists, benchmark).values()):
        mine = {name.rpartition("/")[2] for name, role in zip(d.classes, d.role, strict=True) if role == number}
        assert mine == {name for name in above if above[name] in told or [above[name], name] in told}
    assert (len(d.groups["above"].names), d.cluster) == (20, "above")
    for name, group in zip(d.label, d.groups["above"].code, strict=True):
        assert d.groups["above"].names[group] == above[d.classes[name].rpartition("/")[2]]


def test_omniglot_as_a_plain_folder(tmp_path: Path) -> None:
    """Two readers, one data set: 20 characters of 5 alphabets."""
    home = Path(os.environ.get("METADIST_DATA", "")) / "omniglot"
    if not os.environ.get("METADIST_DATA") or not (home / "images_background_small1.zip").exists():
        pytest.skip("needs METADIST_DATA/omniglot/images_background_small1.zip")
    (tmp_path / "omniglot" / "images_evaluation").mkdir(parents=True)
    (tmp_path / "omniglot" / "images_background.zip").symlink_to(home / "images_background_small1.zip")
    known = DATASETS["omniglot"](0, path=str(tmp_path / "omniglot"), turns="none")
    options = {"folders": ["alphabet", "class"], "size": 28, "colour": "grey", "invert": True}
    d = read(home / "images_background_small1.zip", **options)
    assert d.classes == known.classes
    assert d.groups["alphabet"].names == known.groups["alphabet"].names
    assert (len(d.x), d.cluster) == (len(d.classes) * 20, "alphabet")
    for values in ("x", "label"):
        np.testing.assert_array_equal(getattr(d, values), getattr(known, values))


# ------------------------------------------------------------------------------------------------------------ the cache


def test_second_reading_decodes_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "own", "a b")
    first = read(root)
    with monkeypatch.context() as patch:
        patch.setattr(MODULE, "pixels", lambda *_: pytest.fail("decoded again"))
        again = read(root)
        assert again.sha256 == first.sha256
        assert isinstance(again.x, np.memmap)
        (root / "b").rename(root / "c")
        assert read(root).classes == ("a", "c"), "names are no part of the cache"
        for options in ({"size": 3}, {"colour": "grey"}, {"invert": True}):
            with pytest.raises(pytest.fail.Exception):
                read(root, **options)
        write(root, {"c/1.png": picture(99)})
        with pytest.raises(pytest.fail.Exception):
            read(root)
    assert read(root).sha256 != first.sha256
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    "damage", [lambda b: b[:50], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[:-1]]
)
def test_damaged_cache_is_made_again(damage: Any, tmp_path: Path, cache: Path) -> None:
    root = folder(tmp_path / "own", "a b")
    first = read(root)
    (place,) = cache.iterdir()
    good = place.read_bytes()
    place.write_bytes(damage(good))
    assert read(root).sha256 == first.sha256
    assert place.read_bytes() == good


def test_no_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "own", "a b")
    first = read(root)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no-such")
    assert read(root).sha256 == first.sha256


# ------------------------------------------------------------------------------------------------------- broken files


def test_any_damage_to_a_picture_is_a_problem_or_another_picture(tmp_path: Path) -> None:
    rng, bad = np.random.default_rng(0), 0
    root = folder(tmp_path / "own", "a b")
    for form in ("PNG", "JPEG"):
        whole = picture(0, (20, 20), form)
        for _ in range(300):
            data = bytearray(whole)
            for at in rng.integers(len(data), size=rng.integers(1, 4)):
                data[at] = rng.integers(256)
            (root / "a" / "0.png").write_bytes(data)
            try:
                assert read(root, size=5).x.shape == (4, 3, 5, 5)
            except Problem:
                bad += 1
    assert bad > 200


def test_a_name_of_an_archive_is_no_path(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        for name in ("own/a/0.png", "own/a/1.png", "own/../../b/1.png"):
            archive.writestr(name, picture())
    with pytest.raises(Problem, match="leads out of the archive"):
        read(tmp_path / "own.zip")


# ------------------------------------------------------------------------------------------------------ from end to end


def test_new_classes_are_learned_from_pictures(tmp_path: Path, plain: None) -> None:
    """Classes of a colour each, of which three are new; and a task of the user's own in the same layout."""
    rng = np.random.default_rng(0)
    for part, count in {"train": 8, "test": 3}.items():
        for number in range(count):
            colour = rng.integers(0, 256, 3)
            for i in range(6):
                noise = np.clip(colour + rng.normal(0, 10, (8, 8, 3)), 0, 255).astype(np.uint8)
                write(tmp_path / "own" / part / f"{part}{number}", {f"{i}.png": b""})
                Image.fromarray(noise).save(tmp_path / "own" / part / f"{part}{number}" / f"{i}.png")
    lab = Lab(
        tmp_path,
        f"""\
data: {{name: image_folder, path: {tmp_path / "own"}, folders: [split, class]}}
task: {{kind: episodic, way: 3, shot: 1, query: 3}}
partition: {{name: iid, nodes: 2}}
model: {{name: conv4, width: 4}}
learner: {{name: prototypical}}
train: {{rounds: 2, local_steps: 3}}
finetune: {{episodes: 20}}
""",
    )
    lab("run")
    manifest = lab.shards()
    assert manifest["spec"]["shape"] == [3, 8, 8]
    assert [(n["role"], len(n["classes"])) for n in manifest["nodes"]] == [("train", 4), ("train", 4), ("test", 3)]
    metrics = json.loads((lab.run() / "finetune" / "new" / "metrics.json").read_text())
    assert metrics["after"]["mean"] > 0.6
    lab("finetune", "--task", str(tmp_path / "own" / "test"))
