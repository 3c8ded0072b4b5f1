"""Decontamination: which documents hold the questions of a benchmark that a model will later be measured by.

Each text of a benchmark file, a question or an answer, is an item. A document has a share of an item's runs of 13
words ("Language models are few-shot learners", Brown et al., arXiv:2005.14165, appendix C), found without regard to
case, punctuation, accents and the values of numbers. That one run is there means little, for sentences are quoted
everywhere; that half of an item's are means that the item stands there. Items of 8 to 12 words are looked for whole.
Shorter ones, and those in which fewer than half of the words differ, are not: they are nobody's in particular.
"""

import csv
import gzip
import hashlib
import json
import lzma
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from underlay.config import Config
from underlay.data.curate.texts import Texts
from underlay.errors import UserError
from underlay.kernels.overlap import LEAST, Known, known, overlap

_PACKED: Mapping[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
_TABLES, _RECORDS, _LINES = {".csv": ",", ".tsv": "\t"}, {".jsonl", ".ndjson"}, {".txt"}
_LARGEST = 2 << 30
"""Bytes of text in a benchmark file, unpacked; what is larger is no benchmark."""
_BROKEN = (OSError, EOFError, ValueError, lzma.LZMAError, csv.Error, RecursionError)


class BenchmarkFile(Config):
    """A file of what no model may learn."""

    path: str
    """JSONL, CSV, TSV, or text with an item a line; also packed, as `.gz` or `.xz`."""
    fields: tuple[str, ...] = ()
    """Which fields of each record are items, such as `question` or `answers.text`; lists are gone through. Needed for
    all but text."""
    name: str | None = None
    """What the benchmark is called; by default the file's name."""

    def called(self) -> str:
        """What the benchmark is called."""
        return self.name or Path(self.path).name


class ContaminationConfig(Config):
    """What documents are compared with."""

    files: tuple[BenchmarkFile, ...] = ()
    """The benchmarks' files."""
    words: int = Field(default=13, ge=LEAST, le=100)
    """Words that are compared at once."""


@dataclass(frozen=True)
class Benchmarks:
    """Items of some benchmarks, ready to be looked for."""

    names: tuple[str, ...]
    files: NDArray[np.int64]
    """(m,) the number of each item's file."""
    known: Known

    @classmethod
    def read(cls, config: ContaminationConfig) -> "Benchmarks":
        """Read all items. Raises UserError where a file cannot be read, or has none that can be looked for."""
        texts: list[bytes] = []
        files: list[int] = []
        for number, file in enumerate(config.files):
            items = [item.encode("utf-8", "replace") for item in items_of(file)]
            texts += items
            files += [number] * len(items)
        offsets = np.cumsum([0, *map(len, texts)])
        index = known(np.frombuffer(b"".join(texts), dtype=np.uint8), offsets, config.words)
        found = cls(tuple(file.called() for file in config.files), np.array(files, dtype=np.int64), index)
        for (name, count, short), file in zip(found.counts(), config.files, strict=True):
            if count == short:
                fields = f"; are {', '.join(file.fields)} the right fields?" if file.fields else ""
                raise UserError(f"contamination: {name} has no item of at least {LEAST} words{fields}")
        return found

    def counts(self) -> list[tuple[str, int, int]]:
        """Of each file its name, its items, and how many of them are too short, or too much alike any other text."""
        items = np.bincount(self.files, minlength=len(self.names))
        short = np.bincount(self.files[self.known.sizes == 0], minlength=len(self.names))
        return list(zip(self.names, items.tolist(), short.tolist(), strict=True))


class Contamination:
    """A tagger: what documents have in common with benchmarks."""

    fields: Mapping[str, pa.DataType] = {"ngrams": pa.int32(), "share": pa.float32(), "of": pa.string()}
    """`ngrams`: at how many words a run of a benchmark begins; `share`: of the item that is there most completely, the
    share of its runs; `of`: that item's benchmark."""

    def __init__(self, config: ContaminationConfig) -> None:
        """Read the benchmarks. Raises UserError as `Benchmarks.read` does, and where there are none."""
        if not config.files:
            raise UserError("contamination: name the benchmarks' files, as contamination.files")
        self._benchmarks = Benchmarks.read(config)

    def __call__(self, texts: Texts) -> Mapping[str, Any]:
        """The attributes of a batch."""
        found = overlap(texts.bytes, texts.offsets, self._benchmarks.known)
        names = np.array([*self._benchmarks.names, ""], dtype=object)
        files = np.append(self._benchmarks.files, len(self._benchmarks.names))
        return {"ngrams": found.runs, "share": found.share, "of": names[files[found.nearest]]}


def fingerprint(config: ContaminationConfig) -> str:
    """SHA-256 over the bytes of all files. Raises UserError where one cannot be read."""
    total = hashlib.sha256()
    for benchmark in config.files:
        try:
            with Path(benchmark.path).expanduser().open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"contamination: {benchmark.path}: {error.strerror}") from error
    return total.hexdigest()


def items_of(file: BenchmarkFile) -> Iterator[str]:
    """The items of a benchmark file. Raises UserError, with the place, where it is not what it claims."""
    path = Path(file.path).expanduser()
    packed = path.suffix if path.suffix in _PACKED else ""
    ending = Path(path.stem).suffix if packed else path.suffix
    if ending not in {*_TABLES, *_RECORDS, *_LINES}:
        raise UserError(f"contamination: {file.path}: JSONL, CSV, TSV or text is needed, with such an ending")
    if not file.fields and ending not in _LINES:
        raise UserError(f"contamination: {file.path}: name the fields that hold its items, as `fields: [question]`")
    if file.fields and ending in _LINES:
        raise UserError(f"contamination: {file.path}: text has no fields; an item is a line")
    number = 0
    try:
        with (
            _PACKED.get(packed, open)(path, "rb") as raw,
            TextIOWrapper(raw, "utf-8-sig", "replace", newline="") as text,
        ):
            lines = _counted(text, file.path)
            if ending in _LINES:
                yield from (line for line in lines if line.strip())
                return
            records = csv.DictReader(lines, delimiter=_TABLES[ending]) if ending in _TABLES else _records(lines)
            for number, record in enumerate(records, 1):
                for field in file.fields:
                    yield from _values(record, field.split("."), f"contamination: {file.path}: record {number}")
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(f"contamination: {file.path}: after record {number}: {error}") from error


def _counted(text: TextIO, path: str) -> Iterator[str]:
    """Lines, as long as there are not too many."""
    size = 0
    while line := text.readline(_LARGEST):
        size += len(line)
        if size >= _LARGEST:
            raise UserError(f"contamination: {path}: more than {_LARGEST >> 30} GiB of text")
        yield line


def _records(lines: Iterator[str]) -> Iterator[Any]:
    return (json.loads(line) for line in lines if line.strip())


def _values(value: Any, path: Sequence[str], where: str) -> Iterator[str]:
    """The texts at a path of keys; raises UserError where there is no such key, or no text."""
    if isinstance(value, list):
        for one in value:
            yield from _values(one, path, where)
    elif path:
        if not isinstance(value, dict) or path[0] not in value:
            there = f"; there are {', '.join(map(str, value))}" if isinstance(value, dict) else ""
            raise UserError(f"{where}: no field {path[0]!r}{there}")
        yield from _values(value[path[0]], path[1:], where)
    elif isinstance(value, str):
        yield value
    elif value is not None:
        raise UserError(f"{where}: a text is needed, not {value!r:.50}")
