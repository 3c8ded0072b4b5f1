"""Counts how often words of some lists stand in texts: one pass over the bytes, a look into a table for each word.

A word is a run of ASCII letters, digits, underscores and of bytes beyond ASCII, so `his_name` holds no `his`. Words are
compared in lower case; those of a list of names have to begin with a capital.
"""

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from underlay.kernels.hashes import slots

_FNV, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_NAMES = 1 << 8
"""Added to a list's number where its words have to begin with a capital."""


def term_table(lists: Sequence[Sequence[str]], names: Sequence[bool]) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Words by their hash, for `count_terms`: the hashes, and the number of the list from 1 on; 0: an empty slot.

    lists: words in ASCII, each in one list only; names: whether a list's words have to begin with a capital.
    """
    size = slots(sum(map(len, lists)))
    keys, marks = np.zeros(size, dtype=np.uint64), np.zeros(size, dtype=np.int32)
    for number, (words, capital) in enumerate(zip(lists, names, strict=True), 1):
        for word in words:
            value = int(_FNV)
            for byte in word.lower().encode("ascii"):
                value = (value ^ byte) * int(_PRIME) % (1 << 64)
            place = value & (size - 1)
            while marks[place]:
                assert int(keys[place]) != value, f"{word} is listed twice"
                place = (place + 1) & (size - 1)
            keys[place], marks[place] = value, number + _NAMES * capital
    return keys, marks


@numba.njit(cache=True, nogil=True)
def count_terms(text: Any, offsets: Any, keys: Any, marks: Any, out: Any) -> None:
    """Count the words of each list in each text.

    text: texts in UTF-8, one behind the other, uint8; offsets: (n + 1,) int64; keys, marks: of `term_table`; out: (n,
    lists) int32, zeros.
    """
    mask = np.uint64(len(keys) - 1)
    for row in range(len(offsets) - 1):
        i, end = offsets[row], offsets[row + 1]
        while i < end:
            byte = text[i]
            if not (byte >= 128 or 97 <= byte <= 122 or 65 <= byte <= 90 or 48 <= byte <= 57 or byte == 95):
                i += 1
                continue
            capital = 65 <= byte <= 90
            value = _FNV
            while byte >= 128 or 97 <= byte <= 122 or 65 <= byte <= 90 or 48 <= byte <= 57 or byte == 95:
                if 65 <= byte <= 90:
                    byte += np.uint8(32)
                value = (value ^ np.uint64(byte)) * _PRIME
                i += 1
                if i == end:
                    break
                byte = text[i]
            place = np.int64(value & mask)
            while marks[place]:
                if keys[place] == value:
                    mark = marks[place]
                    if mark < _NAMES or capital:
                        out[row, (mark & (_NAMES - 1)) - 1] += 1
                    break
                place = (place + 1) & np.int64(mask)
