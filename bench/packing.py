"""Tokens a second: packing a corpus, against `tokenizers` and `tiktoken` encoding the same texts with the same
vocabulary.

The tokenizer is learned by Underlay from the texts. `tokenizers` (Rust) encodes them in batches, with nothing around
it; `tiktoken` gets the same merges and the same pattern. Packing encodes, adds marks of beginnings and ends, and
writes tokens and the table that leads back to documents; so it does more than the other two. Ids are compared first.
All of it once on one core and once on all. Prints a table and a line a target; writes `bench/results/packing.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "packing.json"
VOCABULARY = 8192
TARGETS = {"tokenizers": 0.9}
"""Packing must keep nearly all of the speed of the encoder below it."""


def documents() -> list[Any]:
    """The standard library of this Python, file by file."""
    from underlay.data import Document

    found = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("**/*.py")):
        if "site-packages" not in path.parts:
            text = path.read_text("utf-8", errors="replace")
            found.append(Document(text, str(path), 1, 1 + text.count("\n"), "PSF-2.0", "python"))
    return found


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


def best(work: Callable[[], int], turns: int) -> float:
    """Tokens a second, the best of some runs: other processes only ever slow one down."""
    rate = 0.0
    for _ in range(turns):
        began = time.perf_counter()
        tokens = work()
        rate = max(rate, tokens / (time.perf_counter() - began))
    return rate


def measure(threads: int, turns: int) -> dict[str, float]:
    """Tokens a second of each, in this process."""
    from tokenizers import Tokenizer as Backend

    from underlay.data import PackConfig, pack, write_corpus
    from underlay.text import Tokenizer, train_tokenizer

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        corpus = write_corpus(scratch / "corpus", documents())
        texts = [document.text for document in corpus]
        train_tokenizer(texts[::10], VOCABULARY).save(scratch)
        ours = Tokenizer.load(scratch)
        plain = Backend.from_file(str(scratch / "tokenizer.json"))
        other = as_tiktoken(scratch)
        for text in texts[:50]:
            assert ours.encode(text) == other.encode_ordinary(text), "the sides encode differently"
        number = iter(range(1_000_000))

        def packed() -> int:
            info = pack(corpus, ours, PackConfig(), scratch / f"packed-{next(number)}", threads=threads).info
            return sum(info.tokens.values())

        return {
            "underlay": best(packed, turns),
            "tokenizers": best(lambda: sum(map(len, plain.encode_batch(texts, add_special_tokens=False))), turns),
            "tiktoken": best(lambda: sum(map(len, other.encode_ordinary_batch(texts, num_threads=threads))), turns),
        }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        print(json.dumps(measure(arguments.threads, arguments.turns)))
        return
    found: dict[str, dict[str, float]] = {}
    for threads in sorted({1, os.cpu_count() or 1}):
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
        command = [sys.executable, __file__, "--threads", str(threads), "--turns", str(arguments.turns)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found[str(threads)] = json.loads(done.stdout)
        print(
            f"{threads} threads: "
            + ", ".join(f"{name} {rate / 1e6:.2f} M tokens/s" for name, rate in found[str(threads)].items())
        )
    missed = False
    for threads, rates in found.items():
        for name, target in TARGETS.items():
            ratio = rates["underlay"] / rates[name]
            missed |= ratio < target
            print(f"{name}, {threads} threads  {ratio:.3f}  {target:.2f}  {'met' if ratio >= target else 'missed'}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    sys.exit(missed)


if __name__ == "__main__":
    main()
