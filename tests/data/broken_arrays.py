"""Broken inputs of the reader `arrays`, and the whole message that each must give.

Each case: a name, a function that writes the files into a folder and gives the `data:` section, and the message. To be
read with the folder as the current one and without METADIST_DATA.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

Make = Callable[[Path], str]
X, Y = np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])


def npz(options: str = "", **arrays: Any) -> Make:
    def make(folder: Path) -> str:
        np.savez_compressed(folder / "own.npz", **{"x": X, "y": Y, **arrays})
        return f"{{name: arrays, path: own.npz{options}}}"

    return make


def file(name: str, data: Callable[[], bytes], options: str = "") -> Make:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(data())
        return f"{{name: arrays, path: {name}{options}}}"

    return make


def saved(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def tensors(change: Callable[[bytes], bytes]) -> bytes:
    """A safetensors file whose JSON was changed; the length before it fits."""
    data = save({"x": X, "y": Y})
    length = int.from_bytes(data[:8], "little")
    text = change(data[8 : 8 + length])
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def bomb() -> bytes:
    """An archive whose 1,000 bytes of x unpack to 64 MiB, as its directory says."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x.npy", bytes(1000))
        archive.writestr("y.npy", b"")
    data = bytearray(out.getvalue())
    at = data.index(b"PK\x01\x02")
    data[at + 10 : at + 12] = struct.pack("<H", zipfile.ZIP_DEFLATED)
    data[at + 24 : at + 28] = struct.pack("<I", 64 << 20)
    return bytes(data)


def folder(change: Callable[[Path], Any]) -> Make:
    """A folder of .npy files to which something is done."""

    def make(here: Path) -> str:
        (here / "own").mkdir()
        np.save(here / "own" / "x.npy", X)
        np.save(here / "own" / "y.npy", Y)
        change(here / "own")
        return "{name: arrays, path: own}"

    return make


def link(own: Path) -> None:
    np.save(own.parent / "secret.npy", X)
    (own / "x.npy").unlink()
    (own / "x.npy").symlink_to(own.parent / "secret.npy")


def holed(value: float, dtype: type = np.float32) -> np.ndarray:
    out = np.ones((4, 3), dtype)
    out[2, 1] = value
    return out


CASES: list[tuple[str, Make, str]] = [
    (
        "pickled objects",
        npz(y=np.array([{}, None, 1, "a"], dtype=object)),
        "own.npz: y: the array holds Python objects\n  -> save numbers, or text with .astype(str)",
    ),
    (
        "missing array",
        npz(", groups: [subjetc]", subject=Y),
        "own.npz: there is no array 'subjetc'\n  -> did you mean 'subject'?",
    ),
    (
        "unequal lengths",
        npz(y=Y[:3]),
        "own.npz: y: the array has 3 rows, x has 4\n  -> they must be equally long",
    ),
    (
        "not a number",
        npz(x=holed(float("nan"))),
        "own.npz: x[2, 1]: this is no finite number, or too large\n  -> mend or leave out the row",
    ),
    (
        "too large for float32",
        npz(x=holed(1e300, np.float64)),
        "own.npz: x[2, 1]: this is no finite number, or too large\n  -> mend or leave out the row",
    ),
    (
        "infinite target",
        npz(", kind: regression", y=np.array([0.0, 1.0, float("inf"), 2.0])),
        "own.npz: y[2, 0]: this is no finite number, or too large\n  -> mend or leave out the row",
    ),
    (
        "label without a name",
        npz(", classes: [walking, sitting]", y=np.array([0, 1, 2, 0], np.uint8)),
        "own.npz: y[2]: the label '2' is none of data.classes\n  -> it names the classes 0 to 1",
    ),
    (
        "unknown text label",
        npz(", classes: [walking, sitting]", y=np.array(["walking", "siting", "sitting", "walking"])),
        "own.npz: y[1]: the label 'siting' is none of data.classes\n  -> did you mean 'sitting'?",
    ),
    (
        "complex numbers",
        npz(x=X.astype(np.complex64)),
        "own.npz: x: the array is of type complex64, not numbers\n  -> save it as float32 or uint8",
    ),
    (
        "labels are decimals",
        npz(y=Y.astype(float)),
        "own.npz: y: the array is of type float64, not whole numbers or text\n"
        "  -> save it with .astype(int) or .astype(str)",
    ),
    (
        "one-hot labels",
        npz(y=np.eye(4, dtype=int)),
        "own.npz: y: the array has the shape (4, 4), not one value a row\n  -> save it with .reshape(-1)",
    ),
    (
        "one number a row",
        npz(x=Y.astype(float)),
        "own.npz: x: the inputs have the shape (4,), not (rows, ...) with 2 to 100,000,000 rows\n"
        "  -> save one number a row with .reshape(-1, 1)",
    ),
    (
        "long texts",
        npz(y=np.array(["a" * 101, "b", "c", "d"])),
        "own.npz: y: the array holds texts of up to 101 characters\n  -> use 1 to 100",
    ),
    (
        "control character",
        npz(", groups: [who]", who=np.array(["a", "b", "\x1b[2J", "a"])),
        "own.npz: who[2]: the value has control characters, or is not UTF-8\n  -> give it another name",
    ),
    (
        "split of four parts",
        npz(", split: part", part=np.array([0, 1, 2, 3])),
        "own.npz: part[3]: '3' is no part of a split\n"
        "  -> write true or false, 0, 1, 2 (train, validation, test), or these words",
    ),
    (
        "split without a test",
        npz(", split: part", part=np.ones(4, dtype=bool)),
        "data: the split leaves no rows for testing\n  -> take another split, or leave it out",
    ),
    (
        "two classes of one name",
        npz(", classes: [a, a]"),
        "data.classes: the name of class 1 is given twice\n  -> give it another one",
    ),
    (
        "truncated archive",
        file("own.npz", lambda: saved(x=X, y=Y)[:-50]),
        "own.npz: the .npz file is broken: File is not a zip file\n  -> save it again with numpy.savez_compressed",
    ),
    (
        "zip bomb",
        file("own.npz", bomb),
        "own.npz: x: 1,000 bytes would unpack to 67,108,864\n  -> save it with numpy.savez, not packed",
    ),
    (
        "another file",
        file("own.mat", lambda: b"MATLAB 5.0 MAT-file"),
        "own.mat: arrays cannot be read from a .mat file\n"
        "  -> give an .npz or .safetensors file, or a folder of .npy files",
    ),
    (
        "truncated .npy",
        folder(lambda own: (own / "x.npy").write_bytes((own / "x.npy").read_bytes()[:-1])),
        "own/x.npy: an array of type float32 and shape (4, 3) has 176 bytes, here are 175\n"
        "  -> save it again with numpy",
    ),
    (
        "no .npy",
        folder(lambda own: (own / "x.npy").write_text("1, 2, 3, 4")),
        "own/x.npy: the .npy file is broken: the magic string is not correct; expected b'\\x93NUMPY', got b'1, 2, '\n"
        "  -> save it again with the program that wrote it",
    ),
    (
        "link out of the folder",
        folder(link),
        "own/x.npy: this is a link or no plain file\n  -> put the file itself there",
    ),
    (
        "tensor beyond the end",
        file(
            "own.safetensors", lambda: tensors(lambda text: text.replace(b"[4,3]", b"[8,3]").replace(b"80]", b"128]"))
        ),
        "own.safetensors: x: the header of the file describes this array wrongly\n  -> save it again",
    ),
    (
        "huge header",
        file("own.safetensors", lambda: struct.pack("<Q", 1 << 60) + b"{}"),
        "own.safetensors: the .safetensors file is broken: its header would have 1,152,921,504,606,846,976 bytes\n"
        "  -> save it again with the program that wrote it",
    ),
    (
        "nothing there",
        lambda folder: "{name: arrays, path: own.npz}",
        "own.npz: there is no such file or folder\n  -> check the path, or set METADIST_DATA to its folder",
    ),
]
