"""Places where something private may stand, found in one pass over the bytes of texts.

Nearly all of a text is not private. So one cheap loop picks out the few places that could be, and whoever wants to know
looks at those alone, with patterns and checksums (`underlay.data.curate.privacy`). The loop knows shapes only:

- AT: an `@` between two characters that an address may have there.
- NUMBER: digits in groups, with at least 7 digits, or 3 times 2, or 3 dots between them.
- MIXED: a word of 9 to 18 capital letters and digits, with at least 4 digits: the shape of many national ids.
- BANK: two letters and two digits, alone or at the start of a long word: how an IBAN begins.
- COLONS: hexadecimal digits and colons, as in an IPv6 address.
- PREFIX: a long word that begins as keys of known services do.
- ASSIGNED: a long run of letters and digits behind a colon or an equals sign.
- BLOCK: `-----BEGIN`.

`candidates_reference` says the same with regular expressions; tests compare the two.
"""

import re
from typing import Any, Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

AT, NUMBER, MIXED, BANK, COLONS, PREFIX, ASSIGNED, BLOCK = range(8)
SHORTEST_KEY: Final = 16
"""Bytes, from which on a word may be a key."""
_LONGEST_LOOK = 64
"""Bytes of an assigned value that are looked at."""
_DIGIT, _UPPER, _LOWER, _HEX, _JOIN, _LOCAL, _KEY = (np.uint8(1 << bit) for bit in range(7))
_WORD = np.uint8(1 << 7)
_BEGIN = np.frombuffer(b"BEGIN", dtype=np.uint8)
_BANK_GROUP = 4


def _classes() -> NDArray[np.uint8]:
    table = np.zeros(256, dtype=np.uint8)
    for bit, members in (
        (_DIGIT, b"0123456789"),
        (_UPPER, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        (_LOWER, b"abcdefghijklmnopqrstuvwxyz"),
        (_HEX, b"0123456789ABCDEFabcdef"),
        (_JOIN, b" -./()+"),
        (_LOCAL, b"._%+-"),
        (_KEY, b"._-~+/"),
        (_WORD, b"_"),
    ):
        table[np.frombuffer(members, dtype=np.uint8)] |= bit
    alnum = (table & (_DIGIT | _UPPER | _LOWER)) != 0
    table[alnum] |= _WORD | _LOCAL | _KEY
    table[ord("_")] |= _LOCAL
    # Letters of other scripts may stand in addresses, and dashes and spaces of typesetters between digits.
    table[128:] |= _JOIN | _LOCAL
    return table


_CLASSES = _classes()


class Candidates(NamedTuple):
    """m places, in the order of their texts."""

    texts: NDArray[np.int32]
    """(m,): the number of the text."""
    kinds: NDArray[np.uint8]
    """(m,)"""
    starts: NDArray[np.int64]
    """(m,): in code points from the start of the text."""
    ends: NDArray[np.int64]
    """(m,): one past the last code point; of PREFIX, ASSIGNED and BLOCK only the start counts."""


def pairs(prefixes: tuple[str, ...]) -> NDArray[np.bool_]:
    """The first two characters of prefixes (ASCII, at least two characters each) as a table: (65536,) bool."""
    table = np.zeros(1 << 16, dtype=np.bool_)
    for prefix in prefixes:
        table[ord(prefix[0]) << 8 | ord(prefix[1])] = True
    return table


def candidates(text: NDArray[np.uint8], offsets: NDArray[np.int64], begins: NDArray[np.bool_]) -> Candidates:
    """The candidates in the texts text[offsets[i]:offsets[i + 1]], valid UTF-8. begins: from `pairs`."""
    room = (len(text) >> 6) + 64
    while True:
        found = Candidates(
            np.empty(room, dtype=np.int32),
            np.empty(room, dtype=np.uint8),
            np.empty(room, dtype=np.int64),
            np.empty(room, dtype=np.int64),
        )
        count = _scan(text, offsets, _CLASSES, begins, *found)
        if count <= room:
            texts, kinds, starts, ends = found
            return Candidates(texts[:count], kinds[:count], starts[:count], ends[:count])
        room = count


@numba.njit(cache=True, nogil=True, inline="always")
def _put(found: Any, count: int, text: int, kind: int, start: int, end: int) -> int:
    """Note a candidate where there is room; returns how many there are, with or without room."""
    if count < len(found[0]):
        found[0][count], found[1][count], found[2][count], found[3][count] = text, kind, start, end
    return count + 1


@numba.njit(cache=True, nogil=True)
def _scan(text: Any, offsets: Any, classes: Any, begins: Any, texts: Any, kinds: Any, starts: Any, ends: Any) -> int:
    found = (texts, kinds, starts, ends)
    count = 0
    for number in range(len(offsets) - 1):
        begin, end = offsets[number], offsets[number + 1]
        # A byte's code point is its place less `less`: the start, and the continuation bytes up to there.
        less = begin
        colons_done = begin
        # The run of groups of digits that is not over yet.
        first = last = last_at = digits = groups = dots = 0
        joined = False
        i = begin
        while i < end:
            byte = text[i]
            kind = classes[byte]
            if kind & _WORD:
                start = i
                own = uppers = lowers = 0
                while i < end and classes[text[i]] & _WORD:
                    kind = classes[text[i]]
                    own += (kind & _DIGIT) != 0
                    uppers += (kind & _UPPER) != 0
                    lowers += (kind & _LOWER) != 0
                    i += 1
                length = i - start
                gap = start - last_at
                joined = joined and groups > 0 and gap <= 4
                if own == length:
                    if joined:
                        dots += gap == 1 and text[start - 1] == 46
                    else:
                        if _enough(digits, groups, dots):
                            count = _put(found, count, number, NUMBER, first, last)
                        first, digits, groups, dots = start - less, 0, 0, 0
                    digits += own
                    groups += 1
                    last, last_at = i - less, i
                    joined = True
                    continue
                if joined and _extended(text, start, i, classes):
                    digits += 4
                    groups += 1
                    last = start + 4 - less
                joined = False
                if own >= 4 and lowers == 0 and 9 <= length <= 18 and own + uppers == length:
                    count = _put(found, count, number, MIXED, start - less, i - less)
                if own >= 2 and _bank(text, start, i, end, classes):
                    count = _put(found, count, number, BANK, start - less, i - less)
                if length > 1 and begins[np.int64(text[start]) << 8 | np.int64(text[start + 1])]:
                    stop = i
                    while stop < end and stop - start < SHORTEST_KEY and classes[text[stop]] & _KEY:
                        stop += 1
                    if stop - start >= SHORTEST_KEY:
                        count = _put(found, count, number, PREFIX, start - less, i - less)
                continue
            joined = joined and (kind & _JOIN) != 0
            if byte == 64:  # @
                if i > begin and i + 1 < end and classes[text[i - 1]] & _LOCAL and _domain(text[i + 1], classes):
                    count = _put(found, count, number, AT, i - less, i + 1 - less)
            elif byte == 58 or byte == 61:  # : =
                value = _value(text, i + 1, end, classes)
                if value:
                    count = _put(found, count, number, ASSIGNED, value - less, value - less)
                if byte == 58 and i >= colons_done:
                    start, colons_done, good = _colons(text, colons_done, i, end, classes)
                    if good:
                        count = _put(found, count, number, COLONS, start - less, colons_done - less)
            elif byte == 45:  # -
                start = i
                while i + 1 < end and text[i + 1] == 45:
                    i += 1
                if i + 1 - start >= 5 and _stands(text, i + 1, end, _BEGIN):
                    count = _put(found, count, number, BLOCK, i - 4 - less, i + 1 - less)
            elif byte & 0xC0 == 0x80:
                less += 1
            i += 1
        if _enough(digits, groups, dots):
            count = _put(found, count, number, NUMBER, first, last)
    return count


@numba.njit(cache=True, nogil=True, inline="always")
def _enough(digits: int, groups: int, dots: int) -> Any:
    return digits >= 7 or dots >= 3 or (digits == 6 and groups == 3)


@numba.njit(cache=True, nogil=True, inline="always")
def _domain(byte: Any, classes: Any) -> Any:
    return byte >= 128 or (classes[byte] & (_DIGIT | _UPPER | _LOWER)) != 0


@numba.njit(cache=True, nogil=True)
def _stands(text: Any, at: int, end: int, wanted: Any) -> Any:
    if at + len(wanted) > end:
        return False
    same = True
    for k in range(len(wanted)):
        same &= text[at + k] == wanted[k]
    return same


@numba.njit(cache=True, nogil=True)
def _extended(text: Any, start: int, stop: int, classes: Any) -> Any:
    """Whether the word text[start:stop] is the end of a telephone number and an extension: `3560x4587`."""
    if stop - start < 6 or text[start + 4] != 120:
        return False
    digits = 0
    for k in (0, 1, 2, 3, 5):
        digits += (classes[text[start + k]] & _DIGIT) != 0
    return digits == 5


@numba.njit(cache=True, nogil=True)
def _bank(text: Any, start: int, stop: int, end: int, classes: Any) -> Any:
    """Whether the word text[start:stop] may begin an IBAN."""
    if stop - start < _BANK_GROUP:
        return False
    for k in range(_BANK_GROUP):
        kind = classes[text[start + k]]
        if k < 2 and not kind & (_UPPER | _LOWER):
            return False
        if k >= 2 and not kind & _DIGIT:
            return False
    if stop - start > _BANK_GROUP:
        return 15 <= stop - start <= 34
    return stop + 1 < end and text[stop] in (32, 45) and (classes[text[stop + 1]] & (_DIGIT | _UPPER | _LOWER)) != 0


@numba.njit(cache=True, nogil=True)
def _colons(text: Any, done: int, at: int, end: int, classes: Any) -> tuple[int, int, bool]:
    """The run of hexadecimal digits and colons around a colon, and whether it may be an address."""
    start, stop = at, at
    while start > done and classes[text[start - 1]] & _HEX:
        start -= 1
    colons = digits = 0
    double = False
    while stop < end and (classes[text[stop]] & _HEX or text[stop] == 58):
        colon = text[stop] == 58
        colons += colon
        double |= colon and stop > start and text[stop - 1] == 58
        stop += 1
    for k in range(start, stop):
        digits += (classes[text[k]] & _DIGIT) != 0
    return start, stop, digits > 0 and 6 <= stop - start <= 45 and (colons == 7 or (double and colons >= 2))


@numba.njit(cache=True, nogil=True)
def _value(text: Any, at: int, end: int, classes: Any) -> int:
    """Where a value behind a colon or an equals sign begins that may be a secret; 0: none."""
    if at < end and (text[at] == 61 or text[at] == 62):  # = >
        at += 1
    spaces = 0
    while at < end and text[at] == 32 and spaces < 2:
        at += 1
        spaces += 1
    if at < end and (text[at] == 34 or text[at] == 39 or text[at] == 96):  # " ' `
        at += 1
    stop, digits, letters = at, 0, 0
    while stop < end and stop - at < _LONGEST_LOOK and classes[text[stop]] & (_KEY | _WORD):
        kind = classes[text[stop]]
        digits += (kind & _DIGIT) != 0
        letters += (kind & (_UPPER | _LOWER)) != 0
        stop += 1
    return at if stop - at >= SHORTEST_KEY and digits >= 2 and letters >= 2 else 0


_GAP = rb"[ ./()+\x80-\xff-]{1,4}"
_KEYS = rb"A-Za-z0-9._~+/-"
_ALONE, _OVER = rb"(?<![A-Za-z0-9_])", rb"(?![A-Za-z0-9_])"
_DIGITS = rb"[0-9]+" + _OVER
_REFERENCE = {
    AT: rb"(?<=[A-Za-z0-9._%+\x80-\xff-])@(?=[A-Za-z0-9\x80-\xff])",
    NUMBER: _ALONE + _DIGITS + rb"(?:" + _GAP + _DIGITS + rb")*(?:" + _GAP + rb"[0-9]{4}(?=x[0-9]))?",
    MIXED: _ALONE + rb"[A-Z0-9]{9,18}" + _OVER,
    BANK: _ALONE + rb"[A-Za-z]{2}[0-9]{2}(?:[A-Za-z0-9_]{11,30}" + _OVER + rb"|(?=[ -][A-Za-z0-9]))",
    COLONS: rb"[0-9A-Fa-f]*:[0-9A-Fa-f:]*",
    PREFIX: _ALONE + rb"(?!" + _DIGITS + rb")[A-Za-z0-9_]{2}(?<=(..))(?=[" + _KEYS + rb"]{14})[A-Za-z0-9_]*",
    ASSIGNED: rb"(?=[:=][=>]?[ ]{0,2}[\"'`]?([" + _KEYS + rb"]{16,64}))",
    BLOCK: rb"-----(?=BEGIN)",
}


def candidates_reference(text: str, prefixes: tuple[str, ...]) -> set[tuple[int, int]]:
    """Kinds and starts of the candidates in a text: the plain twin of `candidates`."""
    data = text.encode()
    found = set()
    for kind, pattern in _REFERENCE.items():
        for match in re.finditer(pattern, data, re.DOTALL):
            whole, start = match.group(), match.start()
            digits = len(re.findall(rb"[0-9]", whole))
            if kind == NUMBER:
                gaps = re.findall(rb"[^0-9]+", whole)
                if not (digits >= 7 or gaps.count(b".") >= 3 or (digits == 6 and len(gaps) == 2)):
                    continue
            elif kind == MIXED and (digits < 4 or digits == len(whole)):
                continue
            elif kind == COLONS:
                colons = whole.count(b":")
                if not (digits and 6 <= len(whole) <= 45 and (colons == 7 or (b"::" in whole and colons >= 2))):
                    continue
            elif kind == PREFIX and match.group(1).decode("latin-1") not in {prefix[:2] for prefix in prefixes}:
                continue
            elif kind == ASSIGNED:
                value = match.group(1)
                if len(re.findall(rb"[0-9]", value)) < 2 or len(re.findall(rb"[A-Za-z]", value)) < 2:
                    continue
                start = match.start(1)
            found.add((kind, len(data[:start].decode())))
    return found
