"""The data card of a curated corpus: what it is, where it is from, what was taken away and why, and what that left.

After "Datasheets for Datasets" (arXiv:1803.09010) and the Data Cards Playbook (arXiv:2204.01075), but for what people
would have to fill in: everything here is counted. One page in HTML and the same in Markdown, of the same figures. Equal
figures give equal bytes, for the card belongs to the artifact's content.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from underlay.data.curate.summary import UNKNOWN, Share, Summary
from underlay.data.curate.terms import GENDERED, REGIONAL
from underlay.evaluate.columns import Column, draw_columns
from underlay.evaluate.page import write_both
from underlay.evaluate.ranking import RANKED, fold, short

PAGE, TEXT = "card.html", "card.md"


@dataclass(frozen=True)
class CardData:
    """All that a card shows."""

    name: str
    """Of the corpus."""
    raw: str
    """Reference to the corpus it was curated from."""
    sources: tuple[str, ...]
    """What was gathered."""
    settings: Mapping[str, Any]
    """Of the stage `curate`, as JSON."""
    tagging: Mapping[str, Any]
    """Of the stage `tag`, as JSON."""
    summary: Summary


@dataclass(frozen=True)
class Ranking:
    """Shares of the bytes by name, the largest first, the small ones together."""

    title: str
    caption: str
    rows: list[tuple[str, Share]] = field(default_factory=list)
    found: int = 1
    kept: int = 1
    """What the shares are of."""

    @property
    def bars(self) -> list[tuple[str, Share, float, float]]:
        """Name, figures, share of what was found, and of what was kept."""
        return [
            (name, share, share.found_bytes / self.found, share.kept_bytes / self.kept) for name, share in self.rows
        ]


def write_card(data: CardData, folder: Path) -> None:
    """Write `card.html` and `card.md`."""
    write_both("card", folder / PAGE, folder / TEXT, **_values(data))


def _values(data: CardData) -> dict[str, Any]:
    found = data.summary
    most = max((drop.documents for drop in found.drops), default=0)
    sizes = [Column(_power(power), share.found, share.kept) for power, share in _filled(found.sizes).items()]
    known = {int(year): share for year, share in found.years.items() if year != UNKNOWN}
    years = [Column(str(year), share.found, share.kept) for year, share in _filled(known, 80).items()]
    return {
        "data": data,
        "summary": found,
        "found": found.found,
        "drops": found.drops,
        "most_dropped": most or 1,
        "sizes": sizes,
        "size_figure": draw_columns(sizes) if len(sizes) > 1 else None,
        "years": years,
        "year_figure": draw_columns(years) if len(years) > 1 else None,
        "undated": found.years.get(UNKNOWN, Share()),
        **{kind: _ranked(*words, getattr(found, kind)) for kind, words in RANKED.items()},
        "terms": {
            "Women and men": _terms(found, GENDERED),
            "Regions": _terms(found, REGIONAL),
        },
        "lists": {**GENDERED, **REGIONAL},
        "settings": _flat(data.settings),
        "tagging": _flat(data.tagging),
        "commands": _commands(data),
        "size_caption": "Documents by the size of their text, pale as they were found, strong as they were kept.",
        "year_caption": "Documents by the year that their source states, pale as they were found, strong as kept.",
    }


def _ranked(title: str, caption: str, shares: Mapping[str, Share]) -> Ranking:
    rows = fold([(short(name), share) for name, share in shares.items()], lambda name, rest: (name, _total(rest)))
    whole = _total(shares.items())
    return Ranking(title, caption, rows, whole.found_bytes or 1, whole.kept_bytes or 1)


def _total(rows: Iterable[tuple[str, Share]]) -> Share:
    shares = [share for _, share in rows]
    return Share(*(sum(getattr(share, field.name) for share in shares) for field in fields(Share)))


def _terms(found: Summary, lists: Mapping[str, str]) -> list[tuple[str, int, int, float, float]]:
    """Name of a list, how often its words stand in what was found and kept, and their shares among these lists."""
    shares = [(name, found.terms[name]) for name in lists if name in found.terms]
    before, after = sum(share.found for _, share in shares), sum(share.kept for _, share in shares)
    if not before:
        return []
    return [
        (name.replace("_", " "), share.found, share.kept, share.found / before, share.kept / max(1, after))
        for name, share in shares
    ]


def _filled(shares: Mapping[int, Share], longest: int = 64) -> dict[int, Share]:
    """All numbers from the least to the greatest, as long as they are not too many; then those that are there."""
    if not shares:
        return {}
    first, last = min(shares), max(shares)
    if last - first >= longest:
        return dict(sorted(shares.items())[-longest:])
    return {number: shares.get(number, Share()) for number in range(first, last + 1)}


def _power(power: int) -> str:
    """2^power bytes: 64 B, 4 kB, 1 MB."""
    unit = min(3, power // 10)
    return f"{1 << (power - 10 * unit)} {('B', 'kB', 'MB', 'GB')[unit]}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple | dict):
            flat[f"{prefix}{key}"] = ", ".join(map(str, value)) or "none"
        elif isinstance(value, bool):
            flat[f"{prefix}{key}"] = "yes" if value else "no"
        else:
            flat[f"{prefix}{key}"] = "none" if value is None else str(value)
    return flat


def _commands(data: CardData) -> list[tuple[str, str]]:
    rule = next((drop for drop in data.summary.drops if drop.documents and drop.condition), None)
    asked = f"{rule.reason}={rule.condition}" if rule else "few-words=gopher.words >= 100"
    sample = next((one.id for group in data.summary.samples.values() for one in group if one.id), "ID")
    return [
        (
            f"underlay curate {data.raw} --what-if {shlex.quote(asked)}",
            "what another threshold would keep; change the number",
        ),
        (f"underlay data why {sample[:12]}", "the whole story of one document"),
        (f"underlay data forget {sample[:12]} --dry-run", "what would have to be rebuilt without it"),
        (f"underlay library lineage {data.raw}", "what was made of the documents"),
    ]
