"""Heads for tasks in `transformers`: a class of its own for each kind, and names that differ by model type."""

from collections.abc import Iterable

from underlay.config import parse
from underlay.errors import UserError
from underlay.formats.hf.layout import Layout, Values
from underlay.formats.keymap import Row, same
from underlay.formats.untrusted import shown
from underlay.models.config import TextConfig
from underlay.models.encoder import EncoderConfig
from underlay.models.heads import TaskConfig

_CLASSES = {"text": "ForSequenceClassification", "token": "ForTokenClassification", "span": "ForQuestionAnswering"}
_PROBLEMS = {
    "several": "multi_label_classification",
    "one": "single_label_classification",
    "number": "regression",
}
_HEADS = ("classifier.", "qa_outputs.", "score.")


def read_task(layout: Layout, values: Values, names: Iterable[str], where: str) -> Values:
    """Our fields for the head that a file has; none where it has none. Raises UserError for one that is not known."""
    if not any(name.startswith(_HEADS) for name in names):
        return {}
    classes = values.get("architectures")
    classes = classes if isinstance(classes, list) and classes else [""]
    stem = _stem(layout)
    kind = next((kind for kind, ending in _CLASSES.items() if classes[0] == stem + ending), None)
    if kind is None or not _rows(layout, kind):
        raise UserError(
            f"{where}: architectures: {shown(classes[0])} has a head that is not known for a {layout.model_type}"
        )
    labels: tuple[str, ...] = ()
    if kind != "span":
        named = values.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        if not isinstance(named, dict) or named.keys() != {str(number) for number in range(len(named))}:
            raise UserError(f"{where}: id2label must name labels by the numbers from 0")
        labels = tuple(str(named[str(number)]) for number in range(len(named)))
    several = kind == "text" and values.get("problem_type") == _PROBLEMS["several"]
    task = parse(TaskConfig, {"kind": kind, "labels": labels, "several": several}, f"{where}: id2label").model_dump()
    encoder = issubclass(layout.config, EncoderConfig)
    return {"task": task, "tied": True} | ({"masked_head": False, "pooler": kind == "text"} if encoder else {})


def task_rows(layout: Layout, config: TextConfig) -> tuple[Row, ...]:
    """The rows of the layout, with those of the model's head."""
    if config.task is None:
        return layout.rows
    found = _rows(layout, config.task.kind)
    if not found:
        raise UserError(f"a {config.family} with a head for {config.task.kind} has no place in this format")
    taken = {name for row in found for name in row.ours}
    return (*(row for row in layout.rows if not taken & set(row.ours)), *found)


def write_task(layout: Layout, config: TextConfig) -> Values:
    """Their keys for the model's head. Raises UserError for a number whose mean and scale have no place there."""
    if config.task is None:
        return {}
    if (config.task.mean, config.task.scale) != (0, 1):
        raise UserError("this format has no place for the mean and scale of a number; fold them into the head first")
    names: Values = {"architectures": [_stem(layout) + _CLASSES[config.task.kind]]}
    if config.task.labels:
        names["id2label"] = {str(index): label for index, label in enumerate(config.task.labels)}
        names["label2id"] = {label: index for index, label in enumerate(config.task.labels)}
    if config.task.kind == "text":
        problem = "several" if config.task.several else "number" if config.task.number else "one"
        names["problem_type"] = _PROBLEMS[problem]
    return names


def _stem(layout: Layout) -> str:
    return layout.architecture.partition("For")[0].removesuffix("LMHeadModel")


def _rows(layout: Layout, kind: str) -> tuple[Row, ...]:
    parts = ("weight", "bias")
    if not issubclass(layout.config, EncoderConfig):
        return same("task.output.weight", "score.weight") if kind == "text" else ()
    if kind == "span":
        return same("task.output", "qa_outputs", *parts)
    if kind == "text" and layout.model_type == "roberta":  # what BERT calls its pooler
        return (*same("pooler", "classifier.dense", *parts), *same("task.output", "classifier.out_proj", *parts))
    return same("task.output", "classifier", *parts)
