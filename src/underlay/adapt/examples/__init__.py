"""Examples to learn a task from: their forms, and how they lie on disk."""

from underlay.adapt.examples.forms import (
    FORMS,
    Conversation,
    Example,
    Form,
    Judgement,
    Label,
    Preference,
    Problem,
    Question,
    Similar,
    Tags,
)
from underlay.adapt.examples.store import Examples, example_id, write_examples

__all__ = [
    "FORMS",
    "Conversation",
    "Example",
    "Examples",
    "Form",
    "Judgement",
    "Label",
    "Preference",
    "Problem",
    "Question",
    "Similar",
    "Tags",
    "example_id",
    "write_examples",
]
