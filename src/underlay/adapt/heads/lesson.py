"""From examples to a lesson for a head: which kind, which model, which rows."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from underlay.adapt.examples import Example, Form, Label, Question, Similar, Tags
from underlay.adapt.heads.build import freeze_trunk, fresh, remade, with_head
from underlay.adapt.heads.config import HeadConfig
from underlay.adapt.heads.objectives import Alike, Number, SeveralLabels, SpanEnds, TextClass, TokenClass
from underlay.adapt.heads.predict import read_vectors
from underlay.adapt.heads.prepared import EMPTY, Prepared
from underlay.adapt.heads.source import Groups, TaskRows
from underlay.adapt.heads.spans import place_answers
from underlay.adapt.heads.teacher import Teacher, teacher_scores
from underlay.adapt.heads.texts import CUT, frame_texts, label_texts, text_of
from underlay.adapt.heads.words import tag_words
from underlay.adapt.lesson import Lesson
from underlay.errors import UserError
from underlay.generate.embed import pooling_of
from underlay.models import Encoder, Model
from underlay.models.heads import TaskConfig
from underlay.models.pooling import Pooling
from underlay.text import Tokenizer
from underlay.train import Objective


def lesson(
    base: Model,
    tokenizer: Tokenizer,
    examples: Iterable[Example],
    settings: HeadConfig,
    context: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
    batch_rows: int = 64,
    teacher: Teacher | None = None,
) -> Lesson:
    """What trains the base on labels, tags, questions or texts that are alike; the form of the examples says which.

    Rows have at most `context` tokens. `batch_rows`: how many rows make a step, for texts of a length are read
    together. Of texts that are alike a row of the run is a group of `settings.group` pairs. `teacher`: a larger model
    that has learned the same labels. The model's trunk is the base's own memory.

    Raises UserError where the examples are of a form that no head learns, or there is nothing to tell apart.
    """
    bodies = [example.body for example in examples]
    kinds = {type(body) for body in bodies}
    if len(kinds) != 1:
        raise UserError("the examples are of several forms" if kinds else "there are no examples to learn from")
    if similar := [one for one in bodies if isinstance(one, Similar)]:
        if teacher is not None:
            raise UserError("teacher: teaches labels, and these texts are alike")
        return _alike(base, tokenizer, similar, settings, context, seed, dtype)
    prepared = _prepared(base, tokenizer, bodies, settings, context)
    task = prepared.task
    model = with_head(base, task, seed, settings.pooler)
    new = fresh(base, model)
    vectors = None
    if settings.frozen:
        freeze_trunk(model, new)
        # A pooler that the base brings does not learn either, but it is little work beside the trunk.
        vectors = read_vectors(model, prepared.framed, dtype) if task.kind == "text" else None
    by_token = task.kind == "token"
    objective, taught = objective_of(task, dtype), None
    if teacher is not None:
        read = [text_of(one) for one in (bodies[number] for number in prepared.numbers) if isinstance(one, Label)]
        taught = teacher_scores(teacher, read, task)
        objective = TextClass(dtype, settings.teacher_share, settings.teacher_temperature)
    numbers = prepared.numbers
    source = TaskRows(prepared.framed, prepared.targets, numbers, batch_rows, seed, by_token, vectors, taught)
    metrics = {"rows": len(source), "labels": task.scores}
    return Lesson(model, source, objective, prepared.count, +prepared.left_out, metrics, new)


def objective_of(task: TaskConfig, dtype: torch.dtype = torch.float32) -> Objective:
    """What a head for a task learns."""
    if task.kind == "token":
        return TokenClass(dtype)
    if task.kind == "span":
        return SpanEnds(dtype)
    return Number(dtype) if task.number else SeveralLabels(dtype) if task.several else TextClass(dtype)


def _prepared(
    base: Model, tokenizer: Tokenizer, bodies: Sequence[Form], settings: HeadConfig, context: int
) -> Prepared:
    if labels := [one for one in bodies if isinstance(one, Label)]:
        return label_texts(base, tokenizer, labels, context, settings.several)
    if tags := [one for one in bodies if isinstance(one, Tags)]:
        return tag_words(base, tokenizer, tags, context)
    if questions := [one for one in bodies if isinstance(one, Question)]:
        return place_answers(base, tokenizer, questions, context, settings.stride)
    form = type(bodies[0]).__name__.lower()
    raise UserError(f"no head learns from a {form}; give labels, tags, questions or similar texts")


def _alike(
    base: Model,
    tokenizer: Tokenizer,
    bodies: Sequence[Similar],
    settings: HeadConfig,
    context: int,
    seed: int,
    dtype: torch.dtype,
) -> Lesson:
    if settings.frozen:
        raise UserError("frozen: texts that are alike have no head, so nothing would learn")
    texts = list(dict.fromkeys(text for one in bodies for text in (one.text, one.positive, *one.negatives)))
    framed, cut = frame_texts(base, tokenizer, texts, context)
    rows = [row for row in framed if row is not None]
    number = {text: place for place, text in enumerate(t for t, row in zip(texts, framed, strict=True) if row)}
    kept = [place for place, one in enumerate(bodies) if one.text in number and one.positive in number]
    pairs = [
        (number[one.text], number[one.positive], [number[text] for text in one.negatives if text in number])
        for one in (bodies[place] for place in kept)
    ]
    if len(pairs) < 2:
        raise UserError(f"there is nothing to tell apart: {len(pairs)} pairs of texts; give at least two")
    left_out = Counter({EMPTY: len(bodies) - len(pairs), CUT: cut})
    model = _pooled_by(base, settings.pooling or pooling_of(base), seed)
    source = Groups(rows, pairs, kept, settings.group, seed)
    objective = Alike(pooling_of(model), settings.temperature, dtype)
    return Lesson(model, source, objective, len(pairs), +left_out, {"texts": len(rows)})


def _pooled_by(base: Model, pooling: Pooling, seed: int) -> Model:
    """A model that gives its vectors so ever after."""
    if pooling == pooling_of(base):
        return base
    if not isinstance(base, Encoder):
        raise UserError(f"pooling: a {base.config.family} gives its last token's state alone; leave `{pooling}` out")
    return remade(base, {"pooling": pooling}, seed)
