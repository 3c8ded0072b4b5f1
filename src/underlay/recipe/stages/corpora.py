"""What can be set of gathering, curating and packing text."""

from typing import Literal, Self

from pydantic import Field, model_validator

from underlay.data import (
    ClassifierConfig,
    CurateConfig,
    GatherConfig,
    PackConfig,
    TagConfig,
)
from underlay.recipe.stages.common import CorporaStage, Stage


class GatherStage(Stage, GatherConfig):
    """Read sources into a corpus."""

    verb: Literal["gather"] = "gather"


class TagStage(Stage, TagConfig):
    """Find attributes of a corpus's documents, which decide later what stays."""

    verb: Literal["tag"] = "tag"
    corpus: str
    """The corpus to look at."""


class ClassifierStage(Stage, ClassifierConfig):
    """Learn to tell documents of one kind from others."""

    verb: Literal["classifier"] = "classifier"
    like: str
    """A corpus of what it should find."""
    unlike: str
    """A corpus of other documents."""


class CurateStage(Stage, CurateConfig):
    """Clean a corpus."""

    verb: Literal["curate"] = "curate"
    corpus: str
    """The corpus to clean."""
    attributes: str
    """What was found of its documents."""


class TokenizerStage(CorporaStage):
    """Learn a tokenizer from a corpus, or from several; or take that of a model, for data that it is to read."""

    verb: Literal["tokenizer"] = "tokenizer"
    model: str | None = None
    """The model whose tokenizer is taken, in the place of learning one."""
    vocabulary: int = Field(default=4096, gt=0)
    """Number of token ids."""
    mask: bool = False
    """Whether one of them is the mask, which encoders need to learn."""
    fim: bool = False
    """Whether three of them mark a gap in a text, which decoders need to learn to fill in the middle."""

    @model_validator(mode="after")
    def _some_corpus(self) -> Self:
        if sum((self.corpus is not None, bool(self.corpora), self.model is not None)) != 1:
            raise ValueError("set one of corpus, corpora and model")
        if self.model is not None and (stray := sorted(self.model_fields_set & {"vocabulary", "mask", "fim"})):
            raise ValueError(f"{stray[0]}: a model's tokenizer is taken as it is; leave it out")
        return self


class PackStage(CorporaStage, PackConfig):
    """Encode a corpus into a dataset, or several into its parts."""

    verb: Literal["pack"] = "pack"
    tokenizer: str
    """What to encode it with."""
