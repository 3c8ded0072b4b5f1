"""JSON and names from files that nobody vouches for.

Python's own reader recurses on nesting, takes the last of repeated keys, and builds whatever fits into memory. Here the
brackets are counted before anything is built.
"""

import json
import os
import re
import reprlib
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from underlay.errors import MachineError, UserError

# A string up to its end, or up to the end of the text where it has none: linear, without backtracking.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKETS = re.compile(rb"[^][{}]++")
_SHORT = reprlib.Repr()  # cuts before it prints
_SHORT.maxstring = 400
_SHORT.maxlist = _SHORT.maxdict = 20
_LONGEST_NUMBER = 19  # digits of 2^63 - 1


def shown(value: object) -> str:
    """A foreign value for a message: quoted, on one line, at most 80 characters."""
    text = _SHORT.repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def open_plain(path: Path) -> BinaryIO:
    """Open a regular file (links are followed) for reading, unbuffered.

    Raises UserError where there is none (a pipe or device would block for ever), MachineError where it cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}: not a regular file")
        return path.open("rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise MachineError(f"{path}: cannot be read: {error.strerror}") from error


def read_exactly(file: BinaryIO, length: int, path: Path) -> bytes:
    """Read `length` bytes from where the file stands.

    Raises UserError where it ends before, MachineError where it cannot be read.
    """
    parts, missing = [], length
    try:
        while missing:
            part = file.read(missing)
            if not part:
                raise UserError(f"{path}: the file ended {missing} bytes early; copy or download it again")
            parts.append(part)
            missing -= len(part)
    except OSError as error:
        raise MachineError(f"{path}: cannot be read: {error.strerror}") from error
    return b"".join(parts)


def size_of(file: BinaryIO) -> int:
    """Size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def parse_json(raw: bytes, where: str, depth: int, values: int) -> dict[str, Any]:
    """Parse an object of JSON in UTF-8, nested at most `depth` deep, with at most `values` values and texts in all.

    Only whole numbers of at most 19 digits are taken. Raises UserError for everything else, and for repeated keys.
    """
    if raw.count(b'"') > 2 * values:
        raise UserError(f"{where}: more than {values} texts; this is no file that a tool wrote")
    bare = _STRING.sub(b"", raw)
    if bare.count(b",") + bare.count(b":") + bare.count(b"[") + bare.count(b"{") > 2 * values:
        raise UserError(f"{where}: more than {values} values; this is no file that a tool wrote")
    brackets = np.frombuffer(_BRACKETS.sub(b"", bare), np.uint8)
    steps = np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1)
    if len(steps) and int(np.cumsum(steps).max()) > depth:
        raise UserError(f"{where}: nested more than {depth} deep; this is no file that a tool wrote")
    try:
        parsed = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_whole,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error.msg} at character {error.pos}") from error
    except _RefusedError as error:
        raise UserError(f"{where}: {error}") from error
    if not isinstance(parsed, dict):
        raise UserError(f"{where}: must be an object, is {shown(parsed)}")
    return parsed


class _RefusedError(Exception):
    """A value that JSON allows and we do not."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _RefusedError(f"key {shown(key)} is there twice")
        for text in (key, value):
            if isinstance(text, str) and not _encodable(text):
                raise _RefusedError(f"text {shown(text)} holds half a character")
        found[key] = value
    return found


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _whole(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER or digits.startswith("-"):
        raise _RefusedError(f"number {shown(digits)} is negative or too long")
    return int(digits)


def _refuse(text: str) -> Any:
    raise _RefusedError(f"number {shown(text)} is not whole")
