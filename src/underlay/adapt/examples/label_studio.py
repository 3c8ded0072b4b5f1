"""Label Studio's JSON export: texts that people labelled (labelstud.io/guide/export).

    {"data": {"text": ...}, "annotations": [{"result": [{"type": "choices", "value": {"choices": ["good"]}}]}], ...}

Predictions that nobody confirmed are no labels. Its CSV and JSON-MIN exports are columns like any others.
"""

from typing import Any

from underlay.adapt.examples.chat import text_of
from underlay.adapt.examples.forms import Form, Label
from underlay.adapt.examples.records import Fields
from underlay.adapt.examples.unusable import Unusable


def label_studio(fields: Fields) -> Form:
    """The label, or the labels, that all annotators chose. Raises Unusable where there are none, or they disagree."""
    data, annotations = fields["data"], fields["annotations"]
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise Unusable("data that are no object, or annotations that are no list")
    said = [_chosen(one) for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
    if not said:
        raise Unusable("a text that nobody has labelled yet")
    if any(set(one) != set(said[0]) for one in said):
        raise Unusable("labels on which annotators disagree", " or ".join(", ".join(one) for one in said))
    second = data.get("second")
    return Label(text_of(data.get("text"), "the text"), said[0], second=text_of(second, "second") if second else None)


def _chosen(annotation: dict[str, Any]) -> tuple[str, ...]:
    result = annotation.get("result")
    found: list[str] = []
    for region in result if isinstance(result, list) else ():
        value = region.get("value") if isinstance(region, dict) else None
        choices = value.get("choices") if isinstance(value, dict) else None
        if not isinstance(choices, list):
            raise Unusable("annotations that are no choices")
        found += [text_of(choice, "a choice").strip() for choice in choices]
    if not found:
        raise Unusable("an annotation without a choice")
    return tuple(dict.fromkeys(found))
