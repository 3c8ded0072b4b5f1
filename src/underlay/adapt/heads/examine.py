"""How right a model is about examples that it did not learn from."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from underlay.adapt.examples import Example, Form, Label, Question, Similar, Tags
from underlay.adapt.heads import measures
from underlay.adapt.heads.predict import predict_answers, predict_labels, predict_tags, predict_values
from underlay.adapt.heads.texts import Text, text_of
from underlay.errors import UserError
from underlay.generate.embed import embed
from underlay.models import Model
from underlay.models.pooling import Pooling
from underlay.text import Tokenizer

Figures = dict[str, float]


def examine(
    model: Model,
    tokenizer: Tokenizer,
    examples: Iterable[Example],
    context: int | None = None,
    stride: int = 64,
    pooling: Pooling | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Figures:
    """Figures of a model's predictions, by name; which ones depends on the form of the examples.

    `unknown`: how many examples have labels or tags that the model's head does not; they count as wrong. Raises
    UserError where there are no examples, or they are not of the form that the model learned.
    """
    bodies: list[Form] = [example.body for example in examples]
    if labels := [one for one in bodies if isinstance(one, Label)]:
        return (
            _numbers(model, tokenizer, labels, context, log)
            if labels[0].value is not None
            else _labels(model, tokenizer, labels, context, log)
        )
    if tags := [one for one in bodies if isinstance(one, Tags) and one.words]:
        return _tags(model, tokenizer, tags, context)
    if questions := [one for one in bodies if isinstance(one, Question)]:
        return _answers(model, tokenizer, questions, context, stride)
    if similar := [one for one in bodies if isinstance(one, Similar)]:
        return _alike(model, tokenizer, similar, pooling)
    raise UserError("there is nothing to examine; give labels, tags, questions or similar texts")


def _texts(labels: Sequence[Label]) -> list[Text]:
    return [text_of(one) for one in labels]


def _labels(
    model: Model, tokenizer: Tokenizer, labels: Sequence[Label], context: int | None, log: Callable[[str], None]
) -> Figures:
    found = [set(guess.labels) for guess in predict_labels(model, tokenizer, _texts(labels), context, log)]
    right = [set(one.labels) for one in labels]
    whole = [frozenset(one) for one in right], [frozenset(one) for one in found]
    return {
        "accuracy": measures.accuracy(*whole),
        "macro_f1": measures.macro_f1(right, found),
        "matthews": measures.matthews(*whole),
        "unknown": _unknown(model, right),
    }


def _numbers(
    model: Model, tokenizer: Tokenizer, labels: Sequence[Label], context: int | None, log: Callable[[str], None]
) -> Figures:
    right = [one.value for one in labels if one.value is not None]
    if len(right) < len(labels):
        raise UserError("some texts have a value, others labels; put them into files of their own")
    found = predict_values(model, tokenizer, _texts(labels), context, log)
    off = float(np.abs(np.subtract(right, found)).mean())
    return {"pearson": measures.pearson(right, found), "spearman": measures.spearman(right, found), "off": off}


def _tags(model: Model, tokenizer: Tokenizer, tags: Sequence[Tags], context: int | None) -> Figures:
    found = [[word.tag for word in words] for words in predict_tags(model, tokenizer, [t.words for t in tags], context)]
    score = measures.entity_score([one.tags for one in tags], found)
    flat = [tag for one in tags for tag in one.tags], [tag for one in found for tag in one]
    unknown = _unknown(model, [set(one.tags) for one in tags])
    return score._asdict() | {"accuracy": measures.accuracy(*flat), "unknown": unknown}


def _answers(
    model: Model, tokenizer: Tokenizer, questions: Sequence[Question], context: int | None, stride: int
) -> Figures:
    asked = [(one.question, one.context) for one in questions]
    must = all(one.answers for one in questions)
    found = predict_answers(model, tokenizer, asked, context, stride, must=must)
    right = [[text for text, _ in one.answers] for one in questions]
    exact = [measures.exact_match(texts, one.text) for texts, one in zip(right, found, strict=True)]
    f1 = [measures.answer_f1(texts, one.text) for texts, one in zip(right, found, strict=True)]
    return {"exact": float(np.mean(exact)), "f1": float(np.mean(f1))}


def _alike(model: Model, tokenizer: Tokenizer, similar: Sequence[Similar], pooling: Pooling | None) -> Figures:
    """Every text looks for its positive among all positives and negatives."""
    candidates = list(dict.fromkeys(text for one in similar for text in (one.positive, *one.negatives)))
    queries = embed(model, tokenizer, [one.text for one in similar], pooling)
    likeness = (queries @ embed(model, tokenizer, candidates, pooling).T).numpy()
    number = {text: place for place, text in enumerate(candidates)}
    places = measures.ranks(likeness, [number[one.positive] for one in similar])
    figures = {f"recall@{most}": measures.recall_at(places, most) for most in (1, 5, 10)}
    return figures | {"mrr": measures.reciprocal_rank(places)}


def _unknown(model: Model, right: Sequence[set[str]]) -> int:
    known = set(model.config.task.labels) if model.config.task else set()
    return sum(not one <= known for one in right)
