"""Likeness of texts by the words they hold, for where no encoder is at hand (TF-IDF: Spärck Jones 1972).

A word weighs (1 + ln count) * (1 + ln((1 + texts) / (1 + texts that hold it))): a word of all texts still counts a
little, and one of none is no division by zero.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class TfIdf:
    """Likeness of texts to those of a collection."""

    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._count = len(texts)
        pattern = r"\w+"
        self._words = TfidfVectorizer(
            preprocessor=str.casefold, token_pattern=pattern, sublinear_tf=True, dtype=np.float32
        )
        self._known = self._words.fit_transform(texts) if any(map(self._words.build_analyzer(), texts)) else None

    def likeness(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Cosine of each text and each text of the collection, from 0 to 1; 0 where one has no words."""
        if self._known is None:
            return np.zeros((len(texts), self._count), np.float32)
        found: NDArray[np.float32] = (self._words.transform(texts) @ self._known.T).toarray()
        return found
