"""Curation against datatrove on the same texts, one core each: filters and MinHash, and which documents stay.

The chain is FineWeb's: Gopher repetition, Gopher quality, C4, FineWeb, then MinHash signatures (14 bands of 8,
shingles of 5 words). datatrove runs its own filters in its own order and stops at the first that drops a document, as
its pipeline does; Underlay measures every document whole and applies its rules afterwards. Reading and writing files
is left out on both sides. Sides take turns; each has one thread and a process of its own, warmed up before it is
measured.

Texts are real: web pages of C4, Wikipedia articles, books cut into chapters' size, news, and Python's own sources.
Prints a table, every difference between the decisions by its kind, and a line a target; writes
`bench/results/data.json`. Exits non-zero where a target is missed. Needs `make bench-env` and the data beside the
project (`../shared/data`)."""

import argparse
import json
import lzma
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
RIVAL = ROOT / ".venv-datatrove" / "bin" / "python"
RESULTS = ROOT / "bench" / "results" / "data.json"
PIECE = 20_000
SIDES = ("ours", "theirs")
TARGETS = {"speed": 50.0, "agreement": 0.99}
ORDER = ("gopher", "c4", "fineweb")


# --- Texts --------------------------------------------------------------------------------------------------------


def texts(megabytes: float, seed: int = 0) -> dict[str, list[str]]:
    """Real texts by where they come from, `megabytes` in all at most, in equal shares."""
    sources = {"web": _web(), "wikipedia": _wikipedia(), "books": _books(), "news": _news(), "code": _code()}
    share = megabytes * 1e6 / len(sources)
    found: dict[str, list[str]] = {}
    for name, documents in sources.items():
        chosen, size = [], 0
        for text in random.Random(seed).sample(documents, len(documents)):
            if size + len(text) <= share:
                chosen.append(text)
                size += len(text.encode())
        found[name] = chosen
    return found


def _lines(path: str) -> Iterator[Any]:
    with lzma.open(DATA / path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _web() -> list[str]:
    return [row["text"] for row in _lines("c4-wiki-demo/c4_demo.jsonl.xz")]


def _wikipedia() -> list[str]:
    found = []
    for name in ("valid", "test"):
        with lzma.open(DATA / "wikitext2" / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
            found += [f" = {article}" for article in file.read().split("\n = ") if len(article) > 500]
    return found


def _books() -> list[str]:
    found: list[str] = []
    for book in _lines("gutenberg/children.jsonl.xz"):
        text = book["text"]
        found += [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
        if len(found) > 2000:
            break
    return found


def _news() -> list[str]:
    return [row["text"] for row in _lines("onestopenglish/onestop.jsonl.xz")]


def _code() -> list[str]:
    return [
        path.read_text("utf-8", errors="replace")
        for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*/*.py"))
    ]


# --- The two sides, each in a process of its own ------------------------------------------------------------------


def serve(side: str, path: str) -> None:
    """Be one side: decide on all texts once for each line that comes in; answers with the seconds and the decisions."""
    documents = json.loads(Path(path).read_text("utf-8"))
    decide = _ours(documents) if side == "ours" else _theirs(documents)
    decide(200)
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        decisions = decide(len(documents))
        print(json.dumps({"seconds": time.process_time() - began, "decisions": decisions}), flush=True)


def _ours(documents: list[str]) -> Any:
    import numpy as np
    import pyarrow as pa

    from underlay.data.curate.presets import rules_of
    from underlay.data.curate.tag import found
    from underlay.data.curate.taggers import TAGGERS, TagConfig
    from underlay.data.curate.texts import Texts

    config = TagConfig(taggers=("gopher", "c4", "fineweb", "minhash"), clean_lines=True)
    taggers = {name: TAGGERS[name](config) for name in config.taggers}
    rules = rules_of(ORDER, {})
    columns = [pa.array(documents[at : at + 1000], pa.large_string()) for at in range(0, len(documents), 1000)]

    def decide(count: int) -> list[str]:
        decisions: list[str] = []
        for column in columns[: -(-count // 1000)]:
            table = found(Texts(column), taggers)
            codes = np.full(len(column), -1)
            values = {name: table.column(name).to_numpy() for rule in rules for name in rule.attributes}
            for number in reversed(range(len(rules))):
                codes[~rules[number].met(values)] = number
            decisions += [rules[code].name if code >= 0 else "" for code in codes]
        return decisions

    return decide


def _theirs(documents: list[str]) -> Any:
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    filters = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]
    signer = MinhashDedupSignature("unused", MinhashConfig())

    def decide(count: int) -> list[str]:
        decisions = []
        for number, text in enumerate(documents[:count]):
            document = Document(text=text, id=str(number))
            for one in filters:
                verdict = one.filter(document)
                if verdict is not True:
                    decisions.append(verdict[1] if isinstance(verdict, tuple) else type(one).__name__)
                    break
            else:
                shingles = signer.get_shingles(document.text)
                if shingles.size:
                    signer.get_signature(shingles)
                decisions.append("")
        return decisions

    return decide


class Side:
    """A process that waits for its turns."""

    def __init__(self, side: str, path: Path) -> None:
        python = sys.executable if side == "ours" else str(RIVAL)
        environment = os.environ | dict.fromkeys(
            ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
        )
        environment["NUMBA_CACHE_DIR"] = str(path.parent)  # numba does not notice every change of what it has kept
        self.process = subprocess.Popen(
            [python, __file__, "--serve", side, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.name = side
        self.seconds: list[float] = []
        self.decisions: list[str] = []
        self._line()

    def _line(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "a side ended early; its error stands above"
        return line

    def turn(self) -> None:
        """Decide on everything once."""
        assert self.process.stdin
        print(file=self.process.stdin, flush=True)
        answer = json.loads(self._line())
        self.seconds.append(answer["seconds"])
        self.decisions = answer["decisions"]

    def end(self) -> None:
        """Stop."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


# --- The comparison -----------------------------------------------------------------------------------------------


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=6.0, help="text to decide on")
    parser.add_argument("--turns", type=int, default=3, help="of each side")
    parser.add_argument("--differences", type=Path, help="write texts on which the sides differ here, as JSON lines")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return
    if not DATA.is_dir() or not RIVAL.exists():
        sys.exit("bench/data.py needs ../shared/data, and the environment that `make bench-env` makes")
    found = texts(arguments.megabytes)
    documents = [(name, text) for name, some in found.items() for text in some]
    size = sum(len(text.encode()) for _, text in documents) / 1e6
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "texts.json")
        path.write_text(json.dumps([text for _, text in documents]), "utf-8")
        sides = [Side(side, path) for side in SIDES]
        for _ in range(arguments.turns):
            for side in sides:
                side.turn()
        for side in sides:
            side.end()
    ours, theirs = sides
    ratio = statistics.median(t / o for o, t in zip(ours.seconds, theirs.seconds, strict=True))
    same = [bool(a) == bool(b) for a, b in zip(ours.decisions, theirs.decisions, strict=True)]
    agreement = sum(same) / len(same)
    print(f"{len(documents):,} documents, {size:.1f} MB")
    for side in sides:
        print(f"  {side.name:8s} {size / statistics.median(side.seconds):8.3f} MB/s of one core")
    by_source: dict[str, list[bool]] = {}
    for (name, _), equal in zip(documents, same, strict=True):
        by_source.setdefault(name, []).append(equal)
    for name, equal in by_source.items():
        kept = sum(not d for (n, _), d in zip(documents, theirs.decisions, strict=True) if n == name)
        share = sum(equal) / len(equal)
        print(f"  {name:10s} {len(equal):6,} documents, datatrove keeps {kept:5,}, agreement {share:.4f}")
    kinds = Counter(
        (b or "kept", a or "kept")
        for a, b, equal in zip(ours.decisions, theirs.decisions, same, strict=True)
        if not equal
    )
    for (their, our), count in kinds.most_common():
        print(f"  {count:4d} x datatrove: {their}; ours: {our}")
    if arguments.differences:
        rows = zip(documents, ours.decisions, theirs.decisions, same, strict=True)
        lines = [
            json.dumps({"source": n, "ours": a, "theirs": b, "text": t}) for (n, t), a, b, equal in rows if not equal
        ]
        arguments.differences.write_text("\n".join(lines) + "\n", "utf-8")
    missed = False
    for name, value in (("speed", ratio), ("agreement", agreement)):
        met = value >= TARGETS[name]
        missed |= not met
        print(f"{name:12s} {value:8.3f}  {TARGETS[name]:6.2f}  {'met' if met else 'missed'}")
    RESULTS.parent.mkdir(exist_ok=True)
    result = {
        "documents": len(documents),
        "megabytes": size,
        "our_seconds": ours.seconds,
        "their_seconds": theirs.seconds,
        "ratio": ratio,
        "agreement": agreement,
        "differences": [{"theirs": their, "ours": our, "count": count} for (their, our), count in kinds.most_common()],
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    sys.exit(missed)


if __name__ == "__main__":
    main()
