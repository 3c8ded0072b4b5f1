"""Quality: measure a document once, then judge the measurements. A threshold can be moved without reading again.

The rules are those that code and web corpora share: long lines and little text betray minified or generated files
(The Stack, arXiv:2211.15533), repeated lines betray boilerplate (Gopher, arXiv:2112.11446, appendix A).
"""

from collections import Counter
from dataclasses import dataclass

from pydantic import Field

from underlay.config import Config


class QualityConfig(Config):
    """Which documents are worth learning from."""

    min_characters: int = Field(default=100, ge=0)
    """Shorter documents are dropped."""
    max_line: int = Field(default=2_000, gt=0)
    """A document with a longer line is dropped, in characters."""
    max_mean_line: float = Field(default=200.0, gt=0)
    """Code whose lines are longer on average is dropped, in characters."""
    min_letters: float = Field(default=0.25, ge=0, le=1)
    """Least share of letters and digits among all characters that are not white space."""
    max_repeated_lines: float = Field(default=0.6, ge=0, le=1)
    """Largest share of characters that stand in lines seen before in the document."""
    max_control: float = Field(default=0.001, ge=0, le=1)
    """Largest share of control characters."""


@dataclass(frozen=True, slots=True)
class Measures:
    """What the rules look at."""

    characters: int
    longest_line: int
    mean_line: float
    letters: float
    repeated_lines: float
    control: float


def measure(text: str) -> Measures:
    """Take all measurements of a text in characters and shares."""
    lines = [line.strip() for line in text.split("\n")]
    filled = [line for line in lines if line]
    visible = sum(map(len, "".join(filled).split()))
    repeated = sum((count - 1) * len(line) for line, count in Counter(filled).items() if count > 1)
    control = sum(text.count(char) for char in map(chr, range(32)) if char not in "\t\n\r\f")
    return Measures(
        characters=len(text.strip()),
        longest_line=max(map(len, filled), default=0),
        mean_line=sum(map(len, filled)) / max(1, len(filled)),
        letters=sum(map(str.isalnum, text)) / max(1, visible),
        repeated_lines=repeated / max(1, sum(map(len, filled))),
        control=control / max(1, len(text)),
    )


def judge(measures: Measures, config: QualityConfig) -> tuple[str, str] | None:
    """The first rule that the document breaks, as (reason, figure), or None where it may stay."""
    rules = (
        ("too-short", measures.characters < config.min_characters, f"{measures.characters} characters"),
        ("control-characters", measures.control > config.max_control, f"{measures.control:.2%}"),
        ("long-line", measures.longest_line > config.max_line, f"a line of {measures.longest_line} characters"),
        ("long-lines", measures.mean_line > config.max_mean_line, f"{measures.mean_line:.0f} characters a line"),
        ("few-letters", measures.letters < config.min_letters, f"{measures.letters:.1%} letters and digits"),
        ("repeated-lines", measures.repeated_lines > config.max_repeated_lines, f"{measures.repeated_lines:.1%}"),
    )
    return next(((reason, figure) for reason, broken, figure in rules if broken), None)
