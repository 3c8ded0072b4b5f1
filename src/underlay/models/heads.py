"""Heads: what a model says of a text, or of its tokens, once it is adapted to a task.

text    one score a label for the whole text: classes, several labels at once, or a number
token   one score a label for each token, such as the kinds of names (BERT, arXiv:1810.04805, section 5.3)
span    two scores for each token: whether an answer begins, or ends, there (arXiv:1606.05250)
"""

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from underlay.config import Config
from underlay.models.parts import Linear
from underlay.models.pooling import Pooling, pool

SPAN_LABELS = ("start", "end")


class TaskConfig(Config):
    """What a head tells apart."""

    kind: Literal["text", "token", "span"]
    """Of what the head speaks."""
    labels: tuple[str, ...] = Field(default=(), max_length=100_000)
    """Names of the scores, in their order; one label for a number. `span` has its own."""
    several: bool = False
    """Whether several labels of a text may hold together, each by itself; of `text`."""
    mean: float = 0.0
    """Of a number: what is added to the head's output, the mean of what it learned from."""
    scale: float = Field(default=1.0, gt=0)
    """Of a number: what the head's output is multiplied by first, the standard deviation of what it learned from."""

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        if self.kind == "span" and self.labels:
            raise ValueError("labels: a span has start and end")
        if self.kind != "span" and (not self.labels or len(set(self.labels)) < len(self.labels)):
            raise ValueError("labels: name at least one, and each once")
        if self.several and self.kind != "text":
            raise ValueError(f"several: of texts alone, not of a {self.kind}")
        if (self.mean, self.scale) != (0, 1) and not self.number:
            raise ValueError("mean, scale: of a number alone, a text with one label")
        return self

    @property
    def number(self) -> bool:
        """Whether the score is a number, not a choice."""
        return self.kind == "text" and len(self.labels) == 1 and not self.several

    @property
    def scores(self) -> int:
        """How many scores there are."""
        return len(self.labels or SPAN_LABELS)


class TaskHead(nn.Module):
    """Scores from states."""

    def __init__(self, config: TaskConfig, width: int, pooling: Pooling, bias: bool = True) -> None:
        super().__init__()
        self.config, self.pooling = config, pooling
        self.output = Linear(width, config.scores, bias)

    def forward(self, hidden: Tensor, present: Tensor, pooled: Tensor | None = None) -> Tensor:
        """Scores (batch, labels) of texts, (batch, time, labels) of tokens.

        hidden: (batch, time, width); present: (batch, time) bool, True where a token is real; pooled: (batch, width),
        where the model has a pooler of its own.
        """
        if self.config.kind != "text":
            return self.output(hidden)
        if pooled is None:
            pooled = pool(hidden, present, self.pooling, normalised=False).to(hidden.dtype)
        scores = self.output(pooled)
        if self.config.number:
            return scores.float() * self.config.scale + self.config.mean
        return scores
