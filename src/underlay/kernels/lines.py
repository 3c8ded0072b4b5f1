"""Lines of a text: how long they are, which stand there twice, and what C4 keeps of them.

C4 (arXiv:1910.10683, section 2.2) reads web pages line by line. Details that the paper leaves open are settled as in
the filters that made FineWeb (arXiv:2406.17557): lines need no final punctuation, need three words before citations are
taken out, and are dropped where they speak of cookies, policies or javascript.
"""

from typing import Any, Final

import numba
import numpy as np

from underlay.kernels.characters import ALNUM, BREAK, PUNCTUATION, SPACE, TERMINAL
from underlay.kernels.hashes import find, hash_points, slots
from underlay.kernels.words import split

C4: Final = ("sentences", "lines_cut", "lorem", "brace")
"""Columns of `clean_lines`."""
TEXT: Final = ("characters", "longest_line", "mean_line", "letters", "repeated_lines", "control")
"""Columns of `plain`."""
FINEWEB: Final = ("ended_lines", "short_lines", "copied_lines", "breaks")
"""Columns of `line_shares`."""
POLICIES: Final = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)


@numba.njit(cache=True, nogil=True)
def next_line(points: Any, at: int, size: int, table: Any) -> tuple[int, int, int]:
    """The line that starts at `at`, without white space around it, and where the next one starts."""
    end = at
    while end < size and not table[points[end]] & BREAK:
        end += 1
    following = end + 1
    if end + 1 < size and points[end] == 13 and points[end + 1] == 10:
        following += 1
    start = at
    while start < end and table[points[start]] & SPACE:
        start += 1
    stop = end
    while stop > start and table[points[stop - 1]] & SPACE:
        stop -= 1
    return start, stop, following


@numba.njit(cache=True, nogil=True, inline="always")
def _lowered(point: Any) -> Any:
    return point | np.uint32(32) if 65 <= point <= 90 else point


@numba.njit(cache=True, nogil=True)
def _phrases(points: Any, start: int, end: int, phrases: Any) -> int:
    """Which phrases points[start:end] holds in lower case, a bit for each; phrases: (count, longest) uint32."""
    count, longest = phrases.shape
    found = 0
    for i in range(start, end):
        first = _lowered(points[i])
        if not 97 <= first <= 122:
            continue
        for number in range(count):
            if phrases[number, 0] != first:
                continue
            k = 1
            while k < longest and phrases[number, k] and i + k < end and _lowered(points[i + k]) == phrases[number, k]:
                k += 1
            if k == longest or not phrases[number, k]:
                found |= 1 << number
    return found


@numba.njit(cache=True, nogil=True)
def _citation(points: Any, i: int, end: int, notes: Any) -> int:
    """The length of `[12]`, `[]`, `[edit]` or `[citation needed]` at points[i]; 0: none stands there."""
    k = i + 1
    while k < end and 48 <= points[k] <= 57:
        k += 1
    if k < end and points[k] == 93:
        return k + 1 - i
    for note in notes:
        k = 0
        while k < len(note) and i + k < end and points[i + k] == note[k]:
            k += 1
        if k == len(note):
            return k
    return 0


@numba.njit(cache=True, nogil=True)
def clean_lines(
    points: Any, size: int, table: Any, known: Any, marked: Any, words: Any, n: int, spare: Any, kept: Any, out: Any
) -> tuple[int, int]:
    """Write the lines that C4's rules keep into `kept`; returns its length and its words. Fills the columns of C4.

    marked: `phrases_and_notes()`; words: the starts and ends of the n words of points[:size]; spare: room for as many.
    A line's words are those of the text, for white space parts them; only where a citation goes are they cut again.
    """
    phrases, notes = marked
    starts, ends = words
    again, behind = spare
    written = cut = sentences = total = word = 0
    out[2] = out[3] = 0
    at = 0
    while at < size:
        start, end, at = next_line(points, at, size, table)
        chunks = longest = run = 0
        cites = brace = False
        for i in range(start, end):
            point = points[i]
            if table[point] & SPACE:
                run = 0
            else:
                chunks += run == 0
                run += 1
                longest = max(longest, run)
                cites |= point == 91
                brace |= point == 123
        while word < n and starts[word] < start:
            word += 1
        first = word
        while word < n and starts[word] < end:
            word += 1
        if longest > 1000 or chunks < 3:
            cut += 1
            continue
        line = written
        if cites:
            i = start
            while i < end:
                length = _citation(points, i, end, notes) if points[i] == 91 else 0
                if not length:
                    kept[written] = points[i]
                    written += 1
                i += max(1, length)
        else:
            for i in range(start, end):
                kept[written] = points[i]
                written += 1
        found = _phrases(kept, line, written, phrases)
        out[2] += found & 1
        # Within a line the order is: lorem ipsum, javascript, brace, policies.
        out[3] += brace and not found & 2
        if found >> 1:
            written = line
            cut += 1
            continue
        if cites:
            count = split(kept[line:written], written - line, table, known, again, behind)
            sentences += _sentences(kept[line:written], again, behind, 0, count, table)
            total += count
        else:
            sentences += _sentences(points, starts, ends, first, word, table)
            total += word - first
        kept[written] = 10
        written += 1
    out[0], out[1] = sentences, cut
    start = 0
    while start < written and table[kept[start]] & SPACE:
        start += 1
    while written > start and table[kept[written - 1]] & SPACE:
        written -= 1
    if start:
        for i in range(start, written):
            kept[i - start] = kept[i]
    return written - start, total


def phrases_and_notes() -> Any:
    """What `clean_lines` looks for: `lorem ipsum`, `javascript`, POLICIES; and what of citations is no number."""
    wanted = ("lorem ipsum", "javascript", *POLICIES)
    phrases = np.zeros((len(wanted), max(map(len, wanted))), dtype=np.uint32)
    for row, phrase in zip(phrases, wanted, strict=True):
        row[: len(phrase)] = [ord(char) for char in phrase]
    notes = tuple(np.array([ord(char) for char in note], dtype=np.uint32) for note in ("[edit]", "[citation needed]"))
    return phrases, notes


@numba.njit(cache=True, nogil=True)
def _sentences(points: Any, starts: Any, ends: Any, first: int, last: int, table: Any) -> int:
    """How many sentences some words are: one more than there are words behind a mark that ends a sentence."""
    found = 1 if first < last else 0
    ended = False
    for w in range(first, last):
        if ends[w] - starts[w] == 1:
            kind = table[points[starts[w]]]
            if kind & TERMINAL:
                ended = True
                continue
            if kind & PUNCTUATION:
                continue
        if ended:
            found += 1
            ended = False
    return found


@numba.njit(cache=True, nogil=True)
def line_shares(points: Any, size: int, table: Any, words: int, keys: Any, marks: Any, mark: int, out: Any) -> None:
    """The columns of FINEWEB."""
    lines = ended = short = copied = breaks = 0
    mask = slots(size // 2 + 2) - 1
    at = 0
    while at <= size:
        end = at
        blank = True
        while end < size and points[end] != 10:
            blank &= (table[points[end]] & SPACE) != 0
            end += 1
        breaks += end < size
        if not blank:
            lines += 1
            ended += (table[points[end - 1]] & TERMINAL) != 0
            short += end - at <= 30
            value = hash_points(points, at, end)
            slot = find(value, keys, marks, mark, mask)
            if marks[slot] == mark:
                copied += end - at
            else:
                marks[slot], keys[slot] = mark, value
        at = end + 1
    out[0] = ended / max(1, lines)
    out[1] = short / max(1, lines)
    out[2] = copied / max(1, size - breaks)
    out[3] = breaks / max(1, words)


@numba.njit(cache=True, nogil=True)
def plain(points: Any, size: int, table: Any, keys: Any, marks: Any, mark: int, out: Any) -> None:
    """The columns of TEXT, which make sense for text of any kind, code as well as prose.

    Lines are counted without white space around them, and only those that hold something.
    """
    visible = letters = control = 0
    first, last = size, 0
    for i in range(size):
        point = points[i]
        kind = table[point]
        letters += (kind & ALNUM) != 0
        control += point < 32 and point not in (9, 10, 12, 13)
        if not kind & SPACE:
            visible += 1
            first = min(first, i)
            last = i + 1
    lines = total = longest = copied = 0
    mask = slots(size // 2 + 2) - 1
    at = 0
    while at <= size:
        end = at
        while end < size and points[end] != 10:
            end += 1
        start, stop = at, end
        while start < stop and table[points[start]] & SPACE:
            start += 1
        while stop > start and table[points[stop - 1]] & SPACE:
            stop -= 1
        if start < stop:
            lines += 1
            total += stop - start
            longest = max(longest, stop - start)
            value = hash_points(points, start, stop)
            slot = find(value, keys, marks, mark, mask)
            if marks[slot] == mark:
                copied += stop - start
            else:
                marks[slot], keys[slot] = mark, value
        at = end + 1
    out[0] = max(0, last - first)
    out[1] = longest
    out[2] = total / max(1, lines)
    out[3] = letters / max(1, visible)
    out[4] = copied / max(1, total)
    out[5] = control / max(1, size)
