"""The data card of several corpora: a table of the parts, how much of each a model reads, then each part.

Shares of the whole are weighed: a licence that has a tenth of a part of which half is read has a twentieth of what is
read. Without a run nobody knows what will be read; then tokens are the weights, or bytes where there are none either.
One page in HTML and the same in Markdown. Equal figures give equal bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from underlay.data.curate.canaries import SOURCE
from underlay.data.curate.summary import UNKNOWN, Share, Summary
from underlay.evaluate.card import PAGE, TEXT
from underlay.evaluate.page import write_both
from underlay.evaluate.ranking import RANKED, fold, short

_MOST_OF_PART = 5
_RANKED = RANKED | {
    "languages": ("Languages", "As the tagger language takes them to be; parts in which it did not look are unknown.")
}


@dataclass(frozen=True)
class PartData:
    """One corpus of a mixture."""

    name: str
    reference: str
    sources: tuple[str, ...]
    """What was gathered."""
    summary: Summary
    tokens: int | None = None
    """That can be learned from, once packed."""
    read: int | None = None
    """Tokens that a model has read."""
    passes: float | None = None
    """How often it has read the part: its epochs."""


@dataclass(frozen=True)
class MixData:
    """All that the card shows."""

    name: str
    reference: str
    """Of the dataset or the model; empty where corpora were named."""
    parts: tuple[PartData, ...]

    @property
    def packed(self) -> bool:
        """Whether it is known how many tokens all parts have."""
        return all(part.tokens is not None for part in self.parts)

    @property
    def run(self) -> bool:
        """Whether it is known how much of all parts was read."""
        return all(part.read is not None for part in self.parts)


@dataclass(frozen=True)
class Row:
    """A name's bytes among all that is kept, and its shares of that and of what is read."""

    name: str
    bytes: int
    stored: float
    read: float


def write_mix_card(data: MixData, folder: Path) -> tuple[Path, Path]:
    """Write `card.html` and `card.md`; tells where."""
    written = folder / PAGE, folder / TEXT
    write_both("mixcard", *written, **_values(data))
    return written


def _values(data: MixData) -> dict[str, Any]:
    parts = tuple(sorted(data.parts, key=lambda part: (-_weight(part, data), part.name)))
    stored = _shares([part.summary.found.kept_bytes for part in parts])
    weights = _shares([_weight(part, data) for part in parts])
    return {
        "data": data,
        "rows": [(*row, _details(row[0])) for row in zip(parts, stored, weights, strict=True)],
        "packed": data.packed,
        "run": data.run,
        "documents": sum(part.summary.found.kept - part.summary.planted for part in parts),
        "planted": sum(part.summary.planted for part in parts),
        "found": sum(part.summary.found.found for part in parts),
        "size": sum(part.summary.found.kept_bytes for part in parts),
        "tokens": sum(part.tokens or 0 for part in parts),
        "read": sum(part.read or 0 for part in parts),
        "rankings": [(kind, title, why, _ranked(parts, weights, kind)) for kind, (title, why) in _RANKED.items()],
        "named": {f"part-{n}": part.name for n, part in enumerate(parts, 1)},
    }


def _weight(part: PartData, data: MixData) -> int:
    """How much of it is read, as far as that is known."""
    return (part.read if data.run else part.tokens if data.packed else part.summary.found.kept_bytes) or 0


def _shares(amounts: list[int]) -> list[float]:
    whole = sum(amounts) or 1
    return [amount / whole for amount in amounts]


def _ranked(parts: tuple[PartData, ...], weights: list[float], kind: str) -> list[Row]:
    """Names by how much of them is read, the small ones together."""
    sizes: dict[str, int] = {}
    read: dict[str, float] = {}
    for part, weight in zip(parts, weights, strict=True):
        kept = part.summary.found.kept_bytes
        shares: Mapping[str, Share] = getattr(part.summary, kind) or {UNKNOWN: Share(kept_bytes=kept)}
        whole = sum(share.kept_bytes for share in shares.values()) or 1
        for name, share in shares.items():
            if share.kept_bytes:
                sizes[name] = sizes.get(name, 0) + share.kept_bytes
                read[name] = read.get(name, 0.0) + weight * share.kept_bytes / whole
    if set(sizes) <= {UNKNOWN}:
        return []
    whole = sum(sizes.values())
    names = sorted(sizes, key=lambda name: (-read[name], name))
    rows = [Row(short(name), sizes[name], sizes[name] / whole, read[name]) for name in names]
    return fold(rows, _others)


def _others(name: str, rest: list[Row]) -> Row:
    return Row(name, sum(row.bytes for row in rest), sum(row.stored for row in rest), sum(row.read for row in rest))


def _details(part: PartData) -> dict[str, Any]:
    """What is said of one part: pairs of a name and a share by heading, and single figures."""
    found = part.summary
    lists = {}
    for kind, (title, _) in _RANKED.items():
        shares: Mapping[str, Share] = getattr(found, kind)
        whole = sum(share.kept_bytes for share in shares.values()) or 1
        kept = [(name, share.kept_bytes / whole) for name, share in shares.items() if share.kept_bytes]
        named = [(short(name), share) for name, share in sorted(kept, key=lambda one: (-one[1], one[0]))]
        lists[title] = fold(named, lambda name, rest: (name, sum(share for _, share in rest)), _MOST_OF_PART)
    years = [year for year, share in found.years.items() if year != UNKNOWN and share.kept]
    drops = sorted((drop for drop in found.drops if drop.documents), key=lambda drop: (-drop.documents, drop.reason))
    return {
        "lists": {title: rows for title, rows in lists.items() if rows},
        "years": f"{min(years)} to {max(years)}" if len(years) > 1 else "".join(years),
        "undated": found.years.get(UNKNOWN, Share()).kept,
        "drops": [(drop.reason, drop.condition, drop.documents) for drop in drops[:_MOST_OF_PART]],
        "more_drops": sum(drop.documents for drop in drops[_MOST_OF_PART:]),
        "masked": sum(found.private.values()),
        "sample": next((one for one in found.samples.get("kept", ()) if one.source != SOURCE), None),
    }
