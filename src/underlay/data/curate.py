"""Curate: remove duplicates and poor documents, mask private data, and write down every decision."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

from underlay.config import Config
from underlay.data.corpus import Corpus, Entry
from underlay.data.document import Document
from underlay.data.quality import QualityConfig, judge, measure
from underlay.data.redact import redact
from underlay.progress import Progress, silent


class CurateConfig(Config):
    """What is removed from a corpus, and what is changed in it."""

    deduplicate: bool = True
    """Keep one of several documents with the same text."""
    quality: QualityConfig | None = QualityConfig()
    """Rules of quality; null keeps everything."""
    redact: bool = True
    """Mask e-mail addresses, keys and other secrets."""


def curate(corpus: Corpus, config: CurateConfig, folder: Path, progress: Progress = silent) -> Corpus:
    """Write the curated corpus, with its ledger, into `folder`.

    Raises UserError where no document is left.
    """
    kept: dict[str, Document] = {}
    ledger: list[Entry] = []
    total = len(corpus)
    for done, document in enumerate(corpus, 1):
        curated = _one(document, config, ledger)
        if curated:
            _add(curated, kept, ledger, config.deduplicate)
        if done % 100 == 0 or done == total:
            progress(done, total, kept=str(len(kept)))
    return Corpus.write(folder, kept.values(), ledger)


def funnel(raw: Corpus, curated: Corpus) -> list[tuple[str, int, int]]:
    """What became of the documents, as rows (name, documents, bytes): gathered, each drop reason, kept."""
    drops: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for entry in [*raw.ledger(), *curated.ledger()]:
        if entry.decision == "drop":
            drops[entry.reason] += 1
            sizes[entry.reason] += entry.bytes
    kept = (len(curated), sum(len(document.text.encode()) for document in curated))
    found = (kept[0] + sum(drops.values()), kept[1] + sum(sizes.values()))
    return [("found", *found), *((reason, n, sizes[reason]) for reason, n in drops.most_common()), ("kept", *kept)]


def _one(document: Document, config: CurateConfig, ledger: list[Entry]) -> Document | None:
    if config.quality:
        broken = judge(measure(document.text), config.quality)
        if broken:
            ledger.append(_entry(document, "quality", "drop", *broken))
            return None
    if config.redact:
        text, found = redact(document.text)
        if found:
            detail = ", ".join(f"{kind} x{count}" for kind, count in sorted(found.items()))
            ledger.append(_entry(document, "redact", "change", "private-data", detail))
            return replace(document, text=text)
    return document


def _add(document: Document, kept: dict[str, Document], ledger: list[Entry], deduplicate: bool) -> None:
    """Keep one document of each content: the one whose source sorts first, whatever the order of arrival."""
    other = kept.get(document.id) if deduplicate else None
    if other is None:
        kept[document.id if deduplicate else f"{document.id} {document.source} {document.first_line}"] = document
        return
    first, second = sorted((document, other), key=lambda d: (d.source, d.first_line))
    kept[first.id] = first
    ledger.append(_entry(second, "deduplicate", "drop", "duplicate", f"same text as {first.source}"))


def _entry(document: Document, stage: str, decision: Literal["drop", "change"], reason: str, detail: str) -> Entry:
    size = len(document.text.encode())
    return Entry(document.id, document.source, document.first_line, size, stage, decision, reason, detail)
