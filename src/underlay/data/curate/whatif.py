"""What would happen to a corpus if a rule were another: answered from attributes, without reading its texts again.

Only the texts of a few examples are read, which show what lies on either side of a threshold.
"""

import ast
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from underlay.data.corpus import Corpus
from underlay.data.curate.attributes import Attributes
from underlay.data.curate.decide import STAYS, CurateConfig, decide, reasons_of
from underlay.data.curate.presets import PRESETS, rules_of
from underlay.data.curate.rules import Rule
from underlay.data.curate.shown import beginning
from underlay.errors import UserError

_NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_-]{0,63})=(?!=)(.+)", re.DOTALL)
_SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_FEW = 12
"""So many values of an attribute are thresholds themselves; of more, quantiles are."""
_SHOWN_CHARACTERS = 400
_FLIPPED = {ast.Lt: ">", ast.LtE: ">=", ast.Gt: "<", ast.GtE: "<="}
_PLAIN = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


@dataclass(frozen=True)
class Amount:
    """Documents, and the bytes of their texts as they were gathered."""

    documents: int
    bytes: int


@dataclass(frozen=True)
class Threshold:
    """What a rule would keep with another threshold, all other rules being as they are now."""

    rule: str
    kept: Amount
    asked: bool
    """Whether it is the one that was asked about."""


@dataclass(frozen=True)
class Example:
    """A document near the threshold."""

    fate: str
    """`goes`, `stays` or `comes back`."""
    id: str
    source: str
    line: int
    figures: str
    """What the rules asked about saw of it."""
    text: str
    """Its beginning, without private data."""


@dataclass(frozen=True)
class WhatIf:
    """The answer."""

    asked: tuple[Rule, ...]
    replaced: dict[str, str | None]
    """For each rule asked about, the one whose place it takes; None: it is one more."""
    removed: tuple[str, ...]
    """Rules that are taken away."""
    found: Amount
    now: Amount
    then: Amount
    goes: Amount
    comes_back: Amount
    reasons: dict[str, Amount]
    """Why those that go would go: by the rule, or for being like one that comes back."""
    thresholds: dict[str, tuple[Threshold, ...]]
    """By the rule asked about, where it compares one attribute with one number."""
    examples: tuple[Example, ...]


def named_rule(text: str, otherwise: str) -> tuple[str, str]:
    """Name and condition of `name=condition`, or of a condition without a name."""
    match = _NAMED.fullmatch(text.strip())
    return (match[1], match[2].strip()) if match else (otherwise, text.strip())


def changed(config: CurateConfig, asked: Sequence[str]) -> tuple[CurateConfig, dict[str, str | None], tuple[str, ...]]:
    """Settings with other rules; by the name of each new rule the one whose place it takes; and those taken away.

    A condition without a name takes the place of the only rule that looks at the same attributes, if there is one. A
    name with null takes a rule away. Raises UserError where a condition is none.
    """
    now = {rule.name: rule for rule in rules_of(config.presets, config.rules)}
    replaced, removed = dict[str, str | None](), list[str]()
    for number, one in enumerate(asked, 1):
        name, text = named_rule(one, "")
        if name and text == "null":
            if name not in now:
                raise UserError(f"--what-if {one}: no rule {name}; there are {', '.join(now) or 'none'}")
            removed.append(name)
            config = _without(config, name)
            continue
        rule = Rule.parse(name or "what-if", text)
        like = [other.name for other in now.values() if not name and other.attributes == rule.attributes]
        name = name or (like[0] if len(like) == 1 else f"what-if-{number}" if len(asked) > 1 else "what-if")
        replaced[name] = now[name].text if name in now else None
        config = config.model_copy(update={"rules": {**config.rules, name: text}})
    return config, replaced, tuple(removed)


def _without(config: CurateConfig, name: str) -> CurateConfig:
    """Settings without a rule, be it of a preset or one's own."""
    others = {other: text for other, text in config.rules.items() if other != name}
    preset = any(name in PRESETS[one] for one in config.presets)
    return config.model_copy(update={"rules": {**others, name: None} if preset else others})


def what_if(
    corpus: Corpus,
    attributes: Attributes,
    config: CurateConfig,
    asked: Sequence[str],
    examples: int = 3,
    excluded: Collection[str] = frozenset(),
) -> WhatIf:
    """What other rules would keep of a corpus, beside what `config` keeps now.

    asked: conditions, with a name or without; examples: so many of each fate. Raises UserError as `decide` does.
    """
    other, replaced, removed = changed(config, asked)
    before, after = (decide(corpus, attributes, one, excluded) for one in (config, other))
    sizes = sizes_of(corpus, attributes)
    stayed, stays = before.codes == STAYS, after.codes == STAYS
    goes, back = stayed & ~stays, stays & ~stayed
    new = tuple(rule for rule in after.rules if rule.name in replaced)
    names = reasons_of(after)
    reasons = {
        names[code]: _amount(goes & (after.codes == code), sizes) for code in np.unique(after.codes[goes]).tolist()
    }
    thresholds = {}
    for rule in new:
        if comparison := _compares(rule):
            there = decide(corpus, attributes, _without(other, rule.name), excluded).codes == STAYS
            thresholds[rule.name] = _thresholds(*comparison, attributes, there, sizes)
    shown: list[Example] = []
    for fate, rows in (("goes", goes), ("comes back", back), ("stays", stayed & stays)):
        shown += _examples(fate, np.flatnonzero(rows), new, corpus, attributes, examples)
    found = np.ones(len(sizes), dtype=np.bool_)
    return WhatIf(
        asked=new,
        replaced=replaced,
        removed=removed,
        found=_amount(found, sizes),
        now=_amount(stayed, sizes),
        then=_amount(stays, sizes),
        goes=_amount(goes, sizes),
        comes_back=_amount(back, sizes),
        reasons=reasons,
        thresholds=thresholds,
        examples=tuple(shown),
    )


def sizes_of(corpus: Corpus, attributes: Attributes) -> NDArray[np.int64]:
    """Bytes of each document, (n,) int64; without the tagger `text` they have to be read."""
    if "text.bytes" in attributes.figures:
        return attributes.column("text.bytes").astype(np.int64)
    return np.concatenate([corpus.sizes(unit) for unit in corpus.units()])


def _amount(rows: NDArray[np.bool_], sizes: NDArray[np.int64]) -> Amount:
    return Amount(int(rows.sum()), int(sizes[rows].sum()))


def _compares(rule: Rule) -> tuple[str, str, float] | None:
    """Attribute, comparison and number of a rule that compares one with one."""
    match rule.tree:
        case ast.Compare(left, [op], [right]) if type(op) in _PLAIN:
            sides = [(left, right, _PLAIN[type(op)]), (right, left, _FLIPPED[type(op)])]
            for attribute, constant, sign in sides:
                number = _number(constant)
                if isinstance(attribute, ast.Name | ast.Attribute) and number is not None:
                    return ast.unparse(attribute), sign, number
    return None


def _number(node: ast.expr) -> float | None:
    match node:
        case ast.Constant(bool()):
            return None
        case ast.Constant(int() | float() as value):
            return value
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)):
            return -value
    return None


def _thresholds(
    name: str, sign: str, asked: float, attributes: Attributes, there: NDArray[np.bool_], sizes: NDArray[np.int64]
) -> tuple[Threshold, ...]:
    """What thresholds at some quantiles would keep of the documents that all other rules keep."""
    values, sizes = attributes.column(name)[there], sizes[there]
    finite = values[np.isfinite(values)]
    distinct = np.unique(finite)
    edges = distinct if len(distinct) <= _FEW else np.quantile(finite, _SHARES, method="nearest")
    found = []
    for edge in sorted({float(f"{value:.3g}") for value in edges.tolist()} | {float(asked)}):
        rule = Rule.parse("threshold", f"{name} {sign} {edge:g}")
        kept = rule.met({name: values}) if len(values) else np.zeros(0, bool)
        found.append(Threshold(rule.text, _amount(kept, sizes), edge == asked))
    return tuple(found)


def _examples(
    fate: str, rows: NDArray[np.int64], rules: Sequence[Rule], corpus: Corpus, attributes: Attributes, count: int
) -> list[Example]:
    """Documents in some rows, those nearest to the threshold first; where there is none, by their ids, as by chance."""
    comparison = _compares(rules[0]) if len(rules) == 1 else None
    if comparison and len(rows):
        name, _, edge = comparison
        rows = rows[np.argsort(np.abs(attributes.column(name)[rows].astype(np.float64) - edge), kind="stable")]
    return [_example(fate, row, rules, corpus, attributes) for row in rows[:count].tolist()]


def _example(fate: str, row: int, rules: Sequence[Rule], corpus: Corpus, attributes: Attributes) -> Example:
    for unit in corpus.units():
        if row < unit.documents:
            break
        row -= unit.documents
    document = corpus.document(unit, row)
    figures = [rule.figures(attributes.columns(unit, rule.attributes), row) for rule in rules]
    text = beginning(document.text, _SHOWN_CHARACTERS)
    return Example(fate, document.id, document.source, document.first_line, ", ".join(figures), text)


def as_dict(found: WhatIf) -> dict[str, Any]:
    """The answer as JSON."""

    def plain(value: Any) -> Any:
        match value:
            case Rule():
                return {"name": value.name, "condition": value.text}
            case Amount() | Threshold() | Example() | WhatIf():
                return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
            case dict():
                return {key: plain(one) for key, one in value.items()}
            case tuple():
                return [plain(one) for one in value]
        return value

    result: dict[str, Any] = plain(found)
    return result
