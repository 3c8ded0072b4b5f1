"""A corpus on disk: Parquet shards of documents ordered by id, and the ledger of what was done to which and why."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from underlay.data.document import Document
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

    def ledger(self) -> list[Entry]:
        """Every decision, in the order they were taken."""
        return list(self.entries())

    def entries(self) -> Iterator[Entry]:
        """The ledger, entry by entry."""
        for rows in pq.ParquetFile(self.folder / LEDGER).iter_batches(batch_size=4096):
            for row in rows.to_pylist():
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
