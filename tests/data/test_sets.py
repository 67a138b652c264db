"""Data sets: content against independent readings, formulas and counts; hostile files end in a Problem."""

from __future__ import annotations

import inspect
import io
import os
import struct
import subprocess
import sys
import tempfile
import typing
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from metadist_cli.core import errors
from metadist_cli.core.errors import Problem
from metadist_cli.data.readers import omniglot_files
from metadist_cli.data.readers.folder import unzip
from metadist_cli.data.sets import DATASETS
from metadist_cli.data.types import Dataset, Group, build

PARTS = ("images_background", "images_evaluation")
Members = dict[str, bytes]


# ---------------------------------------------------------------------------------------------- every data set


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("METADIST_DATA", raising=False)
    return tmp_path / "cache" / "metadist"


SMALL = {
    "digits": {},
    "heart": {},
    "sinusoid": {"functions": 30, "points": 7},
    "synthetic": {"nodes": 5, "rows": 20},
    "omniglot": {},
}


def small_arrays(folder: Path) -> dict:
    np.savez(folder / "some.npz", x=np.ones((6, 4), np.float32), y=np.array(list("abcabc")), who=np.arange(6) % 2)
    return {"path": str(folder / "some.npz"), "groups": ["who"]}


def small_pictures(folder: Path) -> dict:
    extract(folder / "pictures", {f"{name}/{i}.png": png(i, (9, 7), "RGB") for name in "ab" for i in range(3)})
    return {"path": str(folder / "pictures"), "size": 8}


def small_table(folder: Path) -> dict:
    (folder / "own.csv").write_text("age,who,sick\n61,a,1\n52,a,0\n44,b,1\n35,b,0\n")
    return {"path": str(folder / "own.csv"), "target": "sick", "groups": "who"}


def small_leaf(folder: Path) -> dict:
    people = '"user_data": {"a": {"x": [[1, 2], [3, 4]], "y": [0, 1]}, "b": {"x": [[5, 6]], "y": [0]}}'
    (folder / "own.json").write_text(f'{{"users": ["a", "b"], "num_samples": [2, 1], {people}}}')
    return {"path": str(folder / "own.json")}


def small_text(folder: Path) -> dict:
    (folder / "own.txt").write_text("To be, or not to be: that is the question.")
    return {"path": str(folder / "own.txt"), "window": 10}


FILES = {
    "arrays": small_arrays,
    "image_folder": small_pictures,
    "leaf": small_leaf,
    "table": small_table,
    "text": small_text,
}  # readers of the user's own files


def small(name: str, seed: int, tmp_path: Path) -> Dataset:
    options = FILES[name](tmp_path) if name in FILES else dict(SMALL[name])
    if name == "omniglot":
        options["path"] = str(store(tmp_path / "omniglot"))
    if name == "heart":
        options["path"] = str(tmp_path)
        for hospital in ("cleveland", "hungarian", "switzerland", "va"):
            (tmp_path / f"processed.{hospital}.data").write_text("28,1,2,130,132,0,2,185,0,0,?,?,?,0\n" * 3)
    return DATASETS[name](seed, **options)


@pytest.mark.parametrize("name", DATASETS)
def test_contract(name: str, cache: Path, tmp_path: Path) -> None:
    d = small(name, 0, tmp_path)
    n, c = len(d.x), len(d.classes)
    assert d.kind in ("classification", "regression")
    assert d.x.dtype in (np.uint8, np.float32)
    assert d.x[:].flags.c_contiguous
    assert np.isfinite(d.x[:]).all()
    assert d.label.shape == (n,)
    assert d.label.dtype == np.int64
    assert len(set(d.classes)) == c
    assert 0 <= d.label.min() <= d.label.max() < c
    assert (d.target is not None) == (d.kind == "regression")
    assert d.target is None or (d.target.dtype == np.float32 and len(d.target) == n)
    assert d.base.shape == d.rotated.shape == (c,)
    assert d.base.dtype == np.int64
    assert d.rotated.dtype == bool
    assert not d.rotated[d.base].any(), "a base is itself not turned"
    assert d.row_role is None or (d.row_role.shape == (n,) and d.row_role.dtype == np.int8)
    assert d.cluster is None or d.cluster in d.groups
    for group in d.groups.values():
        assert group.code.shape == (n,)
        assert group.code.dtype == np.int64
        assert 0 <= group.code.min() <= group.code.max() < len(group.names)
        assert len(set(group.names)) == len(group.names)
    assert len(d.sha256) == 64
    assert small(name, 0, tmp_path).sha256 == d.sha256
    fixed = name in FILES or name in ("digits", "heart", "omniglot")
    assert (small(name, 1, tmp_path).sha256 == d.sha256) == fixed, "drawn from the seed"


@pytest.mark.parametrize("name", DATASETS)
def test_options_have_types_ranges_and_help(name: str) -> None:
    builder = DATASETS[name]
    hints = typing.get_type_hints(builder, include_extras=True)
    options = [p for p in inspect.signature(builder).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        field = next(m for m in typing.get_args(hints[option.name])[1:] if isinstance(m, FieldInfo))
        assert field.description, option.name
        if option.default is not option.empty:  # `path` must be given
            TypeAdapter(hints[option.name]).validate_python(option.default)


def test_hash_covers_every_field() -> None:
    plain = {
        "kind": "classification",
        "x": np.zeros((2, 3), np.float32),
        "label": np.array([0, 1]),
        "classes": ("a", "b"),
        "groups": {"g": Group(np.array([0, 0]), ("one", "two"))},
    }
    changes = {
        "kind": "regression",
        "x": np.zeros((2, 3), np.int32),
        "label": np.array([1, 0]),
        "classes": ("a", "c"),
        "divide": 2.0,
        "target": np.zeros((2, 1), np.float32),
        "base": np.array([0, 0]),
        "groups": {"g": Group(np.array([0, 1]), ("one", "two"))},
        "cluster": "g",
        "role": np.array([0, 2], np.int8),
        "row_role": np.array([0, 2], np.int8),
        "rotated": np.array([False, True]),
        "rotate_held_out": False,
    }
    # What features are called, how rows were written and what was left out decide nothing.
    assert {*changes, "sha256", "features", "preprocessing", "notes"} == set(Dataset._fields)
    hashes = {build(**plain).sha256, *(build(**{**plain, key: value}).sha256 for key, value in changes.items())}
    assert len(hashes) == 1 + len(changes)


def test_import_is_light_and_digits_never_warn() -> None:
    code = (
        "import sys; from metadist_cli.data.sets import DATASETS;"
        "assert not {'sklearn', 'PIL', 'matplotlib'} & set(sys.modules);"
        "DATASETS['digits'](0)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=Path(__file__).parents[2])


# ------------------------------------------------------------------------------------------------------ digits


def test_digits_are_sklearns() -> None:
    d = DATASETS["digits"](0)
    assert np.bincount(d.label).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # UCI's optdigits.names
    assert (d.x.shape, d.x.dtype, d.x.min(), d.x.max(), d.divide) == ((1797, 8, 8), np.uint8, 0, 16, 16.0)
    np.testing.assert_array_equal(d.x, load_digits().images)  # pyright: ignore[reportAttributeAccessIssue]
    assert d.classes == tuple("0123456789")


# ---------------------------------------------------------------------------------------------------- sinusoid


def test_sinusoid_has_the_papers_distributions() -> None:
    d = DATASETS["sinusoid"](0, functions=2000, points=12, slices=7)
    x, y = d.x.reshape(2000, 12).astype(float), d.target.reshape(2000, 12).astype(float)
    # A sin(x - p) = (A cos p) sin x - (A sin p) cos x: least squares must find amplitude and phase of each function.
    basis = np.stack([np.sin(x), -np.cos(x)], axis=-1)
    solved = np.stack([np.linalg.lstsq(b, t, rcond=None)[0] for b, t in zip(basis, y, strict=True)])
    np.testing.assert_allclose(np.einsum("fpk,fk->fp", basis, solved), y, atol=1e-5)
    amplitude, phase = np.hypot(*solved.T), np.arctan2(solved[:, 1], solved[:, 0])
    assert stats.kstest(amplitude, stats.uniform(0.1, 4.9).cdf).pvalue > 1e-3
    assert stats.kstest(phase, stats.uniform(0, np.pi).cdf).pvalue > 1e-3
    assert stats.kstest(x.ravel(), stats.uniform(-5, 10).cdf).pvalue > 1e-3
    assert 0.0999 < amplitude.min() < 0.12
    assert 4.97 < amplitude.max() < 5.0001
    assert abs(np.corrcoef(amplitude, phase)[0, 1]) < 0.1
    group = d.groups["phase"].code.reshape(2000, 12)
    assert (group == group[:, :1]).all()
    inner = np.abs(phase / np.pi * 7 - np.round(phase / np.pi * 7)) > 1e-3  # float32 rounds at the edge of a slice
    np.testing.assert_array_equal(group[inner, 0], np.floor(phase / np.pi * 7)[inner])
    np.testing.assert_array_equal(d.label.reshape(2000, 12), np.arange(2000)[:, None].repeat(12, 1))


def test_sinusoid_too_large() -> None:
    with pytest.raises(Problem, match="100,000,000 rows") as caught:
        DATASETS["sinusoid"](0, functions=1_000_000, points=100)
    assert caught.value.code == errors.CONFIG


# --------------------------------------------------------------------------------------------------- synthetic


def users(d: Dataset) -> list[tuple[np.ndarray, np.ndarray]]:
    code = d.groups["user"].code
    return [(d.x[code == u], d.label[code == u]) for u in range(len(d.groups["user"].names))]


def test_synthetic_moments_are_fedproxs() -> None:
    d = DATASETS["synthetic"](0, nodes=400, rows=200, features=20, beta=3.0)
    centre = np.array([x.mean(0) for x, _ in users(d)])
    spread = np.array([x.var(0, ddof=1) for x, _ in users(d)]).mean(0)
    np.testing.assert_allclose(spread, np.arange(1, 21) ** -1.2, rtol=0.03)  # 80,000 values: 0.5 % standard error
    # A user's centre is N(B, 1) in each feature, and B is N(0, beta**2).
    assert centre.var(1, ddof=1).mean() == pytest.approx(1 + spread.mean() / 200, rel=0.05)
    assert centre.mean(1).std() == pytest.approx(np.sqrt(9 + 1 / 20), rel=0.12)  # 400 users: 3.5 % standard error
    covariance = np.mean([np.cov(x.T) for x, _ in users(d)], axis=0)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.02


def test_synthetic_labels_are_linear_for_each_user_and_for_all_only_if_iid() -> None:
    def score(x: np.ndarray, y: np.ndarray) -> float:
        return LogisticRegression(C=1e4, max_iter=5000).fit(x, y).score(x, y)

    apart = DATASETS["synthetic"](0, nodes=6, rows=400, features=8, classes=4)
    alike = DATASETS["synthetic"](0, nodes=6, rows=400, features=8, classes=4, iid=True)
    assert all(score(x, y) > 0.99 for x, y in users(apart) if len(set(y)) > 1)
    assert score(alike.x, alike.label) > 0.99
    assert score(apart.x, apart.label) < 0.9
    assert np.abs([x.mean(0) for x, _ in users(alike)]).max() < 0.25  # 5 standard errors of 400 rows


def test_synthetic_alpha_moves_no_label_as_the_header_says() -> None:
    near, far = (DATASETS["synthetic"](3, nodes=20, rows=100, alpha=a) for a in (0.0, 3.0))
    np.testing.assert_array_equal(near.x, far.x)
    assert np.mean(near.label == far.label) > 0.999  # ties may fall otherwise in single precision


def test_synthetic_row_counts() -> None:
    rows = np.bincount(DATASETS["synthetic"](0, nodes=5000, features=2, classes=2).groups["user"].code)
    assert rows.min() >= 50
    assert rows.max() == 10_000
    assert np.mean(rows == 10_000) == pytest.approx(stats.norm.sf((np.log(9950) - 4) / 2), abs=0.004)
    body = np.log(rows[(rows > 90) & (rows < 10_000)] - 49.5)  # whole rows: below that the steps are wide
    low, high = (np.log(40.5) - 4) / 2, (np.log(9950) - 4) / 2
    assert stats.kstest(body, stats.truncnorm(low, high, 4, 2).cdf).pvalue > 1e-3
    assert (np.bincount(DATASETS["synthetic"](0, nodes=9, rows=3).groups["user"].code) == 3).all()


def test_synthetic_too_large() -> None:
    with pytest.raises(Problem, match="users with"):
        DATASETS["synthetic"](0, nodes=1_000_000, rows=10_000)


# --------------------------------------------------------------------------- Omniglot: archives made in the test


def png(seed: int, size: tuple[int, int] = (105, 105), mode: str = "1") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 2, size[::-1], dtype=np.uint8) * 255
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "PNG")
    return out.getvalue()


def drawings(part: str, alphabets: dict[str, int], drawers: int = 3) -> Members:
    names = [(a, c, d) for a, n in alphabets.items() for c in range(1, n + 1) for d in range(1, drawers + 1)]
    return {
        f"{part}/{a}/character{c:02d}/{i // drawers:04d}_{d:02d}.png": png(sum(a.encode()) * 1000 + i)
        for i, (a, c, d) in enumerate(names)
    }


def archive(members: Members, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        for name, data in members.items():
            z.writestr(name, data)
    return out.getvalue()


BACKGROUND = drawings(PARTS[0], {"Latin": 2, "Greek": 3})
EVALUATION = drawings(PARTS[1], {"Korean": 2})
FIRST = next(iter(BACKGROUND))


def store(folder: Path, background: bytes | None = None, evaluation: bytes | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{PARTS[0]}.zip").write_bytes(archive(BACKGROUND) if background is None else background)
    (folder / f"{PARTS[1]}.zip").write_bytes(archive(EVALUATION) if evaluation is None else evaluation)
    return folder


def extract(folder: Path, *parts: Members) -> Path:
    for members in parts:
        for name, data in members.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return folder


def omniglot(folder: Path, **options: typing.Any) -> Dataset:
    return DATASETS["omniglot"](0, path=str(folder), **options)


def test_small_archive(cache: Path, tmp_path: Path) -> None:
    d = omniglot(store(tmp_path / "d"), turns="none")
    assert d.classes == tuple(
        f"{a}/character{c:02d}" for a, n in (("Greek", 3), ("Korean", 2), ("Latin", 2)) for c in range(1, n + 1)
    )
    assert d.groups["alphabet"].names == ("Greek", "Korean", "Latin")
    assert d.groups["drawer"].names == tuple(f"{a}/{n:02d}" for a in d.groups["alphabet"].names for n in (1, 2, 3))
    for row, (label, alphabet, drawer) in enumerate(
        zip(d.label, d.groups["alphabet"].code, d.groups["drawer"].code, strict=True)
    ):
        name = d.classes[label]
        assert d.groups["alphabet"].names[alphabet] == name.split("/")[0]
        number = d.groups["drawer"].names[drawer].split("/")[1]
        data = next(
            v for k, v in (BACKGROUND | EVALUATION).items() if f"/{name}/" in k and k.endswith(f"_{number}.png")
        )
        grey = Image.open(io.BytesIO(data)).convert("L").resize((28, 28), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(255 - d.x[row], np.asarray(grey))


def test_order_in_the_archive_and_form_do_not_matter(cache: Path, tmp_path: Path) -> None:
    zipped = omniglot(store(tmp_path / "zip"))
    back = archive(dict(reversed(BACKGROUND.items())), zipfile.ZIP_STORED)
    again = omniglot(store(tmp_path / "back", back))
    plain = omniglot(extract(tmp_path / "plain", BACKGROUND, EVALUATION))
    renamed = archive({k.replace(PARTS[0], "images_background_small1"): v for k, v in BACKGROUND.items()})
    litter = BACKGROUND | {"__MACOSX/x": b"", f"{PARTS[0]}/.DS_Store": b"", f"{PARTS[0]}/Latin/._a.png": b""}
    others = [omniglot(store(tmp_path / "r", renamed)), omniglot(store(tmp_path / "l", archive(litter)))]
    assert {d.sha256 for d in (again, plain, *others)} == {zipped.sha256}
    assert len(list(cache.iterdir())) == 5


def test_evaluation_may_be_an_empty_folder(cache: Path, tmp_path: Path) -> None:
    folder = store(tmp_path / "d")
    (folder / f"{PARTS[1]}.zip").unlink()
    (folder / PARTS[1]).mkdir()
    assert len(omniglot(folder, turns="none").classes) == 5
    with pytest.raises(Problem, match="leaves no test"):
        omniglot(folder, split="lake")


def test_turns_invert_and_size(cache: Path, tmp_path: Path) -> None:
    folder = store(tmp_path / "d")
    plain = omniglot(folder, turns="none")
    d = omniglot(folder)
    n, c = len(plain.x), len(plain.classes)
    assert (len(d.x), len(d.classes)) == (4 * n, 4 * c)
    assert d.rotated.tolist() == [False] * c + [True] * 3 * c
    assert d.base.tolist() == list(range(c)) * 4
    assert d.rotate_held_out
    assert not omniglot(folder, turns="train").rotate_held_out
    assert [name.partition("@")[2] for name in d.classes[::c]] == ["", "90", "180", "270"]
    image = plain.x[5]
    i, j = np.indices(image.shape)
    for turn, expected in enumerate((image, image[j, 27 - i], image[27 - i, 27 - j], image[27 - j, i])):
        np.testing.assert_array_equal(d.x[turn * n + 5], expected)
        assert d.label[turn * n + 5] == plain.label[5] + turn * c
    np.testing.assert_array_equal(omniglot(folder, turns="none", invert=False).x, 255 - plain.x)
    assert omniglot(folder, turns="none", size=105).x.shape == (n, 105, 105)


# ------------------------------------------------------------------------------------------- Omniglot: the cache


def test_second_reading_is_from_the_cache(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store(tmp_path / "d")
    first = omniglot(folder)
    monkeypatch.setattr(omniglot_files, "_small", lambda *_: pytest.fail("decoded again"))
    assert omniglot(folder).sha256 == first.sha256
    with pytest.raises(pytest.fail.Exception):
        omniglot(folder, size=14)  # another size is another cache file
    store(folder, archive(BACKGROUND | {f"{PARTS[0]}/Latin/character03/0009_01.png": png(1)}))
    with pytest.raises(pytest.fail.Exception):
        omniglot(folder)  # so is another archive


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b"", lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]])
def test_damaged_cache_is_made_again(damage: typing.Callable, cache: Path, tmp_path: Path) -> None:
    folder = store(tmp_path / "d")
    first = omniglot(folder)
    (place,) = cache.iterdir()
    good = place.read_bytes()
    place.write_bytes(damage(good))
    assert omniglot(folder).sha256 == first.sha256
    assert place.read_bytes() == good


def test_no_cache_is_no_error(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store(tmp_path / "d")
    first = omniglot(folder)
    (tmp_path / "file").write_bytes(b"")
    for home in (str(tmp_path / "file"), "/proc/no-such"):
        monkeypatch.setenv("XDG_CACHE_HOME", home)
        assert omniglot(folder).sha256 == first.sha256


def test_where_data_are_looked_for(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Problem) as caught:
        DATASETS["omniglot"](0)
    told = str(caught.value)
    for part in ("images_background.zip", "images_evaluation.zip", "data.path", "METADIST_DATA", str(cache / "data")):
        assert part in told
    assert caught.value.code == errors.DATA
    (cache / "data").mkdir(parents=True)
    store(cache / "data" / "omniglot")
    assert len(DATASETS["omniglot"](0, turns="none").classes) == 7
    monkeypatch.setenv("METADIST_DATA", str(tmp_path / "mine"))
    assert len(DATASETS["omniglot"](0, turns="none").classes) == 7  # nothing there: the cache folder counts
    (tmp_path / "mine").mkdir()
    store(tmp_path / "mine" / "omniglot", evaluation=archive(drawings(PARTS[1], {"Korean": 1})))
    assert len(DATASETS["omniglot"](0, turns="none").classes) == 6
    with pytest.raises(Problem, match="images_background"):
        omniglot(tmp_path / "elsewhere")  # a path that was named is not replaced by another


# ------------------------------------------------------------------------------------------ Omniglot: bad archives


def liar() -> bytes:
    """An archive whose directory says 300 bytes for a member that unpacks to 8 MiB."""
    data = bytearray(archive({FIRST: bytes(8 << 20)}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature) + offset
        data[at : at + 4] = struct.pack("<I", 300)
    return bytes(data)


def patched(signature: bytes, offset: int, value: bytes) -> bytes:
    data = bytearray(archive(BACKGROUND))
    at = data.index(signature) + offset
    data[at : at + len(value)] = value
    return bytes(data)


def header_of(width: int, height: int) -> bytes:
    data = png(0)
    return data[:16] + struct.pack(">II", width, height) + data[24:]


def with_first(data: bytes) -> bytes:
    return archive(BACKGROUND | {FIRST: data})


def with_name(name: str) -> bytes:
    return archive(BACKGROUND | {name: png(0)})


BAD = {
    "empty": (lambda: b"", "broken"),
    "not a zip": (lambda: b"hello" * 100, "broken"),
    "cut short": (lambda: archive(BACKGROUND)[:-500], "broken"),
    "damaged": (lambda: archive(BACKGROUND).replace(b"PK\x03\x04", b"PK\x03\x05", 1), "broken"),
    "damaged stream": (lambda: patched(b"PK\x03\x04", 30 + len(FIRST), b"\xff\xff"), "invalid block type"),
    "odd version": (lambda: patched(b"PK\x01\x02", 6, b"\x63"), "version 9.9"),
    "no name": (lambda: patched(b"PK\x01\x02", 28, b"\0\0"), "broken"),
    "name not UTF-8": (lambda: patched(b"PK\x01\x02", 8, b"\0\x08").replace(b"Latin", b"L\xe5tin"), "codec"),
    "no png": (lambda: with_first(b"GIF89a" + bytes(60)), "not a PNG"),
    "no bytes": (lambda: with_first(b""), "not a PNG"),
    "half a png": (lambda: with_first(png(0)[:200]), "broken"),
    "header alone": (lambda: with_first(png(0)[:26]), "broken"),
    "wrong size": (lambda: with_first(png(0, (104, 105))), "104x105"),
    "grey": (lambda: with_first(png(0, mode="L")), "8-bit grey"),
    "colour": (lambda: with_first(png(0, mode="RGB")), "8-bit colour"),
    "pixel bomb": (lambda: with_first(header_of(60_000, 60_000)), "60000x60000"),
    "zip bomb": (lambda: with_first(bytes(16 << 20)), "16,777,216 bytes"),
    "lying bomb": (liar, "broken"),
    "many small": (lambda: archive({f"a/{i}": bytes(60_000) for i in range(5000)}), "268,435,456 bytes"),
    "many entries": (lambda: b"PK\x01\x02" * 100_001, "100,000 entries"),
    "bzip2": (lambda: archive(BACKGROUND, zipfile.ZIP_BZIP2), "unusual"),
    "encrypted": (lambda: patched(b"PK\x01\x02", 8, b"\1"), "unusual"),
    "climbing": (lambda: with_name("../../Latin/character01/0001_09.png"), "not one of Omniglot's"),
    "climbing alphabet": (lambda: with_name("x/../character01/0001_09.png"), "not one of Omniglot's"),
    "absolute": (lambda: with_name("/etc/character01/0001_09.png"), "not one of Omniglot's"),
    "backslash": (lambda: with_name("x\\y/Latin/character01/0001_09.png"), "not one of Omniglot's"),
    "line end": (lambda: with_name("x/Latin/character01/0001_09.png\n"), "not one of Omniglot's"),
    "at sign": (lambda: with_name("x/Latin@90/character01/0001_09.png"), "not one of Omniglot's"),
    "drawn twice": (lambda: with_name(FIRST.replace("0000_", "0001_")), "two drawings of number 01"),
    "in both parts": (lambda: archive(drawings(PARTS[0], {"Korean": 1})), "is in both"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archive(case: str, cache: Path, tmp_path: Path) -> None:
    make, message = BAD[case]
    folder = store(tmp_path / "d", make())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Problem, match=message) as caught:
        omniglot(folder)
    assert caught.value.code == errors.DATA
    assert caught.value.hint
    assert case == "in both parts" or str(folder / PARTS[0]) in caught.value.where
    assert sorted(tmp_path.rglob("*")) == before, "nothing may be cached or extracted"


def test_bad_folder(cache: Path, tmp_path: Path) -> None:
    folder = extract(tmp_path / "d", BACKGROUND, EVALUATION)
    (folder / PARTS[0] / "Latin" / "notes.txt").write_bytes(b"")
    with pytest.raises(Problem, match=r"notes\.txt"):
        omniglot(folder)
    (folder / PARTS[0] / "Latin" / "notes.txt").unlink()
    (folder / FIRST).write_bytes(bytes(70_000))
    with pytest.raises(Problem, match="70,000 bytes"):
        omniglot(folder)
    (folder / FIRST).unlink()
    (folder / FIRST).symlink_to(folder / list(BACKGROUND)[1])
    with pytest.raises(Problem, match="regular file"):
        omniglot(folder)
    assert not cache.exists()


def test_no_images(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no images"):
        omniglot(store(tmp_path / "d", archive({}), archive({})))


def test_any_damage_to_a_zip_is_a_problem() -> None:
    whole = archive({"a/Latin/character01/0000_01.png": bytes(200) + b"x" * 99, "b": b"hello" * 20})
    rng = np.random.default_rng(0)
    bad = 0
    for _ in range(20_000):
        data = bytearray(whole)
        for at in rng.integers(len(data), size=rng.integers(1, 4)):
            data[at] = rng.integers(256)
        try:
            list(unzip(bytes(data), "here", members=100, each=1 << 16, total=1 << 20))
        except Problem:
            bad += 1
    assert bad > 10_000


TINY = archive(dict(list(BACKGROUND.items())[:2]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(TINY) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_is_a_problem_or_nothing(changes: list[tuple[int, int]]) -> None:
    data = bytearray(TINY)
    for at, value in changes:
        data[at] = value
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", "/proc/no-such")
        try:
            read = omniglot(store(Path(folder), bytes(data)), turns="none")
        except Problem:
            return
        good = omniglot(store(Path(folder), TINY), turns="none")
        assert {image.tobytes() for image in read.x} <= {image.tobytes() for image in good.x}


# ---------------------------------------------------------------------------------------------- Omniglot: splits


def roles(d: Dataset) -> dict[str, int]:
    assert d.role is not None
    return {name: int(role) for name, role in zip(d.classes, d.role, strict=True)}


def test_splits(cache: Path, tmp_path: Path) -> None:
    folder = store(tmp_path / "d")
    assert omniglot(folder).role is None
    names = omniglot(folder, turns="none").classes
    lake = roles(omniglot(folder, split="lake"))
    assert {n for n, r in lake.items() if r == 2} == {n for n in lake if n.startswith("Korean/")}
    assert {r for n, r in lake.items() if not n.startswith("Korean/")} == {0}

    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "test.txt").write_text(f"{names[0]}\n\n  {names[3]}  \n")
    by_file = roles(omniglot(folder, split=str(lists / "test.txt"), turns="none"))
    assert by_file == {name: 2 * (name in (names[0], names[3])) for name in names}

    (lists / "train.txt").write_text("\n".join([names[1], names[2], names[4], names[5]]))
    with pytest.raises(Problem, match=r"is in none of the lists\n"):
        omniglot(folder, split=str(lists))
    (lists / "val.txt").write_text(names[6])
    expected = dict(zip(names, [2, 0, 0, 2, 0, 0, 1], strict=True))
    assert roles(omniglot(folder, split=str(lists), turns="none")) == expected
    for turned, role in roles(omniglot(folder, split=str(lists))).items():
        assert role == expected[turned.partition("@")[0]]

    lists.rename(folder / "omniglot_split")
    assert roles(omniglot(folder, split="vinyals", turns="none")) == expected
    both = roles(omniglot(folder, split="vinyals", turns="none", validation="train"))
    assert both == expected | {names[6]: 0}


def test_bad_splits(cache: Path, tmp_path: Path) -> None:
    folder = store(tmp_path / "d")
    with pytest.raises(Problem, match="no split, file or folder") as caught:
        omniglot(folder, split="lak")
    assert caught.value.code == errors.CONFIG
    with pytest.raises(Problem, match="omniglot_split missing"):
        omniglot(folder, split="vinyals")
    for content, message in (
        (b"Greek/character01\nKlingon/character01\n", "Klingon/character01"),
        (b"Greek/character01@90\n", "character01@90"),
        (b"Greek/character01\nGreek/character01\n", "twice"),
        (b"\n", "no test"),
        (b"\xff\xfe", "UTF-8"),
    ):
        (tmp_path / "list").write_bytes(content)
        with pytest.raises(Problem, match=message) as caught:
            omniglot(folder, split=str(tmp_path / "list"))
        assert message == "no test" or str(tmp_path / "list") in caught.value.where
    (tmp_path / "list").write_text("\n".join(omniglot(folder, turns="none").classes))
    with pytest.raises(Problem, match="no training"):
        omniglot(folder, split=str(tmp_path / "list"))
    (folder / "omniglot_split").mkdir()
    with pytest.raises(Problem, match="missing"):
        omniglot(folder, split="vinyals")


# -------------------------------------------------------------------------------------------- Omniglot: real data


@pytest.fixture(scope="module")
def real_folder() -> Path:
    folder = Path(os.environ.get("METADIST_DATA", "")) / "omniglot"
    if not os.environ.get("METADIST_DATA") or not (folder / "images_background.zip").exists():
        pytest.skip("needs METADIST_DATA/omniglot/images_background.zip and images_evaluation.zip")
    return folder


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def real(real_folder: Path, real_cache: str) -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", real_cache)
        return omniglot(real_folder, turns="none")


def listing(folder: Path, part: str) -> list[str]:
    with zipfile.ZipFile(folder / f"{part}.zip") as z:
        return [name for name in z.namelist() if name.endswith(".png")]


def test_real_counts(real: Dataset, real_folder: Path) -> None:
    assert real.x.shape == (32_460, 28, 28)
    assert len(real.classes) == 1623
    assert (np.bincount(real.label) == 20).all()
    assert len(real.groups["alphabet"].names) == 50
    assert len(real.groups["drawer"].names) == 1000
    assert set(np.unique(real.x)) == {0, 255}
    assert real.x.mean() / 255 < 0.2, "ink is the rare colour, and it is 1"
    for part, count in zip(PARTS, (964, 659), strict=True):
        assert len({name.rsplit("/", 1)[0] for name in listing(real_folder, part)}) == count
    assert list(real.classes) == sorted(real.classes, key=lambda name: name.split("/"))
    assert (real.classes[0], real.classes[-1]) == ("Alphabet_of_the_Magi/character01", "ULOG/character26")


def test_real_splits(real_folder: Path, real_cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", real_cache)
    lake = roles(omniglot(real_folder, split="lake", turns="none"))
    assert sorted(n for n, r in lake.items() if r == 0) == sorted(
        {"/".join(name.split("/")[1:3]) for name in listing(real_folder, PARTS[0])}
    )
    if not (real_folder / "omniglot_split").exists():
        pytest.skip("needs METADIST_DATA/omniglot/omniglot_split")
    vinyals = roles(omniglot(real_folder, split="vinyals", turns="none"))
    assert np.bincount(list(vinyals.values())).tolist() == [1028, 172, 423]
    for name, role in (("train", 0), ("val", 1), ("test", 2)):
        lines = (real_folder / "omniglot_split" / f"{name}.txt").read_text().split()
        assert {n for n, r in vinyals.items() if r == role} == set(lines)


def test_real_images_are_nearest_neighbours(real: Dataset, real_folder: Path) -> None:
    drawer = [real.groups["drawer"].names[code] for code in real.groups["drawer"].code]
    row = {(real.classes[c], d.split("/")[1]): i for i, (c, d) in enumerate(zip(real.label, drawer, strict=True))}
    near = np.floor((np.arange(28) + 0.5) * 105 / 28).astype(int)  # the pixel under the centre of each target pixel
    for part in PARTS:
        with zipfile.ZipFile(real_folder / f"{part}.zip") as z:
            for name in listing(real_folder, part)[::61]:
                _, alphabet, character, file = name.split("/")
                image = Image.open(io.BytesIO(z.read(name)))
                assert image.mode == "1"
                paper = np.asarray(image)
                mine = real.x[row[f"{alphabet}/{character}", file[5:7]]]
                np.testing.assert_array_equal(mine, np.where(paper[np.ix_(near, near)], 0, 255))
                lanczos = image.resize((28, 28), Image.Resampling.LANCZOS)  # what the papers' code asks for
                np.testing.assert_array_equal(mine, np.where(np.asarray(lanczos), 0, 255))


def test_real_alphabets_from_folder_and_zip(real: Dataset, real_folder: Path, tmp_path: Path, cache: Path) -> None:
    chosen = {PARTS[0]: ("Braille", "Ojibwe_(Canadian_Aboriginal_Syllabics)"), PARTS[1]: ("Aurek-Besh",)}
    parts: list[Members] = []
    for part, alphabets in chosen.items():
        with zipfile.ZipFile(real_folder / f"{part}.zip") as z:
            parts.append({n: z.read(n) for n in z.namelist() if n.endswith(".png") and n.split("/")[1] in alphabets})
    zipped = omniglot(store(tmp_path / "z", *map(archive, parts)))
    plain = omniglot(extract(tmp_path / "p", *parts))
    assert plain.sha256 == zipped.sha256
    names = real.groups["alphabet"].names
    wanted = [names.index(a) for several in chosen.values() for a in several]
    np.testing.assert_array_equal(
        real.x[np.isin(real.groups["alphabet"].code, wanted)], zipped.x[~zipped.rotated[zipped.label]]
    )


@pytest.mark.slow
def test_real_extracted_folder_is_bit_identical(real: Dataset, real_folder: Path, tmp_path: Path, cache: Path) -> None:
    parts = []
    for part in PARTS:
        with zipfile.ZipFile(real_folder / f"{part}.zip") as z:
            parts.append({name: z.read(name) for name in z.namelist() if name.endswith(".png")})
    assert omniglot(extract(tmp_path / "p", *parts), turns="none").sha256 == real.sha256
