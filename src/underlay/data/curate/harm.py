"""Harm: how many words of given lists stand in a text.

No list comes with Underlay: which words harm depends on language and use, and a list is itself offensive. A word in a
list says little by itself (medical and literary texts hold many), so it is an attribute beside others, never a verdict.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from underlay.config import Config
from underlay.data.curate.texts import Texts
from underlay.errors import UserError
from underlay.kernels.grams import count_phrases, phrases

_LARGEST = 16 << 20


class HarmConfig(Config):
    """What counts as harmful."""

    words: tuple[str, ...] = ()
    """Files of words and phrases, one a line; `harm.words` is how many of them stand in a document."""
    classifier: str | None = None
    """The one of `classifiers` whose score is `harm.score`."""


class WordLists:
    """Counts words and phrases of some files, a line each, without regard to case and accents."""

    def __init__(self, files: tuple[str, ...]) -> None:
        """Read the files, UTF-8. Raises UserError where one cannot be read or holds no word."""
        lines = []
        for file in files:
            here = _read(file).decode("utf-8", "replace").splitlines()
            if not phrases(here).longest:
                raise UserError(f"harm.words: {file} holds no word")
            lines += here
        self._phrases = phrases(lines)

    def count(self, texts: Texts) -> NDArray[np.int32]:
        """How many stand in each text: (n,) int32."""
        return count_phrases(texts.bytes, texts.offsets, self._phrases)


def fingerprint(files: tuple[str, ...]) -> str:
    """SHA-256 over the contents of word lists. Raises UserError where one cannot be read."""
    total = hashlib.sha256()
    for file in files:
        total.update(hashlib.sha256(_read(file)).digest())
    return total.hexdigest()


def _read(file: str) -> bytes:
    try:
        with Path(file).open("rb") as opened:
            data = opened.read(_LARGEST + 1)
    except OSError as error:
        raise UserError(f"harm.words: {file} cannot be read: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise UserError(f"harm.words: {file} is larger than {_LARGEST >> 20} MB; is it a list of words?")
    return data
