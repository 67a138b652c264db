"""Formats: canonical JSON, and tensors as safetensors under a seal, a SHA-256 of the whole file. No disk.

What is parsed here may have been made by a stranger: all limits are checked before anything is allocated.
torch is imported inside functions: reading a YAML file must not wait for it.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
from collections import Counter
from json.encoder import encode_basestring_ascii as _quoted
from typing import TYPE_CHECKING, Any, NoReturn

from metadist_cli.core.errors import DATA, Problem, printable

if TYPE_CHECKING:
    from torch import Tensor

_ITEMSIZE = {"F32": 4, "F64": 8, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
_HEADER_MAX = 64 << 20
_DEPTH_MAX, _NDIM_MAX = 50, 8
# The safetensors header, after its 8 bytes of length, up to the 64 hex digits of the seal.
_START = b'{"__metadata__":{"metadist":"{\\"sha256\\":\\"'
_SEAL = slice(8 + len(_START), 8 + len(_START) + 64)
_BLANK = "0" * 64


def sha256(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 of the bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def to_json(obj: Any) -> str:
    """Canonical JSON text: sorted keys, ASCII, one item a line, a line end. ValueError on NaN and infinities.

    Keys are text. The very text of json.dumps with indent=1, which first makes a string of every single number and
    bracket: 240 MB more for the 44 MB that say who has what of 100,000 nodes.
    """
    return _text(obj, "\n") + "\n"


def _text(value: Any, line: str) -> str:
    """line: the line end and the indent of where the value stands."""
    if type(value) is int:  # most of what there is
        return repr(value)
    if isinstance(value, str):
        return _quoted(value)
    inner = line + " "
    if isinstance(value, dict):
        items = [f"{_quoted(key)}: {_text(value[key], inner)}" for key in sorted(value)]
        return f"{{{inner}{f',{inner}'.join(items)}{line}}}" if items else "{}"
    if isinstance(value, list | tuple):
        return f"[{inner}{f',{inner}'.join([_text(item, inner) for item in value])}{line}]" if value else "[]"
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no JSON")
    return json.dumps(value)


def from_json(data: bytes | str, where: str) -> Any:
    """Object of a JSON text.

    Refuses duplicate keys, NaN and infinities, integers beyond 64 bits, nesting deeper than 50: Problem(DATA).
    """

    def bad(message: str) -> NoReturn:
        hint = "the file is damaged or was edited: make it again or fetch it again"
        raise Problem(message, where, hint, DATA) from None

    def integer(text: str) -> int:
        if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 64:
            bad(f"the integer {text[:24]} does not fit in 64 bits")
        return int(text)

    def real(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else bad(f"the number {text[:24]} is not finite")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) < len(items):
            twice = Counter(name for name, _ in items).most_common(1)[0][0]
            bad(f"the key {_show(twice)} is given twice")
        return out

    collects = gc.isenabled()
    gc.disable()  # else it looks through what is there at every step: 1.9 s of 2.5 for 44 MB
    try:
        text = data if isinstance(data, str) else data.decode()
        obj = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_float=real, parse_constant=real)
    except UnicodeDecodeError as error:
        bad(f"is not UTF-8 text (byte {error.start})")
    except json.JSONDecodeError as error:
        bad(f"is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}")
    except RecursionError:
        bad(f"is nested deeper than {_DEPTH_MAX}")
    finally:
        if collects:
            gc.enable()
    level, depth = [obj], 0
    while level:
        if depth > _DEPTH_MAX:
            bad(f"is nested deeper than {_DEPTH_MAX}")
        level, depth = [child for parent in level for child in _children(parent)], depth + 1
    if "\\u" in text:
        try:
            json.dumps(obj, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            bad("holds half a surrogate pair")
    return obj


def _children(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def pack(tensors: dict[str, Tensor], header: dict[str, Any]) -> bytes:
    """A sealed safetensors file of float32, float64, int64, int32, uint8 and bool tensors; equal input, equal bytes.

    The one metadata key "metadist" is compact JSON: "sha256", then the keys of `header` in order. The seal is the
    SHA-256 of the whole file with 64 zeros in its own place, so that it covers every bit. safetensors keeps metadata in
    no fixed order, which is why there is one key.
    """
    from safetensors.numpy import save  # a third of the time of its torch form, which looks for shared memory

    if "sha256" in header:
        raise ValueError("the seal is made here: the header may not bring a sha256")
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    text = f'{{"sha256":"{_BLANK}"' + (f",{text[1:]}" if header else "}")
    out = save({name: t.detach().cpu().contiguous().numpy() for name, t in tensors.items()}, {"metadist": text})
    if out[8 : _SEAL.start] != _START or out[_SEAL] != _BLANK.encode():
        raise RuntimeError("this version of safetensors lays out its header in a way that metadist does not know")
    return b"".join([out[: _SEAL.start], sha256(out).encode(), memoryview(out)[_SEAL.stop :]])


def unpack(data: bytes, where: str, tensors_max: int = 100_000) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name (sorted) and header of a sealed file; Problem(DATA) unless every bit is as it was packed.

    The seal shows damage, not authorship: the header is checked before safetensors parses it.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    def bad(message: str) -> NoReturn:
        hint = "make the file again with the step that writes it, or fetch it again"
        raise Problem(message, where, hint, DATA) from None

    if not data:
        bad("is empty")
    if data[8 : _SEAL.start] != _START:
        bad("is not a tensor file of metadist")
    length = int.from_bytes(data[:8], "little")
    if length > _HEADER_MAX:
        bad(f"has a header of {length:,} bytes, more than the {_HEADER_MAX:,} allowed")
    if 8 + length > len(data):
        bad("is cut short")
    digest = hashlib.sha256(data[: _SEAL.start] + _BLANK.encode())
    digest.update(memoryview(data)[_SEAL.stop :])
    if digest.hexdigest().encode() != data[_SEAL]:
        bad("is damaged: its content does not agree with its own SHA-256")
    table = from_json(data[8 : 8 + length], where)
    meta = table.pop("__metadata__")
    if list(meta) != ["metadist"]:
        bad("has other metadata than metadist writes")
    header = from_json(meta["metadist"], where)
    if len(table) > tensors_max:
        bad(f"holds {len(table):,} tensors, more than the {tensors_max:,} allowed")
    for name, entry in table.items():
        if not _sound(entry, len(data) - 8 - length):
            bad(f"describes its tensor {_show(name)} wrongly: {_show(json.dumps(entry))}")
    try:
        tensors = load(data)
    except SafetensorError as error:
        bad(f"is not a valid safetensors file: {error}")
    for name, entry in table.items():
        if entry["dtype"] == "BOOL" and (tensors[name].view(torch.uint8) > 1).any():
            bad(f"holds bytes other than 0 and 1 in the yes/no tensor {_show(name)}")
    del header["sha256"]
    return dict(sorted(tensors.items())), header


def _sound(entry: Any, size: int) -> bool:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if len(entry) == 3:
            if dtype not in _ITEMSIZE or len(shape) > _NDIM_MAX or any(type(d) is not int or d < 0 for d in shape):
                return False
            room = math.prod(max(d, 1) for d in shape) < 1 << 48  # strides of empty tensors overflow too
            return room and 0 <= begin <= end <= size and end - begin == math.prod(shape) * _ITEMSIZE[dtype]
    return False


def check(tensors: dict[str, Tensor], template: dict[str, Tensor], where: str) -> None:
    """Problem(DATA) unless names, dtypes and shapes are those of the template and every number is finite.

    Names the first tensor, in order of names, that differs.
    """

    def bad(message: str) -> NoReturn:
        hint = "it belongs to another model or run, or its training diverged: make it again with this configuration"
        raise Problem(message, where, hint, DATA)

    for name in sorted(tensors.keys() | template.keys()):
        if name not in tensors:
            bad(f"the tensor {_show(name)} is missing")
        if name not in template:
            bad(f"holds a tensor {_show(name)} that does not belong there")
        have, want = tensors[name], template[name]
        if have.dtype != want.dtype or have.shape != want.shape:
            bad(f"the tensor {_show(name)} is {_kind(have)} instead of {_kind(want)}")
        if not have.isfinite().all():
            bad(f"the tensor {_show(name)} holds numbers that are not finite")


def _kind(t: Tensor) -> str:
    return f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}"


def _show(text: str) -> str:
    """Text from a file, quoted, escaped and cut to a readable length."""
    return f'"{printable(text if len(text) <= 80 else text[:80] + "...")}"'.replace("\n", "\\n")
