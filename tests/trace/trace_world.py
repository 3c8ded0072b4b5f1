"""A small model's training data: a sample of the standard library and some lines of other scripts, with a real BPE."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from underlay.data.dataset import PackedDocument
from underlay.trace import index as trace_index
from underlay.trace.index import TraceIndex

BOS, EOS, SPECIALS = 0, 1, 2
SCRIPTS = """Der Fluß überquert die Straße; naïve cafés — “déjà vu” — prêt-à-porter, Ærøskøbing.
日本語の文章には空白がありません。それでも引用を見つけなければなりません。東京は日本の首都です。
हिन्दी में लिखा गया एक छोटा सा वाक्य जिसमें मात्राएँ हैं और जो दो बार नहीं आता।
Emoji: 👩‍👩‍👧‍👦 family, 🇳🇴 flag, 👍🏽 thumbs — and then plain words to finish the line.
"""


@dataclass(frozen=True)
class Store:
    tokens: np.ndarray
    rows: tuple[PackedDocument, ...]

    def document_at(self, position: int) -> PackedDocument:
        return self.rows[bisect_right(self.rows, position, key=lambda row: row.start) - 1]


class Bytes:
    """A byte-level BPE trained on the spot, its ids moved up by the special tokens."""

    def __init__(self, texts: Sequence[str], size: int) -> None:
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        self.bpe = Tokenizer(models.BPE())
        self.bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.bpe.train_from_iterator(
            texts, trainers.BpeTrainer(vocab_size=size - SPECIALS, initial_alphabet=alphabet, show_progress=False)
        )
        # The printable characters stand for their own byte, the others are those from U+0100 on, in order of bytes.
        itself = {ord(c): ord(c) for c in alphabet if ord(c) < 256}
        moved = dict(
            zip(sorted(map(ord, set(alphabet)) - itself.keys()), sorted(set(range(256)) - itself.keys()), strict=True)
        )
        to_byte = itself | moved
        vocabulary = json.loads(self.bpe.to_str())["model"]["vocab"]
        self.pieces = [b""] * SPECIALS + [
            bytes(to_byte[ord(c)] for c in piece) for piece in sorted(vocabulary, key=vocabulary.__getitem__)
        ]

    def encode(self, text: str) -> list[int]:
        return [i + SPECIALS for i in self.bpe.encode(text).ids]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.pieces[i] for i in ids)


@dataclass(frozen=True)
class World:
    """Everything a trace needs, and the sources as they are, for the tests to look into."""

    store: Store
    index: TraceIndex
    codec: Bytes
    sources: dict[str, str]


def pack(documents: Sequence[tuple[str, str, int]], codec: Bytes) -> Store:
    """Documents as (source, text, first line) to a token store."""
    tokens: list[int] = []
    rows = []
    for number, (source, text, first_line) in enumerate(documents):
        start = len(tokens)
        tokens += [BOS, *codec.encode(text), EOS]
        last_line = first_line + (0 if source.endswith(".jsonl") else text.count("\n"))
        rows.append(PackedDocument(f"{number:04}", start, len(tokens), source, first_line, last_line, "PSF-2.0"))
    return Store(np.array(tokens, dtype=np.uint16), tuple(rows))


def open_world(documents: Sequence[tuple[str, str, int]], codec: Bytes, folder: Path) -> World:
    store = pack(documents, codec)
    np.save(folder / "tokens.npy", store.tokens)
    store = Store(np.load(folder / "tokens.npy", mmap_mode="r"), store.rows)
    trace_index.build(store.tokens, folder, separators={BOS, EOS}, vocabulary=len(codec.pieces))
    sources: dict[str, str] = {}
    for source, text, first_line in documents:
        sources[source] = sources.get(source, "\n" * (first_line - 1)) + text
    return World(store, TraceIndex.open(folder, store.tokens, verify=True), codec, sources)
