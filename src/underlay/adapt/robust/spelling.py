"""Slips of the keyboard: words that people still read and tokenizers no longer know.

    swap       cash -> cahs       two neighbours change places
    drop       cash -> csh
    double     cash -> caash
    key        cash -> cadh       a key beside the right one
    digit      cash -> c4sh       a digit that looks alike

These are the edits of DeepWordBug (arXiv:1801.04354) and TextBugger (arXiv:1812.05271). People read by the first letter
(Pruthi et al., arXiv:1905.11268), so it stays unless something else is asked for, and so do words of fewer than four.
"""

import re
from collections.abc import Callable, Mapping

from underlay.adapt.robust.chance import Chance

SHORTEST = 4
"""Letters of a word that may be misspelled."""
_WORD = re.compile(rf"[^\W\d_]{{{SHORTEST},}}")
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_DIGITS = {"o": "0", "i": "1", "l": "1", "z": "2", "e": "3", "a": "4", "s": "5", "t": "7", "b": "8", "g": "9"}


def words(text: str) -> list[tuple[int, int]]:
    """First and last character, exclusive, of each word that may be misspelled."""
    return [found.span() for found in _WORD.finditer(text)]


def slips(word: str, first: bool = False) -> dict[str, list[str]]:
    """All misspellings of a word by one edit, by its kind; kinds that leave the word as it is are not there.

    first: whether the first letter may change.
    """
    places = range(0 if first else 1, len(word))
    found = {name: [slip for at in places for slip in edit(word, at) if slip != word] for name, edit in _EDITS.items()}
    return {name: slips for name, slips in found.items() if slips}


def misspelled(word: str, chance: Chance, first: bool = False) -> str:
    """A word with one slip: its kind is drawn first, for there are more neighbouring keys than anything else."""
    found = slips(word, first)
    return chance.one(found[chance.one(sorted(found))])


def misspell(text: str, chance: Chance, share: float, first: bool = False) -> str:
    """A text with a share of its words misspelled, at least one where there is one to misspell."""
    found = words(text)
    chosen = chance.some(found, max(1, round(share * len(found))))
    for start, end in sorted(chosen, reverse=True):
        text = text[:start] + misspelled(text[start:end], chance, first) + text[end:]
    return text


def _swap(word: str, at: int) -> list[str]:
    return [word[:at] + word[at + 1] + word[at] + word[at + 2 :]] if at + 1 < len(word) else []


def _drop(word: str, at: int) -> list[str]:
    return [word[:at] + word[at + 1 :]]


def _double(word: str, at: int) -> list[str]:
    return [word[:at] + word[at] + word[at:]]


def _key(word: str, at: int) -> list[str]:
    return [word[:at] + _cased(key, word[at]) + word[at + 1 :] for key in _beside(word[at].lower())]


def _digit(word: str, at: int) -> list[str]:
    return [word[:at] + _DIGITS[word[at].lower()] + word[at + 1 :]] if word[at].lower() in _DIGITS else []


_EDITS: Mapping[str, Callable[[str, int], list[str]]] = {
    "swap": _swap,
    "drop": _drop,
    "double": _double,
    "key": _key,
    "digit": _digit,
}


def _beside(letter: str) -> list[str]:
    """The keys left and right of a letter's, and those above and below, which stand half a key apart."""
    for number, row in enumerate(_ROWS):
        if (at := row.find(letter)) < 0:
            continue
        near = [(number, at - 1), (number, at + 1), (number - 1, at), (number - 1, at + 1)]
        near += [(number + 1, at - 1), (number + 1, at)]
        return [_ROWS[row_][place] for row_, place in near if 0 <= row_ < 3 and 0 <= place < len(_ROWS[row_])]
    return []


def _cased(key: str, like: str) -> str:
    return key.upper() if like.isupper() else key
