"""Tokens that a model did not have, such as `<think>`: the tokenizer knows them, and the model learns what they mean.

They are ordinary vocabulary, like the added tokens of other makers: their text becomes one id wherever it stands. With
all weights learning, their rows learn as the others do. Beside low-rank changes the embedding stands still, and the new
rows alone are parameters (PEFT's trainable tokens): a table of a few rows, not of a whole vocabulary.

    weight = base with rows[n] in the place of base[ids[n]]      for the embedding, and for a head of its own
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from underlay.adapt.examples import Example
from underlay.errors import UserError
from underlay.models import Decoder, Encoder, Model
from underlay.models.growing import TokenRows, begun
from underlay.models.parts import Embedding, Linear
from underlay.text import Tokenizer

M = TypeVar("M", bound=Model)


class Rows(nn.Module):
    """Some rows of a matrix that learn, in the place of those of a matrix that stands still."""

    ids: Tensor

    def __init__(self, weight: Tensor, ids: Sequence[int]) -> None:
        """Take the rows as they are; weight: (vocabulary, width)."""
        super().__init__()
        self.register_buffer("ids", torch.tensor(list(ids), device=weight.device), persistent=False)
        self.rows = nn.Parameter(weight.detach()[list(ids)].float())

    def forward(self, weight: Tensor) -> Tensor:
        """weight: (vocabulary, width); returns the same shape."""
        return weight.index_copy(0, self.ids, self.rows.to(weight.dtype))


def enlarge(model: M, tokenizer: Tokenizer, tokens: Mapping[str, str]) -> tuple[M, Tokenizer]:
    """A model and its tokenizer with tokens that they did not have, each begun from the words that tell what it means.

    tokens: text to words; no words: from the mean of all. The two given stay as they are. Raises UserError where the
    tokenizer has one of them already, or words that hold no token.
    """
    larger = tokenizer.extended(list(tokens))
    starts = [tokenizer.encode(words) for words in tokens.values()]
    for (token, words), ids in zip(tokens.items(), starts, strict=True):
        if words and not ids:
            raise UserError(f"new_tokens: {words!r}, which {token} is to begin from, holds no token; write some words")
    return begun(model, tokenizer.size, starts), larger


def tell_missing(tokens: Iterable[str], examples: Iterable[Example], log: Callable[[str], None]) -> None:
    """Say of which new tokens no example teaches anything."""
    left = set(tokens)
    for example in examples:
        left = {token for token in left if not any(token in text for text in _texts(example.body))}
        if not left:
            return
    log(f"new tokens that stand in no example, and so are not learned: {', '.join(sorted(left))}")


def learn_rows(model: Model, ids: Sequence[int]) -> None:
    """Let the rows of some tokens learn, whatever the rest of the model does; nothing where there are none."""
    if not ids:
        return
    for module in _tables(model):
        module.weight.requires_grad_(False)
        parametrize.register_parametrization(module, "weight", Rows(module.weight, ids))


def rows_of(model: Model) -> TokenRows | None:
    """What `learn_rows` has learned, on the CPU; None where nothing was to be."""
    found = [_rows(module) for module in _tables(model)]
    if found[0] is None:
        return None
    embedding, *head = [one.rows.detach().cpu().clone() for one in found if one is not None]
    return TokenRows(tuple(found[0].ids.tolist()), embedding, head[0] if head else None)


@torch.no_grad()
def settle(model: Model, base: Model) -> None:
    """Put learned rows into the embedding itself, beside those of the base, which are as exact as they ever were."""
    rows = rows_of(model)
    if rows is None:
        return
    assert model.head is None, "a model with a head for a task has none for tokens"
    embedding = model.embedding
    known = base.embedding.weight
    parametrize.remove_parametrizations(embedding, "weight")
    whole = known.new_zeros(len(embedding.weight), known.shape[1])
    whole[: len(known)] = known
    whole[list(rows.ids)] = rows.embedding
    embedding.weight = nn.Parameter(whole)


def _texts(found: object) -> Iterator[str]:
    """All texts of an example, whatever its form."""
    if isinstance(found, str):
        yield found
    elif isinstance(found, tuple):
        for part in found:
            yield from _texts(part)
    elif is_dataclass(found):
        for part in fields(found):
            yield from _texts(getattr(found, part.name))


def _tables(model: Model) -> Sequence[Embedding | Linear]:
    assert isinstance(model, Decoder | Encoder)
    return [model.embedding] + ([] if model.head is None else [model.head])


def _rows(module: nn.Module) -> Rows | None:
    if not parametrize.is_parametrized(module, "weight"):
        return None
    (found,) = module.parametrizations["weight"]  # type: ignore[index]
    assert isinstance(found, Rows)
    return found
