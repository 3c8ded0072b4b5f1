"""Llama: a pre-norm decoder with RoPE, RMSNorm and SwiGLU (arXiv:2302.13971; grouped heads since arXiv:2307.09288).

SmolLM and SmolLM2 are Llamas; SmolLM3 is one whose every fourth layer knows no positions (NoPE, arXiv:2305.19466).
"""

from typing import Literal

from pydantic import Field

from underlay.models.decoder import RotaryConfig
from underlay.models.parts import Attention, Block, GatedMLP, Rope


class LlamaConfig(RotaryConfig):
    """A Llama-type decoder."""

    family: Literal["llama"] = "llama"
    """The model family."""
    attention_bias: bool = False
    """Biases in the four matrices of attention."""
    mlp_bias: bool = False
    """Biases in the three matrices of the MLP."""
    position_free_every: int | None = Field(default=None, gt=0)
    """Every so many layers, one does not turn its queries and keys (SmolLM3: 4)."""

    def block(self, layer: int) -> Block:  # noqa: ARG002 - all are alike
        """Attention, then SwiGLU, each on a normalised view of the residual stream."""
        bias = self.attention_bias
        return Block(
            Attention(self.width, self.heads, self.kv_heads, self.head_dim, bias=bias, output_bias=bias),
            GatedMLP(self.width, self.hidden, "silu", self.mlp_bias),
            attention_norm=self.norm(),
            mlp_norm=self.norm(),
        )

    def rope(self, layer: int) -> Rope | None:
        """The same for all layers, but those that know no positions."""
        free = self.position_free_every and (layer + 1) % self.position_free_every == 0
        return None if free else super().rope(layer)
