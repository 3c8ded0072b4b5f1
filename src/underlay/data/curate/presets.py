"""Rules that are known by name: those of published corpora, with their thresholds, and a few for text of any kind.

The first rule that a document does not meet names the reason in the ledger, so their order matters.
"""

from collections.abc import Mapping
from typing import Literal, get_args

from underlay.data.curate.rules import Rule
from underlay.errors import UserError

Preset = Literal["basic", "gopher", "c4", "fineweb", "decontaminated"]

_BASIC = {
    "too-short": "text.characters >= 100",
    "control-characters": "text.control <= 0.001",
    "long-line": "text.longest_line <= 2000",
    "long-lines": "text.mean_line <= 200",
    "few-letters": "text.letters >= 0.25",
    "repeated-lines": "text.repeated_lines <= 0.6",
}
_GOPHER = {
    "copied-paragraphs": "gopher.paragraph_copies <= 0.30 and gopher.paragraph_copied <= 0.20",
    "copied-lines": "gopher.line_copies <= 0.30 and gopher.line_copied <= 0.20",
    "frequent-words": "gopher.top_2gram <= 0.20 and gopher.top_3gram <= 0.18 and gopher.top_4gram <= 0.16",
    "copied-words": (
        "gopher.copied_5grams <= 0.15 and gopher.copied_6grams <= 0.14 and gopher.copied_7grams <= 0.13 "
        "and gopher.copied_8grams <= 0.12 and gopher.copied_9grams <= 0.11 and gopher.copied_10grams <= 0.10"
    ),
    "number-of-words": "50 <= gopher.words <= 100_000",
    "length-of-words": "3 <= gopher.word_length <= 10",
    "hash-marks": "gopher.hashes <= 0.1",
    "ellipses": "gopher.ellipses <= 0.1",
    "bullet-points": "gopher.bullet_lines <= 0.9",
    "broken-off-lines": "gopher.ellipsis_lines <= 0.3",
    "words-without-letters": "gopher.letter_words >= 0.8",
    "stop-words": "gopher.stop_words >= 2",
}
_C4 = {
    "lorem-ipsum": "c4.lorem == 0",
    "braces": "c4.brace == 0",
    "few-sentences": "c4.sentences >= 5",
}
_FINEWEB = {
    "unended-lines": "fineweb.ended_lines >= 0.12",
    "short-lines": "fineweb.short_lines <= 0.67",
    "lines-again": "fineweb.copied_lines <= 0.01",
    "list-like": "fineweb.breaks <= 0.3",
}
_DECONTAMINATED = {"test-questions": "contamination.share < 0.5"}
PRESETS: Mapping[Preset, Mapping[str, str]] = {
    "basic": _BASIC,
    "gopher": _GOPHER,
    "c4": _C4,
    "fineweb": _FINEWEB,
    "decontaminated": _DECONTAMINATED,
}
assert set(PRESETS) == set(get_args(Preset))


def rules_of(presets: tuple[Preset, ...], own: Mapping[str, str | None]) -> list[Rule]:
    """The rules of some presets in their order, then one's own.

    An own rule with a preset's name takes its place, and null takes it away. Raises UserError where a rule is none, or
    where one that is not there is taken away.
    """
    texts = {name: text for preset in presets for name, text in PRESETS[preset].items()}
    for name, text in own.items():
        if text is not None:
            texts[name] = text
        elif texts.pop(name, None) is None:
            raise UserError(
                f"rules: {name} is null, but no preset here has a rule of that name; there are {', '.join(texts)}"
            )
    return [Rule.parse(name, text) for name, text in texts.items()]
