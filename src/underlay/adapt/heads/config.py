"""How a head is learned."""

from pydantic import Field

from underlay.config import Config
from underlay.models.pooling import Pooling


class HeadConfig(Config):
    """How a model learns a task from labels, tags, questions, or texts that are alike."""

    several: bool | None = None
    """Whether several labels of a text may hold together; by default wherever an example has not exactly one."""
    frozen: bool = False
    """Learn the head alone, on what the trunk already makes of a text; texts are then read only once, so nothing else
    may change the trunk. Much faster, and often worse."""
    pooler: bool = True
    """Whether a head for texts reads the first position through one more layer, as BERT's does (encoders only);
    otherwise it reads the text's vector, pooled as the model's config says. Other tools know the former alone."""
    stride: int = Field(default=64, ge=0)
    """Tokens that neighbouring windows of a long text share, where answers are looked for."""
    group: int = Field(default=32, ge=2)
    """Pairs of texts that are told apart from each other at once; a row of the run is such a group."""
    teacher_share: float = Field(default=0.5, ge=0, le=1)
    """Of the loss that is a teacher's, where there is one; the rest is the labels' own."""
    teacher_temperature: float = Field(default=2.0, gt=0)
    """What scores are divided by where a teacher shows its own: higher shows more of what it holds for unlikely."""
    temperature: float = Field(default=0.05, gt=0)
    """What the likeness of two texts is divided by; smaller: nearer texts matter more."""
    pooling: Pooling | None = None
    """How a text's vector is made, now and ever after, where texts that are alike are learned (encoders only); by
    default as the model does."""
