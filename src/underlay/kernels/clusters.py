"""Clusters of things that share a key: union-find over groups (Tarjan, "Efficiency of a good but not linear set union
algorithm", 1975).

Keys are hashes, so they need no sorting to be grouped. They are dealt out by their first bits into heaps that fit into
a processor's cache, and within a heap equal ones meet in a small table: time grows with the number of things, and
memory is that for one column of keys, however many columns there are.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from underlay.kernels.hashes import find, slots

_HEAP, _MOST_BITS = 1024, 12
"""Things in a heap, about; and at most so many bits of a key choose it: more streams are slower to write to."""


class Clusters:
    """n things, of which some turn out to belong together."""

    def __init__(self, n: int) -> None:
        self._parents: NDArray[np.int64] = np.arange(n)

    def join(self, keys: NDArray[np.uint64], among: NDArray[np.int64]) -> None:
        """Join those of the things `among` whose keys, (len(among),), are equal; a key of 0 is equal to none.

        Takes O(n), and 16 bytes a thing beside keys and things themselves.
        """
        if len(keys) != len(among):
            raise ValueError(f"{len(keys)} keys for {len(among)} things")
        bits = min(_MOST_BITS, max(0, len(keys).bit_length() - _HEAP.bit_length()))
        _join(np.ascontiguousarray(keys, dtype=np.uint64), np.ascontiguousarray(among), bits, self._parents)

    def roots(self) -> NDArray[np.int64]:
        """For each thing the least one of its cluster: (n,) int64."""
        _flatten(self._parents)
        return self._parents


def best_of(roots: NDArray[np.int64], worth: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each thing the one of its cluster that is worth most, of equals the least: (n,) int64. NaN is worth nothing.

    roots: from `Clusters.roots`; worth: (n,), as a rule bytes, words or a score.
    """
    best = np.arange(len(roots))
    _best(roots, np.nan_to_num(worth.astype(np.float64), nan=-np.inf, neginf=-np.inf, posinf=np.inf), best)
    return best[roots]


@numba.njit(cache=True, nogil=True)
def _root(thing: int, parents: Any) -> int:
    while parents[thing] != thing:
        parents[thing] = parents[parents[thing]]
        thing = parents[thing]
    return thing


@numba.njit(cache=True, nogil=True)
def _join(keys: Any, things: Any, bits: int, parents: Any) -> None:
    shift = np.uint64(63 - bits)  # in two steps, for a shift by all 64 bits is not defined
    starts = np.zeros((1 << bits) + 1, dtype=np.int64)
    for key in keys:
        starts[np.int64(key >> shift >> np.uint64(1)) + 1] += 1
    starts = np.cumsum(starts)
    places = starts.copy()
    dealt, whose = np.empty_like(keys), np.empty_like(things)
    for i in range(len(keys)):
        place = np.int64(keys[i] >> shift >> np.uint64(1))
        dealt[places[place]], whose[places[place]] = keys[i], things[i]
        places[place] += 1
    size = slots(np.diff(starts).max())
    table, firsts, marks = (
        np.empty(size, dtype=np.uint64),
        np.empty(size, dtype=np.int64),
        np.zeros(size, dtype=np.int64),
    )
    for heap in range(len(starts) - 1):
        mask = slots(starts[heap + 1] - starts[heap]) - 1
        for i in range(starts[heap], starts[heap + 1]):
            if dealt[i] == 0:
                continue
            slot = find(dealt[i], table, marks, heap + 1, mask)
            if marks[slot] != heap + 1:
                table[slot], firsts[slot], marks[slot] = dealt[i], whose[i], heap + 1
                continue
            one, other = _root(firsts[slot], parents), _root(whose[i], parents)
            # The least thing is the root, whatever the order in which things are joined.
            parents[max(one, other)] = min(one, other)


@numba.njit(cache=True, nogil=True)
def _flatten(parents: Any) -> None:
    for thing in range(len(parents)):
        parents[thing] = parents[parents[thing]]


@numba.njit(cache=True, nogil=True)
def _best(roots: Any, worth: Any, best: Any) -> None:
    for thing in range(len(roots)):
        root = roots[thing]
        if worth[thing] > worth[best[root]]:
            best[root] = thing
