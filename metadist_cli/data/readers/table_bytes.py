"""From the bytes of a text file to UTF-8: gzip, byte order marks, and encodings by name."""

from __future__ import annotations

import codecs
import encodings.aliases
import gzip
import io
import zlib

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import NAME, nearest
from metadist_cli.data.readers.members import EACH, RATIO, SMALL, Member

_GZIP = b"\x1f\x8b"
_UTF32 = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}  # before UTF-16, whose mark begins alike
_BOMS = {**_UTF32, codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_START = 1000  # bytes that show what a text is
_UNFIT = ("idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape")  # of names and of source code


def unpacked(file: Member) -> bytes:
    """The bytes of a file, decompressed where they are gzip.

    Raises:
        Problem: DATA for a broken file, and for one with more than 512 MiB, or, above 64 MiB, 200 times its size.
    """
    data = file.read()
    if not data.startswith(_GZIP):
        return data
    limit = min(EACH, max(SMALL, RATIO * len(data)))
    try:
        plain = gzip.GzipFile(fileobj=io.BytesIO(data)).read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        message = f"the gzip file is broken: {error or type(error).__name__}"
        raise Problem(message, file.where, "download the file again", DATA) from error
    if len(plain) > limit:
        hint = "split it, or store it as Parquet"
        raise Problem(f"the file has more than {limit:,} bytes when decompressed", file.where, hint, DATA)
    return plain


def utf8(data: bytes, encoding: str, where: str, options: bool = True) -> bytes:
    """The same text in UTF-8, without a byte order mark, which goes before `encoding`.

    Args:
        options: whether the hint may name the option `encoding`.

    Raises:
        Problem: CONFIG for an unknown encoding, DATA with file:line for bytes that are not of it.
    """
    mark = next((mark for mark in _BOMS if data.startswith(mark)), None)
    encoding = check_encoding(encoding) if mark is None else _BOMS[mark]
    try:
        if encoding in ("utf-8", "utf-8-sig"):
            data = data[len(mark or b"") :]
            if data.count(b"\0", 0, _START) > min(len(data), _START) // 3:
                hint = f"write encoding: utf-16-{'be' if data.startswith(bytes(1)) else 'le'}"
                hint = hint if options else "save it as UTF-8"
                raise Problem("this looks like UTF-16 text without a byte order mark", f"{where}:1", hint, DATA)
            if not data.isascii():
                data.decode()
            return data
        return data.decode(encoding).encode()
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        line = data[:start].decode(encoding, "ignore").count("\n") + 1
        hint = "write encoding: cp1252 (Western Europe), or the name of its encoding, such as gbk or shift_jis"
        hint = hint if options else "save it as UTF-8"
        raise Problem(f"this is not {encoding.upper()} text", f"{where}:{line}", hint, DATA) from error


def check_encoding(name: str) -> str:
    """The plain name of an encoding of text. Raises Problem(CONFIG) where Python does not know it."""
    try:
        found = codecs.lookup(name)
        "a".encode(name)  # refuses what is not of text, such as zip
        if found.name not in _UNFIT:
            return found.name
    except (LookupError, UnicodeError, ValueError):
        pass
    known = {alias.replace("_", "-") for alias in encodings.aliases.aliases.values()} | {"utf-8-sig"}
    message = f"{name[:NAME]!r} is not the name of an encoding"
    raise Problem(message, "data.encoding", nearest(name[:NAME], known), CONFIG)
