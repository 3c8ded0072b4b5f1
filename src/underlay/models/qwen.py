"""Qwen2 and Qwen3: Llama with biases on queries, keys and values (arXiv:2407.10671), or with norms on queries and keys
in their place (arXiv:2505.09388)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from underlay.models.decoder import WindowedConfig
from underlay.models.parts import Attention, Block, GatedMLP, RMSNorm


class QwenConfig(WindowedConfig):
    """A decoder of Qwen's second or third generation."""

    family: Literal["qwen2", "qwen3"] = "qwen3"
    """The model family: qwen2 has biases in its attention, qwen3 norms."""
    norm_eps: float = Field(default=1e-6, gt=0)
    """Added to the mean square before its root is taken."""
    attention_bias: bool = False
    """qwen3: biases in all four matrices of attention as well."""

    @model_validator(mode="after")
    def _generation(self) -> Self:
        if self.family == "qwen2" and self.attention_bias:
            raise ValueError("attention_bias: qwen2 always has its own, on queries, keys and values")
        return self

    def block(self, layer: int) -> Block:  # noqa: ARG002 - all are alike
        """Attention, then SwiGLU, each on a normalised view of the residual stream."""
        normed = self.family == "qwen3"
        attention = Attention(
            self.width,
            self.heads,
            self.kv_heads,
            self.head_dim,
            bias=self.attention_bias or not normed,
            output_bias=self.attention_bias,
            query_norm=RMSNorm(self.head_dim, self.norm_eps) if normed else None,
            key_norm=RMSNorm(self.head_dim, self.norm_eps) if normed else None,
        )
        return Block(
            attention,
            GatedMLP(self.width, self.hidden, "silu"),
            attention_norm=self.norm(),
            mlp_norm=self.norm(),
        )
