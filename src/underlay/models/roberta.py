"""RoBERTa: BERT, trained longer and without segments; its positions begin behind the padding's (arXiv:1907.11692)."""

from typing import ClassVar, Literal

from pydantic import Field

from underlay.models.encoder import EncoderConfig


class RobertaConfig(EncoderConfig):
    """A RoBERTa-type encoder."""

    family: Literal["roberta"] = "roberta"
    """The model family."""
    types: int = Field(default=1, ge=0)
    """Kinds of segment, each with a learned row; 0: none."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Added to the variance before its root is taken."""
    first_position: ClassVar[int] = 2
