"""Parts: what was read so far, kept in a scratch folder, so that a run that was killed goes on from there.

A part is one Parquet file: documents, and in its metadata what goes to the ledger and the place to go on from. It
appears under its name by a rename, whole or not at all; so the parts there are, by their numbers, are the journal
too. Where a part ends has no influence on the corpus.
"""

import json
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from underlay.data.corpus import Entry
from underlay.data.document import Document
from underlay.data.gather.items import START, BadRecord, Mark
from underlay.data.writer import OVERHEAD, CorpusWriter, as_rows

PART_BYTES = 48 << 20
_SECONDS = 60.0
_ENTRIES = 20_000
_GROUPS = 8
"""Row groups of a part that are handed on at once."""
_KEY = b"underlay"


@dataclass(frozen=True, slots=True)
class Place:
    """How far all files were read: everything before is kept."""

    file: int = 0
    """Number of the file that is read next, or from `mark` on."""
    mark: Mark = START


class Parts:
    """Takes documents and what could not be read, and keeps them in the order they came in.

    A part is written while the next is read; leaving the context waits for the last.
    """

    def __init__(self, folder: Path, plan: str, part_bytes: int = PART_BYTES) -> None:
        """Go on with what is in `folder`, unless that belongs to another `plan`."""
        self._folder, self._plan, self._limit = folder, plan, part_bytes
        self._documents: list[Document] = []
        self._bad: list[BadRecord] = []
        self._saving: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1)
        self._size, self._since = 0, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self._paths: list[Path] = []
        self.place = Place()
        while (path := self._path(len(self._paths))).exists():
            place = self._place_of(path)
            if place is None:
                break
            self.place = place
            self._paths.append(path)
        self.documents = sum(pq.read_metadata(path).num_rows for path in self._paths)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        try:
            if kind is None:
                self._saved()
        finally:
            self._thread.shutdown()

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}.parquet"

    def _place_of(self, path: Path) -> Place | None:
        """The place that a part leads to; None where it is of another plan."""
        told = _told(path)
        if told["plan"] != self._plan:
            return None
        place = told["place"]
        return Place(place["file"], Mark(**place["mark"]))

    def add(self, document: Document) -> None:
        """Take a document."""
        self._documents.append(document)
        self._size += len(document.text) + len(document.source) + OVERHEAD
        self.documents += 1

    def note(self, bad: BadRecord) -> None:
        """Take what could not be read."""
        self._bad.append(bad)

    def reached(self, place: Place) -> None:
        """Say that everything before a place was handed over; now and then, write it down."""
        late = time.monotonic() - self._since > _SECONDS and (self._documents or self._bad)
        if late or self._size >= self._limit or len(self._bad) >= _ENTRIES:
            self._write(place)

    def _write(self, place: Place) -> None:
        told = {"plan": self._plan, "place": asdict(place), "bad": [asdict(bad) for bad in self._bad]}
        rows = as_rows(self._documents).replace_schema_metadata({_KEY: json.dumps(told).encode()})
        self._saved()
        self._saving = self._thread.submit(_save, rows, self._path(len(self._paths)))
        self._documents, self._bad, self._size, self._since = [], [], 0, time.monotonic()

    def _saved(self) -> None:
        """Wait until the part that is being written is there."""
        if self._saving:
            saving, self._saving = self._saving, None
            saving.result()
            self._paths.append(self._path(len(self._paths)))

    def finish(self, writer: CorpusWriter) -> None:
        """Hand everything on to a corpus, in its order.

        What could not be read comes first: the writer itself notes what is excluded, and where a part ends must not
        show in the ledger.
        """
        self._saved()
        for path in self._paths:
            for bad in _told(path)["bad"]:
                writer.note(_failed(BadRecord(**bad)))
        for one in self._bad:
            writer.note(_failed(one))
        for path in self._paths:
            with pq.ParquetFile(path) as part:
                for first in range(0, part.num_row_groups, _GROUPS):
                    groups = list(range(first, min(first + _GROUPS, part.num_row_groups)))
                    writer.add_rows(part.read_row_groups(groups).replace_schema_metadata())
        for document in self._documents:
            writer.add(document)

    def first_bad(self) -> BadRecord | None:
        """The first of what could not be read."""
        self._saved()
        for path in self._paths:
            for bad in _told(path)["bad"]:
                return BadRecord(**bad)
        return self._bad[0] if self._bad else None


def _save(rows: pa.Table, path: Path) -> None:
    """Write a part, whole or not at all."""
    beside = path.with_suffix(".new")
    # What is written to be read once is worth no dictionary.
    pq.write_table(rows, beside, compression="zstd", row_group_size=1024, use_dictionary=False, write_statistics=False)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.rename(path)


def _told(path: Path) -> dict[str, Any]:
    """What a part says of itself."""
    told: dict[str, Any] = json.loads(pq.read_schema(path).metadata[_KEY])
    return told


def _failed(bad: BadRecord) -> Entry:
    return Entry("", bad.source, bad.line, bad.bytes, "gather", "drop", bad.reason, bad.detail, bad.offset)
