"""What can be set in each stage of a recipe. Inputs are names of other stages, or references into the library."""

from typing import Annotated

from pydantic import Field

from underlay.recipe.stages.adapting import AdaptStage, AnswerStage, ExamplesStage, MergeStage
from underlay.recipe.stages.common import CorporaStage, Name, Stage, TaskSettings
from underlay.recipe.stages.corpora import (
    ClassifierStage,
    CurateStage,
    GatherStage,
    PackStage,
    TagStage,
    TokenizerStage,
)
from underlay.recipe.stages.growing import PretrainStage, QuantiseStage
from underlay.recipe.stages.showing import EvaluateStage, LadderStage, ReportStage, TraceStage

AnyStage = Annotated[
    GatherStage
    | TagStage
    | ClassifierStage
    | CurateStage
    | TokenizerStage
    | PackStage
    | ExamplesStage
    | AnswerStage
    | PretrainStage
    | AdaptStage
    | MergeStage
    | LadderStage
    | QuantiseStage
    | EvaluateStage
    | TraceStage
    | ReportStage,
    Field(discriminator="verb"),
]

__all__ = [
    "AdaptStage",
    "AnswerStage",
    "AnyStage",
    "ClassifierStage",
    "CorporaStage",
    "CurateStage",
    "EvaluateStage",
    "ExamplesStage",
    "GatherStage",
    "LadderStage",
    "MergeStage",
    "Name",
    "PackStage",
    "PretrainStage",
    "QuantiseStage",
    "ReportStage",
    "Stage",
    "TagStage",
    "TaskSettings",
    "TokenizerStage",
    "TraceStage",
]
