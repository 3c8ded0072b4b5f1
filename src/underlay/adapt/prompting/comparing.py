"""When two answers are the same, and how near two texts are, by the definitions that the field compares by."""

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from underlay.adapt.heads.measures import normalised

_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def number_in(text: str) -> Decimal | None:
    """The last number in a text, without commas between thousands; None where there is none."""
    found = _NUMBER.findall(text)
    try:
        return Decimal(found[-1].replace(",", "")).normalize() if found else None
    except InvalidOperation:
        return None


def same_form(scorer: str) -> Callable[[str], str]:
    """What answers are compared by: numbers as numbers, text without case and punctuation, all else as it is."""
    if scorer == "number":
        return lambda text: str(number_in(text)) if number_in(text) is not None else text
    return normalised if scorer in ("exact", "squad", "rouge_l") else str


def rouge_l(right: str, found: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004), which are runs of letters and digits in lower case."""
    one, other = (re.findall(r"[^\W_]+", text.lower()) for text in (right, found))
    if not one or not other:
        return float(one == other)
    common = _common(one, other)
    return 2 * common / (len(one) + len(other))


def fields_right(right: str, found: str | None) -> float:
    """Share of the fields of a JSON answer that are right; a field is a path to a value, and a missing one is wrong.

    What was found beside those that are right counts as fields, too, so more is not better.
    """
    truth = _fields(json.loads(right))
    claimed = {} if found is None else _fields(json.loads(found))
    names = truth.keys() | claimed.keys()
    if not names:
        return 1.0
    nothing = object()
    return sum(truth.get(name, nothing) == claimed.get(name, nothing) for name in names) / len(names)


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0  # the row above, one to the left
        for place, theirs in enumerate(other, 1):
            before, row[place] = row[place], before + 1 if word == theirs else max(row[place], row[place - 1])
    return row[-1]


def _fields(value: Any, path: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], str]:
    if isinstance(value, dict) and value:
        pairs: Any = value.items()
    elif isinstance(value, list) and value:
        pairs = enumerate(value)
    else:
        return {path: json.dumps(value)}
    return {key: leaf for name, child in pairs for key, leaf in _fields(child, (*path, name)).items()}
