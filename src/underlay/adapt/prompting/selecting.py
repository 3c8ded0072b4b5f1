"""Which demonstrations are shown for an input; what they are, and in which order, moves a model as much as its size.

The nearest stand last, right before the input (arXiv:2101.06804 finds near ones best). All are given from the farthest
to the nearest, so what does not fit is left out from the front.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from underlay.adapt.prompting.cases import Case
from underlay.adapt.prompting.tfidf import TfIdf
from underlay.errors import UserError
from underlay.generate.embed import embed
from underlay.models import Model
from underlay.text import Tokenizer

Selector = Literal["fixed", "random", "balanced", "nearest"]
Embedder = Callable[[Sequence[str]], Tensor]
"""Texts to vectors (texts, width) of length one."""


def embedder(model: Model, tokenizer: Tokenizer) -> Embedder:
    """The vectors of an encoder, or of a decoder's last states."""

    def vectors(texts: Sequence[str]) -> Tensor:
        found = embed(model, tokenizer, texts)
        return found / found.norm(dim=-1, keepdim=True).clamp(min=1e-12)

    return vectors


def select(
    how: Selector,
    pool: Sequence[Case],
    queries: Sequence[Case],
    shots: int,
    seed: int = 0,
    vectors: Embedder | None = None,
) -> list[list[Case]]:
    """For each query its demonstrations, from the farthest to the nearest.

    fixed: the first of the pool; random: others for each query, by the seed and its text; balanced: as many of each
    label, within one; nearest: by `vectors`, else by TF-IDF. A case is never shown to itself: what has the query's
    very text is left out. Raises UserError where the pool holds too few.
    """
    if not shots:
        return [[] for _ in queries]
    likeness = _likeness(pool, queries, vectors) if how == "nearest" else None
    chosen = []
    for number, query in enumerate(queries):
        others = [place for place, one in enumerate(pool) if one.input != query.input]
        if how in ("random", "balanced"):
            _chance(seed, query.input).shuffle(others)
        if how == "balanced":
            others = _in_turns(pool, others)
        if likeness is not None:
            row = likeness[number]
            others.sort(key=lambda place: -row[place])
        if len(others) < shots:
            raise UserError(
                f"{shots} demonstrations are wanted, and there are {len(others)} beside the input itself; "
                "give the task more demonstrations or examples, or ask for fewer shots"
            )
        found = [pool[place] for place in others[:shots]]
        chosen.append(found[::-1] if how == "nearest" else found)
    return chosen


def orders(shown: Sequence[Case], count: int, seed: int) -> list[list[Case]]:
    """The demonstrations in `count` orders: as they are, then shuffled by the seed; each order once."""
    found = [list(shown)]
    chance = random.Random(seed)  # noqa: S311 - nothing secret
    for _ in range(20 * count):
        if len(found) == count or len(shown) < 2:
            break
        other = chance.sample(list(shown), len(shown))
        if other not in found:
            found.append(other)
    return found


def _likeness(pool: Sequence[Case], queries: Sequence[Case], vectors: Embedder | None) -> NDArray[np.float32]:
    asked, known = ([case.input for case in cases] for cases in (queries, pool))
    if vectors is None:
        return TfIdf(known).likeness(asked)
    return (vectors(asked) @ vectors(known).T).numpy()


def _in_turns(pool: Sequence[Case], order: Sequence[int]) -> list[int]:
    """One of each label, then another of each, ..."""
    groups: dict[str, list[int]] = {}
    for place in order:
        groups.setdefault(pool[place].outputs[0], []).append(place)
    return [place for turn in zip_longest(*groups.values()) for place in turn if place is not None]


def _chance(seed: int, text: str) -> random.Random:
    """Of one query: which others there are must not matter."""
    return random.Random(hashlib.sha256(f"{seed}:{text}".encode()).digest())  # noqa: S311 - nothing secret
