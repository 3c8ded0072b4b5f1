"""What a model learns to withstand, and what it is attacked by."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from underlay.config import Config

Wording = Literal["spelling", "paraphrase"]
"""What is done to texts."""
Kind = Literal["spelling", "paraphrase", "gradient"]
"""That, and what is done to the embeddings of their tokens."""
KINDS: tuple[Kind, ...] = ("spelling", "paraphrase", "gradient")


class _Harm(Config):
    kinds: tuple[Kind, ...] = Field(min_length=1)
    """`spelling`, `paraphrase`, `gradient`."""
    share: float = Field(default=0.15, gt=0, le=1)
    """Of the words of at least four letters that are misspelled; at least one is."""
    first_letters: bool = False
    """Whether first letters may be misspelled; people read by them."""
    epsilon: float = Field(default=0.1, gt=0)
    """How far a text's embeddings are moved, as a share of their own length."""
    ascents: int = Field(default=1, gt=0)
    """Steps in which they are moved: 1 along the gradient (FGM); more with a fresh gradient each (PGD)."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds: name each once")
        return self

    @property
    def wordings(self) -> tuple[Wording, ...]:
        """The kinds that are done to texts."""
        return tuple(kind for kind in self.kinds if kind != "gradient")


class RobustConfig(_Harm):
    """Learn from harmed inputs beside the clean ones."""

    weight: float = Field(default=1.0, gt=0)
    """How much the loss of moved embeddings counts beside that of the clean ones."""


class AttackConfig(_Harm):
    """How a model is attacked, to measure how it holds up."""

    tries: int = Field(default=8, gt=0)
    """Misspellings of a word that are tried, and paraphrases of a text."""
    texts: int | None = Field(default=500, gt=0)
    """How many held-out texts are attacked at most, evenly spaced among them; null: all."""


def _long(given: Any) -> Any:
    """Kinds alone, or one, in the place of settings."""
    given = [given] if isinstance(given, str) else given
    return {"kinds": given} if isinstance(given, list | tuple) else given


RobustSettings = Annotated[RobustConfig | None, BeforeValidator(_long)]
AttackSettings = Annotated[AttackConfig | None, BeforeValidator(_long)]
"""Settings, or the names of kinds alone."""
