"""Decide which documents of a corpus stay: by rules, then those that are the same, then those that are nearly the same.

All of it is a query over attributes, so a threshold can be moved, or asked about, without reading a text again.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from underlay.config import Config
from underlay.data.corpus import Corpus, Unit
from underlay.data.curate.attributes import Attributes
from underlay.data.curate.canaries import CanaryConfig
from underlay.data.curate.duplicates import band_names, nearly_same, same_text
from underlay.data.curate.presets import Preset, rules_of
from underlay.data.curate.rules import Rule
from underlay.data.curate.substrings import SubstringsConfig
from underlay.errors import UserError

STAYS, SAME, NEAR, EXCLUDED = -1, -2, -3, -4


class CurateConfig(Config):
    """What is removed from a corpus, and what is changed in it."""

    presets: tuple[Preset, ...] = ("basic",)
    """Rules that are known by name: `basic` for text of any kind, `gopher`, `c4`, `fineweb` for prose from the web,
    `decontaminated` without the questions of benchmarks."""
    rules: dict[str, str | None] = Field(default={})
    """Conditions to stay, each under the reason of those that do not meet it: `{few-words: "gopher.words >= 50"}`.
    One with the name of a preset's rule takes its place; null takes it away."""
    deduplicate: bool = True
    """Keep one of several documents with the same text."""
    near_duplicates: bool = True
    """Keep one of several documents with nearly the same text; needs the tagger `minhash`."""
    better: str = "text.characters"
    """Which of nearly equal documents stays: the one of which this attribute is largest."""
    redact: Literal["mask", "pseudonym", "drop"] | None = "mask"
    """What becomes of that which the tagger `privacy` has found: `mask` puts its kind in its place (`<EMAIL>`),
    `pseudonym` something of the same shape that the same value always gets, `drop` drops the document, null leaves
    it."""
    key: str | None = None
    """Where the secret key for pseudonyms is: `env:NAME` for an environment variable, or a file. It is not stored."""
    substrings: SubstringsConfig | None = None
    """Passages that stand further to the front of the corpus too are cut out; `{min_tokens: 50}`. Null: none."""
    canaries: CanaryConfig | None = None
    """Random sequences that are planted, to measure later what a model has learned by heart; `{count: 30}`. Null:
    none."""

    @model_validator(mode="after")
    def _keyed(self) -> Self:
        if (self.redact == "pseudonym") != (self.key is not None):
            raise ValueError("redact: pseudonym needs key (env:NAME or a file), and nothing else does")
        return self


@dataclass(frozen=True)
class Verdicts:
    """What was decided on each of n documents."""

    rules: tuple[Rule, ...]
    codes: NDArray[np.int16]
    """(n,): the number of the first rule that a document does not meet, or one of the reasons above."""
    kept: NDArray[np.int64]
    """(n,): the row of the document that stays instead."""

    @property
    def attributes(self) -> list[str]:
        """What the rules look at."""
        return sorted({name for rule in self.rules for name in rule.attributes})


def decide(
    corpus: Corpus, attributes: Attributes, config: CurateConfig, excluded: Collection[str] = frozenset()
) -> Verdicts:
    """Which documents stay, from their attributes alone; none with an `excluded` id.

    Raises UserError where a rule cannot be followed, or asks for what no tagger has found.
    """
    attributes.belong_to(corpus)
    rules = rules_of(config.presets, config.rules)
    if config.redact == "drop":
        rules.append(Rule.parse("private-data", "privacy.found == 0"))
    for rule in rules:
        rule.check(attributes.figures)
    codes = np.concatenate([first_broken(rules, attributes, unit) for unit in corpus.units()])
    codes[rows_of(corpus, excluded)] = EXCLUDED
    kept = np.arange(len(codes))
    if config.deduplicate:
        ids = (corpus.table(unit, ["id"]).column(0) for unit in corpus.units())
        first = same_text(ids, np.flatnonzero(codes == STAYS))
        again = (first != kept) & (codes == STAYS)
        codes[again] = SAME
        kept[again] = first[again]
    if config.near_duplicates:
        if not band_names(attributes.names):
            raise UserError("near_duplicates: the attributes hold none of minhash; add it to the taggers")
        if config.better not in attributes.figures:
            raise UserError(f"better: there is no attribute {config.better!r}")
        worth = attributes.column(config.better)
        if worth.dtype.kind not in "biuf":
            raise UserError(f"better: {config.better} is no number, so none is largest")
        best = nearly_same(attributes, np.flatnonzero(codes == STAYS), worth)
        again = (best != kept) & (codes == STAYS)
        codes[again] = NEAR
        kept[again] = best[again]
    return Verdicts(tuple(rules), codes, kept)


def rows_of(corpus: Corpus, ids: Collection[str]) -> list[int]:
    """The rows of a corpus, counted from its first, in which documents with these ids stand."""
    if not ids:
        return []
    units = corpus.units()
    starts = dict(zip(units, accumulate((unit.documents for unit in units), initial=0), strict=False))
    return [starts[unit] + row for _, unit, row in corpus.places(ids)]


def first_broken(rules: list[Rule], attributes: Attributes, unit: Unit) -> NDArray[np.int16]:
    """The number of the first rule that each document of a stretch does not meet; -1: it meets all."""
    names = sorted({name for rule in rules for name in rule.attributes})
    codes = np.full(unit.documents, STAYS, dtype=np.int16)
    if names:
        columns = attributes.columns(unit, names)
        for number in range(len(rules) - 1, -1, -1):
            codes[~rules[number].met(columns)] = number
    return codes


def reasons_of(verdicts: Verdicts) -> dict[int, str]:
    """What the ledger calls each code."""
    names = {number: rule.name for number, rule in enumerate(verdicts.rules)}
    return {**names, SAME: "duplicate", NEAR: "near-duplicate", EXCLUDED: "excluded"}
