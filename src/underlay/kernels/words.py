"""Words of a text, cut as English is written: punctuation apart, contractions in two, what belongs together whole.

The filters of web corpora count words as a rule-based tokenizer for English gives them. These are such rules, on
code points and without strings: white space separates chunks; from a chunk's edges punctuation is taken off, one mark
at a time; what is left is cut at dashes, slashes and the like between letters, unless it is an address.
`words_reference` says the same with regular expressions; tests compare the two.

Chinese, Japanese, Thai and other scripts without spaces are left in chunks here, as those filters do.
"""

from typing import Any

import numba
import numpy as np

from underlay.kernels.characters import DASH, DIGIT, EDGE, ICON, LETTER, LOWER, MONEY, QUOTE, SPACE, UPPER
from underlay.kernels.hashes import hash_points

_UNITS = (
    "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa Pa "
    "mbar mb MB kb KB gb GB tb TB T G M K % am pm"
)
UNITS = tuple(_UNITS.split())
"""Cut off behind a digit."""
_ABBREVIATIONS = (
    "Mr. Mrs. Ms. Dr. Prof. St. Jr. Sr. Messrs. Rev. Gen. Gov. Sen. Rep. Adm. Bros. Co. Corp. Inc. Ltd. vs. v.s. e.g. "
    "i.e. E.g. I.e. a.m. p.m. A.m. P.m. a.k.a. Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec. Mt. Ph.D. "
    "Ala. Ariz. Ark. Calif. Colo. Conn. Del. Fla. Ga. Ia. Id. Ill. Ind. Kan. Kans. Ky. La. Mass. Md. Mich. Minn. Miss. "
    "Mont. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Okla. Ore. Pa. S.C. Tenn. Va. Wash. Wis. D.C. and/or"
)
ABBREVIATIONS = tuple(_ABBREVIATIONS.split())
"""Keep their marks."""


@numba.njit(cache=True, nogil=True)
def decode(text: Any, start: int, end: int, points: Any) -> int:
    """Write the code points of the UTF-8 text[start:end] into `points`; returns how many there are.

    text: (n,) uint8, valid UTF-8; points: at least end - start long, uint32.
    """
    n = 0
    i = start
    while i < end:
        byte = np.uint32(text[i])
        if byte < 0x80:
            points[n] = byte
            i += 1
        elif byte < 0xE0:
            points[n] = (byte & 0x1F) << 6 | np.uint32(text[i + 1]) & 0x3F
            i += 2
        elif byte < 0xF0:
            points[n] = (byte & 0xF) << 12 | (np.uint32(text[i + 1]) & 0x3F) << 6 | np.uint32(text[i + 2]) & 0x3F
            i += 3
        else:
            points[n] = (
                (byte & 7) << 18
                | (np.uint32(text[i + 1]) & 0x3F) << 12
                | (np.uint32(text[i + 2]) & 0x3F) << 6
                | np.uint32(text[i + 3]) & 0x3F
            )
            i += 4
        n += 1
    return n


@numba.njit(cache=True, nogil=True)
def split(points: Any, size: int, kinds: Any, known: Any, starts: Any, ends: Any) -> int:
    """Find the words of points[:size]; returns how many there are.

    kinds: `characters.kinds()`; known: `known_words()`; starts, ends: at least `size` long, int32.
    """
    n = 0
    i = 0
    while i < size:
        if kinds[points[i]] & SPACE:
            i += 1
            continue
        start = i
        letters = 0
        while i < size and not kinds[points[i]] & SPACE:
            letters += (kinds[points[i]] & LETTER) != 0
            i += 1
        if letters == i - start:
            starts[n], ends[n] = start, i
            n += 1
        elif letters == i - start - 1 > 0 and kinds[points[i - 1]] & (EDGE | QUOTE):  # most marks: a word and a comma
            starts[n], ends[n] = start, i - 1
            starts[n + 1], ends[n + 1] = i - 1, i
            n += 2
        else:
            n = _chunk(points, start, i, kinds, known, starts, ends, n)
    return n


@numba.njit(cache=True, nogil=True)
def _chunk(points: Any, start: int, end: int, kinds: Any, known: Any, starts: Any, ends: Any, n: int) -> int:
    """The words of one chunk that is more than letters.

    What is taken off its end waits at the end of the arrays: no text has more words than characters.
    """
    right = end
    waiting = len(starts)
    whole = False
    while start < right:
        if _kept(points, start, right, kinds, known):
            whole = True
            break
        taken = _prefix(points, start, right, kinds)
        if taken:
            starts[n], ends[n] = start, start + taken
            n += 1
            start += taken
            continue
        taken = _suffix(points, start, right, kinds, known)
        if not taken:
            break
        waiting -= 1
        starts[waiting], ends[waiting] = right - taken, right
        right -= taken
    if whole:
        starts[n], ends[n] = start, right
        n += 1
    elif start < right:
        n = _middle(points, start, right, kinds, starts, ends, n)
    for i in range(waiting, len(starts)):
        starts[n], ends[n] = starts[i], ends[i]
        n += 1
    return n


@numba.njit(cache=True, nogil=True)
def _prefix(points: Any, start: int, end: int, kinds: Any) -> int:
    """How many characters at the start of points[start:end] are a word by themselves; 0: none."""
    point = points[start]
    dots = _dots(points, start, end)
    if dots > 1:
        return dots
    if point == 43:  # +
        return 0 if start + 1 < end and kinds[points[start + 1]] & DIGIT else 1
    if kinds[point] & (EDGE | QUOTE | MONEY | ICON) or point in (0xA7, 0x25, 0x3D, 0x2014, 0x2013):  # § % = — –
        return 1
    if point == 85 and end - start > 2 and points[start + 1] == 83 and points[start + 2] == 36:  # US$
        return 3
    return 0


@numba.njit(cache=True, nogil=True)
def _suffix(points: Any, start: int, end: int, kinds: Any, known: Any) -> int:
    """How many characters at the end of points[start:end] are a word by themselves; 0: none."""
    point = points[end - 1]
    before = kinds[points[end - 2]] if end - start > 1 else np.uint32(0)
    if point == 46:  # .
        dots = 1
        while end - dots - 1 >= start and points[end - dots - 1] == 46:
            dots += 1
        if dots > 1:
            return dots
        if before & (LOWER | DIGIT | QUOTE) or (end - start > 1 and points[end - 2] in (0x25, 0xB2, 0x2D, 0x2B, 0x29)):
            return 1
        if end - start > 2 and before & UPPER and kinds[points[end - 3]] & UPPER:
            return 1
        return 0
    if kinds[point] & (EDGE | QUOTE | ICON) or point in (0x2014, 0x2013):
        return 1
    if before & DIGIT and (point == 43 or kinds[point] & MONEY):
        return 1
    if point in (83, 115) and end - start > 2 and points[end - 2] in (39, 0x2019):  # 's
        return 2
    for taken in range(1, min(5, end - start)):
        if kinds[points[end - taken - 1]] & DIGIT:
            return taken if _known(points, end - taken, end, known) == 2 else 0
    return 0


@numba.njit(cache=True, nogil=True)
def _kept(points: Any, start: int, end: int, kinds: Any, known: Any) -> Any:
    """Whether a chunk is one word with its marks: an abbreviation with its period, a second half ('s), and/or."""
    if points[start] in (39, 0x2019):
        if end - start == 2:
            return points[start + 1] in (83, 115, 100)  # 's 'd
        if end - start == 3:
            one, other = points[start + 1], points[start + 2]
            return (one == 108 and other == 108) or (one == 114 and other == 101)  # 'll 're
    if points[end - 1] != 46 and not (end - start == 6 and points[start + 3] == 47):
        return False
    if end - start == 2 and kinds[points[start]] & LETTER:
        return True
    return end - start < 8 and _known(points, start, end, known) == 1


@numba.njit(cache=True, nogil=True)
def _known(points: Any, start: int, end: int, known: Any) -> Any:
    """1: an abbreviation, 2: a unit, 0: neither. known: (2, size) uint64 and the kind, open addressing."""
    value = hash_points(points, start, end)
    place = np.int64(value & np.uint64(known.shape[1] - 1))
    while known[1, place]:
        if known[0, place] == value:
            return np.int64(known[1, place])
        place = (place + 1) & (known.shape[1] - 1)
    return 0


@numba.njit(cache=True, nogil=True)
def _dots(points: Any, start: int, end: int) -> int:
    """How many periods stand at the start of points[start:end]."""
    n = 0
    while start + n < end and points[start + n] == 46:
        n += 1
    return n


@numba.njit(cache=True, nogil=True)
def _address(points: Any, start: int, end: int, kinds: Any) -> Any:
    """Whether points[start:end] looks like a web or mail address."""
    dot = False
    for i in range(start, end - 2):
        point = points[i]
        if point == 58 and points[i + 1] == 47 and points[i + 2] == 47:  # ://
            return True
        if point == 46 and i > start and kinds[points[i + 1]] & LOWER and kinds[points[i + 2]] & LOWER:
            dot = True
            for k in range(i + 1, end):
                if points[k] in (47, 58, 63):  # / : ?
                    break
                if not kinds[points[k]] & LOWER and points[k] != 46 and points[k] != 45:
                    dot = False
                    break
            if dot:
                return True
    return dot


@numba.njit(cache=True, nogil=True)
def _middle(points: Any, start: int, end: int, kinds: Any, starts: Any, ends: Any, n: int) -> int:
    """Cut what is left of a chunk between letters and digits, and contractions before their second half."""
    if _address(points, start, end, kinds):
        starts[n], ends[n] = start, end
        return n + 1
    word = start
    i = start + 1
    while i < end - 1:
        length = _infix(points, i, end, kinds)
        if length:
            starts[n], ends[n] = word, i
            starts[n + 1], ends[n + 1] = i, i + length
            n += 2
            i += length
            word = i
        i += 1
    cut = _contraction(points, word, end)
    if cut:
        starts[n], ends[n] = word, cut
        n += 1
        word = cut
    if word < end:
        starts[n], ends[n] = word, end
        n += 1
    return n


@numba.njit(cache=True, nogil=True)
def _infix(points: Any, i: int, end: int, kinds: Any) -> int:
    """How many characters from points[i] on stand between two words of a chunk; 0: none."""
    point, before, after = points[i], kinds[points[i - 1]], kinds[points[i + 1]]
    if kinds[point] & LETTER:
        return 0
    if point == 46:  # .
        dots = _dots(points, i, end)
        if dots > 1:
            return dots
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    if point == 0x2026 or kinds[point] & ICON:
        return 1
    if point in (43, 45, 42, 94) and before & DIGIT and (after & DIGIT or points[i + 1] == 45):  # + - * ^
        return 1
    if point == 44:  # ,
        return 1 if before & LETTER and after & LETTER else 0
    if kinds[point] & DASH:
        length = 1
        while length < 3 and i + length < end - 1 and points[i + length] == point and point == 45:
            length += 1
        return length if before & (LETTER | DIGIT) and kinds[points[i + length]] & LETTER else 0
    if point in (58, 60, 62, 61, 47):  # : < > = /
        return 1 if before & (LETTER | DIGIT) and after & LETTER else 0
    return 0


@numba.njit(cache=True, nogil=True)
def _contraction(points: Any, start: int, end: int) -> int:
    """Where the second half of a contraction begins (do|n't, we|'ll); 0: it is none."""
    for back in (1, 2):
        at = end - back - 1
        if at <= start or points[at] not in (39, 0x2019):
            continue
        a, b = points[at + 1] | 32, points[end - 1] | 32
        if back == 1 and b == 116 and points[at - 1] | 32 == 110 and at - 1 > start:  # n't
            return at - 1
        if back == 1 and b in (100, 109):  # 'd 'm
            return at
        if back == 2 and ((a == 108 and b == 108) or (a == 114 and b == 101) or (a == 118 and b == 101)):
            return at
    return 0


def known_words() -> Any:
    """The abbreviations (1) and units (2) by their hash, for `split`: (2, size) uint64."""
    table = np.zeros((2, 512), dtype=np.uint64)
    for words, kind in ((ABBREVIATIONS, 1), (UNITS, 2)):
        for word in words:
            points = np.array([ord(char) for char in word], dtype=np.uint32)
            value = hash_points(points, 0, len(points))
            place = int(value & np.uint64(511))
            while table[1, place]:
                place = (place + 1) & 511
            table[0, place], table[1, place] = value, kind
    return table
