"""The trunk of all encoders: every position sees every other (arXiv:1810.04805).

They learn by filling in what was hidden, and give texts their vectors.
"""

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from underlay.models import initial
from underlay.models.config import TextConfig, plain_hidden
from underlay.models.heads import TaskHead
from underlay.models.parts import (
    ACTIVATIONS,
    MLP,
    Activation,
    Attention,
    Block,
    Embedding,
    LayerNorm,
    Linear,
    computed,
    linear_cross_entropy,
    masks,
)
from underlay.models.pooling import Pooling


class EncoderConfig(TextConfig):
    """What encoders have in common: post-norm blocks with biases, learned positions."""

    hidden: int = Field(default_factory=plain_hidden, gt=0)
    """Channels inside the MLP."""
    activation: Activation = "gelu"
    """What bends the MLP's inner channels."""
    norm_eps: float = Field(default=1e-12, gt=0)
    """Added to the variance before its root is taken."""
    types: int = Field(default=2, ge=0)
    """Kinds of segment, such as question and answer, each with a learned row; 0: none."""
    masked_head: bool = True
    """Whether there is a head that fills in masked tokens."""
    pooler: bool = False
    """Whether the first position's state goes through one more layer, for tasks on whole texts."""
    pooling: Pooling = "mean"
    """How a text's vector comes from its positions' states."""
    normalised: bool = True
    """Whether a text's vector is scaled to length one."""
    first_position: ClassVar[int] = 0
    """The row of the position table that the first token takes."""

    @model_validator(mode="after")
    def _plain_heads(self) -> Self:
        if self.kv_heads != self.heads or self.head_dim * self.heads != self.width:
            raise ValueError(
                f"kv_heads, head_dim: {self.family} has as many key-value heads as heads, which share its width"
            )
        return self

    def block(self, layer: int) -> Block:  # noqa: ARG002 - all are alike
        """Attention in both directions, then MLP, each added and then normalised."""
        attention = Attention(
            self.width, self.heads, self.heads, self.head_dim, causal=False, bias=True, output_bias=True
        )
        return Block(
            attention,
            MLP(self.width, self.hidden, self.activation, bias=True),
            attention_out_norm=self.norm(),
            mlp_out_norm=self.norm(),
            post_norm=True,
        )

    def norm(self) -> LayerNorm:
        """Scale to mean zero and variance one."""
        return LayerNorm(self.width, self.norm_eps)

    def build(self) -> "Encoder":
        """Make the module, with freshly drawn weights (torch's default generator)."""
        model = Encoder(self)
        initial.draw(model, shrink=False)
        return model


class MaskedHead(nn.Module):
    """One more layer before a position's token is guessed, and a bias for each token after."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = Linear(config.width, config.width, bias=True)
        self.norm = config.norm()
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width); returns the same shape. The product with the embedding, and the bias, follow."""
        return self.norm(self.activation(self.dense(x)))


class Encoder(nn.Module):
    """A masked language model. Its memory is not initialised: use `EncoderConfig.build` or `load_model`."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocabulary, config.width)
        self.positions = Embedding(config.context + config.first_position, config.width)
        self.types = Embedding(config.types, config.width) if config.types else None
        self.embedding_norm = config.norm()
        self.blocks = nn.ModuleList(config.block(layer) for layer in range(config.depth))
        self.pooler = Linear(config.width, config.width, bias=True) if config.pooler else None
        self.task = TaskHead(config.task, config.width, config.pooling) if config.task else None
        self.masked = MaskedHead(config) if config.masked_head else None
        self.head = Linear(config.width, config.vocabulary) if config.masked_head and not config.tied else None

    def hidden(
        self,
        tokens: Tensor,
        present: Tensor | None = None,
        types: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Run the blocks; returns the residual stream (batch, time, width) in `parts.computed(dtype)`.

        tokens: (batch, time) int64; present: (batch, time) bool, True where a token is real, by default everywhere;
        types: (batch, time) int64, the kind of segment, by default 0.
        """
        mask = None
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        if present is not None:
            mask, positions = masks.padded(present, looks_ahead=True)
        x = self.embedding(tokens) + self.positions(positions + self.config.first_position)
        if self.types is not None:
            x = x + (self.types.weight[0] if types is None else self.types(types))
        x = self.embedding_norm(x.to(computed(dtype, tokens.device)))
        for block in self.blocks:
            x = block(x, None, mask)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """What each position's token may be; hidden: (..., width); returns (..., vocabulary) in the same dtype."""
        assert self.masked is not None, "the model has no head that fills in masked tokens"
        dtype = hidden.dtype
        return nn.functional.linear(self.masked(hidden), self._head_weight().to(dtype), self.masked.bias.to(dtype))

    def cross_entropy(self, hidden: Tensor, targets: Tensor, weights: Tensor, compiled: bool = False) -> Tensor:
        """Summed loss, in nats, of the logits; a scalar float32 (see `parts.linear_cross_entropy`).

        hidden: (rows, width); targets: (rows,) int64; weights: (rows,) float32, how much each counts.
        """
        assert self.masked is not None, "the model has no head that fills in masked tokens"
        states, bias = self.masked(hidden), self.masked.bias
        return linear_cross_entropy(states, self._head_weight(), targets, weights, bias, compiled)

    def _head_weight(self) -> Tensor:
        return self.embedding.weight if self.head is None else self.head.weight

    def forward(
        self,
        tokens: Tensor,
        present: Tensor | None = None,
        types: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """tokens: (batch, time) int64; returns logits (batch, time, vocabulary). The others are those of `hidden`."""
        return self.logits(self.hidden(tokens, present, types, dtype))

    def scores(
        self,
        tokens: Tensor,
        present: Tensor | None = None,
        types: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """What the head for the model's task says, in the shape that `TaskHead` gives; arguments as in `hidden`."""
        assert self.task is not None, "the model has no head for a task"
        hidden = self.hidden(tokens, present, types, dtype)
        real = torch.ones_like(tokens, dtype=torch.bool) if present is None else present
        return self.task(hidden, real, self.pooled(hidden) if self.pooler is not None else None)

    def pooled(self, hidden: Tensor) -> Tensor:
        """The first position's state after the pooler: (batch, time, width) to (batch, width)."""
        assert self.pooler is not None, "the model has no pooler"
        return torch.tanh(self.pooler(hidden[:, 0]))
