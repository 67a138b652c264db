"""Broken inputs of the reader `arrays`; broken/arrays/ has the whole message that each must give.

Each case: a name, and a function that writes the files into a folder and returns the `data:` section, to be read with
that folder as the current one and without METADIST_DATA.
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


CASES: dict[str, Make] = {
    "pickled objects": npz(y=np.array([{}, None, 1, "a"], dtype=object)),
    "missing array": npz(", groups: [subjetc]", subject=Y),
    "unequal lengths": npz(y=Y[:3]),
    "not a number": npz(x=holed(float("nan"))),
    "too large for float32": npz(x=holed(1e300, np.float64)),
    "infinite target": npz(", kind: regression", y=np.array([0.0, 1.0, float("inf"), 2.0])),
    "label without a name": npz(", classes: [walking, sitting]", y=np.array([0, 1, 2, 0], np.uint8)),
    "unknown text label": npz(", classes: [walking, sitting]", y=np.array(["walking", "siting", "sitting", "walking"])),
    "complex numbers": npz(x=X.astype(np.complex64)),
    "labels are decimals": npz(y=Y.astype(float)),
    "one-hot labels": npz(y=np.eye(4, dtype=int)),
    "one number a row": npz(x=Y.astype(float)),
    "long texts": npz(y=np.array(["a" * 101, "b", "c", "d"])),
    "control character": npz(", groups: [who]", who=np.array(["a", "b", "\x1b[2J", "a"])),
    "split of four parts": npz(", split: part", part=np.array([0, 1, 2, 3])),
    "split without a test": npz(", split: part", part=np.ones(4, dtype=bool)),
    "two classes of one name": npz(", classes: [a, a]"),
    "truncated archive": file("own.npz", lambda: saved(x=X, y=Y)[:-50]),
    "zip bomb": file("own.npz", bomb),
    "another file": file("own.mat", lambda: b"MATLAB 5.0 MAT-file"),
    "truncated .npy": folder(lambda own: (own / "x.npy").write_bytes((own / "x.npy").read_bytes()[:-1])),
    "no .npy": folder(lambda own: (own / "x.npy").write_text("1, 2, 3, 4")),
    "link out of the folder": folder(link),
    "tensor beyond the end": file(
        "own.safetensors", lambda: tensors(lambda text: text.replace(b"[4,3]", b"[8,3]").replace(b"80]", b"128]"))
    ),
    "huge header": file("own.safetensors", lambda: struct.pack("<Q", 1 << 60) + b"{}"),
    "nothing there": lambda folder: "{name: arrays, path: own.npz}",
}
