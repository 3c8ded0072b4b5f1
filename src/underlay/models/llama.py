"""Llama: a pre-norm decoder with RoPE, RMSNorm and SwiGLU (arXiv:2302.13971)."""

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from underlay.config import Config
from underlay.models.parts import Block, LayerCache, Linear, RMSNorm, rotations


class LlamaShape(Config):
    """The shape of a Llama-type decoder, as people choose it."""

    family: Literal["llama"] = "llama"
    """The model family."""
    width: int = Field(default=256, gt=0)
    """Channels of the residual stream."""
    depth: int = Field(default=6, gt=0)
    """Number of blocks."""
    heads: int = Field(default=4, gt=0)
    """Attention heads."""
    kv_heads: int = Field(default=4, gt=0)
    """Key-value heads; each serves heads / kv_heads query heads."""
    hidden: int = Field(default=768, gt=0)
    """Channels inside the MLP."""
    rope_base: float = Field(default=10_000.0, gt=1)
    """Wavelength base of the rotary positions."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Added to the mean square before its root is taken."""
    tied: bool = True
    """Whether the output head is the embedding itself."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} does not split into {self.heads} heads of an even size")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly")
        return self


class LlamaConfig(LlamaShape):
    """A Llama-type decoder in full: its shape, and what the data fixes."""

    vocabulary: int = Field(gt=0)
    """Number of token ids."""
    context: int = Field(default=512, gt=0)
    """Longest sequence the model was trained to read, in tokens."""

    def build(self) -> "Llama":
        """Make the module, with freshly drawn weights (torch's default generator)."""
        return Llama(self)


class Llama(nn.Module):
    """The decoder: tokens in, a distribution over the next token out."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        shape = (config.width, config.heads, config.kv_heads, config.hidden, config.norm_eps)
        self.blocks = nn.ModuleList(Block(*shape) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = None if config.tied else Linear(config.width, config.vocabulary)
        self._draw()

    @torch.no_grad()
    def _draw(self) -> None:
        # GPT-2's scheme: what is added to the residual stream shrinks with the number of additions.
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                added = name.endswith(("attention.output.weight", "mlp.down.weight"))
                nn.init.normal_(parameter, std=0.02 / ((2 * self.config.depth) ** 0.5 if added else 1.0))

    @torch.no_grad()
    def start_from(self, embedding: Tensor) -> None:
        """Take embeddings (vocabulary, width) of unit variance, at a scale where a tied head starts nearly even."""
        self.embedding.weight.copy_(0.1 * embedding)
        self.norm.weight.fill_(0.2)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Sequence[LayerCache] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Run the blocks; returns the normalised residual stream (batch, time, width) in `dtype`.

        tokens: (batch, time) int64; positions: (batch, time) int64, default 0, 1, 2, ...; mask: bool, True where a
        query may look, broadcastable to (batch, heads, time, seen), default causal; cache: one a block.
        """
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        cos, sin = rotations(self.config.width // self.config.heads, positions, self.config.rope_base)
        cos, sin = cos[:, None], sin[:, None]
        x = self.embedding(tokens).to(dtype)
        for index, block in enumerate(self.blocks):
            x = block(x, cos, sin, mask, cache[index] if cache else None)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (..., width); returns (..., vocabulary) in the same dtype."""
        weight = self.embedding.weight if self.head is None else self.head.weight
        return nn.functional.linear(hidden, weight.to(hidden.dtype))

    def forward(self, tokens: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """tokens: (batch, time) int64; returns logits (batch, time, vocabulary)."""
        return self.logits(self.hidden(tokens, dtype=dtype))
