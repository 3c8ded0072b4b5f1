"""Tokens a second: packing a corpus, against `tokenizers` and `tiktoken` encoding the same texts.

All have the same vocabulary, which Underlay learns from the texts. `tokenizers` (Rust) encodes them in batches, with
nothing around it; `tiktoken` gets the same merges and the same pattern. Packing encodes, adds marks of beginnings and
ends, and writes tokens and the table that leads back to documents; so it does more than the other two. Ids are
compared first. All of it once on one core and once on all, by the clock, the fastest turn of each: other processes
only ever slow one down.
"""

import os
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curation.sides import Check, Options, Outcome, Prepared, Side, rounds, table

VOCABULARY, TURNS = 8192, 3
SIDES = ("underlay", "tokenizers", "tiktoken")
TARGETS = {"tokenizers": 3.0, "tiktoken": 0.8}
"""Packing must keep nearly all of the speed of the encoder below it."""


def documents(size: float) -> list[Any]:
    """The standard library of this Python, file by file, or a part of it."""
    from underlay.data import Document

    found = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("**/*.py")):
        if "site-packages" not in path.parts:
            text = path.read_text("utf-8", errors="replace")
            found.append(Document(text, str(path), 1, 1 + text.count("\n"), "PSF-2.0", "python"))
    return found[: int(len(found) * size)]


def as_tiktoken(folder: Path) -> Any:
    """The same merges and pattern for tiktoken; ranks are ids, which follow the order of merges."""
    import tiktoken
    from tokenizers import Tokenizer as Backend

    from underlay.text.training import PIECES

    letters = {char: byte for byte, char in byte_alphabet().items()}
    vocabulary = Backend.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=False)
    ranks = {
        bytes(letters[char] for char in token): number
        for token, number in vocabulary.items()
        if all(char in letters for char in token) and not token.startswith("<|")
    }
    return tiktoken.Encoding("ours", pat_str=PIECES, mergeable_ranks=ranks, special_tokens={})


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-ins for bytes: those that print stand for themselves, the others follow from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def prepare(side: str, folder: Path) -> Prepared:
    """Encode all documents of the folder's corpus with so many threads in each of the three ways."""
    from tokenizers import Tokenizer as Backend

    from underlay.data import Corpus, PackConfig, pack
    from underlay.text import Tokenizer

    threads = int(side)
    corpus = Corpus(folder / "corpus")
    texts = [document.text for document in corpus]
    ours = Tokenizer.load(folder)
    plain = Backend.from_file(str(folder / "tokenizer.json"))
    other = as_tiktoken(folder)
    for text in texts[:50]:
        assert ours.encode(text) == other.encode_ordinary(text), "the sides encode differently"

    def packed() -> int:
        with tempfile.TemporaryDirectory(dir=folder) as made:
            return sum(pack(corpus, ours, PackConfig(), Path(made, "packed"), threads=threads).info.tokens.values())

    ways: dict[str, Callable[[], int]] = {
        "underlay": packed,
        "tokenizers": lambda: sum(map(len, plain.encode_batch(texts, add_special_tokens=False))),
        "tiktoken": lambda: sum(map(len, other.encode_ordinary_batch(texts, num_threads=threads))),
    }

    def rate(way: Callable[[], int]) -> float:
        began = time.perf_counter()
        return way() / (time.perf_counter() - began)

    return lambda: {name: rate(way) for name, way in ways.items()}, lambda rates: {"rates": rates}


def measure(options: Options) -> Outcome:
    """Learn the vocabulary, then encode with one thread and with as many as there are cores."""
    from underlay.data import write_corpus
    from underlay.text import train_tokenizer

    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        corpus = write_corpus(folder / "corpus", documents(options.size))
        train_tokenizer([document.text for document in corpus][::10], VOCABULARY).save(folder)
        for threads in sorted({1, os.cpu_count() or 1}):
            environment = {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
            side = Side("packing", str(threads), folder, environment=environment, pinned=threads == 1)
            rounds([side], options.turns or TURNS)
            found[threads] = {name: max(turn["rates"][name] for turn in side.turns) for name in SIDES}
    heads = ["threads", *(f"{name}, M tokens/s" for name in SIDES)]
    table(heads, [[threads, *(f"{rates[name] / 1e6:.2f}" for name in SIDES)] for threads, rates in found.items()])
    checks = [
        Check(f"tokens/s, packing / {name} alone, threads: {threads}", rates["underlay"] / rates[name], target)
        for threads, rates in found.items()
        for name, target in TARGETS.items()
    ]
    return Outcome({str(threads): rates for threads, rates in found.items()}, checks)
