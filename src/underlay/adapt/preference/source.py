"""Examples of what people prefer, as batches: any sample of a run by its number.

Samples of similar length stand together, so that little is padded: each pass is shuffled, then every `_WINDOW` samples
of it are put in the order of their lengths, and neighbours are shuffled again, a few at a time.
"""

import copy
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self, TypeVar

import torch
from torch import Tensor

from underlay.adapt.examples import Example, Judgement, Preference
from underlay.adapt.preference.rows import PairBatch, Row, collate, render_answer
from underlay.data.rows import permute
from underlay.errors import UserError
from underlay.text import Message, Special, Tokenizer

LONGER = "longer than the context"
EMPTY = "an answer is empty"
EQUAL = "both answers are equal"
ENDED = "the prompt is empty, or ends with the assistant"
REWRITTEN = "the template writes the prompt in another way before an answer"
_WINDOW, _NEIGHBOURS = 64, 8

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class JudgedBatch(PairBatch):
    """Rows whose first answer was judged, and whose second belongs to another prompt."""

    good: Tensor
    """(batch,) bool: whether the first answer is good."""


class Rows:
    """Rows of two answers in shuffled order, pass after pass without end."""

    def __init__(
        self,
        rows: Sequence[Row],
        origins: Sequence[int],
        tokenizer: Tokenizer,
        seed: int,
        left_out: Mapping[str, int],
    ) -> None:
        self.rows, self.seed = rows, seed
        self.origins = origins
        """The number of the example that each row was made of."""
        self.left_out = left_out
        """How many examples are not learned from, by reason."""
        # Never learned from, so where there is no token for it any other will do.
        self.pad = tokenizer.special(Special.PAD) if tokenizer.has(Special.PAD) else 0
        self.reference: Tensor | None = None
        self._order = lru_cache(2)(self._ordered)

    def __len__(self) -> int:
        return len(self.rows)

    def referred(self, reference: Tensor) -> Self:
        """The same, with batches that carry what the starting model says of its rows: (rows, 2) float32."""
        other = copy.copy(self)
        other.reference = reference
        return other

    def row(self, sample: int) -> int:
        """Which row is the `sample`-th to be read, counted from the beginning of training."""
        epoch, index = divmod(sample, len(self.rows))
        return self._order(epoch)[index]

    def _ordered(self, epoch: int) -> list[int]:
        key = hashlib.sha256(f"{self.seed}:{epoch}".encode()).digest()
        order = _shuffled(range(len(self.rows)), key)
        found = []
        for start in range(0, len(order), _WINDOW):
            window = sorted(order[start : start + _WINDOW], key=lambda index: len(self.rows[index]))
            near = [window[first : first + _NEIGHBOURS] for first in range(0, len(window), _NEIGHBOURS)]
            found += [index for few in _shuffled(near, key) for index in few]
        return found

    def gather(self, numbers: Sequence[int]) -> PairBatch:
        """Rows by their numbers, as one batch."""
        reference = None if self.reference is None else self.reference[list(numbers)]
        tokens, targets, weights, branches = collate([self.rows[number] for number in numbers], self.pad)
        return PairBatch(tokens, targets, weights, branches=branches, reference=reference)


class Preferences(Rows):
    """Pairs: the first answer is the chosen one. A sample is a pair."""

    def __init__(self, examples: Iterable[Example], tokenizer: Tokenizer, context: int, seed: int) -> None:
        """Take what is useful. Raises UserError where nothing is, or an example is no preference.

        Either answer has to fit, with its prompt, into `context` tokens.
        """
        rows, origins, left_out = [], [], Counter[str]()
        for number, example in enumerate(examples):
            body = example.body
            if not isinstance(body, Preference):
                raise _no(example, "a preference")
            made = _row(tokenizer, body.prompt, (body.chosen, body.rejected), context)
            if isinstance(made, Row):
                rows.append(made)
                origins.append(number)
            else:
                left_out[made] += 1
        _check(len(rows), left_out)
        super().__init__(rows, origins, tokenizer, seed, left_out)

    def examples(self, sample: int) -> Sequence[int]:
        """The number of the example that is the `sample`-th to be read."""
        return [self.origins[self.row(sample)]]

    def batch(self, first: int, count: int) -> PairBatch:
        """The samples first, first + 1, ..., count of them."""
        return self.gather([self.row(sample) for sample in range(first, first + count)])


class Judgements(Rows):
    """Answers that are good, or bad. A sample is a group of them, and each brings an answer to another prompt along.

    KTO compares with how far the model has moved on the whole, which the mismatched answers of a group tell. Since
    groups do not depend on how many rows are computed at once, neither does what is learned.
    """

    def __init__(self, examples: Iterable[Example], tokenizer: Tokenizer, context: int, seed: int, group: int) -> None:
        """Take what is useful; a preference counts as two judgements.

        Raises UserError where that is nothing, where an example is neither, or all have the same prompt.
        """
        found: list[tuple[tuple[Message, ...], str, bool, tuple[int, ...], tuple[int, ...]]] = []
        origins, left_out = [], Counter[str]()
        for origin, example in enumerate(examples):
            for one in _judgements(example):
                made = _row(tokenizer, one.prompt, (one.answer,), context)
                if isinstance(made, Row):
                    found.append((one.prompt, one.answer, one.good, made.prompt, made.answers[0]))
                    origins.append(origin)
                else:
                    left_out[made] += 1
        _check(len(found), left_out)
        order = _shuffled(range(len(found)), hashlib.sha256(f"{seed}:mismatched".encode()).digest())
        rows: dict[int, Row] = {}
        for place, number in enumerate(order):
            prompt, _, _, ids, answer = found[number]
            others = (order[(place + step) % len(order)] for step in range(1, len(order)))
            other = next((found[one] for one in others if found[one][0] != prompt), None)
            if other is None:
                raise UserError("all examples have the same prompt; KTO needs at least two that differ")
            rows[number] = Row(ids, (answer, other[4][: context - len(ids)]))
        super().__init__([rows[number] for number in range(len(found))], origins, tokenizer, seed, left_out)
        self.good = torch.tensor([one[2] for one in found])
        self.group = min(group, len(found))

    def __len__(self) -> int:
        return len(self.rows) // self.group

    def examples(self, sample: int) -> Sequence[int]:
        """Numbers of the examples in the `sample`-th group to be read."""
        first = sample * self.group
        return [self.origins[self.row(place)] for place in range(first, first + self.group)]

    def batch(self, first: int, count: int) -> JudgedBatch:
        """The groups first, first + 1, ..., count of them, as count * group rows."""
        numbers = [self.row(sample) for sample in range(first * self.group, (first + count) * self.group)]
        pair = self.gather(numbers)
        return JudgedBatch(
            pair.tokens,
            pair.targets,
            pair.weights,
            branches=pair.branches,
            reference=pair.reference,
            good=self.good[numbers],
        )


def _row(tokenizer: Tokenizer, prompt: Sequence[Message], answers: Sequence[str], context: int) -> Row | str:
    """The row of a prompt and one or two answers (one stands twice), or why there is none."""
    if not prompt or prompt[-1].role == "assistant":
        return ENDED
    if not all(answer.strip() for answer in answers):
        return EMPTY
    made = [render_answer(tokenizer, prompt, answer) for answer in answers]
    kept = [one for one in made if one is not None]
    if len(kept) < len(made):
        return REWRITTEN
    chosen, rejected = kept[0][1], kept[-1][1]
    if not chosen or not rejected:
        return EMPTY
    if len(kept) > 1 and chosen == rejected:
        return EQUAL
    row = Row(tuple(kept[0][0]), (tuple(chosen), tuple(rejected)))
    return row if row.longest <= context else LONGER


def _shuffled(items: Sequence[T], key: bytes) -> list[T]:
    return [items[permute(index, len(items), key)] for index in range(len(items))]


def _judgements(example: Example) -> list[Judgement]:
    body = example.body
    if isinstance(body, Judgement):
        return [body]
    if isinstance(body, Preference):
        return [Judgement(body.prompt, body.chosen, True), Judgement(body.prompt, body.rejected, False)]
    raise _no(example, "a judgement or a preference")


def _no(example: Example, wanted: str) -> UserError:
    form = type(example.body).__name__.lower()
    return UserError(f"{example.source}:{example.line} is no example to learn preferences from: a {form}, not {wanted}")


def _check(kept: int, left_out: Mapping[str, int]) -> None:
    if not kept:
        why = ", ".join(f"{reason}: {count}" for reason, count in left_out.items()) or "there are no examples"
        raise UserError(f"nothing to learn from: {why}; give other examples, or raise train.context")
