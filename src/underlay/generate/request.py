"""What the engine takes and gives: a request is a prompt and how to continue it, an answer is the continuation.

Both are plain data. A request checks its own values when it is made, so that nothing out of range ever reaches the
engine; what depends on the model (its context, its vocabulary) the engine checks when the request is handed in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from underlay.errors import UserError

FinishReason = Literal["stop", "length", "cancelled"]

MOST_LOGPROBS = 20


class ParameterError(UserError):
    """A request cannot be honoured; `parameter` names the field at fault."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(f"{parameter}: {message}")
        self.parameter = parameter


class ContextLengthError(ParameterError):
    """Prompt and answer together do not fit into the model's context."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the model's distribution: temperature, then top-k, top-p and min-p in turn."""

    temperature: float = 1.0
    """Divides the logits; 0 always takes the most likely token."""
    top_k: int | None = None
    """Keep this many of the most likely tokens; None keeps all."""
    top_p: float = 1.0
    """Keep the most likely tokens until their probabilities sum to this much (arXiv:1904.09751); at least one stays."""
    min_p: float = 0.0
    """Keep the tokens at least this fraction as likely as the most likely one (arXiv:2407.01082)."""
    seed: int = 0
    """Same request, same seed: same tokens."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ParameterError("temperature", f"{self.temperature} is not a number of 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise ParameterError("top_k", f"{self.top_k} is below 1; leave it out to keep all tokens")
        if not 0 <= self.top_p <= 1:
            raise ParameterError("top_p", f"{self.top_p} is not between 0 and 1")
        if not 0 <= self.min_p <= 1:
            raise ParameterError("min_p", f"{self.min_p} is not between 0 and 1")

    @property
    def greedy(self) -> bool:
        """Whether no chance is involved."""
        return self.temperature == 0

    @property
    def restricted(self) -> bool:
        """Whether unlikely tokens are left out, which needs the tokens in order of likelihood."""
        return self.top_k is not None or self.top_p < 1 or self.min_p > 0


@dataclass(frozen=True)
class Request:
    """A prompt, and how to continue it."""

    prompt: Sequence[int]
    """Token ids, at least one; text usually starts with BOS."""
    max_tokens: int = 128
    """Longest answer, in tokens; prompt and answer together must fit into the model's context."""
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    """Strings before which the answer ends; no part of them is ever emitted."""
    stop_ids: frozenset[int] | None = None
    """Token ids that end the answer; None: the tokenizer's EOS and END."""
    logprobs: int | None = None
    """How many alternatives to report for each token; 0 reports the chosen token alone, None nothing."""

    def __post_init__(self) -> None:
        if len(self.prompt) == 0:
            raise ParameterError("prompt", "is empty; it needs at least one token, such as BOS")
        if self.max_tokens < 1:
            raise ParameterError("max_tokens", f"{self.max_tokens} is below 1")
        if not all(self.stop):
            raise ParameterError("stop", "holds an empty string, which stands everywhere")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            raise ParameterError("logprobs", f"{self.logprobs} is not between 0 and {MOST_LOGPROBS}")


@dataclass(frozen=True)
class TokenLogprob:
    """How likely the model itself (before temperature and the like) held a token, in nats."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The most likely ids and their log-probabilities, best first."""


@dataclass(frozen=True)
class Answer:
    """What a request led to."""

    ids: list[int]
    """Every token that was generated, the one that ended the answer included."""
    text: str
    """Their text, up to where a stop string began."""
    finish: FinishReason
    prompt_tokens: int
    logprobs: list[TokenLogprob] | None = None
    """One for each of `ids`, if asked for."""
