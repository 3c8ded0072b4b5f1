"""What can be set of measuring, comparing, tracing and showing."""

from typing import Literal

from pydantic import Field, field_validator

from underlay.adapt.ladder import RungName
from underlay.recipe.stages.common import Name, Stage, TaskSettings


class LadderStage(Stage):
    """Compare ways to adapt models to one task: those that touch no weights are gone here, others were before."""

    verb: Literal["ladder"] = "ladder"
    models: dict[Name, str]
    """The models to adapt, each under a name."""
    trained: dict[Name, str] = Field(default={})
    """What was adapted from them, each under `MODEL.RUNG.SEED`."""
    adapters: dict[Name, str] = Field(default={})
    """The same for adapters."""
    examples: str
    """What was learned from, and what demonstrations are chosen from."""
    test: str
    """Examples that are measured on."""
    task: TaskSettings
    """What is to be done: a task, a YAML file that holds one, or a ready one."""
    rungs: tuple[RungName, ...] = ("majority", "tfidf", "prompt", "few_shot", "chain_of_thought", "self_consistency")
    """The ways to go here."""
    seeds: int = Field(default=3, gt=0)
    """How often ways are gone in which chance plays a part."""
    shots: int = Field(default=8, gt=0)
    """Demonstrations of a prompt."""
    votes: int = Field(default=5, gt=1)
    """Answers that vote, for self-consistency."""
    limit: int | None = Field(default=None, gt=0)
    """Measure on so many of the test's examples, chosen by their hashes."""
    left_out: dict[str, str] = Field(default={})
    """Ways that are not gone, and why; for who reads the report."""


class EvaluateStage(Stage):
    """Measure a base model, and what was adapted from it, on held-out documents."""

    verb: Literal["evaluate"] = "evaluate"
    base: str
    """The base model."""
    models: dict[Name, str] = Field(min_length=1)
    """What was made of it, step after step, each by the name that it is told of under: `{adapted: adapt}`."""
    corpus: str
    """The corpus that the models' dataset was packed from; of several, the one whose held-out documents are scored."""
    max_bytes: int = Field(default=1_000_000, gt=0)
    """Held-out text to score at most."""
    functions: int = Field(default=48, ge=0)
    """Function bodies to sample from each model."""
    max_tokens: int = Field(default=128, gt=0)
    """Longest sampled body."""

    @field_validator("models")
    @classmethod
    def _beside_the_base(cls, models: dict[str, str]) -> dict[str, str]:
        if "base" in models:
            raise ValueError("base: that is the base model; give it another name")
        return models


class TraceStage(Stage):
    """Index a dataset, so that texts can be traced to the documents they stand in."""

    verb: Literal["trace"] = "trace"
    dataset: str
    """The dataset to index."""


class ReportStage(Stage):
    """Show it all on one page."""

    verb: Literal["report"] = "report"
    raw: str
    """The corpus as it was gathered."""
    corpus: str
    """The corpus as it was curated."""
    base: str
    """The base model."""
    evaluation: str
    """What was measured of it and of what was made of it, which are shown as well."""
    index: str
    """The trace index."""
    prompts: tuple[str, ...] = ()
    """Texts for the base model to complete, and to be traced; by default three beginnings of held-out documents."""
    max_tokens: int = Field(default=96, gt=0)
    """Longest completion."""
