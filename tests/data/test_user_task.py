"""Own tasks: every format against numbers worked out here, and broken or hostile files that end in a Problem."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import natural
from metadist_cli.data.preprocessing import Column, Preprocessing
from metadist_cli.data.readers import images
from metadist_cli.data.user_task import arrays
from metadist_cli.data.user_task import table as tables
from metadist_cli.data.user_task.task import UserTask, read_task
from metadist_cli.data.user_task.types import TaskFormat

DIGITS = tuple("0123456789")


TWO_WAYS = {"kind": "classification", "shape": (4, 4), "divide": 16.0}  # images of 4x4 stored as 0..16


def read(path: Path, outputs: int | None = 2, shot: int = 1, **rows: Any) -> UserTask:
    """A task of two ways, unless the format is changed."""
    return read_task(path, TaskFormat(Preprocessing(**TWO_WAYS | rows), outputs, "classes" not in rows, shot))


def image(path: Path, pixels: Any = 0, size: int = 8, mode: str = "L", **save: Any) -> Path:
    """A picture of size x size pixels, of one value or of an array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else Image.new(mode, (size, size), pixels)
    picture.save(path, **save)
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def table(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


# ---------------------------------------------------------------------------------------------- folders


def test_support_and_query_folders(tmp_path):
    for part, kind, number, value in [
        *[("support", "cat", 1, 0), ("support", "dog", 1, 255), ("support", "dog", 10, 51), ("support", "dog", 2, 102)],
        *[("query", "dog", 7, 153)],
    ]:
        image(tmp_path / part / kind / f"{number}.png", value)
    task = read(tmp_path)
    assert task.classes == ("cat", "dog")
    assert task.support_x.dtype == task.query_x.dtype == np.uint8
    assert task.support_x.shape == (4, 4, 4)
    np.testing.assert_array_equal(task.support_x[:, 0, 0], [0, 16, 6, 3])  # 1, 2, 10: not 1, 10, 2; 102 * 16 / 255
    np.testing.assert_array_equal(task.support_y, [0, 1, 1, 1])
    assert task.support_y.dtype == np.int64
    assert task.query_y is not None
    np.testing.assert_array_equal(task.query_y, [1])
    assert (task.query_x == 10).all()  # 153 * 16 / 255 = 9.6
    assert task.query_names == ("query/dog/7.png",)


def test_unlabelled_query(tmp_path):
    for name in ("support/a/1.png", "support/b/1.png", "query/x2.png", f"query/x10{'y' * 200}.jpg"):
        image(tmp_path / name)
    task = read(tmp_path)
    assert task.query_y is None
    assert task.query_names == ("query/x2.png", f"query/x10{'y' * 200}.jpg")


def test_plain_classes_give_the_first_images_as_support(tmp_path):
    for kind, count in (("a", 5), ("b", 3)):
        for i in range(count):
            image(tmp_path / kind / f"{8 + i}.png", 17 * i)
    task = read(tmp_path, shot=2, divide=255.0)
    np.testing.assert_array_equal(task.support_x[:, 0, 0], [0, 17, 0, 17])
    np.testing.assert_array_equal(task.support_y, [0, 0, 1, 1])
    np.testing.assert_array_equal(task.query_x[:, 0, 0], [34, 51, 68, 34])
    np.testing.assert_array_equal(task.query_y, [0, 0, 0, 1])
    assert task.query_names == ("a/10.png", "a/11.png", "a/12.png", "b/10.png")


def test_grey_is_averaged_over_boxes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        image(tmp_path / name, pixels)
    mean = pixels.reshape(4, 2, 4, 2).mean((1, 3))
    np.testing.assert_allclose(
        read(tmp_path, divide=255.0).support_x[0], mean, atol=1
    )  # rows, then columns are rounded
    np.testing.assert_allclose(read(tmp_path, divide=255.0, invert=True).support_x[0], 255 - mean, atol=1)
    np.testing.assert_allclose(read(tmp_path).support_x[0], mean / 255 * 16, atol=0.57)


def test_one_bit_is_taken_by_nearest_pixels(tmp_path):
    pixels = np.random.default_rng(1).random((105, 105)) < 0.5
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        image(tmp_path / name, pixels)
    task = read(tmp_path, shape=(28, 28), divide=255.0, invert=True)
    middle = ((np.arange(28) + 0.5) * 105 / 28).astype(int)
    np.testing.assert_array_equal(task.support_x[0], np.where(pixels[np.ix_(middle, middle)], 0, 255))


def test_real_omniglot_drawings(tmp_path):
    archive = Path(os.environ.get("METADIST_DATA", "nowhere")) / "omniglot" / "images_evaluation.zip"
    if not archive.exists():
        pytest.skip("needs Omniglot: METADIST_DATA must name the folder that holds omniglot/")
    middle = ((np.arange(28) + 0.5) * 105 / 28).astype(int)
    wanted = []
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(opened.namelist()):
            if name.endswith(".png") and "/Tengwar/character0" in name and name.endswith(("_01.png", "_02.png")):
                place = tmp_path / Path(name).parent.name / Path(name).name
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(opened.read(name))
                if name.endswith("_01.png"):
                    wanted.append(np.where(np.asarray(Image.open(place)), 0, 255)[np.ix_(middle, middle)])
    task = read(tmp_path, shape=(28, 28), divide=255.0, outputs=9, invert=True)
    assert task.classes == tuple(f"character0{i}" for i in range(1, 10))
    np.testing.assert_array_equal(task.support_x, wanted)
    assert 0.02 < (task.support_x == 255).mean() < 0.2  # little ink, much paper


def test_colour_and_one_channel_rows(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        image(tmp_path / name, (255, 128, 0), mode="RGB")
    colour = read(tmp_path, shape=(3, 4, 4), divide=255.0).support_x
    assert colour.shape == (2, 3, 4, 4)
    np.testing.assert_array_equal(colour[0, :, 1, 2], [255, 128, 0])
    assert read(tmp_path, shape=(1, 4, 4)).support_x.shape == (2, 1, 4, 4)


def test_height_comes_before_width(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        image(tmp_path / name, pixels)
    np.testing.assert_array_equal(read(tmp_path, shape=(3, 6, 4), divide=255.0).support_x[0], np.moveaxis(pixels, 2, 0))
    np.testing.assert_array_equal(
        read(tmp_path, shape=(1, 6, 4), divide=255.0).support_x[0, 0], np.asarray(Image.fromarray(pixels).convert("L"))
    )


def test_images_as_programs_save_them(tmp_path):
    """Paper is white where it is transparent, 16 bits are not cut off, a photo stands upright, palettes work."""
    half = np.zeros((8, 8, 4), dtype=np.uint8)
    half[:, :4, 3] = 255  # black ink on the left, transparent black on the right
    image(tmp_path / "a/1.png", half)
    image(tmp_path / "a/2.png", np.full((8, 8), 32768, dtype=np.uint16))
    upright = np.zeros((8, 8), dtype=np.uint8)
    upright[:4] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image(tmp_path / "a/3.jpg", np.rot90(upright).copy(), exif=exif, quality=100)
    palette = Image.fromarray(np.full((8, 8, 3), 200, dtype=np.uint8)).quantize(2)
    palette.save(tmp_path / "a/4.png")
    image(tmp_path / "b/1.png", np.full((2, 2), 200, dtype=np.uint8))  # grows
    task = read(tmp_path, divide=255.0)
    np.testing.assert_array_equal(task.support_x[0], np.tile([0, 0, 255, 255], (4, 1)))
    assert (task.support_x[1] == 200).all()
    assert (task.query_x[0] == 128).all()
    np.testing.assert_allclose(task.query_x[1], np.repeat([255, 0], 2)[:, None] * np.ones(4), atol=3)
    assert (task.query_x[2] == 200).all()


@pytest.mark.parametrize("above", ["", "my task/"])
def test_a_zip_archive_of_images_is_read_like_its_folder(tmp_path, above: str):
    """With or without the folder that holds it all, and with what macOS adds."""
    for number, name in enumerate(("support/a/1.png", "support/b/1.png", "query/2.png", "query/10.png")):
        image(tmp_path / "folder" / name, 50 * number)
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as archive:
        for path in (tmp_path / "folder").rglob("*.png"):
            archive.write(path, above + path.relative_to(tmp_path / "folder").as_posix())
        archive.writestr("__MACOSX/._1.png", b"x")
    found, wanted = read(tmp_path / "task.zip"), read(tmp_path / "folder")
    np.testing.assert_array_equal(found.support_x, wanted.support_x)
    np.testing.assert_array_equal(found.query_x, wanted.query_x)
    assert (found.classes, found.query_y) == (wanted.classes, None)
    assert found.query_names == (f"{above}query/2.png", f"{above}query/10.png")


def test_file_managers_leave_things_behind(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        image(tmp_path / name)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    assert len(read(tmp_path).support_x) == 2


def test_local_tasks_use_the_classes_of_the_data_set(tmp_path):
    for name in ("3/1.png", "3/2.png", "7/1.png"):
        image(tmp_path / name)
    task = read(tmp_path, classes=DIGITS, outputs=10)
    assert task.classes == DIGITS
    np.testing.assert_array_equal(task.support_y, [3, 7])
    np.testing.assert_array_equal(task.query_y, [3])


@pytest.mark.parametrize("divide", [1.0, 1000.0])
def test_images_for_rows_that_are_no_bytes(tmp_path, divide):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        image(tmp_path / name, 51)
    x = read(tmp_path, divide=divide).support_x
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, divide / 5, rtol=1e-6)


@given(st.lists(st.integers(0, 10**30), unique=True))
def test_natural_order_is_that_of_numbers(numbers):
    names = [f"image {i}.png" for i in numbers]
    assert sorted(names, key=natural) == [f"image {i}.png" for i in sorted(numbers)]


def test_natural_order_of_other_names():
    names = ["0", "1", "2", "10", "9" * 5000, "a", "a1", "a01b", "b"]
    assert sorted([*names[5:], *names[:5]], key=natural) == names


# ---------------------------------------------------------------------------------------------- arrays and tables

X = np.arange(32, dtype=np.uint8).reshape(2, 4, 4) // 2
GOOD = {"support_x": X, "support_y": np.array(["b", "a"]), "query_x": X + 1, "query_y": np.array(["a", "b"])}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", ["u1", "i8", "f2", "f4", "f8", ">f8"])
def test_npz(tmp_path, save, kind):
    arrays = GOOD | {"support_x": np.asfortranarray(X.astype(kind))}
    save(tmp_path / "task.npz", **arrays)
    task = read(tmp_path / "task.npz")
    np.testing.assert_array_equal(task.support_x, X)
    np.testing.assert_array_equal(task.query_x, X + 1)
    assert task.support_x.dtype == task.query_x.dtype == (np.uint8 if kind == "u1" else np.float32)
    assert task.classes == ("a", "b")
    np.testing.assert_array_equal(task.support_y, [1, 0])
    np.testing.assert_array_equal(task.query_y, [0, 1])
    assert task.query_names == ("row 0", "row 1")


def test_npz_numbers_are_names_of_classes(tmp_path):
    arrays = {"support_x": X, "support_y": np.array([7, 10]), "query_x": X}
    task = read(npz(tmp_path / "t.npz", **arrays))
    assert task.classes == ("7", "10")
    assert task.query_y is None
    arrays["support_y"] = np.array([9, 2])
    np.testing.assert_array_equal(read(npz(tmp_path / "t.npz", **arrays), classes=DIGITS).support_y, [9, 2])
    with pytest.raises(Problem, match="'10' is not a class"):
        read(npz(tmp_path / "t.npz", **(arrays | {"support_y": np.array([10, 2])})), classes=DIGITS)


@pytest.mark.parametrize("outputs", [1, 3])
def test_npz_regression(tmp_path, outputs):
    x, y = np.array([[0.5], [-3e3]]), np.arange(2 * outputs).reshape(2, outputs) / 4
    path = npz(tmp_path / "t.npz", support_x=x, support_y=y[:, 0] if outputs == 1 else y, query_x=x, query_y=-y)
    task = read(path, kind="regression", shape=(1,), divide=1.0, outputs=outputs)
    np.testing.assert_array_equal(task.support_x, x)
    np.testing.assert_array_equal(task.support_y, y)
    np.testing.assert_array_equal(task.query_y, -y)
    assert task.support_y.dtype == task.query_x.dtype == np.float32
    assert task.classes == ()


def test_arrays_in_other_files(tmp_path):
    """A folder of .npy files and .safetensors hold the same task as .npz; without text, labels are numbers."""
    labelled = GOOD | {"support_y": np.array([1, 0]), "query_y": np.array([0, 1])}
    (tmp_path / "folder").mkdir()
    for name, array in labelled.items():
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    save_file(labelled, tmp_path / "t.safetensors")
    for path in (npz(tmp_path / "t.npz", **labelled), tmp_path / "folder", tmp_path / "t.safetensors"):
        task = read(path)
        np.testing.assert_array_equal(task.support_x, X)
        np.testing.assert_array_equal(task.query_x, X + 1)
        assert task.classes == ("0", "1")
        np.testing.assert_array_equal(task.support_y, [1, 0])
        np.testing.assert_array_equal(task.query_y, [0, 1])


def test_yes_and_no_are_numbers_as_in_a_data_set(tmp_path):
    path = npz(tmp_path / "t.npz", support_x=X > 7, support_y=np.array([True, False]), query_x=X > 3)
    task = read(path, divide=1.0)
    np.testing.assert_array_equal(task.support_x, (X > 7).astype(np.float32))
    assert task.classes == ("0", "1")
    np.testing.assert_array_equal(task.support_y, [1, 0])


def test_a_link_to_the_task_itself_is_followed(tmp_path):
    (tmp_path / "link.npz").symlink_to(npz(tmp_path / "t.npz", **GOOD))
    assert len(read(tmp_path / "link.npz").query_x) == 2


FLAT = {"shape": (2,), "divide": 1.0}
CSV = "part,label,f0,f1\nsupport,b,1,2\nsupport, a ,-1.5,2e3\n\nquery,a,5,6\n"


@pytest.mark.parametrize("form", [str, lambda t: "\ufeff" + t, lambda t: t.replace("\n", "\r\n")])
def test_csv(tmp_path, form: Callable[[str], str]):
    task = read(table(tmp_path / "t.CSV", form(CSV)), **FLAT)
    np.testing.assert_array_equal(task.support_x, [[1, 2], [-1.5, 2000]])
    np.testing.assert_array_equal(task.query_x, [[5, 6]])
    np.testing.assert_array_equal(task.support_y, [1, 0])
    np.testing.assert_array_equal(task.query_y, [0])
    assert task.classes == ("a", "b")
    assert task.query_names == ("line 5",)


NAMED = FLAT | {"columns": (Column(name="age"), Column(name="dose")), "others": ("site", "sick"), "target": "sick"}


def test_columns_are_matched_by_name_wherever_they_stand(tmp_path):
    for head, row in (("dose,age", [2, 1]), ("age,dose", [1, 2])):
        task = read(table(tmp_path / "t.csv", CSV.replace("f0,f1", head)), **NAMED)
        np.testing.assert_array_equal(task.support_x[0], row)


def test_other_columns_of_the_data_set_may_be_there_and_its_target_is_the_label(tmp_path):
    text = "part,sick,age,dose,site\nsupport,b,1,2,x\nsupport,a,-1.5,2e3,y\nquery,a,5,6,\n"
    task = read(table(tmp_path / "t.csv", text), **NAMED)
    np.testing.assert_array_equal(task.support_x, [[1, 2], [-1.5, 2000]])
    assert task.classes == ("a", "b")


@pytest.mark.parametrize(
    ("head", "message", "hint"),
    [
        ("age,doze", "t.csv:1: the data set has no column 'doze'", "did you mean 'dose'?"),
        ("age,x", "t.csv:1: the data set has no column 'x'", "there are: age, dose"),
        ("age,site", "t.csv:1: the column 'dose' is missing", "add it; the features are: age, dose"),
    ],
)
def test_unknown_and_missing_columns_are_refused(tmp_path, head: str, message: str, hint: str):
    check(table(tmp_path / "t.csv", CSV.replace("f0,f1", head)), NAMED, message, hint)


def test_texts_gaps_dates_and_styles_are_read_as_the_data_sets_were(tmp_path):
    columns = (
        Column(name="ward", kind="category", values=("A", "B", "C")),
        Column(name="price", decimal=",", symbols=("€",), indicator=True),
        Column(name="seen", kind="date", dates="days", date_format="%d.%m.%Y"),
    )
    options = {"shape": (6,), "divide": 1.0, "columns": columns, "missing": "fill", "marks": ("-",)}
    text = "part;label;ward;price;seen\nsupport;a;C;1,5 €;02.01.1970\nsupport;b;A;-;03.01.1970\nquery;;B;2;-\n"
    task = read(table(tmp_path / "t.csv", text), **options)
    gap = np.nan
    np.testing.assert_array_equal(task.support_x, [[0, 0, 1, 1.5, 1, 0], [1, 0, 0, gap, 2, 1]])
    np.testing.assert_array_equal(task.query_x, [[0, 1, 0, 2, gap, 0]])
    check(table(tmp_path / "t.csv", text.replace(";B;", ";D;")), options, ":4:ward: 'D' is not one of", "are: A, B, C")
    refused = options | {"missing": "refuse"}
    check(table(tmp_path / "t.csv", text), refused, ":3:price: the cell is missing", "fill it in, or leave the row out")


def test_targets_are_in_the_data_sets_own_units(tmp_path):
    path = table(tmp_path / "t.csv", "part,target,x\nsupport,150,0.5\nquery,300,0.25\n")
    task = read(path, kind="regression", shape=(1,), divide=1.0, outputs=1, unit=100.0, classes=())
    assert [task.support_y, task.query_y] == [[[1.5]], [[3.0]]]
    x = np.zeros((1, 1))
    path = npz(tmp_path / "t.npz", support_x=x, query_x=x, support_y=np.array([150]), query_y=np.array([300.0]))
    task = read(path, kind="regression", shape=(1,), divide=1.0, outputs=1, unit=100.0, classes=())
    assert [task.support_y, task.query_y] == [[[1.5]], [[3.0]]]


def test_a_threshold_of_the_data_set_makes_classes_of_its_target(tmp_path):
    options = NAMED | {"classes": ("well", "ill"), "above": 2.0}
    text = "part,sick,age,dose\nsupport,1,1,2\nsupport,2.5,1,2\nquery,2,1,2\n"
    task = read(table(tmp_path / "t.csv", text), **options)
    np.testing.assert_array_equal(task.support_y, [0, 1])
    np.testing.assert_array_equal(task.query_y, [0])


def test_csv_without_query_labels_in_rows_of_images(tmp_path):
    head = "f3,f1,f0,f2,label,part\n"  # numbered features have an order wherever they stand
    path = table(tmp_path / "t.csv", head + '3,1,0,2,"x, y",support\n3,1,0,2,z,support\n13,11,10,12,,query\n')
    task = read(path, shape=(2, 2))
    np.testing.assert_array_equal(task.support_x[0], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(task.query_x[0], [[10, 11], [12, 13]])
    assert task.query_y is None
    assert task.classes == ("x, y", "z")


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (1, "part,target,height\nsupport,1,0.5\nquery,3,0.25\n"),
        (2, "target_1,part,height,target_0\n-1,support,0.5,1\n-3,query,0.25,3\n"),
    ],
)
def test_csv_regression(tmp_path, outputs, text):
    task = read(table(tmp_path / "t.csv", text), kind="regression", shape=(1,), divide=1.0, outputs=outputs)
    np.testing.assert_array_equal(task.support_y, [[1, -1][:outputs]])
    np.testing.assert_array_equal(task.query_y, [[3, -3][:outputs]])
    np.testing.assert_array_equal(task.query_x, [[0.25]])


def utf16(text: str) -> bytes:
    return b"\xff\xfe" + text.encode("utf-16-le")


def parquet(text: str) -> bytes:
    from pyarrow import csv
    from pyarrow import parquet as arrow

    out = io.BytesIO()
    arrow.write_table(csv.read_csv(io.BytesIO(text.encode())), out)
    return out.getvalue()


def xlsx(text: str) -> bytes:
    import openpyxl

    book = openpyxl.Workbook()
    for number, line in enumerate(text.splitlines()):
        cells = line.split(",")
        book.active.append(cells if not number or not cells[0] else [*cells[:2], *map(float, cells[2:])])
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


SAME: dict[str, tuple[str, Callable[[str], bytes]]] = {
    "tabs": ("t.tsv", lambda t: t.replace(",", "\t").encode()),
    "semicolons": ("t.csv", lambda t: t.replace(",", ";").encode()),
    "quoted line breaks": ("t.csv", lambda t: t.replace("f1", '"f\n1"').encode()),
    "gzip": ("t.csv.gz", lambda t: gzip.compress(t.encode())),
    "UTF-16 with its mark": ("t.csv", utf16),
    "Parquet": ("t.parquet", parquet),
    "spreadsheet": ("t.xlsx", xlsx),
}


@pytest.mark.parametrize("form", SAME)
def test_every_table_that_a_data_set_may_have(tmp_path, form: str):
    name, write = SAME[form]
    (tmp_path / name).write_bytes(write(CSV.replace(" a ", "a").replace("\n\n", "\n")))
    task = read(tmp_path / name, **FLAT)
    np.testing.assert_array_equal(task.support_x, [[1, 2], [-1.5, 2000]])
    np.testing.assert_array_equal(task.query_x, [[5, 6]])
    assert task.classes == ("a", "b")
    np.testing.assert_array_equal(task.support_y, [1, 0])
    np.testing.assert_array_equal(task.query_y, [0])
    line = {"quoted line breaks": 5, "Parquet": 3}.get(form, 4)  # a Parquet file has no line of names
    assert task.query_names == (f"line {line}",)


def test_csv_regression_without_query_targets(tmp_path):
    path = table(tmp_path / "t.csv", "part,target,x\nsupport,1,0.5\nquery,,0.25\n")
    assert read(path, kind="regression", shape=(1,), divide=1.0, outputs=1).query_y is None


# ---------------------------------------------------------------------------------------------- broken input


def folder(*names: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        for name in names:
            (root / name).mkdir(parents=True) if name.endswith("/") else image(root / name)
        return root

    return make


def linked(root: Path) -> Path:
    image(root / "secret.png")
    image(root / "task/a/1.png")
    (root / "task/a/2.png").symlink_to(root / "secret.png")
    return root / "task"


def linked_folder(root: Path) -> Path:
    image(root / "elsewhere/1.png")
    image(root / "task/a/1.png")
    (root / "task/b").symlink_to(root / "elsewhere")
    return root / "task"


def holding(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        folder("a/1.png", "a/2.png", "b/1.png")(root)
        (root / name).write_bytes(data)
        return root

    return make


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def huge_png(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that claims so many black pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def gif() -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8)).save(out, "GIF")
    return out.getvalue()


def png(size: int = 8) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size, size), dtype=np.uint8)
    Image.fromarray(noise).save(out, "PNG")
    return out.getvalue()


R = {"kind": "regression", "shape": (1,), "divide": 1.0, "outputs": 1}
BAD_FOLDERS = [
    (folder(), {}, "there are no support images", "use support/CLASS/*.png"),
    (folder("1.png"), {}, "1.png: this image is in no folder of a class", "folder of its class"),
    (folder("a/1.png", "b/1.png"), {}, "there are no query images", "add some"),
    (folder("support/a/1.png", "support/b/1.png"), {}, "the folder query is missing", "or just CLASS/"),
    (folder("support/a/1.png", "query/1.png", "c/1.png"), {}, "c: this folder is beside support and query", "move it"),
    (
        folder("support/a/1.png", "support/2.png", "query/1.png"),
        {},
        "2.png: this image is in no folder of a class",
        "put it",
    ),
    (folder("support/a/1.png", "query/1.png", "query/a/1.png"), {}, "query/1.png: this image has no class", "or none"),
    (folder("support/a/1.png", "query/"), {}, "query: the folder holds no images", "add images"),
    (folder("a/1.png", "a/2.png", "b/"), {}, "b: the folder holds no images", "remove the folder"),
    (
        folder("a/1.png", "a/x/2.png", "b/1.png"),
        {},
        "a/x/2.png: this image is too deep in the folder of a class",
        "put it",
    ),
    (
        folder("a/1.png", "a/2.png"),
        {},
        "has 1 class (a), but the model's last layer has 2 outputs",
        "add 1, or train a model with",
    ),
    (folder("a/1.png", "a/2.png", "b/1.png", "c/1.png"), {}, "3 classes (a, b, c)", "leave out 1, or train a model"),
    (
        folder("support/a/1.png", "support/b/1.png", "query/B/1.png"),
        {},
        "query/B: 'B' is not a class of this task",
        "did you mean 'b'?",
    ),
    (folder("Cat/1.png", "Cat/2.png"), {"classes": ("cat", "dog")}, "'Cat' is not a class", "did you mean 'cat'?"),
    (folder("x/1.png", "x/2.png"), {"classes": DIGITS}, "'x' is not a class", "there are: 0, 1, 2, 3"),
    (folder("dee/cross/1.png"), {"classes": ("bob/cross", "dee/cross")}, "such as 'bob/cross'", "an .npz file"),
    (linked, {}, "2.png: this is a symbolic link", "put the file or folder itself"),
    (linked_folder, {}, "b: this is a symbolic link", "put the file or folder itself"),
    (holding("a/notes.txt", b"x"), {}, "notes.txt: only PNG and JPEG images can be read", "move it away"),
    (holding("README", b"x"), {}, "README: only PNG and JPEG images can be read", "move it away"),
    (holding("a/3.png", b"nonsense"), {}, "a/3.png: the file is not a PNG or JPEG image", "save it as PNG"),
    (holding("a/3.png", b""), {}, "a/3.png: the file is not a PNG or JPEG image", "save it as PNG"),
    (holding("a/3.png", gif()), {}, "a/3.png: the file is not a PNG or JPEG image", "save it as PNG"),
    (holding("a/3.png", png()[:-30]), {}, "a/3.png: the image is broken", "save it again"),
    (holding("a/3.png", huge_png(5001, 5000)), {}, "a/3.png: the image has more than 25,000,000 pixels", "smaller"),
    (holding("a/3.png", huge_png(90_000, 90_000)), {}, "3.png: the image has more than 25,000,000 pixels", "smaller"),
    (holding("a/3.png", bytes((32 << 20) + 1)), {}, "a/3.png: the image has 33,554,433 bytes", "right file"),
    (folder("a\x1b[2J/1.png", "b/1.png"), {}, r"the name has control characters", "another name"),
    (folder(os.fsdecode(b"\xff/1.png"), "b/1.png"), {}, "the name has control characters, or is not UTF-8", "another"),
    (folder("a/" + "a" * 200 + "\n.png"), {}, "the name has control characters", "another name"),
    (folder("a" * 101 + "/1.png"), {}, "the name has 101 characters, more than 100", "another name"),
    (folder("a/1.png"), {"shape": (60,)}, "the rows of this data set have the shape (60,)", ".npz or .csv"),
    (folder("a/1.png"), {"shape": (2, 4, 4)}, "have the shape (2, 4, 4), they are not images", ".npz or .csv"),
    (folder("a/1.png"), R, "a folder of images has classes, but this model predicts numbers", ".npz or .csv"),
    (folder("a/1.png", "b/1.png", "b/2.png"), {"shape": (10_000, 10_000)}, "3 images of the shape", "use fewer"),
]


def check(path: Path, options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(Problem) as caught:
        read(path, **options)
    problem = caught.value
    assert message in f"{problem.where}: {problem.message}"
    assert hint in problem.hint
    assert str(path) in problem.where
    assert problem.code == DATA
    str(problem).encode()  # half a surrogate pair would not reach the terminal


@pytest.mark.parametrize(("make", "options", "message", "hint"), BAD_FOLDERS)
def test_bad_folders(tmp_path, make, options, message, hint):
    check(make(tmp_path), options, message, hint)


def test_too_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_FILES", 3)
    assert len(read(folder("a/1.png", "a/2.png", "b/1.png")(tmp_path)).support_x) == 2
    check(folder("b/2.png")(tmp_path), {}, "there are more than 3 images", "is this the right folder?")
    check(folder("b/3.png", "b/4.png")(tmp_path), {}, "b: there are more than 3 files", "is this the right folder?")


def test_folder_without_permission(tmp_path, monkeypatch):
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    with pytest.raises(Problem, match="cannot read this folder: Permission denied"):
        read(tmp_path)


def packed(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    head = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(head)) + head + data


def whole(**changed: Any) -> Callable[[Path], Path]:
    arrays = {name: array for name, array in (GOOD | changed).items() if array is not None}
    return lambda path: npz(path, **arrays)


def entries(data: bytes) -> list[tuple[str, bytes]]:
    return [(f"{name}.npy", data) for name in ("support_x", "support_y", "query_x")]


def raw(first: bytes) -> Callable[[Path], Path]:
    return lambda path: packed(path, *entries(first))


class Trap:
    """Says so where a pickle is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (77,)


F8 = {"descr": "<f8", "fortran_order": False}
BAD_NPZ = [
    (whole(query_x=None), {}, "the array query_x is missing", "save support_x"),
    (whole(x_support=X), {}, "a task has no array 'x_support'", "did you mean 'support_"),
    (whole(support_x=X[0]), {}, "support_x: the array has the shape (4, 4), not (n, 4, 4)", "number of rows"),
    (whole(support_x=X[:, :3]), {}, "the array has the shape (2, 3, 4), not (n, 4, 4)", "number of rows"),
    (whole(support_x=np.float32(3)), {}, "the array has the shape (), not (n, 4, 4)", "number of rows"),
    (whole(support_y=np.array([[1], [2]])), {}, "support_y: the array has the shape (2, 1), not (n,)", "number"),
    (whole(query_x=X[:0], query_y=None), {}, "query_x: the array has 0 rows", "1 to 1,000,000 rows"),
    (whole(query_y=np.array(["a"])), {}, "query_y: the array has 1 labels for 2 rows", "same number of rows"),
    (whole(query_y=np.array(["a", "c"])), {}, "query_y[1]: 'c' is not a class of this task", "there are: a, b"),
    (whole(support_y=np.array(["a", "a\x07"])), {}, "support_y[1]: the label has control characters", "choose another"),
    (whole(support_y=np.array(["a", ""])), {}, "support_y[1]: the label is empty", "choose another"),
    (
        whole(support_y=np.array([1.0, 2.0])),
        {},
        "support_y: the array is of type float64, not whole",
        ".astype(int)",
    ),
    (whole(support_y=np.array(["a", "b" * 101])), {}, "texts of up to 101 characters", "use 1 to 100"),
    (whole(support_x=X.astype(complex)), {}, "support_x: the array is of type complex128, not numbers", "float32"),
    (whole(support_x=X.astype("M8[s]")), {}, "the array is of type datetime64[s], not numbers", "float32"),
    (whole(support_x=np.full((2, 4, 4), Trap())), {}, "support_x: the array holds Python objects", "save numbers"),
    (whole(support_x=np.full((2, 4, 4), np.nan)), {}, "support_x[0, 0, 0]: the number is not finite", "leave it out"),
    (
        whole(query_x=np.where(X > 14, 1e39, X)),
        {},
        "query_x[1, 3, 2]: the number is not finite, or too",
        "leave it out",
    ),
    (
        whole(support_x=X / 16, query_x=X / 16),
        {},
        "the values range from 0 to 0.9375, those of this",
        "multiply them by 16",
    ),
    (whole(support_x=X * 17), {}, "the values range from 0 to 255, those of this data set from 0 to 16", "scale them"),
    (whole(support_x=X.astype(int) - 1), {}, "the values range from -1 to 16", "scale them"),
    (
        whole(support_y=np.array([0.5, np.inf]), query_y=None),
        R | {"shape": (4, 4)},
        "support_y[1, 0]: the number is not finite",
        "leave it out",
    ),
    (whole(support_y=np.ones((2, 3))), R | {"shape": (4, 4)}, "has the shape (2, 3), not (n, 1)", "number of rows"),
    (whole(support_y=np.ones(2)), R | {"shape": (4, 4), "outputs": 2}, "has the shape (2,), not (n, 2)", "number"),
    (lambda p: [p.touch(), p][1], {}, "the .npz file is broken", "numpy.savez_compressed"),
    (lambda p: p.write_bytes(b"PK\x03\x04 nonsense") and p, {}, "the .npz file is broken", "numpy.savez_compressed"),
    (lambda p: p.mkdir() or p, {"shape": (3,)}, "the rows of this data set have the shape", ".npz or .csv"),
    (lambda p: packed(p, ("../../support_x.npy", b"")), {}, "a task has no array '../../support_x'", "did you mean"),
    (lambda p: packed(p, *[(f"{i}.npy", b"") for i in range(1001)]), {}, "more than 1,000 arrays", "right file"),
    (lambda p: packed(p, *entries(bytes(20 << 20))), {}, "would unpack to 20,971,520", "numpy.savez, un"),
    (
        lambda p: packed(p, *entries(b"x"), method=zipfile.ZIP_LZMA),
        {},
        "support_x: the array is packed in an unusual way",
        "numpy.savez_compressed",
    ),
    (raw(npy(str(F8 | {"shape": (10**9, 4, 4)}))), {}, "needs 128,000,000", "save it again"),
    (raw(npy(str(F8 | {"shape": (2, 4, 4)}), bytes(8 * 31))), {}, "needs 327 bytes, the file has 319", "save it again"),
    (raw(npy(str(F8 | {"shape": (-1, 4, 4)}))), {}, "the file has", "save it again"),
    (raw(npy("(" * 5000)), {}, "the .npz file is broken", "save it again"),
    (raw(npy("__import__('os')._exit(77)")), {}, "the .npz file is broken", "save it again"),
    (raw(npy(" " * 20_000)), {}, "the .npz file is broken", "save it again"),
    (raw(npy(" ", version=3)), {}, "the array is in version (3, 0)", "save plain arrays"),
    (raw(npy(" ", version=9)), {}, "the array is in version (9, 0)", "save plain arrays"),
]


@pytest.mark.parametrize(("make", "options", "message", "hint"), BAD_NPZ)
def test_bad_npz(tmp_path, make, options, message, hint):
    check(make(tmp_path / "task.npz"), options, message, hint)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_npz_with_an_array_twice(tmp_path):
    check(
        packed(tmp_path / "t.npz", *[("query_x.npy", b"")] * 2),
        {},
        "the file has two arrays 'query_x'",
        "save it again",
    )


def test_npz_of_too_many_bytes(tmp_path, monkeypatch):
    path = npz(tmp_path / "t.npz", **(GOOD | {"support_x": np.ones((200, 4, 4), dtype=np.uint8)}))
    monkeypatch.setattr(arrays, "BYTES", 3247)
    check(path, {}, "the arrays take 3,248 bytes, more than 3,247", "use fewer rows")


def test_npz_with_an_encrypted_array(tmp_path):
    data = bytearray(npz(tmp_path / "t.npz", **GOOD).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "t.npz").write_bytes(data)
    check(tmp_path / "t.npz", {}, "support_x: the array is packed in an unusual way", "numpy.savez_compressed")


def test_npz_with_a_character_that_is_none(tmp_path):
    text = npy(str({"descr": "<U1", "fortran_order": False, "shape": (2,)}), struct.pack("<II", 97, 0x7FFFFFFF))
    numbers = npy(str(F8 | {"shape": (2, 4, 4)}), np.full((2, 4, 4), 2.0).tobytes())
    members = ("support_x.npy", numbers), ("support_y.npy", text), ("query_x.npy", numbers)
    check(packed(tmp_path / "t.npz", *members), {}, "support_y: the array holds text that is not", "save it")


HEAD = "part,label,f0,f1\n"
BODY = "support,a,1,2\nsupport,b,1,2\nquery,a,1,2\n"
BAD_CSV = [
    ("", {}, ".csv:1: the file is empty", "leave it out"),
    ("1,2,3,4\n" + BODY, {}, ".csv:1: the column 'part' is missing", "the first line must name the columns"),
    (HEAD.replace("part", "prat") + BODY, {}, "the column 'part' is missing", "did you mean 'prat'?"),
    (HEAD.replace("label", "target") + BODY, {}, "the column 'label' is missing", "there are: "),
    (HEAD + BODY, R | {"shape": (2,)}, "the column 'target_0' is missing", "there are: "),
    (HEAD.replace("f1", "f0") + BODY, {}, "two columns are called 'f0'", "rename one"),
    (HEAD.replace("f1", "f1,f2"), {}, "a row of this data set has 2 features, this table has 3", "except label"),
    (HEAD.replace(",f1", ""), {}, "a row of this data set has 2 features, this table has 1", "every column"),
    (HEAD + "1," * 1000, {}, ".csv:2: this row has 1,001 columns, the table has 4", "add or remove"),
    (HEAD + BODY + "query,a,1\n", {}, ".csv:5: this row has 3 columns, the table has 4", "add or remove"),
    (HEAD + BODY + "test,a,1,2\n", {}, ".csv:5:part: 'test' is neither support nor query", "there are: query, support"),
    (HEAD + BODY + "Query,a,1,2\n", {}, ".csv:5:part: 'Query' is neither support nor query", "did you mean 'query'?"),
    (HEAD + "support,a,1,2\nsupport,b,1,2\n", {}, "there are no query rows", "write query into the column"),
    (HEAD + "query,a,1,2\n", {}, "there are no support rows", "write support into the column"),
    (HEAD, {}, "the table has no rows", "the file"),
    (HEAD + "support,,1,2\nquery,,1,2\n", {}, ".csv:2:label: the label is empty", "every support row"),
    (HEAD + BODY + "support,,1,2\n", {}, ".csv:5:label: the label is empty, others are not", "all rows of the support"),
    (HEAD + BODY + "query, ,1,2\n", {}, ".csv:5:label: the label is empty, others are not", "or none"),
    (HEAD + "query,,1,2\n" + BODY, {}, ".csv:2:label: the label is empty, others are not", "or none"),
    (HEAD + BODY + "query,c,1,2\n", {}, ".csv:5:label: 'c' is not a class of this task", "there are: a, b"),
    (HEAD + BODY, {"classes": ("A", "z")}, ".csv:2:label: 'a' is not a class", "did you mean 'A'?"),
    (HEAD + BODY.replace("b", "\x1b"), {}, ".csv:3:label: the label has control characters", "choose another"),
    (HEAD + BODY.replace("b", "b" * 101), {}, ".csv:3:label: the label has 101 characters", "choose another"),
    (HEAD + BODY.replace("b", "a"), {}, "has 1 class (a), but the model's last layer has 2 outputs", "task.way: 1"),
    (HEAD + BODY + "query,a,1,two\n", {}, ".csv:5:f1: 'two' is not a number", "write it like 0.5"),
    (HEAD + BODY + "query,a,,2\n", {}, ".csv:5:f0: the number is missing", "write it like 0.5"),
    (HEAD + BODY + "query,a,1_0,2\n", {}, ".csv:5:f0: '1_0' is not a number", "write it like 0.5"),
    (HEAD + BODY + "query,a,1,nan\n", {}, ".csv:5:f1: the number is missing", "write it like 0.5"),
    (HEAD + BODY + "query,a,1e39,2\n", {}, "is not a finite number, or too large", "correct it"),
    (HEAD + BODY + "query,a,1e999,2\n", {}, "is not a finite number, or too large", "correct it"),
    (HEAD + BODY + 'query,"a,1,2\n', {}, ".csv:5: a quotation mark in this row is never closed", "close it"),
    (HEAD.replace("f0,f1", ",") + BODY, {}, "column 3 has values but no name", "name it"),
    (HEAD + BODY + 'query,"a"b,1,2\n', {}, ".csv:5: a quotation mark in this row is out of place", "put quot"),
    (
        HEAD + BODY + f"query,{'a' * 140_000},1,2\n",
        {},
        ".csv:5: a cell of this row has more than 131,072 characters",
        "",
    ),
    (HEAD + BODY.replace("2", "0"), {"divide": 255.0}, "the values range from 0 to 1, those", "multiply them by 255"),
    ("part,target,x\nsupport,one,1\n", R, ".csv:2:target: the column 'target' holds texts", "write numbers"),
    ("part,target,x\nsupport,inf,1\nquery,1,1\n", R, "'inf' is not a finite number", "correct it"),
    (
        "part,target_0,target_1,x\nsupport,1,,1\nquery,1,1,1\n",
        R | {"outputs": 2},
        ".csv:2:target_1: the number is missing",
        "write it like",
    ),
]


@pytest.mark.parametrize(("text", "options", "message", "hint"), BAD_CSV)
def test_bad_csv(tmp_path, text, options, message, hint):
    check(table(tmp_path / "task.csv", text), FLAT | options, message, hint)


def test_csv_that_is_no_text_or_too_large(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_bytes(b"part,\xff")
    check(tmp_path / "t.csv", FLAT, "t.csv:1: this is not UTF-8 text", "UTF-8")
    table(tmp_path / "t.csv", HEAD + BODY)
    monkeypatch.setattr(tables, "ROWS", 2)
    check(tmp_path / "t.csv", FLAT, "3 rows of 2 features are too many for a task", "use at most 2 rows")


@pytest.mark.parametrize("name", ["missing", "missing.npz", "a\0b.csv", "x" * 300 + ".csv"])
def test_nothing_there(tmp_path, name):
    check(tmp_path / name, {}, "no such file or folder", "check the path")


def test_other_files(tmp_path):
    (tmp_path / "task.pkl").write_bytes(b"x")
    check(tmp_path / "task.pkl", {}, "cannot read rows from a .pkl file", ".npz or .csv")
    os.mkfifo(tmp_path / "pipe.csv")
    check(tmp_path / "pipe.csv", {}, "is not a regular file", "regular file")
    with pytest.raises(Problem, match="no such file or folder"):
        read(Path("~nobody-of-this-name/task.csv"))


# ---------------------------------------------------------------------------------------------- any bytes at all


def survives(name: str, data: bytes, **options: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        try:
            task = read(Path(folder) / name, **options)
        except Problem as problem:
            str(problem).encode()
            return
    assert np.isfinite(task.support_x).all()
    assert np.isfinite(task.query_x).all()
    assert len(task.support_x) == len(task.support_y) > 0
    assert len(task.query_x) == len(task.query_names) > 0
    assert task.query_y is None or len(task.query_y) == len(task.query_x)


def spoilt(good: bytes) -> st.SearchStrategy[bytes]:
    """A good file with some bytes changed, left out or put in."""
    edit = st.tuples(st.integers(0, len(good)), st.integers(0, 9), st.binary(max_size=9))

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = good
        for place, dropped, added in edits:
            data = data[:place] + added + data[place + dropped :]
        return data

    return st.lists(edit, min_size=1, max_size=4).map(apply)


def stored() -> bytes:
    out = io.BytesIO()
    np.savez(out, **GOOD)
    return out.getvalue()


CELLS = st.sampled_from(
    ["part", "label", "target", "f0", "f1", "support", "query", "a", "b", "1", "-2.5", "1e9", "nan"]
)
OTHER = st.sampled_from(["", " ", '"', '""', "\n", "\r", "\0", ",,", "1_0", "\u0663", "9" * 5000, "\ud7ff", "=1+1"])
LINES = st.lists(st.lists(CELLS | OTHER, max_size=5).map(",".join), max_size=6).map("\n".join)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | LINES.map(str.encode) | LINES.map(lambda t: (CSV + t).encode()) | spoilt(CSV.encode()))
def test_any_csv_is_a_task_or_a_problem(data):
    survives("t.csv", data, **FLAT)
    survives("t.csv", data, kind="regression", shape=(1,), divide=1.0, outputs=1)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | spoilt(stored()))
def test_any_npz_is_a_task_or_a_problem(data):
    survives("t.npz", data)


HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "descr": st.sampled_from(["<f8", "|O", "<U0", "<U1", "|V8", "f4,f4", "(2,)f4", "bad", "", "<f99"])
        | st.integers(),
        "fortran_order": st.booleans() | st.none(),
        "shape": st.lists(st.integers(-3, 2**70) | st.just(0), max_size=40).map(tuple) | st.just((2, 4, 4)),
        "more": st.none(),
    },
)


@settings(max_examples=300, deadline=None)
@given(HEADERS.map(str) | st.text(max_size=50), st.binary(max_size=300), st.integers(0, 4))
def test_any_array_header_is_a_task_or_a_problem(header, data, version):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("support_x", "support_y", "query_x"):
            archive.writestr(f"{name}.npy", npy(header, data, version) if name != "query_x" else npy("{}"))
    survives("t.npz", out.getvalue())


@settings(max_examples=200, deadline=None)
@given(spoilt(png()))
def test_any_image_is_a_task_or_a_problem(data):
    with tempfile.TemporaryDirectory() as root:
        try:
            count = len(read(holding("a/3.png", data)(Path(root))).query_x)
        except Problem as problem:
            count, place = 2, problem.where
        else:
            place = "a/3.png"
        assert count == 2
        assert place.endswith("a/3.png")
