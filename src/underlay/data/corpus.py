"""A corpus on disk: Parquet shards of documents ordered by id, and the ledger of what was done to which and why."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from underlay.data.document import ID_DIGITS, Document
from underlay.errors import UserError

DOCUMENTS, LEDGER = "documents", "ledger.parquet"

DOCUMENT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("first_line", pa.int64()),
        ("last_line", pa.int64()),
        ("licence", pa.string()),
        ("language", pa.string()),
        ("offset", pa.int64()),
        ("date", pa.string()),
        ("media", pa.string()),
    ]
)
LEDGER_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
        ("stage", pa.string()),
        ("decision", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("other", pa.string()),
    ]
)
_FIELDS = [name for name in DOCUMENT_SCHEMA.names if name != "id"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision on one document."""

    id: str
    """The document's id before the decision; empty where it could not be read."""
    source: str
    line: int
    bytes: int
    stage: str
    """What decided: `gather`, or the kind of rule of `curate`."""
    decision: Literal["drop", "change", "plant"]
    reason: str
    """A short name, the same for all alike, such as `too-short`."""
    detail: str
    """The figure or the document that decided it."""
    offset: int = 0
    """Byte of the source, once unpacked, at which the document or the broken record begins."""
    other: str = ""
    """Another id: what a changed document is called afterwards, or which document stays instead of a dropped one."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A stretch of a corpus that is worked on at once: one row group of a shard, some megabytes of text."""

    shard: int
    group: int
    documents: int


class Corpus:
    """Documents and ledger in a folder."""

    def __init__(self, folder: Path) -> None:
        """Open a corpus. Raises UserError where it is missing or damaged."""
        self.folder = folder
        self.shards = sorted((folder / DOCUMENTS).glob("*.parquet"))
        if not self.shards:
            raise UserError(f"{folder}: no documents here; is this a corpus?")
        try:
            self._files = [pq.ParquetFile(shard) for shard in self.shards]
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{folder}: damaged corpus: {str(error).splitlines()[0]}") from error

    def __len__(self) -> int:
        return sum(file.metadata.num_rows for file in self._files)

    def __iter__(self) -> Iterator[Document]:
        for file in self._files:
            for rows in file.iter_batches(batch_size=256):
                yield from documents_in(rows)

    def units(self) -> list[Unit]:
        """All stretches, in the order of their documents."""
        return [
            Unit(shard, group, file.metadata.row_group(group).num_rows)
            for shard, file in enumerate(self._files)
            for group in range(file.num_row_groups)
        ]

    def table(self, unit: Unit, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one stretch, ordered by id."""
        return self._files[unit.shard].read_row_group(unit.group, columns=None if columns is None else list(columns))

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all documents."""
        return pa.chunked_array(
            [chunk for file in self._files for chunk in file.read([name]).column(name).chunks],
            DOCUMENT_SCHEMA.field(name).type,
        )

    def places(self, ids: Collection[str]) -> Iterator[tuple[str, Unit, int]]:
        """Where documents stand that are asked for by their ids or the first digits of them: id, stretch, row in it.

        Of all stretches only those are looked at whose ids may be among them.
        """
        whole = sorted({id_ for id_ in ids if len(id_) >= ID_DIGITS})
        begun = tuple({id_ for id_ in ids if len(id_) < ID_DIGITS})
        for unit in self.units():
            first, last = self._range(unit)
            near = set(whole[bisect_left(whole, first) : bisect_right(whole, last)])
            if near or any(first[: len(one)] <= one <= last[: len(one)] for one in begun):
                for row, id_ in enumerate(self.table(unit, ["id"]).column(0).to_pylist()):
                    if id_ in near or id_.startswith(begun):
                        yield id_, unit, row

    def _range(self, unit: Unit) -> tuple[str, str]:
        """The first and the last id of a stretch."""
        known = self._files[unit.shard].metadata.row_group(unit.group).column(0).statistics
        if known is not None and known.has_min_max:
            return known.min, known.max
        ids = self.table(unit, ["id"]).column(0)
        return ids[0].as_py(), ids[len(ids) - 1].as_py()

    def document(self, unit: Unit, row: int) -> Document:
        """One document of a stretch."""
        return next(documents_in(self.table(unit).slice(row, 1)))

    def sizes(self, unit: Unit) -> NDArray[np.int64]:
        """Bytes of each text of a stretch in UTF-8, (documents,) int64."""
        text = self.table(unit, ["text"]).column(0)
        return np.asarray(pc.binary_length(text).to_numpy(), dtype=np.int64)

    def ledger(self) -> list[Entry]:
        """Every decision, in the order they were taken."""
        return list(self.entries())

    def entries(self) -> Iterator[Entry]:
        """The ledger, entry by entry."""
        for rows in pq.ParquetFile(self.folder / LEDGER).iter_batches(batch_size=4096):
            for row in rows.to_pylist():
                yield Entry(**row)

    def entries_about(self, ids: Collection[str]) -> Iterator[Entry]:
        """The entries that are about documents, or name them, by their ids or the first digits of them."""
        whole = pa.array(sorted({id_ for id_ in ids if len(id_) >= ID_DIGITS}), pa.string())
        begun = sorted({id_ for id_ in ids if len(id_) < ID_DIGITS})
        for rows in pq.ParquetFile(self.folder / LEDGER).iter_batches(batch_size=1 << 16):
            about = pc.or_(pc.is_in(rows.column("id"), whole), pc.is_in(rows.column("other"), whole))
            for one in begun:
                for name in ("id", "other"):
                    about = pc.or_(about, pc.starts_with(rows.column(name), one))
            for row in rows.filter(about).to_pylist():
                yield Entry(**row)

    def tally(self) -> list[tuple[str, str, int, int]]:
        """What the ledger comes to: (decision, reason, documents, bytes), the most documents first."""
        counts: Counter[tuple[str, str]] = Counter()
        sizes: Counter[tuple[str, str]] = Counter()
        for rows in pq.ParquetFile(self.folder / LEDGER).iter_batches(columns=["decision", "reason", "bytes"]):
            grouped = pa.Table.from_batches([rows]).group_by(["decision", "reason"])
            for row in grouped.aggregate([("bytes", "sum"), ("bytes", "count")]).to_pylist():
                key = (row["decision"], row["reason"])
                counts[key] += row["bytes_count"]
                sizes[key] += row["bytes_sum"] or 0
        return [(*key, count, sizes[key]) for key, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))]


def documents_in(rows: pa.RecordBatch | pa.Table) -> Iterator[Document]:
    """The documents of some rows."""
    columns: dict[str, list[Any]] = {name: rows.column(name).to_pylist() for name in _FIELDS}
    for values in zip(*columns.values(), strict=True):
        yield Document(*values)
