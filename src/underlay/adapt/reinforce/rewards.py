"""What an answer is worth: rewards by name, a function of one's own, or a reward model (and a judge, in `judging`)."""

import importlib.util
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from underlay.adapt.examples import Problem
from underlay.adapt.preference.reward import score
from underlay.adapt.reinforce import checks
from underlay.errors import UserError
from underlay.models import Decoder
from underlay.text import Tokenizer


class Reward(Protocol):
    """Says what an answer to a problem is worth."""

    def __call__(self, problem: Problem, answer: str, /) -> float | None:
        """A number, higher for better answers; None where it cannot be told, which is not the same as 0.

        It must follow from the two alone: a run that goes on may ask again.
        """


REWARDS: Mapping[str, Reward] = {
    "parses": checks.parses,
    "signature": checks.signature,
    "resembles": checks.resembles,
    "matches": checks.matches,
    "length": checks.length,
}


class ByModel(ABC):
    """A reward that a model computes, of many answers at once."""

    @property
    @abstractmethod
    def model(self) -> Decoder:
        """The model."""

    @property
    def terms(self) -> bytes:
        """What rewards follow from beside the model's weights."""
        return b""

    @abstractmethod
    def many(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[float | None]:
        """The reward of each answer, in a few passes."""

    def __call__(self, problem: Problem, answer: str, /) -> float | None:
        """The same of one."""
        return self.many([problem], [answer])[0]


@dataclass(frozen=True)
class ModelReward(ByModel):
    """What a model that learned from preferences says of an answer (see `adapt.preference.reward`)."""

    learned: Decoder
    tokenizer: Tokenizer
    dtype: torch.dtype = torch.float32

    @property
    def model(self) -> Decoder:
        """The reward model."""
        return self.learned

    def many(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[float | None]:
        """Raises UserError as `score` does."""
        prompts = [problem.prompt for problem in problems]
        return [*score(self.learned, self.tokenizer, prompts, answers, self.dtype)]


def named(reward: str) -> Reward:
    """The reward of a name, or of `path/to/file.py:function`, which is imported here, since the user named it.

    Raises UserError where there is none.
    """
    if reward in REWARDS:
        return REWARDS[reward]
    path, colon, name = reward.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise UserError(f"reward: there is no {reward!r}; take {', '.join(REWARDS)}, or path/to/file.py:function")
    return _Own(reward, _imported(Path(path), name))


def content(reward: str) -> bytes:
    """What a reward's figures follow from: its name, and the bytes of its file where it has one."""
    path = Path(reward.rpartition(":")[0])
    return reward.encode() + (path.read_bytes() if reward not in REWARDS and path.is_file() else b"")


def rewards(reward: Reward, problems: Sequence[Problem], answers: Sequence[str]) -> torch.Tensor:
    """Of each answer: (answers,) float32, NaN where it cannot be told.

    Raises UserError where a reward is no number, or not a finite one.
    """
    if isinstance(reward, ByModel):
        found = reward.many(problems, answers)
    else:
        found = [reward(problem, answer) for problem, answer in zip(problems, answers, strict=True)]
    for one, answer in zip(found, answers, strict=True):
        if one is not None and not (isinstance(one, int | float | np.floating) and math.isfinite(one)):
            raise UserError(f"the reward of {answer[:40]!r} is {one!r}; give a finite number, or None")
    return torch.tensor([math.nan if one is None else float(one) for one in found])


@dataclass(frozen=True)
class _Own:
    """A user's function; what goes wrong in it is told as theirs."""

    name: str
    function: Callable[[Problem, str], float | None]

    def __call__(self, problem: Problem, answer: str) -> float | None:
        try:
            return self.function(problem, answer)
        except Exception as error:
            raise UserError(
                f"reward {self.name} fails on the answer {answer[:40]!r}: {type(error).__name__}: {error}; mend it, or "
                "let it return None"
            ) from error


def _imported(path: Path, name: str) -> Callable[[Problem, str], float | None]:
    if not path.is_file():
        raise UserError(f"reward: {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"reward_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"reward: {path} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"reward: {path} has no function {name!r}")
    found: Callable[[Problem, str], float | None] = function
    return found
