"""Redaction: e-mail addresses and secrets become typed placeholders before anything learns them.

Line counts never change, so that the place of every later token in its source stays exact.
"""

import re
from collections import Counter

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


def redact(text: str) -> tuple[str, Counter[str]]:
    """Replace addresses and secrets by `<EMAIL>`, `<AWS_KEY>` and so on.

    Returns the text, with as many lines as before, and how often each kind was found.
    """
    found: Counter[str] = Counter()

    def mask(match: re.Match[str]) -> str:
        kind = match.lastgroup or "SECRET"
        found[kind] += 1
        return f"<{kind}>" + "\n" * match[0].count("\n")

    return _ALL.sub(mask, text), found
