"""File formats: canonical JSON, and safetensors sealed with a SHA-256 of the whole file. Works on bytes, not on disk.

Input is untrusted: every limit is checked before anything is allocated.
torch is imported inside functions, so that reading a YAML file does not wait for it.
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

_ITEMSIZE = {"F64": 8, "F32": 4, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_TYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")  # the same in torch
_HEADER_MAX = 64 << 20
_DEPTH_MAX, _NDIM_MAX = 50, 8
# The safetensors header between its 8-byte length and the 64 hex digits of the seal.
_START = b'{"__metadata__":{"metadist":"{\\"sha256\\":\\"'
_SEAL = slice(8 + len(_START), 8 + len(_START) + 64)
_BLANK = "0" * 64


def sha256(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 digest of the bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def to_json(obj: Any) -> str:
    """Serialise to canonical JSON: sorted keys, ASCII, one item per line, a final newline.

    Equal to json.dumps(obj, sort_keys=True, indent=1), which builds one string per token: 240 MB more memory for the
    44 MB manifest of 100,000 nodes.

    Args:
        obj: Nested dicts with string keys, lists, tuples, strings, numbers, booleans and None.

    Returns:
        The JSON text: equal objects give equal text.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    return _text(obj, "\n") + "\n"


def _text(value: Any, line: str) -> str:
    """`line` is a newline followed by the indentation of the enclosing value."""
    if type(value) is int:  # the most common type, so tested first
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
        raise ValueError(f"{value} cannot be written as JSON")
    return json.dumps(value)


def from_json(data: bytes | str, where: str) -> Any:
    """Parse untrusted JSON.

    Args:
        data: JSON text, or its UTF-8 bytes.
        where: The file's path, for messages.

    Returns:
        Nested dicts, lists, strings, numbers, booleans and None.

    Raises:
        Problem: DATA for invalid JSON, duplicate keys, NaN or infinity, integers beyond 64 bits, lone surrogates, or
            more than 50 levels of nesting.
    """

    def bad(message: str) -> NoReturn:
        hint = "the file is damaged or was edited: delete it and rerun the step that writes it, or fetch it again"
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
            bad(f"duplicate key {_show(twice)}")
        return out

    collects = gc.isenabled()
    gc.disable()  # the collector rescans the growing tree: 1.9 s of 2.5 s for 44 MB
    try:
        text = data if isinstance(data, str) else data.decode()
        obj = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_float=real, parse_constant=real)
    except UnicodeDecodeError as error:
        bad(f"is not UTF-8 text (at byte {error.start})")
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
            bad("contains a lone surrogate (half of a Unicode character)")
    return obj


def _children(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def pack(tensors: dict[str, Tensor], header: dict[str, Any]) -> bytes:
    """Serialise tensors to a sealed safetensors file; equal input gives equal bytes.

    The seal is the SHA-256 of the whole file, computed with 64 zeros in its own place, so it covers every bit. The
    metadata is one key, "metadist", because safetensors keeps several in no fixed order: compact JSON with "sha256"
    first, then the sorted keys of `header`.

    Args:
        tensors: Tensors by name, of any shape; float16 to float64, int8 to int64, uint8 or bool.
        header: JSON values to store beside them; "sha256" is reserved.

    Returns:
        The bytes of the file.

    Raises:
        ValueError: The header contains "sha256", NaN or infinity, or a tensor is of another type.
    """
    from safetensors.numpy import save  # three times as fast as safetensors.torch, which looks for shared memory

    if "sha256" in header:
        raise ValueError("the header must not contain sha256: pack adds it")
    for name, tensor in tensors.items():
        if (kind := str(tensor.dtype).removeprefix("torch.")) not in _TYPES:
            message = f"the tensor {_show(name)} is {kind}, which a tensor file cannot hold: convert it to one of"
            raise ValueError(f"{message} {', '.join(_TYPES)}")
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    text = f'{{"sha256":"{_BLANK}"' + (f",{text[1:]}" if header else "}")
    out = save({name: t.detach().cpu().contiguous().numpy() for name, t in tensors.items()}, {"metadist": text})
    if out[8 : _SEAL.start] != _START or out[_SEAL] != _BLANK.encode():
        raise RuntimeError("metadist does not support the header layout of this version of safetensors")
    return b"".join([out[: _SEAL.start], sha256(out).encode(), memoryview(out)[_SEAL.stop :]])


def unpack(data: bytes, where: str, tensors_max: int = 100_000) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a sealed safetensors file and verify every bit.

    The seal detects damage, not forgery, so the header is checked before safetensors parses it.

    Args:
        data: The bytes of the file, untrusted.
        where: The file's path, for messages.
        tensors_max: Most tensors accepted.

    Returns:
        The tensors, sorted by name, and the header that `pack` was given.

    Raises:
        Problem: DATA if the file is not one that `pack` wrote, was changed, or exceeds a limit.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    def bad(message: str) -> NoReturn:
        hint = "delete this file and rerun the step that writes it, or fetch it again"
        raise Problem(message, where, hint, DATA) from None

    if not data:
        bad("is empty")
    if data[8 : _SEAL.start] != _START:
        bad("is not a tensor file written by metadist")
    length = int.from_bytes(data[:8], "little")
    if length > _HEADER_MAX:
        bad(f"has a header of {length:,} bytes, more than the {_HEADER_MAX:,} allowed")
    if 8 + length > len(data):
        bad("is truncated")
    digest = hashlib.sha256(data[: _SEAL.start] + _BLANK.encode())
    digest.update(memoryview(data)[_SEAL.stop :])
    if digest.hexdigest().encode() != data[_SEAL]:
        bad("is damaged: its content does not match its SHA-256")
    table = from_json(data[8 : 8 + length], where)
    meta = table.pop("__metadata__")
    if list(meta) != ["metadist"]:
        bad("contains metadata that metadist does not write")
    header = from_json(meta["metadist"], where)
    if len(table) > tensors_max:
        bad(f"contains {len(table):,} tensors, more than the {tensors_max:,} allowed")
    for name, entry in table.items():
        if not _valid_entry(entry, len(data) - 8 - length):
            bad(f"has an invalid entry for tensor {_show(name)}: {_show(json.dumps(entry))}")
    try:
        tensors = load(data)
    except SafetensorError as error:
        bad(f"is not a valid safetensors file: {error}")
    for name, entry in table.items():
        if entry["dtype"] == "BOOL" and (tensors[name].view(torch.uint8) > 1).any():
            bad(f"contains bytes other than 0 and 1 in the boolean tensor {_show(name)}")
    del header["sha256"]
    return dict(sorted(tensors.items())), header


def _valid_entry(entry: Any, size: int) -> bool:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if len(entry) == 3:
            if dtype not in _ITEMSIZE or len(shape) > _NDIM_MAX or any(type(d) is not int or d < 0 for d in shape):
                return False
            small = math.prod(max(d, 1) for d in shape) < 1 << 48  # the strides of an empty tensor can overflow too
            return small and 0 <= begin <= end <= size and end - begin == math.prod(shape) * _ITEMSIZE[dtype]
    return False


def check(tensors: dict[str, Tensor], template: dict[str, Tensor], where: str) -> None:
    """Check that tensors match a template and hold finite numbers.

    Args:
        tensors: Tensors by name, as read from a file.
        template: Tensors with the expected names, dtypes and shapes.
        where: The file's path, for messages.

    Raises:
        Problem: DATA; names the first tensor, in alphabetical order, that differs.
    """

    def bad(message: str) -> NoReturn:
        hint = "it belongs to another model or run, or training diverged: delete it and rerun the step that writes it"
        raise Problem(message, where, hint, DATA)

    for name in sorted(tensors.keys() | template.keys()):
        if name not in tensors:
            bad(f"tensor {_show(name)} is missing")
        if name not in template:
            bad(f"unexpected tensor {_show(name)}")
        have, want = tensors[name], template[name]
        if have.dtype != want.dtype or have.shape != want.shape:
            bad(f"tensor {_show(name)} is {_kind(have)}, expected {_kind(want)}")
        if not have.isfinite().all():
            bad(f"tensor {_show(name)} contains NaN or infinity")


def _kind(t: Tensor) -> str:
    return f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}"


def _show(text: str) -> str:
    """Quote, escape and shorten untrusted text."""
    return f'"{printable(text if len(text) <= 80 else text[:80] + "...")}"'.replace("\n", "\\n")
