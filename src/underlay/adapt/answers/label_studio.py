"""Texts for people to label, as Label Studio takes them, with what a model held for right already filled in.

Its predictions are shown only where `from_name`, `to_name` and `type` are those of the project's own labelling
interface, so that is written as well: paste it into the project's settings, then import the tasks
(labelstud.io/guide/predictions). What comes back as its JSON export is read as examples.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

if TYPE_CHECKING:
    from underlay.adapt.answers.run import Labelled

TASKS, INTERFACE = "label-studio.json", "label-studio.xml"
_CHOICES, _TEXT = "label", "text"


def write_tasks(unsure: Sequence["Labelled"], labels: Sequence[str], model: str, folder: Path) -> None:
    """Write tasks to import, and the labelling interface they fit, into an existing folder.

    model: what is told as `model_version` of each prediction.
    """
    tasks = [_task(one, model, number) for number, one in enumerate(unsure, 1)]
    (folder / TASKS).write_text(json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", "utf-8")
    (folder / INTERFACE).write_text(_interface(labels, any(one.second for one in unsure)), "utf-8")


def _task(one: "Labelled", model: str, number: int) -> dict[str, object]:
    where = {"source": one.example.source, "line": one.example.line, "licence": one.example.licence}
    second = {"second": one.second} if one.second else {}
    task: dict[str, object] = {"data": {_TEXT: one.text, **second, **where}}
    if one.label is not None:
        chosen = {
            "id": f"label-{number}",
            "from_name": _CHOICES,
            "to_name": _TEXT,
            "type": "choices",
            "value": {"choices": [one.label]},
        }
        task["predictions"] = [{"model_version": model, "score": one.probability, "result": [chosen]}]
    return task


def _interface(labels: Sequence[str], pairs: bool) -> str:
    second = '  <Text name="second" value="$second"/>\n' if pairs else ""
    choices = "".join(f"    <Choice value={quoteattr(label)}/>\n" for label in labels)
    return (
        f'<View>\n  <Text name="{_TEXT}" value="${_TEXT}"/>\n{second}'
        f'  <Choices name="{_CHOICES}" toName="{_TEXT}" choice="single">\n{choices}  </Choices>\n</View>\n'
    )
