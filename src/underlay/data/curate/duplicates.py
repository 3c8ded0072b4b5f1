"""Which documents are the same as others, or nearly: decided from ids and MinHash bands, without reading a text.

Documents are known by their content, and rows of a corpus are ordered by it. So what is kept depends neither on the
order of files nor on how a corpus is cut: of a cluster the best stays, and of equally good ones that with the least id.

One column is in memory at a time, some 120 bytes a document all in all (measured with a million).
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from underlay.data.curate.attributes import Attributes
from underlay.kernels.clusters import Clusters, best_of


def same_text(stretches: Iterable[pa.ChunkedArray], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row of a corpus the one that stays for its text, (n,) int64: the first of `rows` with the same id.

    stretches: the ids of all rows, in order, of which two stretches are held at once; rows: those to compare, (m,)
    int64, in order; any other row stays itself.
    """
    changes, last = [np.zeros(0, dtype=np.bool_)], None
    for ids in stretches:
        new = np.ones(len(ids), dtype=np.bool_)
        if len(ids):
            new[1:] = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy()
            new[0] = last is None or ids[0].as_py() != last
            last = ids[len(ids) - 1].as_py()
        changes.append(new)
    texts = np.cumsum(np.concatenate(changes)) - 1
    n = len(texts)
    first = np.empty(n, dtype=np.int64)
    first[texts[rows[::-1]]] = rows[::-1]  # of several, the one written last counts: the least
    kept = np.arange(n)
    kept[rows] = first[texts[rows]]
    return kept


def nearly_same(attributes: Attributes, rows: NDArray[np.int64], worth: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each row of a corpus the one that stays for its cluster; a row that is alike no other stays itself.

    rows: those to compare, (m,) int64; worth: (n,) float64, how good each of all n documents is.
    """
    clusters = Clusters(len(worth))
    for name in band_names(attributes.names):
        clusters.join(attributes.column(name)[rows], rows)
    return best_of(clusters.roots(), worth)


def band_names(names: Sequence[str]) -> list[str]:
    """The attributes that hold MinHash bands."""
    return [name for name in names if name.startswith("minhash.band_")]
