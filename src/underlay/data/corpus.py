"""A corpus on disk: Parquet shards of documents ordered by id, and the ledger of what was done to which and why."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from underlay.data.document import Document
from underlay.errors import UserError

DOCUMENTS, LEDGER = "documents", "ledger.parquet"
_SHARD_BYTES = 128 << 20

_DOCUMENT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("first_line", pa.int64()),
        ("last_line", pa.int64()),
        ("licence", pa.string()),
        ("language", pa.string()),
    ]
)
_LEDGER_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("bytes", pa.int64()),
        ("stage", pa.string()),
        ("decision", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision on one document."""

    id: str
    """The document's id before the decision; empty where it could not be read."""
    source: str
    line: int
    bytes: int
    stage: str
    """What decided: `gather`, `deduplicate`, `quality`, `redact`."""
    decision: Literal["drop", "change"]
    reason: str
    """A short name, the same for all alike, such as `too-short`."""
    detail: str
    """The figure or the document that decided it."""


class Corpus:
    """Documents and ledger in a folder."""

    def __init__(self, folder: Path) -> None:
        """Open a corpus. Raises UserError where it is missing or damaged."""
        self.folder = folder
        self._shards = sorted((folder / DOCUMENTS).glob("*.parquet"))
        if not self._shards:
            raise UserError(f"{folder}: no documents here; is this a corpus?")
        try:
            self._files = [pq.ParquetFile(shard) for shard in self._shards]
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{folder}: damaged corpus: {str(error).splitlines()[0]}") from error

    def __len__(self) -> int:
        return sum(file.metadata.num_rows for file in self._files)

    def __iter__(self) -> Iterator[Document]:
        for file in self._files:
            for rows in file.iter_batches(batch_size=256):
                columns = {name: rows.column(name).to_pylist() for name in _DOCUMENT_SCHEMA.names if name != "id"}
                for values in zip(*columns.values(), strict=True):
                    yield Document(**dict(zip(columns, values, strict=True)))

    def ledger(self) -> list[Entry]:
        """Every decision, in the order they were taken."""
        return [Entry(**row) for row in pq.read_table(self.folder / LEDGER).to_pylist()]

    @staticmethod
    def write(folder: Path, documents: Iterable[Document], ledger: Sequence[Entry]) -> "Corpus":
        """Write documents, ordered by id, and the ledger. Raises UserError where there is no document."""
        (folder / DOCUMENTS).mkdir(parents=True)
        ordered = sorted(
            ((document.id, document) for document in documents), key=lambda pair: (pair[0], pair[1].source)
        )
        if not ordered:
            reasons = sorted({entry.reason for entry in ledger})
            raise UserError("no document is left" + (f": {', '.join(reasons)}" if reasons else ""))
        shard: list[tuple[str, Document]] = []
        number = size = 0
        for index, pair in enumerate(ordered):
            shard.append(pair)
            size += len(pair[1].text)
            if size >= _SHARD_BYTES or index == len(ordered) - 1:
                rows = [{"id": id_, **asdict(document)} for id_, document in shard]
                table = pa.Table.from_pylist(rows, _DOCUMENT_SCHEMA)
                pq.write_table(
                    table, folder / DOCUMENTS / f"{number:05d}.parquet", compression="zstd", row_group_size=1024
                )
                shard, size, number = [], 0, number + 1
        entries = pa.Table.from_pylist([asdict(entry) for entry in ledger], _LEDGER_SCHEMA)
        pq.write_table(entries, folder / LEDGER, compression="zstd")
        return Corpus(folder)
