"""Every token that Underlay generates comes from one engine; it also scores the tokens of given texts.

`Engine(model, tokenizer).generate([Request(prompt, ...)])` answers a batch; `submit` and `step` serve requests that
come and go; `score` gives log-probabilities for evaluation.
"""

from underlay.generate.engine import Engine, Handle, TokenEvent
from underlay.generate.request import Answer, ContextLengthError, ParameterError, Request, Sampling, TokenLogprob

__all__ = [
    "Answer",
    "ContextLengthError",
    "Engine",
    "Handle",
    "ParameterError",
    "Request",
    "Sampling",
    "TokenEvent",
    "TokenLogprob",
]
