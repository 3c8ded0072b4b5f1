"""Filters and MinHash against datatrove on the same texts, one core each, and which documents stay.

The chain is FineWeb's: Gopher repetition, Gopher quality, C4, FineWeb, then MinHash signatures (14 bands of 8,
shingles of 5 words). datatrove runs its own filters in its own order and stops at the first that drops a document, as
its pipeline does; Underlay measures every document whole and applies its rules afterwards. Reading and writing files
is left out on both sides. Sides take turns; each has one thread, and is warmed up before it is measured.

Texts are real: web pages of C4, Wikipedia articles, books cut into chapters' size, news, and Python's own sources.
Every difference between the decisions is counted by its kind.
"""

import itertools
import json
import random
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from curation import texts
from curation.sides import DATA, DATATROVE, Check, Options, Outcome, Prepared, Side, need, rounds, table, times_faster

PIECE, PIECES = 20_000, 2_000
MEGABYTES, TURNS, WARM = 6.0, 3, 200
TARGETS = {"speed": 50.0, "agreement": 0.99}
ORDER = ("gopher", "c4", "fineweb")


def chosen(megabytes: float, seed: int = 0) -> dict[str, list[str]]:
    """Real texts by where they come from, `megabytes` in all at most, in equal shares."""
    cut = (book[at : at + PIECE] for book in texts.books() for at in range(0, len(book), PIECE))
    sources = {
        "web": texts.web(),
        "wikipedia": texts.wikipedia(),
        "books": list(itertools.islice(cut, PIECES)),
        "news": texts.news(),
        "code": list(texts.code("*/*.py")),
    }
    share = megabytes * 1e6 / len(sources)
    found: dict[str, list[str]] = {}
    for name, documents in sources.items():
        taken, size = [], 0
        for text in random.Random(seed).sample(documents, len(documents)):
            if size + len(text) <= share:
                taken.append(text)
                size += len(text.encode())
        found[name] = taken
    return found


def prepare(side: str, folder: Path) -> Prepared:
    """Decide on all texts of the folder."""
    documents = json.loads((folder / "texts.json").read_text("utf-8"))
    decide = _ours(documents) if side == "ours" else _theirs(documents)
    decide(WARM)
    return lambda: decide(len(documents)), lambda decisions: {"decisions": decisions}


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


def measure(options: Options) -> Outcome:
    """Choose texts, let both sides decide in turns, compare."""
    need(DATA, DATATROVE)
    found = chosen(MEGABYTES * options.size)
    documents = [(name, text) for name, some in found.items() for text in some]
    size = sum(len(text.encode()) for _, text in documents) / 1e6
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "texts.json").write_text(json.dumps([text for _, text in documents]), "utf-8")
        ours, theirs = Side("filters", "ours", folder), Side("filters", "datatrove", folder, DATATROVE)
        rounds([ours, theirs], options.turns or TURNS)
    mine, other = ours.turns[-1]["decisions"], theirs.turns[-1]["decisions"]
    same = [bool(a) == bool(b) for a, b in zip(mine, other, strict=True)]
    print(f"{len(documents):,} documents, {size:.1f} MB")
    table(["side", "MB/s of one core"], [[side.name, f"{side.rate(size):.3f}"] for side in (ours, theirs)])
    rows = []
    for source in found:
        of_it = [number for number, (name, _) in enumerate(documents) if name == source]
        share = statistics.fmean(same[number] for number in of_it)
        rows.append([source, len(of_it), sum(not other[number] for number in of_it), f"{share:.4f}"])
    table(["source", "documents", "datatrove keeps", "same decision"], rows)
    kinds = Counter((b or "kept", a or "kept") for a, b, equal in zip(mine, other, same, strict=True) if not equal)
    for (their, our), count in kinds.most_common():
        print(f"{count:4d} x datatrove: {their}; ours: {our}")
    if options.differences:
        differing = zip(documents, mine, other, same, strict=True)
        lines = [
            json.dumps({"source": n, "ours": a, "theirs": b, "text": t}) + "\n"
            for (n, t), a, b, equal in differing
            if not equal
        ]
        options.differences.write_text("".join(lines), "utf-8")
    agreement = statistics.fmean(same)
    figures = {
        "documents": len(documents),
        "megabytes": size,
        "our_seconds": ours.processor(),
        "their_seconds": theirs.processor(),
        "agreement": agreement,
        "differences": [{"theirs": their, "ours": our, "count": count} for (their, our), count in kinds.most_common()],
    }
    speed = times_faster(ours, theirs)
    checks = [
        Check("MB/s, ours / datatrove", speed, TARGETS["speed"]),
        Check("documents with the same decision", agreement, TARGETS["agreement"]),
    ]
    return Outcome(figures, checks)
