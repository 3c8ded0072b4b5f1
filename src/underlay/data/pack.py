"""Pack: encode a corpus once, into token shards whose every position leads back to a document.

Documents are held out by their content hash, so the same text is on the same side in every run and every corpus.
"""

import itertools
import json
from collections.abc import Iterator
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
    corpus: Corpus, tokenizer: Tokenizer, config: PackConfig, folder: Path, progress: Progress = silent
) -> Dataset:
    """Encode a corpus into a new dataset in `folder`.

    Raises UserError where the corpus has not at least two documents, one to learn from and one to hold out.
    """
    ids = [document.id for document in corpus]
    if len(ids) < 2:
        raise UserError(
            f"the corpus has {len(ids)} document; at least 2 are needed, one to learn from and one to hold out"
        )
    heldout = {id_ for id_ in ids if is_heldout(id_, config.heldout)}
    if not heldout:  # so few documents that chance held none out: the shortest costs least
        heldout = {min(corpus, key=lambda document: (len(document.text), document.id)).id}
    if len(heldout) == len(set(ids)):
        raise UserError(f"all {len(ids)} documents would be held out; lower pack.heldout ({config.heldout})")
    dtype = "uint16" if tokenizer.size <= 1 << 16 else "uint32"
    splits: tuple[Split, ...] = ("train", "heldout")
    writers = {split: _Writer(folder / split, dtype) for split in splits}
    for done, (document, tokens) in enumerate(_encode(corpus, tokenizer), 1):
        writers["heldout" if document.id in heldout else "train"].add(document, tokens)
        if done % 100 == 0 or done == len(ids):
            progress(done, len(ids), tokens=f"{sum(w.tokens for w in writers.values()) / 1e6:.2f} M")
    for writer in writers.values():
        writer.close()
    info = DatasetInfo(
        dtype="uint16" if dtype == "uint16" else "uint32",
        vocabulary=tokenizer.size,
        tokens={split: writers[split].tokens for split in splits},
        documents={split: len(writers[split].rows) for split in splits},
        bytes={split: writers[split].bytes for split in splits},
    )
    (folder / DATASET).write_text(json.dumps(info.model_dump(), indent=2) + "\n", "utf-8")
    return Dataset(folder)


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
