"""How a task is put to a model."""

from typing import Literal, Self

from pydantic import Field, model_validator

from underlay.adapt.prompting.scoring import Normalisation
from underlay.adapt.prompting.selecting import Selector
from underlay.adapt.prompting.writing import Style
from underlay.config import Config

Reasoning = Literal["none", "worked", "step_by_step", "least_to_most"]


class PromptSettings(Config):
    """What is shown before an input, and how an answer is found."""

    shots: int | None = Field(default=None, ge=0)
    """How many demonstrations are shown; by default as the task says."""
    selector: Selector = "fixed"
    """Which: the first, some by chance, as many of each label, or those nearest to the input."""
    orders: int = Field(default=1, gt=0)
    """In how many orders they are shown; probabilities of labels are averaged, other answers vote."""
    normalise: Normalisation = "sum"
    """Whether labels are compared by the sum or by the mean of their tokens' log-probabilities."""
    calibrate: tuple[str, ...] = ()
    """Inputs free of content, such as `[N/A, "[MASK]", ""]`, by which labels are made equally likely."""
    reasoning: Reasoning = "none"
    """`worked`: demonstrations show the way to their answers (arXiv:2201.11903); `step_by_step`: the model is led to
    think, then asked for the answer (arXiv:2205.11916); `least_to_most`: it first names simpler questions, then answers
    them in turn (arXiv:2205.10625). Look at the direct answers as well: small models often do better without."""
    direct: bool = True
    """Where answers are reasoned for: whether those without are given beside them."""
    votes: int = Field(default=1, gt=0)
    """How many answers are sampled, of which the most frequent is taken (self-consistency, arXiv:2203.11171)."""
    temperature: float | None = Field(default=None, ge=0)
    """By default the task's; where answers vote and that is 0, 0.7."""
    reasoning_tokens: int = Field(default=256, gt=0)
    """Longest chain of thought, in tokens."""
    too_long: Literal["refuse", "leave"] = "refuse"
    """What is done with an input that does not fit into the model's context: nothing is answered at all, or it gets no
    answer."""
    constrained: bool = True
    """Keep answers to the form that the task asks for, where it is not text."""
    style: Style | None = None
    """`conversation`, or `text` for models that only write on; by default a conversation where the tokenizer can."""
    seed: int = Field(default=0, ge=0)
    """Of all chance."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.votes > 1 and self.temperature == 0:
            raise ValueError("votes: at temperature 0 all would be alike; raise temperature")
        if self.votes > 1 and self.calibrate:
            raise ValueError("calibrate: probabilities of labels are calibrated, votes are not; leave one of them out")
        if self.calibrate and self.reasoning != "none":
            raise ValueError("calibrate: an answer found by reasoning has no probabilities to calibrate")
        return self
