"""Redaction: e-mail addresses and secrets become typed placeholders before anything learns them.

Line counts never change, so that the place of every later token in its source stays exact.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

# Shapes of keys as their issuers document them; each is specific enough not to hit ordinary identifiers.
_SHAPES = {
    "PRIVATE_KEY": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----[\s\S]*?(?:-----END (?:[A-Z]+ )*PRIVATE KEY-----|\Z)",
    "AWS_KEY": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GITHUB_TOKEN": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})\b",
    "SLACK_TOKEN": r"\bxox[abposr]-[A-Za-z0-9-]{10,}",
    "GOOGLE_KEY": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "STRIPE_KEY": r"\b[sr]k_(?:live|test)_[0-9A-Za-z]{16,}\b",
    "API_KEY": r"\bsk-(?:[A-Za-z]+-)*[A-Za-z0-9_-]{32,}\b",
    "JWT": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "EMAIL": r"\b[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.[A-Za-z]{2,18}\b",
}
_ALL = re.compile("|".join(f"(?P<{name}>{shape})" for name, shape in _SHAPES.items()))


class Span(NamedTuple):
    """Something private in a text."""

    start: int
    end: int
    kind: str


def find(text: str) -> list[Span]:
    """Addresses and secrets in a text, in their order; none overlaps another."""
    return [Span(match.start(), match.end(), match.lastgroup or "SECRET") for match in _ALL.finditer(text)]


def mask(text: str, spans: Iterable[Span]) -> tuple[str, Counter[str]]:
    """Replace what stands in the spans by `<EMAIL>`, `<AWS_KEY>` and so on.

    Returns the text, with as many lines as before, and how often each kind was found.
    """
    found: Counter[str] = Counter()
    pieces, at = [], 0
    for span in spans:
        found[span.kind] += 1
        pieces += [text[at : span.start], f"<{span.kind}>", "\n" * text.count("\n", span.start, span.end)]
        at = span.end
    return "".join([*pieces, text[at:]]), found


def redact(text: str) -> tuple[str, Counter[str]]:
    """Mask whatever `find` finds."""
    return mask(text, find(text))
