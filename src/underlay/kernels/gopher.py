"""What Gopher's rules look at: how much of a text is words, and how much of it stands there twice.

Source: arXiv:2112.11446, appendix A.1.1. Details that the paper leaves open are settled as in the filters that made
FineWeb (arXiv:2406.17557). Lengths are in code points. `gopher_reference` says it all in plain Python.
"""

from typing import Any, Final

import numba

from underlay.kernels.characters import LETTER, PUNCTUATION, SPACE
from underlay.kernels.hashes import base_power, find, hash_gram, hash_points, roll, slots
from underlay.kernels.lines import next_line

GOPHER: Final = (
    "words",
    "word_length",
    "hashes",
    "ellipses",
    "bullet_lines",
    "ellipsis_lines",
    "letter_words",
    "stop_words",
    "paragraph_copies",
    "paragraph_copied",
    "line_copies",
    "line_copied",
    *(f"top_{n}gram" for n in (2, 3, 4)),
    *(f"copied_{n}grams" for n in range(5, 11)),
)
"""The columns: `quality` fills the first eight, `repetition` the others."""
STOP_WORDS: Final = ("the", "be", "to", "of", "and", "that", "have", "with")


@numba.njit(cache=True, nogil=True)
def quality(
    points: Any, size: int, starts: Any, ends: Any, hashes: Any, n: int, table: Any, stops: Any, out: Any
) -> None:
    """The first eight columns of GOPHER."""
    symbols, length, letters, hash_marks, dots = 0, 0, 0, 0, 0
    for w in range(n):
        letter = symbol = False
        for i in range(starts[w], ends[w]):
            kind = table[points[i]]
            letter |= (kind & LETTER) != 0
            symbol |= (kind & PUNCTUATION) == 0
        letters += letter
        if symbol:
            symbols += 1
            length += ends[w] - starts[w]
    run = 0
    for i in range(size):
        point = points[i]
        hash_marks += point == 35
        dots += point == 0x2026
        run = run + 1 if point == 46 else 0
        if run == 3:
            dots += 1
            run = 0
    lines = bullets = trailing = 0
    at = 0
    while at < size:
        start, end, at = next_line(points, at, size, table)
        lines += 1
        if start < end:
            bullets += points[start] == 0x2022 or points[start] == 45
            last = points[end - 1]
            trailing += last == 0x2026 or (
                last == 46 and end - start > 2 and points[end - 2] == 46 and points[end - 3] == 46
            )
    found = 0
    seen = 0  # a bit for each stop word; none has more than four letters
    for w in range(n):
        if ends[w] - starts[w] <= 4:
            for k in range(len(stops)):
                if hashes[w] == stops[k]:
                    found += seen >> k & 1 == 0
                    seen |= 1 << k
    out[0] = symbols
    out[1] = length / max(1, symbols)
    out[2] = hash_marks / max(1, n)
    out[3] = dots / max(1, n)
    out[4] = bullets / max(1, lines)
    out[5] = trailing / max(1, lines)
    out[6] = letters / max(1, n)
    out[7] = found


@numba.njit(cache=True, nogil=True)
def _copies(
    points: Any, start: int, end: int, gap: int, keys: Any, marks: Any, mark: int, mask: int
) -> tuple[int, int, int]:
    """Pieces of points[start:end] between runs of at least `gap` newlines: how many, how many copies, their length."""
    pieces = copies = copied = 0
    piece = at = start
    while True:
        run = 0
        while at + run < end and points[at + run] == 10:
            run += 1
        if run >= gap or at >= end:
            value = hash_points(points, piece, at)
            slot = find(value, keys, marks, mark, mask)
            pieces += 1
            if marks[slot] == mark:
                copies += 1
                copied += at - piece
            else:
                marks[slot], keys[slot] = mark, value
            if at >= end:
                return pieces, copies, copied
            at += run
            piece = at
        else:
            at += max(1, run)


@numba.njit(cache=True, nogil=True)
def repetition(
    points: Any, size: int, starts: Any, ends: Any, hashes: Any, n: int, table: Any, scratch: Any, mark: int, out: Any
) -> int:
    """Columns 8 and up of GOPHER; returns the next free mark."""
    keys, marks, counts, firsts, lengths, rolled = scratch
    start, end = 0, size
    while start < end and table[points[start]] & SPACE:
        start += 1
    while end > start and table[points[end - 1]] & SPACE:
        end -= 1
    mask = slots(size // 2 + 2) - 1
    pieces, copies, copied = _copies(points, start, end, 2, keys, marks, mark, mask)
    out[8], out[9] = copies / pieces, copied / max(1, size)
    pieces, copies, copied = _copies(points, 0, size, 1, keys, marks, mark + 1, mask)
    out[10], out[11] = copies / pieces, copied / max(1, size)
    mark += 2
    total = 0
    for w in range(n):
        lengths[w] = total
        total += ends[w] - starts[w]
    lengths[n] = total
    roll(hashes, n, rolled)
    mask = slots(n) - 1
    for gram in range(2, 5):
        out[10 + gram] = _top(rolled, lengths, n, gram, keys, marks, counts, firsts, mark, mask) / max(1, size)
        mark += 1
    for gram in range(5, 11):
        out[10 + gram] = _copied(rolled, lengths, n, gram, keys, marks, mark, mask) / max(1, size)
        mark += 1
    return mark


@numba.njit(cache=True, nogil=True)
def _top(
    rolled: Any, lengths: Any, n: int, gram: int, keys: Any, marks: Any, counts: Any, firsts: Any, mark: int, mask: int
) -> int:
    """Characters of the most frequent run of `gram` words, with spaces, times its count; of equals the first."""
    best, first = 0, 0
    power = base_power(gram)
    for w in range(n - gram + 1):
        value = hash_gram(rolled, w, gram, power)
        slot = find(value, keys, marks, mark, mask)
        if marks[slot] != mark:
            marks[slot], keys[slot], counts[slot], firsts[slot] = mark, value, 0, w
        counts[slot] += 1
        if counts[slot] > best or (counts[slot] == best and firsts[slot] < first):
            best, first = counts[slot], firsts[slot]
    return best * (lengths[first + gram] - lengths[first] + gram - 1) if best else 0


@numba.njit(cache=True, nogil=True)
def _copied(rolled: Any, lengths: Any, n: int, gram: int, keys: Any, marks: Any, mark: int, mask: int) -> int:
    """Characters in runs of `gram` words that stood before; a copy is skipped whole."""
    copied = 0
    w = 0
    power = base_power(gram)
    while w < n - gram + 1:
        value = hash_gram(rolled, w, gram, power)
        slot = find(value, keys, marks, mark, mask)
        if marks[slot] == mark:
            copied += lengths[w + gram] - lengths[w]
            w += gram
        else:
            marks[slot], keys[slot] = mark, value
            w += 1
    return copied
