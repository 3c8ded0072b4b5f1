"""The one block: attention, then an MLP, each added to the residual stream."""

from torch import Tensor, nn

from underlay.models.parts.attention import Attention, LayerCache
from underlay.models.parts.rope import Rotation


class Block(nn.Module):
    """Attention, then MLP. Which norms there are, and where, is what families differ in.

        pre-norm   x + attention(norm(x))              GPT-2, Llama: `attention_norm`
        sandwich   x + norm(attention(norm(x)))        Gemma 2 and 3: also `attention_out_norm`; OLMo 2: only that
        post-norm  norm(x + attention(x))              BERT: `attention_out_norm`, with `post_norm`

    and the same with the MLP (arXiv:2002.04745 compares pre- and post-norm).
    """

    def __init__(
        self,
        attention: Attention,
        mlp: nn.Module,
        *,
        attention_norm: nn.Module | None = None,
        attention_out_norm: nn.Module | None = None,
        mlp_norm: nn.Module | None = None,
        mlp_out_norm: nn.Module | None = None,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        self.attention_norm, self.attention, self.attention_out_norm = attention_norm, attention, attention_out_norm
        self.mlp_norm, self.mlp, self.mlp_out_norm = mlp_norm, mlp, mlp_out_norm
        self.post_norm = post_norm

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """x: (batch, time, width); returns the same shape. The others are those of `Attention`."""
        inner = x if self.attention_norm is None else self.attention_norm(x)
        x = self._add(x, self.attention(inner, rotation, mask, cache), self.attention_out_norm)
        inner = x if self.mlp_norm is None else self.mlp_norm(x)
        return self._add(x, self.mlp(inner), self.mlp_out_norm)

    def _add(self, x: Tensor, change: Tensor, norm: nn.Module | None) -> Tensor:
        if norm is None:
            return x + change
        return norm(x + change) if self.post_norm else x + norm(change)
