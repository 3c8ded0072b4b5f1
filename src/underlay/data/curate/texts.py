"""A batch of texts as every tagger wants them: bytes for compiled loops, strings for everything else."""

from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from underlay.kernels.filters import Batch


class Texts:
    """Texts of some documents. What several taggers need is worked out once."""

    def __init__(self, column: pa.ChunkedArray | pa.Array) -> None:
        """Take a column of strings."""
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        self._array = array.cast(pa.large_string())

    def __len__(self) -> int:
        return len(self._array)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each text begins in `bytes`, and behind the last one where it ends: (n + 1,) int64."""
        _, offsets, _ = self._array.buffers()
        start = self._array.offset
        return np.frombuffer(offsets, dtype=np.int64)[start : start + len(self) + 1]

    @cached_property
    def bytes(self) -> NDArray[np.uint8]:
        """All texts in UTF-8, one behind the other: uint8."""
        data = self._array.buffers()[2]
        return np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else np.zeros(0, dtype=np.uint8)

    @cached_property
    def strings(self) -> list[str]:
        """The texts as strings."""
        found: list[str] = self._array.to_pylist()
        return found

    @cached_property
    def batch(self) -> Batch:
        """The texts for compiled loops."""
        return Batch(self.bytes, self.offsets)

    def clean(self) -> list[str]:
        """The texts with only those lines that C4 keeps."""
        text, offsets = self.batch.clean()
        data = text.tobytes()
        return [data[start:end].decode() for start, end in pairwise(offsets)]
