"""A model with rows for more tokens: in its embedding, and in its head where that is its own.

A row that is drawn by chance says nothing the model knows, and its logit beside thousands of learned ones can be the
highest. The mean of known rows is near to what the model expects anywhere (Hewitt 2021, "Initializing New Word
Embeddings for Pretrained Language Models"); the mean of the rows of some words says what the token is about.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

from underlay.errors import UserError
from underlay.models.encoder import Encoder
from underlay.models.families import Model, blank

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class TokenRows:
    """What a model has learned of some tokens."""

    ids: tuple[int, ...]
    embedding: Tensor
    """(tokens, width) float32."""
    head: Tensor | None = None
    """The same of the head; None where it is the embedding itself."""


def grown(model: M, vocabulary: int) -> M:
    """The same model with at least so many rows, on its own memory but for matrices that grow; new rows are zero."""
    old = model.config
    if vocabulary <= old.vocabulary:
        return model
    config = old.model_copy(update={"vocabulary": vocabulary})
    with torch.device("meta"):
        larger = cast("M", blank(config))
    parts, state = dict(model.named_parameters()), {}
    for name, parameter in larger.named_parameters():
        before = parts[name].detach()
        if parameter.shape != before.shape:
            more = before.new_zeros(vocabulary - old.vocabulary, *before.shape[1:])
            before = torch.cat([before, more])
        state[name] = before
    larger.load_state_dict(state, assign=True)
    larger.requires_grad_(True)
    return larger


@torch.no_grad()
def begun(model: M, known: int, starts: Sequence[Sequence[int]]) -> M:
    """A model that knows the tokens `known`, known + 1, ...: each begins as the mean of the rows of some others.

    starts: for each new token those others; where there are none, all that were known. The model itself stays as it is.
    """
    larger = copy.deepcopy(grown(model, known + len(starts)))
    for matrix in by_token(larger):
        rows = [matrix[list(others)] if others else matrix[:known] for others in starts]
        matrix[known : known + len(starts)] = torch.stack([some.float().mean(0) for some in rows]).to(matrix)
    return larger


@torch.no_grad()
def with_rows(model: M, rows: TokenRows) -> M:
    """A copy of a model with what was learned of some tokens. Raises UserError where it is another model's."""
    if rows.embedding.shape[1] != model.config.width:
        raise UserError(
            f"rows of new tokens have {rows.embedding.shape[1]} numbers, the model is {model.config.width} wide; "
            "was the adapter made for another one?"
        )
    if (rows.head is None) != (model.head is None):
        raise UserError(
            "rows of new tokens go with a head of its own or without; was the adapter made for another model?"
        )
    larger = copy.deepcopy(grown(model, max(rows.ids) + 1))
    ids = list(rows.ids)
    larger.embedding.weight[ids] = rows.embedding.to(larger.embedding.weight)
    if larger.head is not None and rows.head is not None:
        larger.head.weight[ids] = rows.head.to(larger.head.weight)
    return larger


def by_token(model: Model) -> list[Tensor]:
    """All tensors of a model with a row, or a number, a token."""
    found = [model.embedding.weight] + ([] if model.head is None else [model.head.weight])
    return [*found, model.masked.bias] if isinstance(model, Encoder) and model.masked is not None else found
