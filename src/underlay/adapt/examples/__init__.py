"""Examples to learn a task from: their forms, how they are read from people's files, and how they lie on disk."""

from underlay.adapt.examples.config import ExamplesConfig, FormName, Layout
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
from underlay.adapt.examples.read import Reading, fingerprint, read_examples
from underlay.adapt.examples.store import Examples, example_id, write_examples
from underlay.adapt.examples.unusable import LeftOut

__all__ = [
    "FORMS",
    "Conversation",
    "Example",
    "Examples",
    "ExamplesConfig",
    "Form",
    "FormName",
    "Judgement",
    "Label",
    "Layout",
    "LeftOut",
    "Preference",
    "Problem",
    "Question",
    "Reading",
    "Similar",
    "Tags",
    "example_id",
    "fingerprint",
    "read_examples",
    "write_examples",
]
