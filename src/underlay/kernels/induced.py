"""Sorting the suffixes of a sequence in linear time, by induction from a few of them (SA-IS).

A suffix is S-type if it is smaller than the next one, else L-type, and LMS if it is S-type after an L-type. Once the
LMS suffixes are sorted, one scan from the left puts every L-type suffix in its place and one from the right every
S-type. The LMS suffixes, at most half of all, are sorted by the same two scans up to the next LMS position and, where
that leaves ties, by recursion on the string of their ranks (Nong, Zhang and Chan, "Linear suffix array construction by
almost pure induced sorting", 2009). Everything happens within the result's own memory, but for one counter a value.
"""

from typing import Any, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from underlay.progress import Progress, silent

Integers: TypeAlias = NDArray[np.integer[Any]]


def sort(text: Integers, suffixes: NDArray[np.int32], size: int, progress: Progress) -> None:
    """Fill `suffixes`, (n,) int32, with the suffix array of `text`, (n,) integers below `size`, n > 0 and < 2^31."""
    n = len(text)
    counts = np.zeros(size, dtype=np.int32)
    count = _place_unsorted(text, suffixes, counts)
    if count:
        _induce(text, suffixes, counts, keep=False)
        progress(0.4 * n, n)
        names = _name(text, suffixes, count)
        inner, ranked = suffixes[:count], suffixes[n - count :]
        if names < count:
            sort(frozen(ranked), inner, names, silent)
            _rank_to_start(text, inner, ranked)
        progress(0.6 * n, n)
    _place_sorted(text, suffixes, counts, count)
    _induce(text, suffixes, counts, keep=True)
    progress(n, n)


def frozen(array: Integers) -> Integers:
    """A read-only contiguous view, so that numba compiles once for files, arrays and slices alike."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@numba.njit(cache=True, nogil=True)
def _rank_to_start(text: Any, inner: Any, starts: Any) -> None:
    """Replace in `inner` the number of each LMS position of `text` by the position; `starts` is scratch of its size."""
    free = len(starts)
    smaller = False  # whether suffix i + 1 is S-type; the last suffix is L-type, for the empty one is smaller
    for i in range(len(text) - 2, -1, -1):
        if text[i] > text[i + 1]:
            if smaller:
                free -= 1
                starts[free] = i + 1
            smaller = False
        elif text[i] < text[i + 1]:
            smaller = True
    for i in range(len(inner)):
        inner[i] = starts[inner[i]]


@numba.njit(cache=True, nogil=True)
def _edges(counts: Any, ends: bool) -> Any:
    """Where in the suffix array each value's bucket starts, or ends (exclusive)."""
    edges = np.empty_like(counts)  # not cumsum: its 64-bit sums would take more memory than the text
    total = 0
    for value in range(len(counts)):
        edges[value] = total + counts[value] if ends else total
        total += counts[value]
    return edges


@numba.njit(cache=True, nogil=True)
def _place_unsorted(text: Any, suffixes: Any, counts: Any) -> Any:
    """Count the values into `counts`, put the LMS suffixes at the ends of their buckets, return how many there are."""
    n = len(text)
    suffixes[:] = 0
    for i in range(n):
        counts[text[i]] += 1
    ends = _edges(counts, ends=True)
    found = 0
    smaller = False
    for i in range(n - 2, -1, -1):
        if text[i] > text[i + 1]:
            if smaller:
                ends[text[i + 1]] -= 1
                suffixes[ends[text[i + 1]]] = i + 1
                found += 1
            smaller = False
        elif text[i] < text[i + 1]:
            smaller = True
    return found


@numba.njit(cache=True, nogil=True)
def _place_sorted(text: Any, suffixes: Any, counts: Any, count: int) -> None:
    """Move the sorted LMS suffixes from the front of the array to the ends of their buckets; clear the rest."""
    ends = _edges(counts, ends=True)
    suffixes[count:] = 0
    for i in range(count - 1, -1, -1):
        start = suffixes[i]
        suffixes[i] = 0
        ends[text[start]] -= 1
        suffixes[ends[text[start]]] = start


@numba.njit(cache=True, nogil=True)
def _induce(text: Any, suffixes: Any, counts: Any, keep: bool) -> None:
    """Order all suffixes from the LMS suffixes that stand in their buckets.

    An entry is positive while the suffix before it is still to be placed by the scan under way, negative (inverted)
    where that is the other scan's work or done; 0 is an empty place, or suffix 0, which has none before it.
    With `keep` the result is the suffix array; without, only the LMS suffixes remain, inverted, among zeros.
    """
    n = len(text)
    next_free = _edges(counts, ends=False)
    start = n - 1  # the empty suffix is the smallest of all: it places the last one
    value = text[start]
    suffixes[next_free[value]] = ~start if start > 0 and text[start - 1] < value else start
    next_free[value] += 1
    for i in range(n):
        entry = suffixes[i]
        if entry > 0:
            start = entry - 1
            value = text[start]
            suffixes[next_free[value]] = ~start if start > 0 and text[start - 1] < value else start
            next_free[value] += 1
            suffixes[i] = ~entry if keep else 0
        elif entry < 0:
            suffixes[i] = ~entry

    next_free = _edges(counts, ends=True)
    for i in range(n - 1, -1, -1):
        entry = suffixes[i]
        if entry > 0:
            start = entry - 1
            value = text[start]
            next_free[value] -= 1
            suffixes[next_free[value]] = ~start if start > 0 and text[start - 1] > value else start
            if not keep:
                suffixes[i] = 0
        elif entry < 0 and keep:
            suffixes[i] = ~entry


@numba.njit(cache=True, nogil=True)
def _name(text: Any, suffixes: Any, count: int) -> Any:
    """Number the sorted LMS substrings, equal ones alike, and return how many numbers there are.

    Before, the LMS suffixes stand inverted among zeros. After, they stand in order at the front of the array, and
    at its end their names in text order: the string whose suffix array orders them.
    """
    n = len(text)
    filled = 0
    for i in range(n):
        if suffixes[i] < 0:
            suffixes[filled] = ~suffixes[i]
            filled += 1
    suffixes[count:] = 0
    # Two LMS positions are at least two apart: half of one names a place of its own in the array's free part.
    following = n
    smaller = False
    for i in range(n - 2, -1, -1):
        if text[i] > text[i + 1]:
            if smaller:
                suffixes[count + ((i + 1) >> 1)] = following - i
                following = i + 1
            smaller = False
        elif text[i] < text[i + 1]:
            smaller = True

    name = 0
    last, last_length = 0, 0
    for i in range(count):
        start = suffixes[i]
        length = suffixes[count + (start >> 1)]
        same = length == last_length and start + length <= n and last + length <= n
        k = 0
        while same and k < length:
            same = text[start + k] == text[last + k]
            k += 1
        if not same:
            name += 1
            last, last_length = start, length
        suffixes[count + (start >> 1)] = name

    free = n
    for i in range(count + (n >> 1) - 1, count - 1, -1):
        if suffixes[i] > 0:
            free -= 1
            suffixes[free] = suffixes[i] - 1
    return name
