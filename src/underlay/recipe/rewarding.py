"""Which reward a stage names: a function, a reward model, or a judge with its rubric."""

import torch

from underlay.adapt.reinforce import ModelReward, Reward, named
from underlay.adapt.reinforce.judging import JudgeReward, read_rubric
from underlay.library import Artifact
from underlay.models.storage import load_decoder
from underlay.text import Tokenizer


def reward_of(reward: str | None, model: Artifact | None, rubric: str | None, dtype: torch.dtype) -> Reward:
    """The reward of a name; or what a model says of answers, by a rubric or by the head that it learned for it.

    Raises UserError where a name or a rubric means nothing.
    """
    if model is None:
        return named(str(reward))
    judge, tokenizer = load_decoder(model.folder), Tokenizer.load(model.folder)
    if rubric is None:
        return ModelReward(judge, tokenizer, dtype)
    return JudgeReward(judge, tokenizer, read_rubric(rubric), dtype)
