"""What all text families have in common: sizes that follow from one dial, and how they are checked.

The dial is `depth`. Left alone, the width is 64 channels a block, heads have 64 channels, and the MLP is sized so that
a block has 12 width^2 weights. Every size can be set by itself instead.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator
from torch import nn

from underlay.config import Config
from underlay.models.heads import TaskConfig
from underlay.models.parts import Block, Rope

ASPECT = 64
"""Channels of width for each block of depth (Kaplan et al., arXiv:2001.08361, find a wide optimum around it)."""
HEAD = 64
"""Channels of an attention head."""


def _width(given: Mapping[str, Any]) -> int:
    return ASPECT * int(given.get("depth", 1))


def _heads(given: Mapping[str, Any]) -> int:
    width = int(given.get("width", HEAD))
    fitting = [heads for heads in range(1, width + 1) if width % heads == 0 and (width // heads) % 2 == 0]
    return min(fitting, key=lambda heads: abs(width / heads - HEAD), default=1)


def _kv_heads(given: Mapping[str, Any]) -> int:
    return int(given.get("heads", 1))


def _head_dim(given: Mapping[str, Any]) -> int:
    return max(1, int(given.get("width", HEAD)) // int(given.get("heads", 1)))


def gated_hidden(given: Mapping[str, Any]) -> int:
    """Channels of a gated MLP with the weights of a plain one four times as wide: 8/3 width, in multiples of 64."""
    width = int(given.get("width", HEAD))
    return max(1, round(width * 8 / 3 / 64)) * 64


def plain_hidden(given: Mapping[str, Any]) -> int:
    """Channels of a plain MLP: four times the width."""
    return 4 * int(given.get("width", HEAD))


class TextConfig(Config, ABC):
    """The sizes of a text model, and how its family arranges the parts."""

    family: str
    """The model family."""
    depth: int = Field(default=6, gt=0)
    """Number of blocks: the dial that the other sizes follow."""
    width: int = Field(default_factory=_width, gt=0)
    """Channels of the residual stream."""
    heads: int = Field(default_factory=_heads, gt=0)
    """Attention heads."""
    kv_heads: int = Field(default_factory=_kv_heads, gt=0)
    """Key-value heads; each serves heads / kv_heads query heads."""
    head_dim: int = Field(default_factory=_head_dim, gt=0)
    """Channels of a head."""
    hidden: int = Field(default_factory=gated_hidden, gt=0)
    """Channels inside the MLP."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Added to the mean square (or the variance) before its root is taken."""
    tied: bool = True
    """Whether the output head is the embedding itself."""
    vocabulary: int = Field(default=0, ge=0)
    """Number of token ids; 0 in a recipe: as many as the dataset's tokenizer has."""
    context: int = Field(default=0, ge=0)
    """Longest sequence the model was trained to read, in tokens; 0 in a recipe: the rows it is trained on."""
    task: TaskConfig | None = None
    """What the model is adapted to, where it has a head for a task."""
    mup_width: int | None = Field(default=None, gt=0)
    """Width at which learning rates were found: initialisation and rates then follow the maximal update
    parametrisation (arXiv:2203.03466), so that the same rates stay good at this width. By default they do not."""

    @model_validator(mode="after")
    def _shares_heads(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly")
        if self.head_dim * self.heads != self.width and "head_dim" not in self.model_fields_set:
            raise ValueError(f"width {self.width} does not split into {self.heads} heads")
        return self

    @abstractmethod
    def block(self, layer: int) -> Block:
        """The block at a depth, counted from 0."""

    @abstractmethod
    def norm(self) -> nn.Module:
        """A norm over the residual stream."""

    def rope(self, layer: int) -> Rope | None:  # noqa: ARG002
        """How the layer at a depth turns queries and keys; None where positions are not rotary."""
        return None

    def window(self, layer: int) -> int | None:  # noqa: ARG002
        """How many positions, its own included, the layer at a depth looks back; None: all."""
        return None
