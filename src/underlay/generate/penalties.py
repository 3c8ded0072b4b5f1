"""What bias and penalties change about a row of logits: a few ids, so only these are touched.

For each id concerned there is what is added to its logit, what that is then divided by (or multiplied with, where it is
negative: CTRL, arXiv:1909.05858), and what is taken from it last.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from underlay.generate.request import MOST_BIAS, Sampling

Floats = NDArray[np.float32]

FORCED = 1e4
"""What a bias of 100 adds: more than any two logits are apart."""
ROOM = 64
"""Places for ids to begin with."""


class Penalties:
    """The ids whose logits change, and how; brought up to date token by token."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._sampling = sampling
        self._places: dict[int, int] = {}
        self._counts: dict[int, int] = {}
        """How often each id is in the answer."""
        self._ids = np.zeros(ROOM, np.int64)
        self._changes = _nothing(ROOM)
        """For each id what is added to its logit, what divides it, and what is taken from it."""
        for token, value in sampling.bias.items():
            place = self._place(token)
            self._changes[0, place] = _strength(value)
        if sampling.repetition != 1:
            for token in set(prompt):
                place = self._place(token)
                self._changes[1, place] = sampling.repetition

    def accept(self, token: int) -> None:
        """Take note of a token that became part of the answer."""
        sampling = self._sampling
        if sampling.repetition == 1 and sampling.presence == 0 and sampling.frequency == 0:
            return
        place = self._place(token)
        count = self._counts[token] = self._counts.get(token, 0) + 1
        self._changes[1, place] = sampling.repetition
        self._changes[2, place] = sampling.presence + count * sampling.frequency

    def _place(self, token: int) -> int:
        """Where an id's changes are, with room made for them."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._ids):
            self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
            self._changes = np.concatenate((self._changes, _nothing(place)), axis=1)
        self._ids[place] = token
        return place

    def apply(self, row: Tensor) -> None:
        """Change a row of logits, (vocabulary,) float32, in place."""
        size = len(self._places)
        ids = self._ids[:size]
        if row.device.type == "cpu":
            logits = row.numpy()
            logits[ids] = self._changed(logits[ids])
        else:
            where = torch.from_numpy(ids).to(row.device)
            row[where] = torch.from_numpy(self._changed(row[where].cpu().numpy())).to(row.device)

    def _changed(self, values: Floats) -> Floats:
        sampling = self._sampling
        added, divisor, taken = self._changes[:, : len(values)]
        with np.errstate(all="ignore"):  # logits that are no numbers are found later
            if sampling.bias:
                values = values + added
            if sampling.repetition != 1:
                values = np.where(values > 0, values / divisor, values * divisor)
            if sampling.presence != 0 or sampling.frequency != 0:
                values = values - taken
        return values

    def check(self, accepted: int) -> None:
        """Assert what always holds after so many tokens of the answer."""
        places = self._places
        assert sorted(places.values()) == list(range(len(places)))
        assert all(self._ids[place] == token for token, place in places.items())
        assert not self._counts or sum(self._counts.values()) == accepted
        assert set(self._counts) <= set(places)


def _nothing(places: int) -> Floats:
    return np.array([[0.0], [1.0], [0.0]], np.float32).repeat(places, axis=1)


def _strength(bias: float) -> float:
    """The ends of the scale mean what they say: ruled out, and forced."""
    return -math.inf if bias == -MOST_BIAS else FORCED if bias == MOST_BIAS else bias
