"""What heads learn: one equation each, summed over what a batch asks for.

    class      -log softmax(s)[y]                                   of texts, and of tokens that carry a tag
    taught     (1 - share) class + share T^2 KL(softmax(t / T), softmax(s / T))   t: a teacher's (arXiv:1503.02531)
    several    -mean over labels of log sigmoid(s), or log sigmoid(-s) where a label does not hold
    number     ((s - y) / scale)^2                                  in units of the targets' standard deviation
    span       -(log softmax(start)[b] + log softmax(end)[e]) / 2   over a row's real tokens (arXiv:1606.05250)
    alike      -log softmax(cos(q, c) / temperature)[c+]            over others' texts (arXiv:1807.03748, 2004.04906)

Sums and softmaxes are taken in float32. Which parameters learn is nobody's business here.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underlay.adapt.heads.source import TaskBatch
from underlay.models import Batch, Decoder, Encoder, Model
from underlay.models.heads import TaskHead
from underlay.models.pooling import Pooling, pool
from underlay.train import Loss


def states(model: Model, batch: TaskBatch, dtype: torch.dtype) -> Tensor:
    """What a model makes of each token: (batch, time, width)."""
    if isinstance(model, Encoder):
        types = batch.types if model.config.types > 1 else None
        return model.hidden(batch.tokens, batch.present, types, dtype)
    return model.hidden(batch.tokens, dtype=dtype)  # causal, and padded on the right: nothing sees what pads


def text_vectors(model: Model, hidden: Tensor, present: Tensor) -> Tensor:
    """What a head for texts reads of the states of their tokens, its pooler included: (batch, width)."""
    if isinstance(model, Encoder) and model.pooler is not None:
        return hidden[:, 0]
    return pool(hidden, present, _head(model).pooling, normalised=False).to(hidden.dtype)


def text_scores(model: Model, vectors: Tensor) -> Tensor:
    """Scores of texts (batch, labels) float32 from what `text_vectors` gives."""
    pooled = model.pooled(vectors[:, None]) if isinstance(model, Encoder) and model.pooler is not None else vectors
    scores: Tensor = _head(model)(vectors[:, None], torch.ones_like(vectors[:, :1], dtype=torch.bool), pooled)
    return scores.float()


def token_scores(model: Model, hidden: Tensor) -> Tensor:
    """Scores (..., labels) float32 from states (..., width), whichever are asked for."""
    scores: Tensor = _head(model).output(hidden)
    return scores.float()


def span_scores(model: Model, hidden: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """How likely an answer begins, and ends, at each token: two of (batch, time) float32, -inf where none is real."""
    start, end = token_scores(model, hidden).masked_fill(~present[..., None], -torch.inf).unbind(-1)
    return start, end


def _head(model: Model) -> TaskHead:
    assert model.task is not None, "the model has no head for a task"
    return model.task


def _read(model: nn.Module, batch: Batch, dtype: torch.dtype) -> tuple[Model, TaskBatch, Tensor, Tensor]:
    model, batch, present = _checked(model, batch)
    return model, batch, states(model, batch, dtype), present


def _read_texts(model: nn.Module, batch: Batch, dtype: torch.dtype) -> tuple[Model, TaskBatch, Tensor]:
    model, batch, present = _checked(model, batch)
    vectors = batch.vectors
    if vectors is None:
        vectors = text_vectors(model, states(model, batch, dtype), present)
    return model, batch, text_scores(model, vectors)


def _checked(model: nn.Module, batch: Batch) -> tuple[Model, TaskBatch, Tensor]:
    assert isinstance(model, Decoder | Encoder)
    assert isinstance(batch, TaskBatch)
    assert batch.present is not None
    return model, batch, batch.present


def _count(like: Tensor) -> Tensor:
    return torch.full((), float(len(like)), device=like.device)


@dataclass(frozen=True)
class TextClass:
    """One label of a text, as it is known and as a teacher holds it likely; a metric: how often it was right."""

    dtype: torch.dtype = torch.float32
    """Of activations and matrix products."""
    share: float = 0.0
    """Of the loss that is the teacher's."""
    temperature: float = 1.0
    """What its scores, and the model's own beside them, are divided by."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Loss over the texts."""
        model, batch, scores = _read_texts(model, batch, self.dtype)
        targets = batch.targets[:, 0]
        right = (scores.argmax(-1) == targets).float().sum()
        loss = F.cross_entropy(scores, targets, reduction="sum")
        if batch.taught is not None:
            wanted, found = ((one / self.temperature).log_softmax(-1) for one in (batch.taught, scores))
            soft = F.kl_div(found, wanted, log_target=True, reduction="sum")
            loss = (1 - self.share) * loss + self.share * self.temperature**2 * soft
        return Loss(loss, _count(targets), {"accuracy": right})


@dataclass(frozen=True)
class SeveralLabels:
    """All labels of a text, each by itself; a metric: how often all were right."""

    dtype: torch.dtype = torch.float32
    """Of activations and matrix products."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Loss over the texts, a mean over their labels."""
        model, batch, scores = _read_texts(model, batch, self.dtype)
        targets = batch.targets
        losses = F.binary_cross_entropy_with_logits(scores, targets.float(), reduction="none").mean(-1)
        right = ((scores > 0) == (targets > 0)).all(-1).float().sum()
        return Loss(losses.sum(), _count(targets), {"exact": right})


@dataclass(frozen=True)
class Number:
    """A number that a text has; a metric: how far off it was, in its own units."""

    dtype: torch.dtype = torch.float32
    """Of activations and matrix products."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Loss over the texts."""
        model, batch, scores = _read_texts(model, batch, self.dtype)
        assert batch.values is not None
        off = scores[:, 0] - batch.values
        loss = (off / _head(model).config.scale).square().sum()
        return Loss(loss, _count(off), {"off": off.abs().sum()})


@dataclass(frozen=True)
class TokenClass:
    """The tag of each token that carries one; a metric: how often it was right."""

    dtype: torch.dtype = torch.float32
    """Of activations and matrix products."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Loss over the tags; the head is computed for their tokens alone."""
        model, batch, hidden, _ = _read(model, batch, self.dtype)
        assert batch.weights is not None
        weights = batch.weights.flatten()
        counted = weights.nonzero()[:, 0]
        scores = token_scores(model, hidden.flatten(0, 1)[counted])
        targets, weights = batch.targets.flatten()[counted], weights[counted]
        losses = F.cross_entropy(scores, targets, reduction="none")
        right = ((scores.argmax(-1) == targets) * weights).sum()
        return Loss((losses * weights).sum(), weights.sum(), {"accuracy": right})


@dataclass(frozen=True)
class SpanEnds:
    """Where an answer begins and ends; a metric: how often both were right."""

    dtype: torch.dtype = torch.float32
    """Of activations and matrix products."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Loss over the rows, the mean of both ends'."""
        model, batch, hidden, present = _read(model, batch, self.dtype)
        start, end = span_scores(model, hidden, present)
        first, last = batch.targets.unbind(-1)
        loss = F.cross_entropy(start, first, reduction="sum") + F.cross_entropy(end, last, reduction="sum")
        right = (start.argmax(-1) == first) & (end.argmax(-1) == last)
        return Loss(loss / 2, _count(first), {"exact": right.float().sum()})


@dataclass(frozen=True)
class Alike:
    """Which of a group's texts means the same as a text; a metric: how often the right one was nearest."""

    pooling: Pooling
    """How a text's vector comes from its tokens' states."""
    temperature: float = 0.05
    """What the cosine of two vectors is divided by."""
    dtype: torch.dtype = torch.float32
    """Of activations and matrix products."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Loss over the pairs."""
        model, batch, hidden, present = _read(model, batch, self.dtype)
        assert batch.allowed is not None
        vectors = pool(hidden, present, self.pooling)
        pairs, targets = len(batch.targets), batch.targets[:, 0]
        scores = vectors[:pairs] @ vectors[pairs:].T / self.temperature
        scores = scores.masked_fill(~batch.allowed, -torch.inf)
        right = (scores.argmax(-1) == targets).float().sum()
        return Loss(F.cross_entropy(scores, targets, reduction="sum"), _count(targets), {"accuracy": right})
