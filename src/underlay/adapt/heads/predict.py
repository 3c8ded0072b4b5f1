"""What a model with a head says of texts it has not seen. Nothing here depends on what else is in a batch.

Vectors of texts are `underlay.generate.embed`'s.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from underlay.adapt.heads.frame import frame_of, room
from underlay.adapt.heads.objectives import span_scores, states, text_scores, text_vectors, token_scores
from underlay.adapt.heads.source import TaskBatch
from underlay.adapt.heads.spans import Reading, read
from underlay.adapt.heads.texts import CUT, Text, frame_texts
from underlay.adapt.heads.words import OUTSIDE, places, word_rows, word_tokens
from underlay.errors import UserError
from underlay.generate.padded import BATCH_TOKENS, padded
from underlay.models import Model
from underlay.models.heads import TaskConfig
from underlay.models.parts import computed
from underlay.text import Framed, Tokenizer

LONGEST_ANSWER = 30
"""Most tokens of an answer, unless something else is asked for."""


@dataclass(frozen=True)
class Guess:
    """What a text is taken for."""

    labels: tuple[str, ...]
    """The most probable one; where several may hold together, all that are more probable than not."""
    probabilities: Mapping[str, float]
    """Of every label; they add up to 1 only where one label holds."""


@dataclass(frozen=True)
class Word:
    """What a word is taken for."""

    tag: str
    probability: float
    start: int
    """Its first character in the text that the words make, a space between two."""
    end: int
    """One behind its last character."""


@dataclass(frozen=True)
class Found:
    """An answer in a context."""

    text: str
    """Empty where there is none."""
    start: int
    """Its first character in the context."""
    end: int
    """One behind its last character."""
    margin: float
    """How much higher it scores than that there is no answer, in nats; below 0 where there is taken to be none."""


def predict_labels(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[Text],
    context: int | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> list[Guess]:
    """Labels of texts, or of pairs of texts, in their order.

    A text that is longer than a row is cut, and `log` is told. Raises UserError where the model's head is for something
    else, or a text is empty and there is no mark to stand for it.
    """
    task = _task(model, "labels of texts", lambda task: task.kind == "text" and not task.number)
    scores = text_label_scores(model, tokenizer, texts, context, log)
    shares = scores.sigmoid() if task.several else scores.softmax(-1)
    guesses = []
    for row in shares.tolist():
        best = max(range(len(row)), key=row.__getitem__)
        held = [number for number, share in enumerate(row) if share > 0.5] if task.several else [best]
        labels = tuple(task.labels[number] for number in held)
        guesses.append(Guess(labels, dict(zip(task.labels, row, strict=True))))
    return guesses


def predict_values(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[Text],
    context: int | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> list[float]:
    """Numbers of texts, in the units of what was learned from; otherwise as `predict_labels`."""
    _task(model, "numbers of texts", lambda task: task.number)
    values: list[float] = text_label_scores(model, tokenizer, texts, context, log)[:, 0].tolist()
    return values


@torch.no_grad()
def predict_tags(
    model: Model, tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], context: int | None = None
) -> list[list[Word]]:
    """Tags of words, a list a sentence; one longer than a row is read in parts.

    A word without a token of its own is taken for outside of everything. Raises UserError where the model's head is for
    something else.
    """
    task = _task(model, "tags of words", lambda task: task.kind == "token")
    frame, most = frame_of(model, tokenizer), room(model, tokenizer, context)
    rows = [
        (number, row)
        for number, words in enumerate(sentences)
        for row in word_rows(word_tokens(tokenizer, words), frame, most)
    ]
    answers = [[Word(OUTSIDE, 1.0, *place) for place in places(words)] for words in sentences]
    for places_, hidden, _ in _runs(model, [row.framed for _, row in rows]):
        for own, place in zip(hidden, places_, strict=True):
            number, row = rows[place]
            shares, best = token_scores(model, own[list(row.firsts)]).softmax(-1).max(-1)
            for word, share, label in zip(row.words, shares.tolist(), best.tolist(), strict=True):
                old = answers[number][word]
                answers[number][word] = Word(task.labels[label], share, old.start, old.end)
    return answers


@torch.no_grad()
def predict_answers(
    model: Model,
    tokenizer: Tokenizer,
    questions: Sequence[tuple[str, str]],
    context: int | None = None,
    stride: int = 64,
    longest: int = LONGEST_ANSWER,
    must: bool = False,
) -> list[Found]:
    """Answers to questions, each with the text that it stands in: the span that scores best over all windows.

    A span begins no later than it ends and has at most `longest` tokens. It is an answer where its two scores together
    are above those of no answer, in the window where these are lowest; with `must` always. Raises UserError where the
    model's head is for something else.
    """
    _task(model, "answers in texts", lambda task: task.kind == "span")
    frame, most = frame_of(model, tokenizer, pairs=True), room(model, tokenizer, context)
    readings = [read(tokenizer, frame, most, stride, *question) for question in questions]
    rows = [(number, window) for number, reading in enumerate(readings) for window in reading.windows]
    best: list[tuple[float, int, int]] = [(-torch.inf, 0, 0)] * len(questions)
    none = [torch.inf] * len(questions)
    for numbers, hidden, present in _runs(model, [window.framed for _, window in rows]):
        starts, ends = span_scores(model, hidden, present)
        for start, end, row in zip(starts.cpu(), ends.cpu(), numbers, strict=True):
            number, window = rows[row]
            none[number] = min(none[number], float(start[0] + end[0]))
            here = slice(window.at, window.at + window.length)
            score, first, last = best_span(start[here], end[here], longest)
            best[number] = max(best[number], (score, first + window.first, last + window.first), key=lambda one: one[0])
    return [
        _found(question[1], reading, *one, nothing, must)
        for question, reading, one, nothing in zip(questions, readings, best, none, strict=True)
    ]


def best_span(start: Tensor, end: Tensor, longest: int) -> tuple[float, int, int]:
    """The highest sum of start[i] + end[j] over i <= j < i + longest, with i and j; both are (time,) float32."""
    sums = start[:, None] + end[None, :]
    allowed = torch.ones_like(sums, dtype=torch.bool).triu().tril(longest - 1)
    place = int(sums.masked_fill(~allowed, -torch.inf).argmax())
    first, last = divmod(place, len(end))
    return float(sums[first, last]), first, last


def _found(context: str, reading: Reading, score: float, first: int, last: int, none: float, must: bool) -> Found:
    if not reading.windows:
        return Found("", 0, 0, -torch.inf)
    margin = score - none
    if margin <= 0 and not must:
        return Found("", 0, 0, margin)
    start, end = reading.characters[first][0], reading.characters[last][1]
    text = context[start:end]
    # Tokens of some tokenizers begin with the space before a word.
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return Found(text, start, start + len(text), margin)


def _task(model: Model, what: str, fits: Callable[[TaskConfig], bool]) -> TaskConfig:
    task = model.config.task
    if task is None or not fits(task):
        has = f"a head of kind {task.kind} with {task.scores} scores" if task else "no head for a task"
        raise UserError(f"the model has {has}; for {what} adapt one to such examples")
    return task


@torch.no_grad()
def read_vectors(model: Model, framed: Sequence[Framed], dtype: torch.dtype = torch.float32) -> Tensor:
    """What a head for texts reads of each, by `text_vectors`: (texts, width) in `parts.computed(dtype)`, on the CPU."""
    dtype = computed(dtype, model.embedding.weight.device)
    vectors = torch.empty(len(framed), model.config.width, dtype=dtype)
    for numbers, hidden, present in _runs(model, framed, dtype):
        vectors[numbers] = text_vectors(model, hidden, present).to("cpu", dtype)
    return vectors


@torch.no_grad()
def text_label_scores(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[Text],
    context: int | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Tensor:
    """Scores (texts, labels) float32 of a head for texts, on the CPU; otherwise as `predict_labels`."""
    framed, cut = frame_texts(model, tokenizer, texts, context)
    if cut:
        log(f"{cut} of {len(texts)} texts: {CUT}")
    rows = [_standing(tokenizer, text, number) for number, text in enumerate(framed, 1)]
    return text_scores(model, read_vectors(model, rows).to(model.embedding.weight.device)).cpu()


def _standing(tokenizer: Tokenizer, text: Framed | None, number: int) -> Framed:
    """A text, or for an empty one its marks alone."""
    if text is not None:
        return text
    try:
        ids = tokenizer.frame("").ids or tokenizer.prompt("")
    except UserError as error:
        raise UserError(f"text {number} is empty, and this model has no token to stand for it; leave it out") from error
    return Framed(ids, [0] * len(ids))


def _runs(
    model: Model, framed: Sequence[Framed], dtype: torch.dtype = torch.float32
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """For each batch the rows in it, their states (batch, time, width), and which tokens are real."""
    training, empty = model.training, torch.zeros(0, dtype=torch.int64)
    model.eval()
    try:
        for batch in padded(framed, BATCH_TOKENS, model.embedding.weight.device):
            rows = TaskBatch(batch.tokens, empty, present=batch.present, types=batch.types)
            yield batch.rows, states(model, rows, dtype), batch.present
    finally:
        model.train(training)
