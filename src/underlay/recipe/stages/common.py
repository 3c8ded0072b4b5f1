"""What stages have in common."""

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from underlay.adapt.prompting import Task, read_task
from underlay.config import Config

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
TaskSettings = Annotated[Task, BeforeValidator(lambda given: read_task(given) if isinstance(given, str) else given)]
"""A task, or where it stands."""


class Stage(Config):
    """What all stages have."""

    name: Name | None = None
    """Name of the artifact; by default the recipe's."""


class CorporaStage(Stage):
    """What stages have that read one corpus or several."""

    corpus: str | None = None
    """The corpus to read."""
    corpora: dict[Name, str] = Field(default={})
    """Several instead, each under a name of its own: `{code: curated-code, prose: curated-prose}`."""

    @model_validator(mode="after")
    def _some_corpus(self) -> Self:
        if (self.corpus is None) == (not self.corpora):
            raise ValueError("set either corpus or corpora")
        return self
