"""Naive Bayes over runs of bytes, found by an automaton: how a text's language is told.

An automaton reads a text byte by byte; some of its states say that a run of bytes which tells languages apart has just
ended. Of each run it is known how likely it is in each language, and the languages' log-likelihoods are summed up (Lui
and Baldwin, "Cross-domain feature selection for language identification", IJCNLP 2011). Sums over long texts are far
too sure of themselves, so they are divided by the square root of the length before they become probabilities.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray


class Model(NamedTuple):
    """An automaton of s states, f runs that it knows, and c classes."""

    moves: NDArray[np.uint32]
    """(r * 256,): the next state, by row and byte; states that go on alike share a row."""
    rows: NDArray[np.int64]
    """(s,): where a state's row begins in `moves`."""
    ends: NDArray[np.int32]
    """(s,): the run that has ended in a state; less than 0: none."""
    likelihoods: NDArray[np.float32]
    """(f, c): logarithms."""
    priors: NDArray[np.float32]
    """(c,): logarithms."""
    names: NDArray[np.int64]
    """(c,): the first class with the same name, for a language in two scripts is two classes."""


def classify(
    text: NDArray[np.uint8], offsets: NDArray[np.int64], model: Model
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The likeliest class of each text[offsets[i]:offsets[i + 1]], and its probability: (n,) each.

    Of a text without any known run all classes are as likely, and the first one is named.
    """
    n = len(offsets) - 1
    classes, chances = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.float32)
    longest = int(np.diff(offsets).max(initial=0))
    scratch = np.zeros(len(model.likelihoods), dtype=np.int32), np.empty(longest + 1, dtype=np.int32)
    _classify(text, offsets, tuple(model), scratch, np.empty(len(model.priors), dtype=np.float32), classes, chances)
    return classes, chances


@numba.njit(cache=True, nogil=True)
def _classify(text: Any, offsets: Any, model: Any, scratch: Any, scores: Any, classes: Any, chances: Any) -> None:
    moves, rows, ends, likelihoods, priors, names = model
    counts, touched = scratch
    for i in range(len(offsets) - 1):
        state = np.int64(0)
        n = 0
        for at in range(offsets[i], offsets[i + 1]):
            state = np.int64(moves[rows[state] + text[at]])
            run = ends[state]
            if run >= 0:
                if counts[run] == 0:
                    touched[n] = run
                    n += 1
                counts[run] += 1
        scores[:] = 0.0
        for k in range(n):
            weight = np.float32(np.log1p(counts[touched[k]]))
            counts[touched[k]] = 0
            row = likelihoods[touched[k]]
            for c in range(len(scores)):
                scores[c] += weight * row[c]
        if n:
            for c in range(len(scores)):
                scores[c] += priors[c]
        length = np.sqrt(max(1, offsets[i + 1] - offsets[i]))
        highest, total = scores.max(), 0.0
        for c in range(len(scores)):
            scores[c] = np.exp((scores[c] - highest) / length)
            total += scores[c]
        for c in range(len(scores)):
            if names[c] != c:
                scores[names[c]] += scores[c]
                scores[c] = 0.0
        classes[i] = scores.argmax()
        chances[i] = scores[classes[i]] / total
