"""Two answers to one prompt in one row: the prompt is read once, and neither answer sees the other.

    tokens    <bos> <user> why ? <end> | <assistant> because <end> | <assistant> dunno <end> | <pad>
    targets                            |  because    <end>         |  dunno      <end>       |
    branches    0     0     0  0   0        1           1      1        2          2     2       -1

The last token of the prompt begins both branches, so each position has one target. The same computation on two plain
rows would read the prompt twice; losses and gradients are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from underlay.errors import UserError
from underlay.models import Batch, Decoder
from underlay.models.parts import masks
from underlay.text import Message, Tokenizer, render
from underlay.train.objectives import where_counted

ANSWERS = 2
_EVEN = 32
"""Rows are padded to multiples of so many tokens: libraries keep what they prepare for each length."""


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of a prompt, ready for the assistant to speak, and of two answers with the ends of their turns."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def longest(self) -> int:
        """Tokens of the prompt and its longer answer."""
        return len(self.prompt) + max(map(len, self.answers))

    def __len__(self) -> int:
        return len(self.prompt) - 1 + sum(1 + len(answer) for answer in self.answers)


@dataclass(frozen=True, kw_only=True)
class PairBatch(Batch):
    """Rows that each hold a prompt and two answers. `weights` are 1 where an answer's token is the target, else 0."""

    branches: Tensor
    """(batch, time) int64: 0 for the prompt, 1 and 2 for its answers, -1 for padding."""
    reference: Tensor | None = None
    """(batch, 2) float32: summed log-probabilities of the answers by the model that training started from."""

    def cut(self, pieces: int) -> "Batch":
        """The same. Raises UserError where it is to be cut."""
        if pieces > 1:
            raise UserError("short_rows: answers are learned whole, their rows cannot be cut; leave it out")
        return self


def render_answer(tokenizer: Tokenizer, prompt: Sequence[Message], answer: str) -> tuple[list[int], list[int]] | None:
    """Ids of a prompt, up to where the assistant speaks, and of an answer with the end of its turn.

    None where a chat template writes the prompt in another way once there is an answer.
    """
    begun, _ = render(tokenizer, prompt, reply=True)
    ids, weights = render(tokenizer, [*prompt, Message("assistant", answer)])
    if ids[: len(begun)] != begun:
        return None
    end = max((place for place, weight in enumerate(weights) if weight), default=-1) + 1
    return begun, ids[len(begun) : end]


def collate(rows: Sequence[Row], pad: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, targets, weights and branches of rows, padded to a common length: (rows, time) each."""
    time = -(-max(map(len, rows)) // _EVEN) * _EVEN
    tokens = torch.full((len(rows), time), pad)
    targets, weights = torch.full_like(tokens, pad), torch.zeros(len(rows), time)
    branches = torch.full_like(tokens, -1)
    for number, row in enumerate(rows):
        start = len(row.prompt) - 1
        tokens[number, :start], branches[number, :start] = torch.tensor(row.prompt[:-1]), 0
        for branch, answer in enumerate(row.answers, 1):
            said = torch.tensor(answer)
            end = start + len(answer)
            tokens[number, start], tokens[number, start + 1 : end + 1] = row.prompt[-1], said
            branches[number, start : end + 1] = branch
            targets[number, start:end], weights[number, start:end] = said, 1.0
            start = end + 1
    return tokens, targets, weights, branches


def read(model: Decoder, batch: PairBatch, dtype: torch.dtype) -> Tensor:
    """States of a batch, (batch, time, width)."""
    mask, positions = masks.branched(batch.branches)
    return model.hidden(batch.tokens, positions, mask, dtype=dtype)


def log_probabilities(model: Decoder, batch: PairBatch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Summed log-probabilities of each row's answers, in nats, and how many tokens they have: (batch, 2) float32."""
    assert batch.weights is not None
    counted, each = where_counted(batch.weights)
    hidden, targets = read(model, batch, dtype).flatten(0, 1)[counted], batch.targets.flatten()[counted]
    found = model.log_probabilities(hidden, targets)
    rows = len(batch.tokens)
    answer = counted // batch.tokens.shape[1] * ANSWERS + batch.branches.flatten()[counted] - 1
    answer = answer.clamp(min=0)  # what only fills up is of none, and counts for nothing
    sums = found.new_zeros(rows * ANSWERS).index_add(0, answer, found * each)
    lengths = found.new_zeros(rows * ANSWERS).index_add(0, answer, each.to(found.dtype))
    return sums.view(rows, ANSWERS), lengths.view(rows, ANSWERS)


def last_places(branches: Tensor) -> Tensor:
    """Where each row's answers end: (batch, 2) int64."""
    places = torch.arange(branches.shape[1], device=branches.device)
    return torch.stack([torch.where(branches == number, places, 0).amax(-1) for number in (1, 2)], -1)
