"""Suffix arrays of token sequences: every place where a phrase occurs, found by bisection.

The suffix array of `tokens` lists the start of every suffix in the order of the suffixes; the occurrences of a phrase
are then one interval of it, however often the phrase occurs (Manber and Myers, "Suffix arrays", 1993). `induced`
builds it. Queries read two places of memory for every halving of the interval, so both arrays may be mapped files.
"""

from typing import Any, NamedTuple, TypeAlias

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from underlay.errors import UserError
from underlay.kernels.induced import Integers, frozen, sort
from underlay.progress import Progress, silent

Tokens: TypeAlias = NDArray[np.uint16] | NDArray[np.uint32]
Suffixes: TypeAlias = NDArray[np.uint32]

LONGEST = 2**31 - 1
"""The most tokens one suffix array can order: positions are built as signed 32-bit integers."""


class Matches(NamedTuple):
    """For every position of a query, the longest phrase from there that occurs in the text, and where it does."""

    lengths: NDArray[np.int64]
    """(m,) tokens in the phrase; 0 where not even the first token occurs."""
    first: NDArray[np.int64]
    """(m,) where the phrase's interval in the suffix array starts."""
    last: NDArray[np.int64]
    """(m,) where it ends, exclusive; `last - first` is how often the phrase occurs (the empty phrase: n times)."""


def suffix_array_reference(tokens: Tokens) -> Suffixes:
    """Order the suffixes by sorting them as Python lists: what `suffix_array` means, quadratic and for tests."""
    text = tokens.tolist()
    return np.array(sorted(range(len(text)), key=lambda start: text[start:]), dtype=np.uint32)


def suffix_array(tokens: Tokens, progress: Progress = silent) -> Suffixes:
    """Return the starts of all suffixes of `tokens` in ascending order; a prefix of another suffix is the smaller.

    tokens: (n,) uint16 or uint32; returns (n,) uint32. Linear time; beside `tokens` it holds at most 8 bytes a token,
    about 6 for natural text, the result's 4 included. Raises UserError for more than `LONGEST` tokens.
    """
    if tokens.ndim != 1 or tokens.dtype not in (np.uint16, np.uint32):
        raise UserError(f"suffix_array: needs a flat uint16 or uint32 array, not {tokens.dtype} {tokens.shape}")
    if len(tokens) > LONGEST:
        raise UserError(f"suffix_array: {len(tokens)} tokens exceed {LONGEST}; index the data in parts")
    suffixes = np.empty(len(tokens), dtype=np.int32)
    if len(tokens):
        largest = int(tokens.max())
        if largest > max(65_535, 4 * len(tokens)):  # one counter a value would dwarf the text: rank the values
            tokens = np.unique(tokens, return_inverse=True)[1].astype(np.uint32)
            largest = int(tokens.max())
        text = tokens if tokens.dtype == np.uint16 else tokens.view(np.int32)
        sort(frozen(text), suffixes, largest + 1, progress)
    return suffixes.view(np.uint32)


def longest_matches(tokens: Tokens, suffixes: Suffixes, query: ArrayLike) -> Matches:
    """Find, for every position of `query`, the longest phrase from there that occurs in `tokens` (matching statistics).

    tokens, suffixes: (n,), also memory-mapped, of which only the pages that the bisection touches are read;
    query: (m,) integers, where any value absent from `tokens`, such as -1, matches nothing. A position costs
    O(length + log n): a match of length L that starts at every one of its L positions costs O(L^2) token comparisons.
    """
    text, order = _pair(tokens, suffixes)
    wanted = frozen(np.asarray(query, dtype=np.int64))
    found = np.empty((3, len(wanted)), dtype=np.int64)
    _match_all(text, order, wanted, found)
    return Matches(*found)


def find(tokens: Tokens, suffixes: Suffixes, pattern: ArrayLike) -> tuple[int, int]:
    """Return the interval [first, last) of the suffix array whose suffixes start with `pattern`; (0, 0) if none does.

    The occurrences stand at `suffixes[first:last]`, in no order of position. The empty pattern occurs everywhere.
    """
    text, order = _pair(tokens, suffixes)
    wanted = frozen(np.asarray(pattern, dtype=np.int64))
    if len(wanted) == 0:
        return 0, len(order)
    length, first, last = _match(text, order, wanted, 0)
    return (int(first), int(last)) if length == len(wanted) else (0, 0)


def _pair(tokens: Tokens, suffixes: Suffixes) -> tuple[Integers, Integers]:
    if len(tokens) != len(suffixes):
        raise UserError(f"suffix array: {len(suffixes)} suffixes do not belong to {len(tokens)} tokens; build it anew")
    return frozen(tokens), frozen(suffixes)


@numba.njit(cache=True, nogil=True)
def _match_all(text: Any, suffixes: Any, query: Any, found: Any) -> None:
    for i in range(len(query)):
        found[0, i], found[1, i], found[2, i] = _match(text, suffixes, query, i)


@numba.njit(cache=True, nogil=True)
def _match(text: Any, suffixes: Any, query: Any, start: int) -> Any:
    """The longest prefix of `query[start:]` in `text`: its length and its interval in `suffixes`.

    Bisects for the place where `query[start:]` would stand; its best match is a neighbour there. All suffixes between
    two that share k tokens with the query share them too, so comparing starts at k (Manber and Myers).
    """
    n, m = len(text), len(query) - start
    low, high = 0, n  # suffixes before `low` are smaller than the query, those from `high` on are not
    shared_low, shared_high = 0, 0
    while low < high:
        middle = (low + high) // 2
        suffix = suffixes[middle]
        k = min(shared_low, shared_high)
        room = min(m, n - suffix)
        while k < room and text[suffix + k] == query[start + k]:
            k += 1
        if k < m and (suffix + k >= n or text[suffix + k] < query[start + k]):
            low, shared_low = middle + 1, k
        else:
            high, shared_high = middle, k
    length = max(shared_low, shared_high)
    if length == 0:
        return 0, 0, n
    first, last = low, low
    if shared_low == length:
        first = _edge(text, suffixes, query[start : start + length], low - 1, -1) + 1
    if shared_high == length:
        last = _edge(text, suffixes, query[start : start + length], low, 1)
    return length, first, last


@numba.njit(cache=True, nogil=True)
def _edge(text: Any, suffixes: Any, pattern: Any, inside: int, direction: int) -> Any:
    """From an index whose suffix starts with `pattern`, the nearest one in `direction` whose suffix does not.

    Gallops in doubling steps, then bisects: most intervals are short.
    """
    n, m = len(text), len(pattern)
    outside = n if direction > 0 else -1
    step = 1
    while inside + direction != outside:
        probe = inside + direction * step
        if (outside - probe) * direction <= 0:
            step = max(1, abs(outside - inside) // 2)
            probe = inside + direction * step
        suffix = suffixes[probe]
        k = 0
        room = min(m, n - suffix)
        while k < room and text[suffix + k] == pattern[k]:
            k += 1
        if k == m:
            inside = probe
            step *= 2
        else:
            outside = probe
            step = max(1, abs(outside - inside) // 2)
    return outside
