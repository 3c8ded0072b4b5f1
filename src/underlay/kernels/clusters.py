"""Clusters of things that share a key: union-find over groups (Tarjan, "Efficiency of a good but not linear set union
algorithm", 1975).
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


class Clusters:
    """n things, of which some turn out to belong together."""

    def __init__(self, n: int) -> None:
        self._parents: NDArray[np.int64] = np.arange(n)

    def join(self, keys: NDArray[np.uint64], among: NDArray[np.int64]) -> None:
        """Join those of the things `among` whose keys, (len(among),), are equal. Takes O(n log n)."""
        order = np.argsort(keys, kind="stable")
        _join(keys[order], among[order], self._parents)

    def roots(self) -> NDArray[np.int64]:
        """For each thing the least one of its cluster: (n,) int64."""
        _flatten(self._parents)
        return self._parents


def best_of(roots: NDArray[np.int64], worth: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each thing the one of its cluster that is worth most, of equals the least: (n,) int64. NaN is worth
    nothing."""
    best = np.arange(len(roots))
    _best(roots, np.nan_to_num(worth, nan=-np.inf), best)
    return best[roots]


@numba.njit(cache=True, nogil=True)
def _root(thing: int, parents: Any) -> int:
    while parents[thing] != thing:
        parents[thing] = parents[parents[thing]]
        thing = parents[thing]
    return thing


@numba.njit(cache=True, nogil=True)
def _join(keys: Any, things: Any, parents: Any) -> None:
    for i in range(1, len(keys)):
        if keys[i] == keys[i - 1]:
            one, other = _root(things[i - 1], parents), _root(things[i], parents)
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
