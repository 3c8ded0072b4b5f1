"""Texts, and pairs of texts, for heads that say one thing of each."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from underlay.adapt.examples import Label
from underlay.adapt.heads.frame import cut_pair, frame_of, room
from underlay.adapt.heads.prepared import EMPTY, Prepared
from underlay.errors import UserError
from underlay.models import Model
from underlay.models.heads import TaskConfig
from underlay.text import Framed, Tokenizer

CUT = "longer than a row, cut"
VALUE = "value"
"""What the one label of a number is called."""

Text = str | tuple[str, str]
"""A text, or a pair of them."""


def text_of(label: Label) -> Text:
    """The text of a label, or its pair of texts."""
    return label.text if label.second is None else (label.text, label.second)


def frame_texts(
    model: Model, tokenizer: Tokenizer, texts: Sequence[Text], context: int | None = None
) -> tuple[list[Framed | None], int]:
    """Each text between its marks, its end (of a pair, the longer one's) cut off where it is longer than a row.

    None for a text that has no token of its own. Also returns how many were cut. Raises UserError where an encoder's
    tokenizer puts no mark between two texts.
    """
    single, double = frame_of(model, tokenizer), None
    most, cut = room(model, tokenizer, context), 0
    framed: list[Framed | None] = []
    for text in texts:
        if isinstance(text, str):
            frame, first, second = single, tokenizer.encode(text), list[int]()
        else:
            double = double or frame_of(model, tokenizer, pairs=True)
            frame, first, second = double, *map(tokenizer.encode, text)
        kept, other = cut_pair(first, second, most - frame.marks) if second else (first[: most - frame.marks], second)
        cut += len(kept) + len(other) < len(first) + len(second)
        framed.append(frame.put(kept, other) if kept or other else None)
    return framed, cut


def label_texts(
    model: Model, tokenizer: Tokenizer, labels: Iterable[Label], context: int, several: bool | None = None
) -> Prepared:
    """Rows and targets of texts with labels, or with numbers; labels are sorted by name.

    Empty texts are left out, long ones cut. Raises UserError where some have numbers and others labels, where there is
    nothing to tell apart, or where a text should have one label and has not.
    """
    labels = list(labels)
    framed, cut = frame_texts(model, tokenizer, [text_of(one) for one in labels], context)
    left_out = Counter({EMPTY: framed.count(None), CUT: cut})
    kept = [number for number, text in enumerate(framed) if text is not None]
    if not kept:
        raise UserError("there is nothing to learn from: all texts are empty")
    rows, labels = [text for text in framed if text is not None], [labels[number] for number in kept]
    numbers = [label.value for label in labels if label.value is not None]
    if numbers:
        if len(numbers) < len(labels) or any(label.labels for label in labels):
            raise UserError("some texts have a value, others labels; put them into files of their own")
        return Prepared(rows, np.array(numbers, np.float32), kept, _number(numbers), len(rows), left_out)
    if several is None:
        several = any(len(set(label.labels)) != 1 for label in labels)
    names = tuple(sorted({name for label in labels for name in label.labels}))
    sets = [set(label.labels) for label in labels]
    if not several and any(len(one) != 1 for one in sets):
        wrong = next(label for label in labels if len(set(label.labels)) != 1)
        raise UserError(f"{wrong.text[:40]!r} has {len(set(wrong.labels))} labels, not one; set several: true")
    if len(names) < 2 and (not several or all(sets) or not any(sets)):
        found = f"all texts have the label {names[0]!r}" if names else "no text has a label"
        raise UserError(f"there is nothing to tell apart: {found}; give examples of at least two kinds")
    task = TaskConfig(kind="text", labels=names, several=several)
    if several:
        held = [[int(name in one) for name in names] for one in sets]
        return Prepared(rows, held, kept, task, len(rows), left_out)
    index = {name: number for number, name in enumerate(names)}
    return Prepared(rows, [[index[name] for name in one] for one in sets], kept, task, len(rows), left_out)


def _number(values: Sequence[float]) -> TaskConfig:
    if not np.isfinite(values).all():
        raise UserError("some values are not finite; leave their texts out")
    mean, scale = float(np.mean(values)), float(np.std(values))
    if not scale:
        raise UserError(f"there is nothing to learn: all texts have the value {mean:g}")
    return TaskConfig(kind="text", labels=(VALUE,), mean=mean, scale=scale)
