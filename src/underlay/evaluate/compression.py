"""Bits per byte on held-out files: a model's log-likelihood as a compressor's rate, beside a real compressor's.

A model that predicts each token with probability p could store it in -log2 p bits (Shannon 1948), so its loss and the
size of an archive are the same measure, whatever the tokenizer.
"""

import lzma
import math
from collections.abc import Sequence
from dataclasses import dataclass

from underlay.data import Dataset, Document
from underlay.generate import Engine
from underlay.progress import Progress, silent


@dataclass(frozen=True)
class FileScore:
    """One held-out document."""

    source: str
    bytes: int
    model_bits: float
    """Bits the model needs, its end-of-document token included."""
    xz_bits: float
    """Bits that `xz -9e` of the document alone needs."""


@dataclass(frozen=True)
class Compression:
    """A model against xz on the same bytes."""

    files: tuple[FileScore, ...]
    xz_solid_bits: float
    """Bits that `xz -9e` of all documents in one archive needs."""

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return sum(file.bytes for file in self.files)

    @property
    def model_bits_per_byte(self) -> float:
        """The model's rate over all bytes."""
        return sum(file.model_bits for file in self.files) / self.bytes

    @property
    def xz_bits_per_byte(self) -> float:
        """The rate of one xz archive a document, over all bytes."""
        return sum(file.xz_bits for file in self.files) / self.bytes

    @property
    def xz_solid_bits_per_byte(self) -> float:
        """The rate of one xz archive of everything."""
        return self.xz_solid_bits / self.bytes


def compare(
    engine: Engine, heldout: Dataset, documents: Sequence[Document], max_bytes: int, progress: Progress = silent
) -> Compression:
    """Score the held-out documents, in the order of their ids, up to about `max_bytes` of them.

    documents: the texts of the dataset's held-out documents, or of those that are to be scored, in any order.
    """
    texts = {document.id: document.text.encode() for document in documents}
    chosen, size = [], 0
    for number in range(len(heldout.ids)):
        data = texts.get(heldout.ids[number])
        if data is None or (size and size + len(data) > max_bytes):
            continue
        chosen.append((heldout.document(number), data))
        size += len(data)
    tokens = [heldout.tokens[document.start : document.end].tolist() for document, _ in chosen]
    nats = [-float(logprobs.sum()) for logprobs in engine.score(tokens, progress)]
    files = tuple(
        FileScore(document.source, len(data), loss / math.log(2), xz_bits(data))
        for (document, data), loss in zip(chosen, nats, strict=True)
    )
    return Compression(files, xz_bits(b"".join(data for _, data in chosen)))


def xz_bits(data: bytes) -> float:
    """Size of `xz -9e` of the data, in bits."""
    return 8.0 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
