"""Which pieces of a dataset's tokens stand in which row.

`Windows` cuts the stream every `context` tokens, wherever that falls. `BestFit` keeps documents whole where they fit
into a row, and fills rows with them so well that hardly a position is left over ("Fewer Truncations Improve Language
Modeling", arXiv:2404.10830):

    stream     <bos> a a a <eos> <bos> b b b b b b b b b <eos> <bos> c <eos> ...                    rows of 8
    windows    <bos> a a a <eos> <bos> b b | b b b b b b b <eos> | <bos> c <eos> ...
    best fit   <bos> b b b b b b b | <bos> a a a <eos> b b <eos> | <bos> c <eos> pad pad pad pad pad
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from underlay.data.dataset import Dataset
from underlay.kernels.packing import best_fit


class Layout(Protocol):
    """Rows of `context` tokens; those of each part follow one another."""

    counts: Sequence[int]
    """Number of rows of each part."""
    crossing: bool
    """Whether the next document's first token is learned after a document's last; then all rows are full."""

    def pieces(self, row: int) -> list[tuple[int, int]]:
        """The tokens [start, end) that stand in a row, one piece after the other."""


class Windows:
    """Consecutive windows of each part."""

    crossing = True

    def __init__(self, parts: Sequence[range], context: int) -> None:
        """`parts`: the tokens of each."""
        self.parts, self.context = parts, context
        # A row's last target stands behind it.
        self.counts: Sequence[int] = [max(0, len(part) - 1) // context for part in parts]
        self._first = [0, *accumulate(self.counts)]

    def pieces(self, row: int) -> list[tuple[int, int]]:
        """One piece, wherever documents begin and end."""
        part = bisect_right(self._first, row) - 1
        start = self.parts[part].start + (row - self._first[part]) * self.context
        return [(start, start + self.context)]


class BestFit:
    """Documents, whole where they fit into a row; longer ones as full rows and a rest.

    A row begins with whole documents or a document's first piece, if it has any; rests stand behind them.
    """

    crossing = False

    def __init__(self, dataset: Dataset, parts: Sequence[range], context: int) -> None:
        """Pack each part by itself."""
        inside = [dataset.inside(part) for part in parts]
        tables = [_pack(dataset.starts[documents], dataset.ends[documents], context) for documents in inside]
        self.counts: Sequence[int] = [len(first) - 1 for _, first in tables]
        self._pieces = np.concatenate([pieces for pieces, _ in tables])
        shifts = np.cumsum([0, *(len(pieces) for pieces, _ in tables)])
        firsts = [first[:-1] + shift for (_, first), shift in zip(tables, shifts, strict=False)]
        self._first = np.append(np.concatenate(firsts), shifts[-1])
        self.padding = 1 - sum(map(len, parts)) / (sum(self.counts) * context)
        """Share of positions that hold no token."""
        starts, ends = dataset.starts, dataset.ends
        self.cut = float((ends - starts > context).mean())
        """Share of documents that do not stand in one row."""
        self.cut_by_windows = float((starts // context != (ends - 1) // context).mean())
        """Share of documents that would not if rows were windows."""

    def pieces(self, row: int) -> list[tuple[int, int]]:
        """Pieces of different documents."""
        return [(start, end) for start, end in self._pieces[self._first[row] : self._first[row + 1]].tolist()]

    def __str__(self) -> str:
        return (
            f"best fit: {self.padding:.2%} of positions are padding; {self.cut:.1%} of documents are cut, "
            f"windows would cut {self.cut_by_windows:.1%}"
        )


def _pack(
    starts: NDArray[np.int64], ends: NDArray[np.int64], context: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pieces of documents, (n, 2), row after row, and for each row the number of its first piece, closed by n."""
    cuts = -(-(ends - starts) // context)
    document = np.repeat(np.arange(len(starts)), cuts)
    nth = np.arange(len(document)) - np.repeat(np.cumsum(cuts) - cuts, cuts)
    start = starts[document] + nth * context
    end = np.minimum(start + context, ends[document])
    row = best_fit(end - start, context)
    order = np.lexsort((start, nth > 0, row))
    return np.stack([start, end], axis=1)[order], np.append(0, np.cumsum(np.bincount(row)))
