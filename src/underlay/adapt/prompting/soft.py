"""Soft prompts: what stands before every input is learned, the model stands still.

    prompt    rows of the embedding (arXiv:2104.08691)      [p1 p2 p3] <|bos|> <|user|> ...
    prefix    keys and values of every layer, in front of those of the input (arXiv:2101.00190)

A prompt's rows are tokens: the vocabulary goes on behind its end, with ids that no tokenizer gives and no head says. So
whatever reads tokens reads them, and the objective is that of any language model. A prefix has no tokens; it is a
memory that is there before the first one, whose positions it takes.

Both start from words, for a random start learns late, or not at all: a prompt from the words' embeddings, a prefix from
what the frozen model itself makes of the words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from underlay.adapt.lora import hold
from underlay.config import Config
from underlay.errors import UserError
from underlay.models import Batch, Decoder, Encoder
from underlay.models.decoder import DecoderConfig
from underlay.models.parts import Embedding, masks
from underlay.text import Tokenizer
from underlay.train import CausalLM

_COMMON = 5000
"""Where no words are given, tokens are drawn among so many; the first of a vocabulary are its most common."""


class SoftSettings(Config):
    """How long it is what is learned in front of every input, and what it starts from."""

    tokens: int = Field(default=20, gt=0)
    """How long it is; it takes as many positions of the context."""
    words: str = ""
    """What it starts from, as often as there is room for it; by default tokens drawn by the seed."""


class SoftConfig(SoftSettings):
    """What is learned in front of every input."""

    kind: Literal["prompt", "prefix"] = "prompt"
    """Rows of the embedding, or keys and values of every layer."""


class PromptedEmbedding(Embedding):
    """An embedding that stands still, and behind its last row those of a prompt, which learn."""

    def __init__(self, base: nn.Embedding, prompt: Tensor) -> None:
        """prompt: (tokens, width) float32."""
        super().__init__(0, base.embedding_dim)
        self.num_embeddings, self.weight = base.num_embeddings, base.weight
        self.prompt = nn.Parameter(prompt)

    def ids(self) -> list[int]:
        """The prompt's tokens."""
        return list(range(self.num_embeddings, self.num_embeddings + len(self.prompt)))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (..., time) int64; returns (..., time, width)."""
        place = tokens - self.num_embeddings
        words = nn.functional.embedding(tokens.clamp(max=self.num_embeddings - 1), self.weight)
        prompt = nn.functional.embedding(place.clamp(min=0), self.prompt).to(words.dtype)
        return torch.where((place >= 0)[..., None], prompt, words)


class Prefix(nn.Module):
    """Keys and values that every layer finds in front of its own."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """Both (layers, kv_heads, tokens, head_dim) float32."""
        super().__init__()
        self.keys, self.values = nn.Parameter(keys), nn.Parameter(values)

    def cache(self) -> list["Memory"]:
        """What each layer reads first."""
        return [Memory(keys, values) for keys, values in zip(self.keys, self.values, strict=True)]


@dataclass(frozen=True)
class Memory:
    """The prefix of one layer, as its cache; it is not added to."""

    keys: Tensor
    """(kv_heads, tokens, head_dim), already turned by their positions."""
    values: Tensor

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `LayerCache`."""
        first = [one.to(keys.dtype).expand(len(keys), -1, -1, -1) for one in (self.keys, self.values)]
        return torch.cat([first[0], keys], 2), torch.cat([first[1], values], 2)


@dataclass(frozen=True)
class PrefixedLM(CausalLM):
    """Predict each next token behind the model's prefix."""

    def _hidden(self, model: Decoder | Encoder, batch: Batch) -> Tensor:
        assert isinstance(model, Decoder)
        assert batch.segments is None
        return prefixed(model, batch.tokens, self.dtype)


def prefixed(model: Decoder, tokens: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The states of tokens behind the model's prefix; (batch, time) int64 to (batch, time, width)."""
    prefix = model.get_submodule("prefix")
    assert isinstance(prefix, Prefix)
    seen = torch.arange(prefix.keys.shape[2] + tokens.shape[1], device=tokens.device)[None]
    places = seen[:, prefix.keys.shape[2] :]
    return model.hidden(tokens, places, masks.causal(places, seen), prefix.cache(), dtype)


def attach_soft(
    model: Decoder, tokenizer: Tokenizer, settings: SoftConfig, seed: int, dtype: torch.dtype = torch.float32
) -> None:
    """Freeze a model, in `dtype`, and put what is to learn in front of it.

    Raises UserError where the model has one already, or it is as long as the context.
    """
    if isinstance(model.embedding, PromptedEmbedding) or hasattr(model, "prefix"):
        raise UserError("the model has a soft prompt already; start from the model that it was learned for")
    if settings.tokens >= model.config.context:
        raise UserError(f"tokens: {settings.tokens} fill the model's context of {model.config.context}; take fewer")
    model.requires_grad_(requires_grad=False)
    start = torch.tensor(_start(tokenizer, settings, seed), device=model.embedding.weight.device)
    with torch.no_grad():
        if settings.kind == "prompt":
            model.embedding = PromptedEmbedding(model.embedding, model.embedding(start).float().clone())
        else:
            model.add_module("prefix", _remembered(model, start[None]))
    hold(model, dtype)


def standing(model: Decoder, prompt: Tensor) -> Decoder:
    """A model for the engine, whose vocabulary goes on with a prompt's tokens; it reads them and never says them.

    prompt: (tokens, width), as `prompt_of` gives it, of this model. Prompts then begin with the ids from the old size
    of the vocabulary on (`answer(..., begin=)`). Take `Engine(..., path="plain")`: the native path knows no token that
    may not be said. Raises UserError where the prompt is of another width.
    """
    if prompt.ndim != 2 or prompt.shape[1] != model.config.width:
        raise UserError(f"the prompt is {tuple(prompt.shape)}, the model is {model.config.width} wide; take its own")
    known = model.config.vocabulary
    whole = _Standing(model.config.model_copy(update={"vocabulary": known + len(prompt), "tied": False}), known)
    whole.to(model.embedding.weight.device)
    weights = model.state_dict()
    weights["head.weight"] = torch.cat([_says(model), torch.zeros_like(prompt).to(_says(model))])
    weights["embedding.weight"] = torch.cat([model.embedding.weight, prompt.to(model.embedding.weight)])
    weights.pop("embedding.prompt", None)
    whole.load_state_dict(weights)
    return whole.eval()


class _Standing(Decoder):
    """A decoder that does not say the last of its tokens."""

    def __init__(self, config: DecoderConfig, known: int) -> None:
        super().__init__(config)
        self._known = known

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Decoder.logits`."""
        found = super().logits(hidden)
        return torch.cat([found[..., : self._known], torch.full_like(found[..., self._known :], -torch.inf)], -1)


def _says(model: Decoder) -> Tensor:
    return model.embedding.weight if model.head is None else model.head.weight


def prompt_of(model: Decoder) -> Tensor:
    """What a prompt has learned: (tokens, width) float32, on the CPU."""
    assert isinstance(model.embedding, PromptedEmbedding), "a model with a prompt"
    return model.embedding.prompt.detach().cpu().clone()


def prefix_of(model: Decoder) -> tuple[Tensor, Tensor]:
    """What a prefix has learned: keys and values (layers, kv_heads, tokens, head_dim) float32, on the CPU."""
    prefix = model.get_submodule("prefix")
    assert isinstance(prefix, Prefix)
    return prefix.keys.detach().cpu().clone(), prefix.values.detach().cpu().clone()


def _start(tokenizer: Tokenizer, settings: SoftConfig, seed: int) -> list[int]:
    words: Sequence[int] = tokenizer.encode(settings.words)
    if settings.words and not words:
        raise UserError("words: hold no token; write some, or leave them out")
    if not words:
        common = [index for index in range(min(tokenizer.size, _COMMON)) if index not in tokenizer.special_ids]
        drawn = torch.randint(len(common), (settings.tokens,), generator=torch.Generator().manual_seed(seed))
        words = [common[place] for place in drawn.tolist()]
    return [words[place % len(words)] for place in range(settings.tokens)]


def _remembered(model: Decoder, tokens: Tensor) -> Prefix:
    """The keys and values that a model itself makes of tokens (1, time)."""
    caches = [_Kept([]) for _ in model.blocks]
    model.hidden(tokens, cache=caches)
    keys, values = zip(*(cache.seen[0] for cache in caches), strict=True)
    return Prefix(torch.cat(keys).float(), torch.cat(values).float())


@dataclass(frozen=True)
class _Kept:
    """A cache that keeps what passes through it."""

    seen: list[tuple[Tensor, Tensor]]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `LayerCache`."""
        self.seen.append((keys, values))
        return keys, values
