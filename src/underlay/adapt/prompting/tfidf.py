"""Vectors of texts by the words they hold, for where no encoder is at hand (TF-IDF: Spärck Jones 1972).

A word weighs (1 + ln count) * (1 + ln((1 + texts) / (1 + texts that hold it))): a word of all texts still counts a
little, and one of none is no division by zero.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

_WORD = re.compile(r"\w+")
Sparse = Mapping[str, float]


class TfIdf:
    """Likeness of texts to those of a collection."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [_counts(text) for text in texts]
        self._count = len(texts)
        self._holding = Counter(word for one in counts for word in one)
        self._vectors = [self._vector(one) for one in counts]

    def likeness(self, text: str) -> list[float]:
        """Cosine of the text and each text of the collection, from 0 to 1; 0 where one has no words."""
        vector = self._vector(_counts(text))
        return [_dot(vector, other) for other in self._vectors]

    def _vector(self, counts: Counter[str]) -> Sparse:
        """Of length one."""
        weights = {word: (1 + math.log(count)) * self._idf(word) for word, count in counts.items()}
        length = math.sqrt(sum(weight**2 for weight in weights.values()))
        return {word: weight / length for word, weight in weights.items()}

    def _idf(self, word: str) -> float:
        return math.log((1 + self._count) / (1 + self._holding[word])) + 1


def _counts(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.casefold()))


def _dot(one: Sparse, other: Sparse) -> float:
    small, large = (one, other) if len(one) <= len(other) else (other, one)
    return sum(weight * large.get(word, 0.0) for word, weight in small.items())
