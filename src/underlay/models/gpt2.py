"""GPT-2: a pre-norm decoder with learned positions, LayerNorm and biases (Radford et al. 2019)."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from underlay.models.config import plain_hidden
from underlay.models.decoder import DecoderConfig
from underlay.models.parts import MLP, Activation, Attention, Block, LayerNorm


class GPT2Config(DecoderConfig):
    """A GPT-2-type decoder."""

    family: Literal["gpt2"] = "gpt2"
    """The model family."""
    hidden: int = Field(default_factory=plain_hidden, gt=0)
    """Channels inside the MLP."""
    activation: Activation = "gelu_tanh"
    """What bends the MLP's inner channels."""
    scale_by_layer: bool = False
    """Divide the scores of the n-th layer by n."""
    learned_positions: ClassVar[bool] = True

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kv_heads != self.heads or self.head_dim * self.heads != self.width:
            raise ValueError("kv_heads, head_dim: gpt2 has as many key-value heads as heads, which share its width")
        return self

    def block(self, layer: int) -> Block:
        """Attention, then MLP, each on a normalised view of the residual stream."""
        scale = self.head_dim**-0.5 / (layer + 1) if self.scale_by_layer else None
        return Block(
            Attention(self.width, self.heads, self.heads, self.head_dim, bias=True, output_bias=True, scale=scale),
            MLP(self.width, self.hidden, self.activation, bias=True),
            attention_norm=self.norm(),
            mlp_norm=self.norm(),
        )

    def norm(self) -> LayerNorm:
        """Scale to mean zero and variance one."""
        return LayerNorm(self.width, self.norm_eps)
