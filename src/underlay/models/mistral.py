"""Mistral and Mixtral: Llama with a sliding window (arXiv:2310.06825) and, in Mixtral, experts (arXiv:2401.04088)."""

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import nn

from underlay.models.decoder import WindowedConfig
from underlay.models.parts import Attention, Block, Experts, GatedMLP


class MistralConfig(WindowedConfig):
    """A Mistral-type decoder."""

    family: Literal["mistral"] = "mistral"
    """The model family."""
    experts: int | None = Field(default=None, gt=1)
    """MLPs in a block, of which each position uses some; by default there is one, for all."""
    experts_chosen: int = Field(default=2, gt=0)
    """MLPs that each position uses."""
    experts_balance: float = Field(default=0.001, ge=0)
    """Weight of the loss that keeps all experts in use."""

    @model_validator(mode="after")
    def _enough_experts(self) -> Self:
        if self.experts and self.experts_chosen > self.experts:
            raise ValueError(f"experts_chosen: {self.experts_chosen} of {self.experts} cannot be chosen")
        return self

    def block(self, layer: int) -> Block:  # noqa: ARG002 - all are alike
        """Attention, then SwiGLU or a mixture of them, each on a normalised view of the residual stream."""
        return Block(
            Attention(self.width, self.heads, self.kv_heads, self.head_dim),
            self._mlp(),
            attention_norm=self.norm(),
            mlp_norm=self.norm(),
        )

    def _mlp(self) -> nn.Module:
        if self.experts is None:
            return GatedMLP(self.width, self.hidden, "silu")
        return Experts(self.width, self.hidden, "silu", self.experts, self.experts_chosen, self.experts_balance)
