"""How likely a model holds each label of a task, and how that is made fair.

A label is several tokens, and its log-probability their sum. Labels that begin alike share tokens, and all of them
share the prompt, so what is asked for is every edge of a tree of tokens behind the prompt: the engine finds the
prompt's keys and values in its memory and reads little more than one token an edge.

Models prefer some labels whatever the input says. Contextual calibration (arXiv:2102.09690) asks for the probabilities
q of the labels where the input is free of content, such as "N/A", and divides: p'(label) is p(label) / q(label), made
to sum to 1. Then a content-free input is undecided.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from underlay.generate import Engine, Request, Sampling
from underlay.generate.request import MOST_BIAS
from underlay.progress import Progress, silent

Normalisation = Literal["sum", "mean"]
_AT_ONCE = 4096
"""Requests that are held at once."""


def log_probabilities(
    engine: Engine, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], progress: Progress = silent
) -> Tensor:
    """Log-probability, in nats, of each answer's tokens after each prompt: (prompts, answers) float64."""
    edges = sorted({(tuple(ids[:depth]), ids[depth]) for ids in answers for depth in range(len(ids))}, key=_by_depth)
    number = {edge: place for place, edge in enumerate(edges)}
    paths = [[number[tuple(ids[:depth]), ids[depth]] for depth in range(len(ids))] for ids in answers]
    found = torch.zeros(len(prompts), len(answers), dtype=torch.float64)
    step = max(_AT_ONCE // len(edges), 1)
    for start in range(0, len(prompts), step):
        asked = [(prompt, edge) for prompt in prompts[start : start + step] for edge in edges]
        told = torch.tensor(_edges(engine, asked), dtype=torch.float64).view(-1, len(edges))
        for place, path in enumerate(paths):
            found[start : start + step, place] = told[:, path].sum(-1)
        progress(min(start + step, len(prompts)), len(prompts))
    return found


def probabilities(scores: Tensor, lengths: Sequence[int], normalise: Normalisation = "sum") -> Tensor:
    """Scores (..., labels) in nats to probabilities; `mean`: of a token, so that long labels are not at a loss."""
    if normalise == "mean":
        scores = scores / torch.tensor(lengths, dtype=scores.dtype)
    return scores.softmax(-1)


def calibrated(found: Tensor, free: Tensor) -> Tensor:
    """Probabilities (..., labels), given those of content-free inputs (inputs, labels), whose mean is taken."""
    scaled = found / free.mean(0).clamp(min=torch.finfo(free.dtype).tiny)
    return scaled / scaled.sum(-1, keepdim=True)


def _edges(engine: Engine, asked: Sequence[tuple[Sequence[int], tuple[tuple[int, ...], int]]]) -> list[float]:
    """Log-probabilities of one token each; the engine is made to take it, and tells what it thinks of it."""
    requests = [
        Request(
            [*prompt, *before],
            max_tokens=1,
            sampling=Sampling(temperature=0, bias={token: MOST_BIAS}),
            stop_ids=frozenset(),
            logprobs=0,
        )
        for prompt, (before, token) in asked
    ]
    found = []
    for (prompt, (before, token)), answer in zip(asked, engine.generate(requests), strict=True):
        if answer.ids == [token]:
            assert answer.logprobs is not None
            found.append(answer.logprobs[0].logprob)
        else:  # so unlikely that no bias is enough
            found.append(float(engine.score([[*prompt, *before, token]])[0][-1]))
    return found


def _by_depth(edge: tuple[tuple[int, ...], int]) -> tuple[int, tuple[int, ...], int]:
    return len(edge[0]), *edge
