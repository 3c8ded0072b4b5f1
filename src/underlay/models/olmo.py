"""OLMo: a Llama whose norms moved. The first has LayerNorm without weights (arXiv:2402.00838); the second normalises
what is added to the residual stream, and queries and keys (arXiv:2501.00656); the third also slides its windows
(arXiv:2512.13961)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from underlay.models.decoder import WindowedConfig
from underlay.models.parts import Attention, Block, GatedMLP, LayerNorm, RMSNorm, Rope


class OLMoConfig(WindowedConfig):
    """A decoder of OLMo's first, second or third generation."""

    family: Literal["olmo", "olmo2", "olmo3"] = "olmo2"
    """The model family; windows came with olmo3, whose rotary positions are stretched only in layers without one."""
    clip: float | None = Field(default=None, gt=0)
    """olmo: queries, keys and values are cut to it."""

    @model_validator(mode="after")
    def _generation(self) -> Self:
        if self.clip is not None and self.family != "olmo":
            raise ValueError(f"clip: {self.family} does not cut its queries, keys and values")
        if self.family == "olmo" and self.mup_width and self.tied:
            raise ValueError(
                "mup_width: olmo's norm has no weights to divide the logits of a tied head; set tied: false"
            )
        if (self.sliding_window or self.full_layers) and self.family != "olmo3":
            raise ValueError(f"sliding_window, full_layers: {self.family} has no windows")
        return self

    def block(self, layer: int) -> Block:  # noqa: ARG002 - all are alike
        """Attention, then SwiGLU, normalised before (olmo) or after (later ones)."""
        mlp = GatedMLP(self.width, self.hidden, "silu")
        if self.family == "olmo":
            attention = Attention(self.width, self.heads, self.kv_heads, self.head_dim, clip=self.clip)
            return Block(attention, mlp, attention_norm=self.norm(), mlp_norm=self.norm())
        attention = Attention(
            self.width,
            self.heads,
            self.kv_heads,
            self.head_dim,
            query_norm=RMSNorm(self.heads * self.head_dim, self.norm_eps),
            key_norm=RMSNorm(self.kv_heads * self.head_dim, self.norm_eps),
        )
        return Block(attention, mlp, attention_out_norm=self.norm(), mlp_out_norm=self.norm())

    def norm(self) -> LayerNorm | RMSNorm:
        """LayerNorm without weights in the first generation, RMSNorm since."""
        if self.family == "olmo":
            return LayerNorm(self.width, self.norm_eps, learned=False)
        return RMSNorm(self.width, self.norm_eps)

    def rope(self, layer: int) -> Rope:
        """Stretched only where a layer sees everything."""
        scaling = self.rope_scaling if self.window(layer) is None else None
        return Rope(self.head_dim, self.rope_base, scaling, self.context)
