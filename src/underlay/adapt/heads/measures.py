"""How right predictions are, by the definitions that the field compares by. Each takes what is right first.

Labels, tags and answers are compared as texts, so a label that the model never saw counts as wrong, like any other.
"""

import re
import string
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from underlay.errors import UserError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(right: Sequence[Hashable], found: Sequence[Hashable]) -> float:
    """Share of predictions that are right."""
    _same_length(right, found)
    return sum(map(_equal, right, found)) / len(right)


def macro_f1(right: Sequence[Collection[str]], found: Sequence[Collection[str]]) -> float:
    """F1 of each label that is right or found anywhere, and of these the plain mean; each text has a set of labels."""
    _same_length(right, found)
    true = Counter(label for one, other in zip(right, found, strict=True) for label in set(one) & set(other))
    claimed = Counter(label for one in found for label in set(one))
    held = Counter(label for one in right for label in set(one))
    labels = claimed.keys() | held.keys()
    if not labels:
        return 0.0
    return sum(2 * true[label] / (claimed[label] + held[label]) for label in labels) / len(labels)


def matthews(right: Sequence[Hashable], found: Sequence[Hashable]) -> float:
    """Correlation of classes (Matthews 1975; of many Gorodkin 2004), from -1 to 1; 0 where one side is constant."""
    _same_length(right, found)
    held, claimed, count = Counter(right), Counter(found), len(right)
    both = sum(map(_equal, right, found)) * count - sum(held[label] * claimed[label] for label in held)
    spreads = [count**2 - sum(value**2 for value in one.values()) for one in (held, claimed)]
    return both / (spreads[0] * spreads[1]) ** 0.5 if all(spreads) else 0.0


def pearson(right: ArrayLike, found: ArrayLike) -> float:
    """Linear correlation of numbers, from -1 to 1; 0 where one is constant."""
    one, other = np.asarray(right, np.float64), np.asarray(found, np.float64)
    _same_length(one, other)
    one, other = one - one.mean(), other - other.mean()
    spread = float(np.sqrt((one @ one) * (other @ other)))
    return float(np.clip(one @ other / spread, -1, 1)) if spread else 0.0


def spearman(right: ArrayLike, found: ArrayLike) -> float:
    """Correlation of ranks; what is equal shares the mean of its ranks."""
    return pearson(_ranks(np.asarray(right, np.float64)), _ranks(np.asarray(found, np.float64)))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return ranks


class Entity(NamedTuple):
    """A name in a sentence."""

    kind: str
    start: int
    """Its first word."""
    end: int
    """One behind its last word."""


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """The entities that tags of words mean, as conlleval counts them (CoNLL-2000).

    `B-` begins one; `I-` goes on with one of its kind, and begins one where there is none (IOB1 and IOB2 both). `E-`
    ends one and `S-` is one by itself (IOBES).
    """
    kind, start = None, 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, own = tag.partition("-")
        goes_on = prefix in ("I", "E") and own == kind
        if kind is not None and not goes_on:
            yield Entity(kind, start, place)
            kind = None
        if prefix in ("B", "I", "E", "S") and not goes_on:
            kind, start = own, place
        if prefix in ("E", "S") and kind is not None:
            yield Entity(kind, start, place + 1)
            kind = None


class Score(NamedTuple):
    """Precision, recall, and their harmonic mean; each 0 where there is nothing to divide by."""

    precision: float
    recall: float
    f1: float


def entity_score(right: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> Score:
    """Of entities over all sentences; one counts where its kind and both of its ends are right."""
    _same_length(right, found)
    true = claimed = held = 0
    for one, other in zip(right, found, strict=True):
        _same_length(one, other)
        ours, theirs = set(entities(one)), set(entities(other))
        true, held, claimed = true + len(ours & theirs), held + len(ours), claimed + len(theirs)
    return _score(true, claimed, held)


def _score(true: int, claimed: int, held: int) -> Score:
    return Score(true / claimed if claimed else 0.0, true / held if held else 0.0, 2 * true / max(1, claimed + held))


def normalised(answer: str) -> str:
    """An answer as SQuAD compares it: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(right: Collection[str], found: str) -> float:
    """1 where the answer is one of those that are right, but for case, punctuation, articles and spaces.

    Where none is right, only an empty answer is.
    """
    return float(normalised(found) in {normalised(answer) for answer in right or ("",)})


def answer_f1(right: Collection[str], found: str) -> float:
    """F1 of the words of the answer, by the right answer that it is nearest to; without one it must be empty."""
    return max(_words_f1(normalised(answer).split(), normalised(found).split()) for answer in right or ("",))


def _words_f1(right: Sequence[str], found: Sequence[str]) -> float:
    if not right or not found:
        return float(right == found)
    return _score((Counter(right) & Counter(found)).total(), len(found), len(right)).f1


def ranks(likeness: NDArray[np.float32], right: Sequence[int]) -> NDArray[np.int64]:
    """The rank, from 1, of each query's right candidate; of equal ones the right one comes last.

    likeness: (queries, candidates); right: the number of each query's candidate.
    """
    own = likeness[np.arange(len(right)), list(right)]
    found: NDArray[np.int64] = (likeness >= own[:, None]).sum(1)
    return found


def recall_at(ranks: NDArray[np.int64], most: int) -> float:
    """Share of queries whose right candidate is among the first `most`."""
    return float((ranks <= most).mean())


def reciprocal_rank(ranks: NDArray[np.int64]) -> float:
    """Mean over the queries of 1 / rank (MRR)."""
    return float((1 / ranks).mean())


def _equal(one: Hashable, other: Hashable) -> bool:
    return one == other


def _same_length(
    right: Collection[object] | NDArray[np.float64], found: Collection[object] | NDArray[np.float64]
) -> None:
    if len(right) != len(found) or not len(right):
        raise UserError(f"{len(found)} predictions cannot be compared with {len(right)} that are right")
