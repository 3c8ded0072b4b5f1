"""Writes a corpus in bounded memory: documents come in any order and stand ordered by id.

Documents are collected as rows of columns, and where they grow too many, dealt out by the first digits of their ids
into files beside the corpus. In the end each of these is sorted by itself and appended: together they are in order.
The largest of them is held in memory: a 256th of the text, or all documents of the text that comes most often. So
the corpus does not depend on the order in which documents came, nor on how many processes they came from. What is
sorted is compressed and written by a thread, while the next is sorted.
"""

import shutil
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from underlay.data.corpus import DOCUMENT_SCHEMA, DOCUMENTS, LEDGER, LEDGER_SCHEMA, Corpus, Entry, documents_in
from underlay.data.document import Document
from underlay.errors import UserError

_SHARD_BYTES, _GROUP_BYTES, _GROUP_ROWS = 128 << 20, 4 << 20, 1024
_COLLECTED_BYTES = 96 << 20
_PARTITIONS = 256  # by the first two digits of ids
OVERHEAD = 400
"""Bytes that a document takes in memory beside its text, roughly."""
_LOOSE_BYTES = 8 << 20
_AHEAD = 3
"""Row groups that wait to be written while the next ones are put together."""
_PLACE = [(name, "ascending") for name in ("id", "source", "first_line", "offset")]


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
        self._loose: list[Document] = []
        self._loose_size = self._size = 0
        self._tables: list[pa.Table] = []
        self._parts = folder / ".parts"
        self._spilled: list[pa.RecordBatchFileWriter] = []
        self._ledger = pq.ParquetWriter(folder / LEDGER, LEDGER_SCHEMA, compression="zstd")
        self._entries: list[Entry] = []
        self._reasons: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self._leave()

    def add(self, document: Document) -> None:
        """Take a document."""
        self._loose.append(document)
        self._loose_size += len(document.text) + len(document.source) + OVERHEAD
        if self._loose_size > min(self._limit, _LOOSE_BYTES):
            self._gather_loose()

    def add_rows(self, rows: pa.Table) -> None:
        """Take documents as a corpus has them, (n,) rows with their ids, which are believed."""
        if self._excluded:
            out = pc.is_in(rows.column("id"), pa.array(sorted(self._excluded), pa.string()))
            gone = rows.filter(out)
            for id_, document in zip(gone.column("id").to_pylist(), documents_in(gone), strict=True):
                self.note(excluded(document, id_))
            rows = rows.filter(pc.invert(out)) if len(gone) else rows
        if len(rows):
            self._tables.append(rows)
            self._size += rows.nbytes
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
        self._gather_loose()
        if self._spilled:
            self._spill()
            for part in self._spilled:
                part.close()
        with _Shards(self.folder / DOCUMENTS) as shards:
            for rows in self._sorted():
                kept = self._first_of_each(rows) if self._distinct else rows
                shards.add(kept)
                self.documents += len(kept)
        self._write_entries()
        self._leave()
        if not self.documents:
            why = f": {', '.join(sorted(self._reasons))}" if self._reasons else ""
            raise UserError(f"no document is left{why}")

    def _leave(self) -> None:
        """Close and remove what was only needed on the way."""
        self._ledger.close()
        shutil.rmtree(self._parts, ignore_errors=True)

    def _gather_loose(self) -> None:
        """Make rows of the documents that came one by one."""
        loose, self._loose, self._loose_size = self._loose, [], 0
        if loose:
            self.add_rows(as_rows(loose))

    def _spill(self) -> None:
        """Deal what is collected out into the parts."""
        if not self._spilled:
            self._parts.mkdir()
            names = (self._parts / f"{number:02x}.arrow" for number in range(_PARTITIONS))
            packed = pa.ipc.IpcWriteOptions(compression="lz4")
            self._spilled = [pa.ipc.new_file(str(name), DOCUMENT_SCHEMA, options=packed) for name in names]
        if self._tables:
            collected, self._tables, self._size = pa.concat_tables(self._tables), [], 0
            numbers = np.asarray(_first_digits(collected.column("id")))
            order = np.argsort(numbers, kind="stable")
            edges = np.searchsorted(numbers[order], np.arange(_PARTITIONS + 1))
            dealt = collected.take(pa.array(order))
            for part, start, end in zip(self._spilled, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                if end > start:
                    part.write_table(dealt.slice(start, end - start))

    def _sorted(self) -> Iterator[pa.Table]:
        """All documents in order, in stretches."""
        if not self._spilled:
            if self._tables:
                yield _in_order(pa.concat_tables(self._tables))
            return
        for number in range(_PARTITIONS):
            path = self._parts / f"{number:02x}.arrow"
            with pa.OSFile(str(path)) as file:
                rows = pa.ipc.open_file(file).read_all()
            path.unlink()
            yield _in_order(rows)

    def _first_of_each(self, rows: pa.Table) -> pa.Table:
        """Of rows in their order, those with an id that was not there yet; the ledger has the others."""
        ids = rows.column("id")
        new = np.ones(len(rows), dtype=np.bool_)
        if len(rows) > 1:
            new[1:] = pc.not_equal(ids.slice(1), ids.slice(0, len(rows) - 1)).to_numpy()
        again = np.flatnonzero(~new)
        if not len(again):
            return rows
        firsts = np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))[again]
        kept = rows.column("source").take(pa.array(firsts)).to_pylist()
        gone = rows.take(pa.array(again))
        for id_, document, source in zip(gone.column("id").to_pylist(), documents_in(gone), kept, strict=True):
            self.note(duplicate(document, id_, source))
        return rows.filter(pa.array(new))

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
    """Parquet files of about one size, in row groups of about one size, written beside whatever else is done."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: pq.ParquetWriter | None = None
        self._number = self._written = 0
        self._rest = DOCUMENT_SCHEMA.empty_table()
        self._writing = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        try:
            if kind is None:
                if len(self._rest):
                    self._submit(self._rest, 0)
                while self._waiting:
                    self._waiting.popleft().result()
        finally:
            self._writing.shutdown(cancel_futures=True)
            if self._file is not None:
                self._file.close()

    def add(self, rows: pa.Table) -> None:
        """Take rows, which are in order and come after all that were taken before."""
        rows = pa.concat_tables([self._rest, rows])
        read = np.cumsum(pc.utf8_length(rows.column("text")).to_numpy())
        start = before = 0
        while start < len(rows):
            end = min(int(np.searchsorted(read, before + _GROUP_BYTES)) + 1, start + _GROUP_ROWS)
            if end > len(rows):
                break
            self._submit(rows.slice(start, end - start), int(read[end - 1]) - before)
            start, before = end, int(read[end - 1])
        self._rest = rows.slice(start)

    def _submit(self, rows: pa.Table, size: int) -> None:
        self._waiting.append(self._writing.submit(self._write, rows, size))
        while len(self._waiting) > _AHEAD:
            self._waiting.popleft().result()

    def _write(self, rows: pa.Table, size: int) -> None:
        if self._file is None:
            path = self._folder / f"{self._number:05d}.parquet"
            self._file = pq.ParquetWriter(path, DOCUMENT_SCHEMA, compression="zstd")
        self._file.write_table(rows.combine_chunks())
        self._written += size
        if self._written >= _SHARD_BYTES:
            file, self._file = self._file, None
            file.close()
            self._written, self._number = 0, self._number + 1


def as_rows(documents: list[Document]) -> pa.Table:
    """Documents as rows of a corpus, with their ids."""
    columns = {name: [getattr(document, name) for document in documents] for name in DOCUMENT_SCHEMA.names}
    return pa.table(columns, schema=DOCUMENT_SCHEMA)


def _in_order(rows: pa.Table) -> pa.Table:
    """Rows by id; those with the same by where they come from."""
    return rows.take(pc.sort_indices(rows, sort_keys=_PLACE))


def _first_digits(ids: pa.ChunkedArray) -> NDArray[np.uint8]:
    """The number that the first two digits of each id are, (n,)."""
    pairs = pc.utf8_slice_codeunits(ids, 0, 2).dictionary_encode().combine_chunks()
    values = np.array([int(pair, 16) for pair in pairs.dictionary.to_pylist()], dtype=np.uint8)
    return values[pairs.indices.to_numpy()]
