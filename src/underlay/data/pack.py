"""Pack: encode a corpus once, into token shards whose every position leads back to a document.

Documents are held out by their content hash, so the same text is on the same side in every run and every corpus.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from underlay.config import Config
from underlay.data.corpus import Corpus
from underlay.data.dataset import DATASET, DOCUMENTS, TOKENS, Dataset, DatasetInfo, Split
from underlay.errors import UserError
from underlay.plan.machine import cores
from underlay.progress import Progress, silent
from underlay.text import Special, Tokenizer

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("source", pa.string()),
        ("first_line", pa.int64()),
        ("last_line", pa.int64()),
        ("licence", pa.string()),
    ]
)
_PLACE = [name for name in _SCHEMA.names if name not in ("start", "end")]

_AT_ONCE = 1 << 20
"""Bytes of text that a thread encodes at once."""

Tokens = np.ndarray[Any, np.dtype[Any]]
Sizes = NDArray[np.int64]


class PackConfig(Config):
    """How a corpus becomes training data."""

    heldout: float = Field(default=0.02, gt=0, lt=1)
    """Share of documents that no model learns from."""


def is_heldout(id_: str, share: float) -> bool:
    """Whether the document with this id is held out: the first 32 bits of its hash, as a share of 2^32."""
    return int(id_[:8], 16) < share * 2**32


def pack(
    corpora: Corpus | Mapping[str, Corpus],
    tokenizer: Tokenizer,
    config: PackConfig,
    folder: Path,
    progress: Progress = silent,
    threads: int | None = None,
) -> Dataset:
    """Encode a corpus, or several by name, into a new dataset in `folder`; several follow one another by their names.

    So many `threads` encode, by default one a core; the dataset does not depend on it. Raises UserError where a corpus
    has not at least two documents, one to learn from and one to hold out.
    """
    named = {"": corpora} if isinstance(corpora, Corpus) else dict(sorted(corpora.items()))
    heldout = _choose_heldout(named, config)
    dtype: Literal["uint16", "uint32"] = "uint16" if tokenizer.size <= 1 << 16 else "uint32"
    writers: dict[Split, _Writer] = {split: _Writer(folder / split) for split in ("train", "heldout")}
    ends = [dict.fromkeys(writers, 0)]
    done, total = 0, sum(map(len, named.values()))
    for corpus in named.values():
        for rows, tokens, sizes in _encoded(corpus, tokenizer, dtype, threads or cores()):
            held = np.array([id_ in heldout for id_ in rows.column("id").to_pylist()], dtype=bool)
            for split, writer in writers.items():
                chosen = held if split == "heldout" else ~held
                writer.add(rows.filter(chosen), tokens[np.repeat(chosen, sizes)], sizes[chosen])
            done += len(rows)
            progress(done, total, tokens=f"{sum(w.tokens for w in writers.values()) / 1e6:.2f} M")
        ends.append({split: writer.tokens for split, writer in writers.items()})
    for writer in writers.values():
        writer.close()
    sizes_of = [{split: end[split] - start[split] for split in writers} for start, end in pairwise(ends)]
    info = DatasetInfo(
        dtype=dtype,
        vocabulary=tokenizer.size,
        tokens=ends[-1],
        documents={split: writer.documents for split, writer in writers.items()},
        bytes={split: writer.bytes for split, writer in writers.items()},
        parts={name: size for name, size in zip(named, sizes_of, strict=True) if name},
    )
    # Without parts the file is what it was before there were any, and so are its hash and the versions behind it.
    values = info.model_dump(exclude=set() if info.parts else {"parts"})
    (folder / DATASET).write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    return Dataset(folder)


def _choose_heldout(named: Mapping[str, Corpus], config: PackConfig) -> set[str]:
    """The documents to hold out: of each corpus some, and from all of them, should another have the same text."""
    heldout: set[str] = set()
    for name, corpus in named.items():
        if len(corpus) < 2:
            raise UserError(
                f"{_called(name)} has {len(corpus)} document; at least 2 are needed, one to learn from and one to "
                "hold out"
            )
        chosen = {id_ for id_ in _ids(corpus) if is_heldout(id_, config.heldout)}
        if not chosen:  # so few documents that chance held none out: the shortest costs least
            chosen = {min(corpus, key=lambda document: (len(document.text), document.id)).id}
        heldout |= chosen
    for name, corpus in named.items():
        if heldout.issuperset(_ids(corpus)):
            of = f" of {_called(name)}" if name else ""
            raise UserError(f"all {len(corpus)} documents{of} would be held out; lower pack.heldout ({config.heldout})")
    return heldout


def _ids(corpus: Corpus) -> Iterator[str]:
    for unit in corpus.units():
        yield from corpus.table(unit, ["id"]).column(0).to_pylist()


def _called(name: str) -> str:
    return f"corpus {name}" if name else "the corpus"


def _encoded(
    corpus: Corpus, tokenizer: Tokenizer, dtype: str, threads: int
) -> Iterator[tuple[pa.Table, Tokens, Sizes]]:
    """The rows of a corpus, some at a time and in their order, with their tokens; memory holds some a thread."""
    marks = _mark(tokenizer, Special.BOS, Special.CLS, Special.EOS), _mark(tokenizer, Special.EOS, Special.SEP)
    tokenizer.encode_batch([])  # what it has to prepare is prepared once, not in each thread
    if threads == 1:
        for rows in _stretches(corpus):
            yield rows, *_encode(rows.column("text"), tokenizer, marks, dtype)
        return
    pool = ThreadPoolExecutor(threads)
    waiting: deque[tuple[pa.Table, Future[tuple[Tokens, Sizes]]]] = deque()
    try:
        for rows in _stretches(corpus):
            waiting.append((rows, pool.submit(_encode, rows.column("text"), tokenizer, marks, dtype)))
            if len(waiting) > 2 * threads:
                rows, future = waiting.popleft()
                yield rows, *future.result()
        for rows, future in waiting:
            yield rows, *future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _mark(tokenizer: Tokenizer, *roles: Special) -> int:
    """The first of these that the tokenizer has: encoders mark texts by others, and some decoders know ends alone."""
    return tokenizer.special(next((role for role in roles if tokenizer.has(role)), roles[0]))


def _stretches(corpus: Corpus) -> Iterator[pa.Table]:
    """The rows that make up a document's place and text, about `_AT_ONCE` bytes of text at a time."""
    for unit in corpus.units():
        table = corpus.table(unit, ["text", *_PLACE]).combine_chunks()
        before = np.cumsum(pc.binary_length(table.column("text")).to_numpy(), dtype=np.int64) // _AT_ONCE
        edges = [0, *(np.flatnonzero(np.diff(before)) + 1).tolist(), len(table)]
        for start, end in pairwise(edges):
            yield table.slice(start, end - start)


def _encode(texts: pa.ChunkedArray, tokenizer: Tokenizer, marks: tuple[int, int], dtype: str) -> tuple[Tokens, Sizes]:
    """The tokens of some documents between the marks of their beginning and end, and how many each document has."""
    found = tokenizer.encode_batch(texts.to_pylist())
    sizes = np.array([len(ids) + 2 for ids in found], dtype=np.int64)
    tokens = np.empty(sizes.sum(), np.dtype(dtype).newbyteorder("<"))
    at = 0
    for ids in found:
        end = at + len(ids) + 1
        tokens[at], tokens[at + 1 : end], tokens[end] = marks[0], ids, marks[1]
        at = end + 1
    return tokens, sizes


class _Writer:
    """Appends documents to one split."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.tokens = self.bytes = self.documents = 0
        self._rows: list[pa.Table] = []
        self._file = (folder / TOKENS).open("wb")

    def add(self, rows: pa.Table, tokens: Tokens, sizes: Sizes) -> None:
        """Take documents: their rows of the corpus, their tokens one after another, and how many each has."""
        self._file.write(tokens.data)
        ends = self.tokens + np.cumsum(sizes)
        self.bytes += int(pc.binary_length(rows.column("text")).to_numpy().sum(dtype=np.int64))
        self.documents += len(rows)
        self.tokens += len(tokens)
        columns = {"start": ends - sizes, "end": ends} | {name: rows.column(name) for name in _PLACE}
        self._rows.append(pa.table(columns).select(_SCHEMA.names).cast(_SCHEMA))

    def close(self) -> None:
        """Write the table of documents."""
        self._file.close()
        table = pa.concat_tables(self._rows).combine_chunks()
        pq.write_table(table, self.folder / DOCUMENTS, compression="zstd")
