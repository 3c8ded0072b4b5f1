"""The keys and values of the requests being answered: one row of memory a slot, as long as the model's context.

A prompt is read alone into its slot (`span`); afterwards all slots are read and extended together, one token each
(`step`). Slots without a request write to a spare place behind the context, so the shapes never change.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from underlay.models import DecoderConfig


@dataclass(frozen=True)
class _Span:
    """A stretch of one slot's sequence, which sees what the slot holds before it."""

    keys: Tensor
    values: Tensor
    start: int

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        end = self.start + keys.shape[2]
        self.keys[:, :, self.start : end] = keys
        self.values[:, :, self.start : end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]


@dataclass(frozen=True)
class _Step:
    """One token in every slot; each row of the caller's mask says what its slot may see of the first `seen` places."""

    keys: Tensor
    values: Tensor
    rows: Tensor
    positions: Tensor
    seen: int

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.keys[self.rows, :, self.positions] = keys[:, :, 0]
        self.values[self.rows, :, self.positions] = values[:, :, 0]
        return self.keys[:, :, : self.seen], self.values[:, :, : self.seen]


class SlotCache:
    """Keys and values (slots, kv_heads, context + 1, head_dim) for each block."""

    def __init__(self, config: DecoderConfig, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (config.depth, slots, config.kv_heads, config.context + 1, config.head_dim)
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)
        self._rows = torch.arange(slots, device=device)
        self.spare = config.context
        """The place that slots without a request write to."""

    def span(self, slot: int, start: int) -> list[_Span]:
        """One cache a block for tokens of one slot from place `start` on; all before it must be there already."""
        pairs = zip(self._keys[:, slot : slot + 1], self._values[:, slot : slot + 1], strict=True)
        return [_Span(keys, values, start) for keys, values in pairs]

    def step(self, positions: Tensor, seen: int) -> list[_Step]:
        """One cache a block for one token in every slot, at `positions` (slots,), of which attention reads `seen`."""
        pairs = zip(self._keys, self._values, strict=True)
        return [_Step(keys, values, self._rows, positions, seen) for keys, values in pairs]
