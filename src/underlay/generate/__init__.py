"""Every token that Underlay generates comes from one engine; it also scores the tokens of given texts.

`Engine(model, tokenizer).generate([Request(prompt, ...)])` answers a batch; `submit` and `step` serve requests that
come and go; `score` gives log-probabilities for evaluation.
"""

from underlay.generate.engine import Engine
from underlay.generate.request import (
    Answer,
    Constraint,
    ContextLengthError,
    ParameterError,
    Request,
    Sampling,
    TokenLogprob,
)
from underlay.generate.sequence import Handle, Reply, TokenEvent
from underlay.generate.serving import ServingEngine
from underlay.models.adapter import Adapter

__all__ = [
    "Adapter",
    "Answer",
    "Constraint",
    "ContextLengthError",
    "Engine",
    "Handle",
    "ParameterError",
    "Reply",
    "Request",
    "Sampling",
    "ServingEngine",
    "TokenEvent",
    "TokenLogprob",
]
