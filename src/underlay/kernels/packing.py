"""Packing pieces into rows of equal room: best fit, longest first.

The fewest rows are hard to find, but best-fit decreasing never needs more than 11/9 of them and a little (Johnson et
al., "Worst-case performance bounds for simple one-dimensional packing algorithms", 1974), and documents leave hardly
any room unfilled (arXiv:2404.10830). Rooms are small integers, so the row that a piece fits best is found in a tree.
"""

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from underlay.errors import UserError


def best_fit_reference(lengths: Sequence[int], room: int) -> list[int]:
    """Look through all rows for each piece: what `best_fit` means, quadratic and for tests."""
    left: dict[int, int] = {}  # of each row, in the order in which they were last put into
    placed = [-1] * len(lengths)
    for piece in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        fitting = [row for row in left if left[row] >= lengths[piece]]
        row = min(reversed(fitting), key=left.__getitem__) if fitting else len(left)
        left[row] = left.pop(row, room) - lengths[piece]
        placed[piece] = row
    return placed


def best_fit(lengths: ArrayLike, room: int) -> NDArray[np.int64]:
    """Return the row of each piece: the longest first, each into the row with the least room left that holds it.

    lengths: (n,) integers from 1 to `room`; returns (n,) int64, rows counted from 0 without gaps. Of pieces of one
    length the first goes first, of rows with the same room left the one is taken that was put into last. Takes
    O(n log n + n log room). Raises UserError where a piece is empty or longer than a row.
    """
    pieces = np.asarray(lengths, dtype=np.int64)
    if len(pieces) and not 1 <= pieces.min() <= pieces.max() <= room:
        raise UserError(f"best fit: pieces of {pieces.min()} to {pieces.max()} do not fit into rows of 1 to {room}")
    order = np.argsort(-pieces, kind="stable")
    placed = np.empty_like(pieces)
    placed[order] = _place(pieces[order], room)
    return placed


@numba.njit(cache=True, nogil=True)
def _place(lengths: Any, room: int) -> Any:
    """The row of each piece, in the order given."""
    leaves = 1
    while leaves <= room:
        leaves *= 2
    some = np.zeros(2 * leaves, dtype=np.bool_)  # whether a row has the room of this leaf, or of one below this node
    newest = np.full(room + 1, -1, dtype=np.int64)  # of each room, the row that was left with it last
    older = np.empty(len(lengths), dtype=np.int64)  # the row that was left with the same room before
    placed = np.empty(len(lengths), dtype=np.int64)
    rows = 0
    for piece in range(len(lengths)):
        left = _least(some, leaves, lengths[piece])
        if left < 0:
            row, left = rows, room
            rows += 1
        else:
            row = newest[left]
            newest[left] = older[row]
            node = leaves + left
            some[node] = newest[left] >= 0
            while node > 1 and not some[node]:
                node //= 2
                some[node] = some[2 * node] or some[2 * node + 1]
        placed[piece] = row
        left -= lengths[piece]
        older[row], newest[left] = newest[left], row
        node = leaves + left
        while node and not some[node]:
            some[node] = True
            node //= 2
    return placed


@numba.njit(cache=True, nogil=True)
def _least(some: Any, leaves: int, length: int) -> int:
    """The least room from `length` on that some row has; -1 if none has."""
    node = leaves + length
    while not some[node]:
        if node & (node + 1) == 0:  # the last node of its level
            return -1
        node += 1
        while node & 1 == 0:  # up to the largest subtree that starts here
            node //= 2
    while node < leaves:
        node = 2 * node if some[2 * node] else 2 * node + 1
    return node - leaves
