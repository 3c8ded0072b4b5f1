"""The trunk of all decoders: tokens in, a distribution over the next token out.

A family says in its config which parts its blocks are made of; everything else is here, once.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from underlay.models import initial
from underlay.models.config import TextConfig
from underlay.models.heads import TaskHead
from underlay.models.parts import (
    Embedding,
    LayerCache,
    Linear,
    RMSNorm,
    Rope,
    RopeScaling,
    Rotation,
    computed,
    linear_cross_entropy,
    linear_log_probabilities,
    masks,
)


class DecoderConfig(TextConfig):
    """What decoders have in common."""

    learned_positions: ClassVar[bool] = False
    """Whether positions are learned rows, added to the tokens' own."""

    def embedding_scale(self) -> float:
        """What embeddings are multiplied by before the first block."""
        return 1.0

    def final_softcap(self) -> float | None:
        """What logits stay within, by a tanh; None: they are free."""
        return None

    def build(self) -> "Decoder":
        """Make the module, with freshly drawn weights (torch's default generator)."""
        model = Decoder(self)
        initial.draw(model)
        return model


class RotaryConfig(DecoderConfig):
    """What decoders with rotary positions have in common."""

    rope_base: float = Field(default=10_000.0, gt=1)
    """Wavelength base of the rotary positions."""
    rope_scaling: RopeScaling | None = None
    """How rotary positions are stretched over longer texts than the model first saw."""

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim}: rotary positions need heads of an even size")
        return self

    def norm(self) -> nn.Module:
        """RMSNorm, as nearly all of them have it."""
        return RMSNorm(self.width, self.norm_eps)

    def rope(self, layer: int) -> Rope | None:  # noqa: ARG002
        """The same for all layers."""
        return Rope(self.head_dim, self.rope_base, self.rope_scaling, self.context)


class WindowedConfig(RotaryConfig):
    """What decoders have in common of which some layers look back only so far."""

    sliding_window: int | None = Field(default=None, gt=0)
    """How many positions a layer looks back, its own included (arXiv:2004.05150); by default all."""
    full_layers: tuple[int, ...] = ()
    """Layers, counted from 0, that look back all the way nonetheless."""

    @model_validator(mode="after")
    def _slides(self) -> Self:
        if self.full_layers and self.sliding_window is None:
            raise ValueError("full_layers: all layers see everything where there is no sliding_window")
        if list(self.full_layers) != sorted({layer for layer in self.full_layers if 0 <= layer < self.depth}):
            raise ValueError(f"full_layers: name layers from 0 to {self.depth - 1}, each once, in their order")
        return self

    def window(self, layer: int) -> int | None:
        """The sliding window, but for the layers that see everything."""
        return None if layer in self.full_layers else self.sliding_window


class Decoder(nn.Module):
    """A causal language model. Its memory is not initialised: use `DecoderConfig.build` or `load_model`."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocabulary, config.width)
        self.positions = Embedding(config.context, config.width) if config.learned_positions else None
        self.blocks = nn.ModuleList(config.block(layer) for layer in range(config.depth))
        self.norm = config.norm()
        self.task = (
            TaskHead(config.task, config.width, "last", bias=config.task.kind != "text") if config.task else None
        )
        self.head = None if config.tied else Linear(config.width, config.vocabulary)
        self._layers = [(config.rope(layer), config.window(layer)) for layer in range(config.depth)]

    @torch.no_grad()
    def start_from(self, embedding: Tensor) -> None:
        """Take embeddings (vocabulary, width) of unit variance, at a scale where a tied head starts nearly even."""
        gain = initial.start_gain(self.config)
        gained = initial.set_gain(self.norm, gain)
        self.embedding.weight.copy_(0.1 * embedding * (1.0 if gained or not self.config.tied else gain))

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Sequence[LayerCache] | None = None,
        dtype: torch.dtype = torch.float32,
        turns: Mapping[Rope, Tensor] | None = None,
    ) -> Tensor:
        """Run the blocks; returns the normalised residual stream (batch, time, width) in `parts.computed(dtype)`.

        tokens: (batch, time) int64; positions: (batch or 1, time) int64, default 0, 1, 2, ...; mask: bool, True where
        a query may look, broadcastable to (batch, heads, time, seen), or what `masks.isolated` gives, default causal
        (`parts.masks` makes others; windows are added here); cache: one a block, which holds position p at its place
        p; turns: what `turns` gives, for positions within the context; with it the host neither waits for the device
        nor sends it anything.
        """
        dtype = computed(dtype, tokens.device)
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        rotations: dict[Rope | None, Rotation | None] = {None: None}
        looks: dict[int | None, Tensor | None] = {None: mask}
        for rope, window in self._layers:
            if rope is not None and rope not in rotations:
                rotations[rope] = rope.rotation(positions, turns[rope] if turns else None)
            if window not in looks:
                looks[window] = _windowed(mask, positions, window, cached=cache is not None)
        x = self.embedding(tokens).to(dtype)
        if self.positions is not None:
            x = x + self.positions(positions).to(dtype)
        scale = self.config.embedding_scale()
        if scale != 1:
            x = x * torch.full((), scale, dtype=dtype, device=x.device)  # written by the device itself
        for index, (block, (rope, window)) in enumerate(zip(self.blocks, self._layers, strict=True)):
            x = block(x, rotations[rope], looks[window], cache[index] if cache else None)
        return self.norm(x)

    def turns(self) -> dict[Rope, Tensor]:
        """How fast the rotary positions of the context turn, for `hidden`."""
        last = torch.tensor([[self.config.context - 1]], device=self.embedding.weight.device)
        return {rope: rope.turns(last) for rope in {rope for rope, _ in self._layers} if rope is not None}

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (..., width); returns (..., vocabulary) in the same dtype."""
        logits = nn.functional.linear(hidden, self._head_weight().to(hidden.dtype))
        cap = self.config.final_softcap()
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def cross_entropy(self, hidden: Tensor, targets: Tensor, weights: Tensor, compiled: bool = False) -> Tensor:
        """Summed loss, in nats, of the logits; a scalar float32 (see `parts.linear_cross_entropy`).

        hidden: (rows, width); targets: (rows,) int64; weights: (rows,) float32, how much each counts.
        """
        if self.config.final_softcap() is None:
            return linear_cross_entropy(hidden, self._head_weight(), targets, weights, compiled=compiled)
        losses = nn.functional.cross_entropy(self.logits(hidden).float(), targets, reduction="none")
        return (losses * weights).sum()

    def log_probabilities(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """How likely each target is, in nats: (rows,) float32 (see `parts.linear_log_probabilities`).

        hidden: (rows, width); targets: (rows,) int64.
        """
        return linear_log_probabilities(hidden, self._head_weight(), targets, self.config.final_softcap())

    def _head_weight(self) -> Tensor:
        return self.embedding.weight if self.head is None else self.head.weight

    def scores(self, tokens: Tensor, present: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """What the head for the model's task says; tokens: (batch, time) int64, padded where `present` is False.

        present: (batch, time) bool, by default True everywhere. Returns the shape that `TaskHead` gives.
        """
        assert self.task is not None, "the model has no head for a task"
        if present is None:
            return self.task(self.hidden(tokens, dtype=dtype), torch.ones_like(tokens, dtype=torch.bool))
        mask, positions = masks.padded(present, looks_ahead=False)
        return self.task(self.hidden(tokens, positions, mask, dtype=dtype), present)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """tokens: (batch, time) int64; returns logits (batch, time, vocabulary). The others are those of `hidden`."""
        return self.logits(self.hidden(tokens, positions, mask, dtype=dtype))


def _windowed(mask: Tensor | None, positions: Tensor, window: int | None, cached: bool) -> Tensor | None:
    """The mask, narrowed to a window; as it was where the window is wider than the text."""
    seen = positions.shape[1] if mask is None else mask.shape[-1]
    if window is None or window >= seen:
        return mask
    keys = torch.arange(seen, device=positions.device)[None] if cached else positions
    near = masks.window(positions, keys, window)
    if mask is not None and mask.dtype == torch.int64:
        mask = masks.within(mask)
    return near & (masks.causal(positions, keys) if mask is None else mask)
