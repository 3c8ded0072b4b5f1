"""Find what is private in texts: cheap places first (`underlay.kernels.candidates`), patterns and checksums there."""

import re
from collections.abc import Iterator
from typing import get_args

import phonenumbers
import pyarrow as pa
from pydantic import Field, field_validator

from underlay.config import Config
from underlay.data.curate.privacy import ids, network, numbers, secrets
from underlay.data.curate.privacy.spans import Group, Span, apart, group_of
from underlay.data.curate.texts import Texts
from underlay.kernels import candidates as places

_SPLIT = re.compile(r"(?: ?/ ?| [-\u2013] |, )")
_WORD_OF_DIGITS = re.compile(r"[^ ]+")


class PrivacyConfig(Config):
    """What counts as private."""

    kinds: tuple[Group, ...] = Field(default=get_args(Group), min_length=1)
    """What is looked for: `email`, `phone`, `ip` (internet addresses that lead somewhere), `card` (payment cards),
    `bank` (IBAN, account numbers), `id` (national ids of about thirty countries), `secret` (keys, passwords, private
    keys)."""
    regions: tuple[str, ...] = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "BE", "CH", "AT", "AU", "IN", "BR", "PL")
    """Countries whose telephone numbers are known where they are written as at home, without their country's code and
    without a word such as `phone` beside them."""

    @field_validator("regions")
    @classmethod
    def _known(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        for region in regions:
            if region not in phonenumbers.SUPPORTED_REGIONS:
                raise ValueError(f"{region} is no country's code (ISO 3166), such as DE")
        return regions


class Finder:
    """Finds private things in batches of texts."""

    def __init__(self, config: PrivacyConfig) -> None:
        """Look for what `config` says."""
        self._wanted = frozenset(config.kinds)
        self._regions = config.regions
        self._begins = places.pairs(secrets.PREFIXES)

    def __call__(self, texts: Texts) -> list[list[Span]]:
        """What is private in each text, in its order; none overlaps another."""
        found: list[list[Span]] = [[] for _ in range(len(texts))]
        all_ = places.candidates(texts.bytes, texts.offsets, self._begins)
        columns = (column.tolist() for column in all_)
        strings = texts.strings
        for number, kind, start, end in zip(*columns, strict=True):
            spans = self._at(strings[number], kind, start, end)
            found[number] += (span for span in spans if group_of(span.kind) in self._wanted)
        return [apart(spans) if spans else spans for spans in found]

    def _at(self, text: str, kind: int, start: int, end: int) -> Iterator[Span]:
        if kind == places.AT:
            yield from network.at_sign(text, start)
        elif kind == places.NUMBER:
            yield from self._number(text, start, end)
        elif kind == places.MIXED:
            yield from ids.national_id(text, start, end)
        elif kind == places.BANK:
            yield from numbers.iban(text, start)
        elif kind == places.COLONS:
            yield from network.ipv6(text, start, end)
        elif kind == places.PREFIX:
            yield from secrets.known(text, start)
        elif kind == places.ASSIGNED:
            yield from secrets.assigned(text, start)
        elif kind == places.BLOCK:
            yield from secrets.block(text, start)

    def _number(self, text: str, start: int, end: int) -> Iterator[Span]:
        """What groups of digits are: all of them together, or else each of those that something parts."""
        found = [*numbers.cards(text, start, end), *network.ipv4(text, start, end)]
        if not found:
            found += self._whole(text, start, end)
        if not found and end - start > _LEAST:
            for pattern in (_SPLIT, None):
                pieces = _pieces(text, start, end, pattern)
                if len(pieces) > 1:
                    found += [span for piece in pieces for span in self._whole(text, *piece)]
                if found:
                    break
        yield from found

    def _whole(self, text: str, start: int, end: int) -> list[Span]:
        if end - start > _LONGEST:
            return []
        return (
            list(ids.national_id(text, start, end))
            or list(numbers.bank_account(text, start, end))
            or list(numbers.phone(text, start, end, self._regions))
        )


_LEAST, _LONGEST = 14, 40
"""Characters of two numbers together, and of one at most."""


def _pieces(text: str, start: int, end: int, pattern: re.Pattern[str] | None) -> list[tuple[int, int]]:
    """The stretches between what parts them, or between single spaces; only those with some length."""
    found, at = [], start
    for match in (pattern or _BLANK).finditer(text, start, end):
        found.append((at, match.start()))
        at = match.end()
    return [(low, high) for low, high in [*found, (at, end)] if high - low >= 7]


_BLANK = re.compile(" +")


def find(text: str, config: PrivacyConfig | None = None) -> list[Span]:
    """What is private in one text."""
    return Finder(config or PrivacyConfig())(Texts(pa.array([text])))[0]
