"""What the engine takes and gives: a request is a prompt and how to continue it, an answer is the continuation.

Both are plain data. A request checks its own values when it is made, so that nothing out of range ever reaches the
engine; what depends on the model (its context, its vocabulary, its adapters) the engine checks when it is handed in.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from underlay.errors import UserError

FinishReason = Literal["stop", "length", "cancelled", "failed"]

MOST_LOGPROBS = 20
MOST_BIAS = 100.0
"""As in OpenAI's API: enough to force a token or to rule it out."""
MOST_REPETITION = 1000.0
"""More changes nothing, and would leave the range of float32 sooner or later."""
MOST_STOP = 65_536
"""Characters of all stop strings together: each is a place in memory."""


class ParameterError(UserError):
    """A request cannot be honoured; `parameter` names the field at fault."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(f"{parameter}: {message}")
        self.parameter = parameter


class ContextLengthError(ParameterError):
    """Prompt and answer together do not fit into the model's context."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the model's distribution.

    In this order: bias, penalties, what the grammar allows, temperature, top-k, top-p, typical, min-p.
    """

    temperature: float = 1.0
    """Divides the logits; 0 always takes the most likely token."""
    top_k: int | None = None
    """Keep this many of the most likely tokens; None keeps all."""
    top_p: float = 1.0
    """Keep the most likely tokens until their probabilities sum to this much (arXiv:1904.09751); at least one stays."""
    typical: float = 1.0
    """Keep the tokens whose surprise is nearest to what is expected, up to this much mass (arXiv:2202.00666)."""
    min_p: float = 0.0
    """Keep the tokens at least this fraction as likely as the most likely one (arXiv:2407.01082)."""
    repetition: float = 1.0
    """Divides positive logits, multiplies negative ones, of tokens in prompt or answer (CTRL, arXiv:1909.05858)."""
    presence: float = 0.0
    """Taken from the logit of every token that is in the answer already."""
    frequency: float = 0.0
    """Taken from the logit of a token once for each time it is in the answer already."""
    bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these ids; -100 rules one out, 100 forces it."""
    seed: int = 0
    """Same request, same seed: same tokens."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ParameterError("temperature", f"{self.temperature} is not a number of 0 or more")
        if self.top_k is not None:
            _whole("top_k", self.top_k)
            if self.top_k < 1:
                raise ParameterError("top_k", f"{self.top_k} is below 1; leave it out to keep all tokens")
        for name in ("top_p", "typical", "min_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(name, f"{getattr(self, name)} is not between 0 and 1")
        if not 1 / MOST_REPETITION <= self.repetition <= MOST_REPETITION:
            between = f"between {1 / MOST_REPETITION:g} and {MOST_REPETITION:g}"
            raise ParameterError("repetition", f"{self.repetition} is not {between}; 1 changes nothing")
        for name in ("presence", "frequency"):
            if not -2 <= getattr(self, name) <= 2:
                raise ParameterError(name, f"{getattr(self, name)} is not between -2 and 2")
        if not all(abs(value) <= MOST_BIAS for value in self.bias.values()):
            raise ParameterError("bias", f"holds a value outside -{MOST_BIAS:g}..{MOST_BIAS:g}")
        _whole("seed", self.seed)

    @property
    def greedy(self) -> bool:
        """Whether no chance is involved."""
        return self.temperature == 0

    @property
    def restricted(self) -> bool:
        """Whether unlikely tokens are left out, which needs the tokens in order of likelihood."""
        return self.top_k is not None or self.top_p < 1 or self.min_p > 0 or self.typical < 1

    @property
    def reshaped(self) -> bool:
        """Whether logits change before a token is chosen."""
        return bool(self.bias) or self.repetition != 1 or self.presence != 0 or self.frequency != 0


@dataclass(frozen=True)
class Constraint:
    """What an answer must look like; exactly one of the three is given."""

    json_schema: str | None = None
    """A JSON Schema, as JSON."""
    regex: str | None = None
    """A regular expression, in Rust's syntax, that the whole answer matches."""
    choices: tuple[str, ...] | None = None
    """The answer is one of these."""

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.json_schema, self.regex, self.choices)) != 1:
            raise ParameterError("constraint", "give one of json_schema, regex and choices")
        if self.choices is not None and not (self.choices and all(self.choices)):
            raise ParameterError("constraint", "choices need texts, and none may be empty")


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
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens, from the second on; a prompt is then read anew, remembered or not."""
    constraint: Constraint | None = None
    """What the answer must look like."""
    adapter: str | None = None
    """The adapter (see `Engine.add_adapter`) that answers; None: the model as it is."""
    salt: str = ""
    """Prompts are remembered, and found again, among requests of the same salt alone."""
    truncate: bool = False
    """Leave out the beginning of a prompt that is too long, and say so in the answer; otherwise it is an error."""

    def __post_init__(self) -> None:
        if len(self.prompt) == 0:
            raise ParameterError("prompt", "is empty; it needs at least one token, such as BOS")
        _whole("max_tokens", self.max_tokens)
        if self.max_tokens < 1:
            raise ParameterError("max_tokens", f"{self.max_tokens} is below 1")
        if not all(self.stop):
            raise ParameterError("stop", "holds an empty string, which stands everywhere")
        if (length := sum(map(len, self.stop))) > MOST_STOP:
            raise ParameterError("stop", f"{length} characters of stop strings are more than the {MOST_STOP} allowed")
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= MOST_LOGPROBS:
                raise ParameterError(name, f"{value} is not between 0 and {MOST_LOGPROBS}")

    def choices(self, count: int) -> list["Request"]:
        """The same request `count` times, with seeds one apart; what they share is read once."""
        return [
            replace(self, sampling=replace(self.sampling, seed=self.sampling.seed + index)) for index in range(count)
        ]


def _whole(name: str, value: int) -> None:
    if not isinstance(value, int):
        raise ParameterError(name, f"{value!r} is not a whole number of Python's own")


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
    """Tokens of the prompt that were read, or found in memory."""
    logprobs: list[TokenLogprob] | None = None
    """One for each of `ids`, if asked for."""
    prompt_logprobs: list[TokenLogprob] | None = None
    """One for each token of the prompt from the second on, if asked for."""
    cached_tokens: int = 0
    """Tokens of the prompt that did not have to be read again."""
    truncated_tokens: int = 0
    """Tokens left out at the beginning of the prompt, where the request allowed it."""
    error: str | None = None
    """Why the answer failed, where `finish` is "failed"."""
