"""Pack: encode a corpus once, into token shards whose every position leads back to a document.

Documents are held out by their content hash, so the same text is on the same side in every run and every corpus.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from underlay.config import Config
from underlay.data.corpus import Corpus
from underlay.data.dataset import DATASET, DOCUMENTS, TOKENS, Dataset, DatasetInfo, Split
from underlay.data.document import Document
from underlay.errors import UserError
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
) -> Dataset:
    """Encode a corpus, or several by name, into a new dataset in `folder`; several follow one another by their names.

    Raises UserError where a corpus has not at least two documents, one to learn from and one to hold out.
    """
    named = {"": corpora} if isinstance(corpora, Corpus) else dict(sorted(corpora.items()))
    heldout = _choose_heldout(named, config)
    dtype = "uint16" if tokenizer.size <= 1 << 16 else "uint32"
    splits: tuple[Split, ...] = ("train", "heldout")
    writers = {split: _Writer(folder / split, dtype) for split in splits}
    ends = [dict.fromkeys(splits, 0)]
    done, total = 0, sum(map(len, named.values()))
    for corpus in named.values():
        for document, tokens in _encode(corpus, tokenizer):
            writers["heldout" if document.id in heldout else "train"].add(document, tokens)
            done += 1
            if done % 100 == 0 or done == total:
                progress(done, total, tokens=f"{sum(w.tokens for w in writers.values()) / 1e6:.2f} M")
        ends.append({split: writers[split].tokens for split in splits})
    for writer in writers.values():
        writer.close()
    sizes = [{split: end[split] - start[split] for split in splits} for start, end in pairwise(ends)]
    info = DatasetInfo(
        dtype="uint16" if dtype == "uint16" else "uint32",
        vocabulary=tokenizer.size,
        tokens=ends[-1],
        documents={split: len(writers[split].rows) for split in splits},
        bytes={split: writers[split].bytes for split in splits},
        parts={name: size for name, size in zip(named, sizes, strict=True) if name},
    )
    # Without parts the file is what it was before there were any, and so are its hash and the versions behind it.
    values = info.model_dump(exclude=set() if info.parts else {"parts"})
    (folder / DATASET).write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    return Dataset(folder)


def _choose_heldout(named: Mapping[str, Corpus], config: PackConfig) -> set[str]:
    """The documents to hold out: of each corpus some, and from all of them, should another have the same text."""
    ids = {name: [document.id for document in corpus] for name, corpus in named.items()}
    heldout: set[str] = set()
    for name, corpus in named.items():
        if len(ids[name]) < 2:
            raise UserError(
                f"{_called(name)} has {len(ids[name])} document; at least 2 are needed, one to learn from and one to "
                "hold out"
            )
        chosen = {id_ for id_ in ids[name] if is_heldout(id_, config.heldout)}
        if not chosen:  # so few documents that chance held none out: the shortest costs least
            chosen = {min(corpus, key=lambda document: (len(document.text), document.id)).id}
        heldout |= chosen
    for name, all_ in ids.items():
        if heldout >= set(all_):
            of = f" of {_called(name)}" if name else ""
            raise UserError(f"all {len(all_)} documents{of} would be held out; lower pack.heldout ({config.heldout})")
    return heldout


def _called(name: str) -> str:
    return f"corpus {name}" if name else "the corpus"


def _encode(corpus: Corpus, tokenizer: Tokenizer) -> Iterator[tuple[Document, list[int]]]:
    bos, eos = tokenizer.special(Special.BOS), tokenizer.special(Special.EOS)
    stream = iter(corpus)
    while documents := list(itertools.islice(stream, 256)):
        for document, ids in zip(documents, tokenizer.encode_batch([d.text for d in documents]), strict=True):
            yield document, [bos, *ids, eos]


class _Writer:
    """Appends documents to one split."""

    def __init__(self, folder: Path, dtype: str) -> None:
        folder.mkdir(parents=True)
        self.folder, self.dtype = folder, np.dtype(dtype).newbyteorder("<")
        self.rows: list[dict[str, str | int]] = []
        self.tokens = self.bytes = 0
        self._file = (folder / TOKENS).open("wb")

    def add(self, document: Document, tokens: list[int]) -> None:
        self._file.write(np.asarray(tokens, dtype=self.dtype).tobytes())
        start, self.tokens = self.tokens, self.tokens + len(tokens)
        self.bytes += len(document.text.encode())
        self.rows.append(
            {
                "id": document.id,
                "start": start,
                "end": self.tokens,
                "source": document.source,
                "first_line": document.first_line,
                "last_line": document.last_line,
                "licence": document.licence,
            }
        )

    def close(self) -> None:
        self._file.close()
        pq.write_table(pa.Table.from_pylist(self.rows, _SCHEMA), self.folder / DOCUMENTS, compression="zstd")
