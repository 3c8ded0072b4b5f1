"""Writes a corpus in memory that does not depend on its size: documents come in any order and stand ordered by id.

Documents are collected, and where they grow too many, dealt out by the first digits of their ids into files beside the
corpus. In the end each of these is sorted by itself and appended: together they are in order. So the corpus does not
depend on the order in which documents came, nor on how many processes they came from.
"""

import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from underlay.data.corpus import DOCUMENT_SCHEMA, DOCUMENTS, LEDGER, LEDGER_SCHEMA, Corpus, Entry, documents_in
from underlay.data.document import Document
from underlay.errors import UserError

_SHARD_BYTES, _GROUP_BYTES, _GROUP_ROWS = 128 << 20, 4 << 20, 1024
_COLLECTED_BYTES = 256 << 20
_PARTITIONS = 256  # by the first two digits of ids
_OVERHEAD = 400
"""Bytes that a document takes in memory beside its text, roughly."""

Row = tuple[str, Document]


class CorpusWriter:
    """Takes documents and decisions; whole once it is closed."""

    def __init__(
        self,
        folder: Path,
        distinct: bool = False,
        collected_bytes: int = _COLLECTED_BYTES,
        excluded: Collection[str] = frozenset(),
    ) -> None:
        """Write into `folder`, which must be empty or not exist.

        With `distinct`, of documents with the same id only the one whose source sorts first is written; the ledger
        names it beside each other one. Up to `collected_bytes` of text are kept in memory. Documents with an `excluded`
        id are left out, and the ledger says so.
        """
        (folder / DOCUMENTS).mkdir(parents=True)
        self.folder, self.documents = folder, 0
        self._distinct, self._limit, self._excluded = distinct, collected_bytes, excluded
        self._rows: list[Row] = []
        self._size = 0
        self._parts = folder / ".parts"
        self._spilled: list[pa.RecordBatchFileWriter] = []
        self._ledger = pq.ParquetWriter(folder / LEDGER, LEDGER_SCHEMA, compression="zstd")
        self._entries: list[Entry] = []
        self._reasons: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._ledger.close()

    def add(self, document: Document) -> None:
        """Take a document."""
        id_ = document.id
        if id_ in self._excluded:
            self.note(excluded(document, id_))
            return
        self._rows.append((id_, document))
        self._size += len(document.text) + _OVERHEAD
        if self._size > self._limit:
            self._spill()

    def note(self, entry: Entry) -> None:
        """Take a decision."""
        self._entries.append(entry)
        self._reasons.add(entry.reason)
        if len(self._entries) >= 4096:
            self._write_entries()

    def close(self) -> None:
        """Write what is left. Raises UserError where there is no document."""
        if self._spilled:
            self._spill()
            for part in self._spilled:
                part.close()
        shards = _Shards(self.folder / DOCUMENTS)
        for rows in self._sorted():
            for row in self._kept(rows):
                shards.add(row)
                self.documents += 1
        shards.close()
        self._write_entries()
        self._ledger.close()
        shutil.rmtree(self._parts, ignore_errors=True)
        if not self.documents:
            why = f": {', '.join(sorted(self._reasons))}" if self._reasons else ""
            raise UserError(f"no document is left{why}")

    def _spill(self) -> None:
        """Deal what is collected out into the parts."""
        if not self._spilled:
            self._parts.mkdir()
            names = (self._parts / f"{number:02x}.arrow" for number in range(_PARTITIONS))
            self._spilled = [pa.ipc.new_file(str(name), DOCUMENT_SCHEMA) for name in names]
        dealt: list[list[Row]] = [[] for _ in range(_PARTITIONS)]
        for row in self._rows:
            dealt[int(row[0][:2], 16)].append(row)
        for part, rows in zip(self._spilled, dealt, strict=True):
            if rows:
                part.write_table(_table(rows))
        self._rows, self._size = [], 0

    def _sorted(self) -> Iterator[list[Row]]:
        """All documents in order, in stretches."""
        if not self._spilled:
            yield sorted(self._rows, key=_place)
            return
        for number in range(_PARTITIONS):
            with pa.memory_map(str(self._parts / f"{number:02x}.arrow")) as file:
                table = pa.ipc.open_file(file).read_all()
                rows = list(zip(table.column("id").to_pylist(), documents_in(table), strict=True))
            yield sorted(rows, key=_place)

    def _kept(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows to write; with `distinct`, those with an id that was not there yet."""
        last: Row | None = None
        for row in rows:
            if self._distinct and last and last[0] == row[0]:
                self.note(duplicate(row[1], row[0], last[1].source))
            else:
                last = row
                yield row

    def _write_entries(self) -> None:
        columns = {name: [getattr(entry, name) for entry in self._entries] for name in LEDGER_SCHEMA.names}
        self._ledger.write_table(pa.table(columns, schema=LEDGER_SCHEMA))
        self._entries = []


def write_corpus(
    folder: Path, documents: Iterable[Document], ledger: Iterable[Entry] = (), excluded: Collection[str] = frozenset()
) -> Corpus:
    """Write documents and ledger into `folder`, but for `excluded` ids. Raises UserError where there is no document."""
    with CorpusWriter(folder, excluded=excluded) as writer:
        for entry in ledger:
            writer.note(entry)
        for document in documents:
            writer.add(document)
    return Corpus(folder)


def duplicate(document: Document, id_: str, kept: str) -> Entry:
    """The decision to drop a document because another has the same text; `kept` is the source of that."""
    size = len(document.text.encode())
    return Entry(
        id_,
        document.source,
        document.first_line,
        size,
        "deduplicate",
        "drop",
        "duplicate",
        f"same text as {kept}",
        document.offset,
        id_,
    )


def excluded(document: Document, id_: str) -> Entry:
    """The decision to leave a document out because its library was told to."""
    size = len(document.text.encode())
    why = "on the library's list of exclusions"
    return Entry(id_, document.source, document.first_line, size, "exclude", "drop", "excluded", why, document.offset)


class _Shards:
    """Parquet files of about one size, in row groups of about one size."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: pq.ParquetWriter | None = None
        self._number = self._written = self._size = 0
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._size += len(row[1].text)
        if self._size >= _GROUP_BYTES or len(self._rows) >= _GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        if self._file is None:
            path = self._folder / f"{self._number:05d}.parquet"
            self._file = pq.ParquetWriter(path, DOCUMENT_SCHEMA, compression="zstd")
        self._file.write_table(_table(self._rows))
        self._written += self._size
        self._rows, self._size = [], 0
        if self._written >= _SHARD_BYTES:
            self._file.close()
            self._file, self._written, self._number = None, 0, self._number + 1

    def close(self) -> None:
        if self._rows:
            self._write()
        if self._file is not None:
            self._file.close()


def _place(row: Row) -> tuple[str, str, int, int]:
    return row[0], row[1].source, row[1].first_line, row[1].offset


def _table(rows: list[Row]) -> pa.Table:
    columns: dict[str, list[object]] = {"id": [id_ for id_, _ in rows]}
    for name in DOCUMENT_SCHEMA.names[1:]:
        columns[name] = [getattr(document, name) for _, document in rows]
    return pa.table(columns, schema=DOCUMENT_SCHEMA)
