"""Gemma: a decoder with GeGLU, large heads and scaled embeddings (arXiv:2403.08295).

The second generation has norms on both sides of attention and MLP, caps its scores and logits, and slides every other
window (arXiv:2408.00118). The third normalises queries and keys in place of the caps, and slides five windows of six,
with rotary positions of their own (arXiv:2503.19786).
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from underlay.models.decoder import WindowedConfig
from underlay.models.parts import Activation, Attention, Block, GatedMLP, RMSNorm, Rope


class GemmaConfig(WindowedConfig):
    """A decoder of Gemma's first, second or third generation."""

    family: Literal["gemma", "gemma2", "gemma3"] = "gemma3"
    """The model family; in gemma3 rotary positions are stretched only in layers without a window."""
    norm_eps: float = Field(default=1e-6, gt=0)
    """Added to the mean square before its root is taken."""
    activation: Activation = "gelu_tanh"
    """What bends the MLP's gate."""
    query_scale: float | None = Field(default=None, gt=0)
    """gemma2, gemma3: scores are divided by the root of this; by default of head_dim."""
    score_softcap: float | None = Field(default=None, gt=0)
    """gemma2, gemma3: what scores stay within."""
    logit_softcap: float | None = Field(default=None, gt=0)
    """gemma2, gemma3: what logits stay within."""
    local_rope_base: float = Field(default=10_000.0, gt=1)
    """gemma3: wavelength base in layers with a window."""

    @model_validator(mode="after")
    def _generation(self) -> Self:
        if self.mup_width:
            raise ValueError("mup_width: gemma's embeddings grow with its width; choose another family")
        later = (self.query_scale, self.score_softcap, self.logit_softcap, self.sliding_window)
        if self.family == "gemma" and (any(later) or self.full_layers):
            raise ValueError("query_scale, softcaps and windows came with gemma2")
        return self

    def block(self, layer: int) -> Block:  # noqa: ARG002 - all are alike
        """Attention, then GeGLU, each on a normalised view of the residual stream."""
        first, normed = self.family == "gemma", self.family == "gemma3"
        attention = Attention(
            self.width,
            self.heads,
            self.kv_heads,
            self.head_dim,
            scale=None if self.query_scale is None else self.query_scale**-0.5,
            softcap=self.score_softcap,
            query_norm=RMSNorm(self.head_dim, self.norm_eps, offset=1.0) if normed else None,
            key_norm=RMSNorm(self.head_dim, self.norm_eps, offset=1.0) if normed else None,
        )
        return Block(
            attention,
            GatedMLP(self.width, self.hidden, self.activation),
            attention_norm=self.norm(),
            attention_out_norm=None if first else self.norm(),
            mlp_norm=self.norm(),
            mlp_out_norm=None if first else self.norm(),
        )

    def norm(self) -> RMSNorm:
        """RMSNorm whose weights are stored as what is added to one."""
        return RMSNorm(self.width, self.norm_eps, offset=1.0)

    def rope(self, layer: int) -> Rope | None:
        """In gemma3 layers with a window have positions of their own."""
        if self.family == "gemma3" and self.window(layer) is not None:
            return Rope(self.head_dim, self.local_rope_base)
        return super().rope(layer)

    def embedding_scale(self) -> float:
        """The root of the width: tied embeddings are small enough for the head, and large enough for the stream."""
        return float(self.width**0.5)

    def final_softcap(self) -> float | None:
        """Logits stay within it."""
        return self.logit_softcap
