"""Label Studio's export: what people chose is a label, whatever else is in the file."""

import json
from pathlib import Path
from typing import Any

import pytest

from underlay.adapt.examples import ExamplesConfig, Label, Reading, read_examples
from underlay.errors import UserError


def region(*choices: str) -> dict[str, Any]:
    return {"id": "a", "from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [*choices]}}


def record(text: Any, *annotations: Any, **more: Any) -> dict[str, Any]:
    given = [one if isinstance(one, dict) else {"id": 1, "result": one} for one in annotations]
    return {"id": 1, "data": {"text": text, **more}, "annotations": given, "predictions": [], "meta": {}, "project": 1}


def read(folder: Path, *records: Any) -> Reading:
    path = folder / "export.json"
    path.write_text(json.dumps([record("one", [region("good")]), record("two", [region("bad")]), *records]))
    return read_examples(ExamplesConfig(source=(str(path),)))


def test_choices_are_labels(tmp_path: Path) -> None:
    cancelled = {"id": 2, "was_cancelled": True, "result": [region("bad")]}
    found = read(
        tmp_path,
        record("three", [region("good", "kind")]),
        record("four", cancelled, [region("good")], [region("good")]),
        record("five", [region("good")], second="six", licence="MIT", source="texts.csv", line=3),
    )
    assert [one.body for one in found.examples] == [
        Label("one", ("good",)),
        Label("two", ("bad",)),
        Label("three", ("good", "kind")),
        Label("four", ("good",)),
        Label("five", ("good",), second="six"),
    ]
    assert found.examples[4].licence == "MIT"
    assert found.left_out.counts.total() == 0


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (record("three"), "a text that nobody has labelled yet"),
        (record("three", {"was_cancelled": True, "result": [region("bad")]}), "a text that nobody has labelled yet"),
        (record("three", [region("good")], [region("bad")]), "labels on which annotators disagree"),
        (record("three", []), "an annotation without a choice"),
        (record("three", [{"type": "labels", "value": {"start": 0, "labels": ["A"]}}]), "annotations that are no choi"),
        (record("three", [None]), "annotations that are no choices"),
        (record("three", {"result": 4}), "an annotation without a choice"),
        (record("three", [region(4)]), "a choice is no text"),  # type: ignore[arg-type]
        (record(None, [region("good")]), "the text is missing or null"),
        ({**record("three"), "annotations": {}}, "data that are no object, or annotations that are no list"),
        ({**record("three"), "data": "three"}, "data that are no object, or annotations that are no list"),
    ],
)
def test_what_is_no_label_is_left_out(tmp_path: Path, wrong: dict[str, Any], why: str) -> None:
    found = read(tmp_path, wrong)
    assert len(found.examples) == 2
    (reason,) = found.left_out.counts
    assert reason.startswith(why)


def test_tasks_that_were_never_labelled_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([record("one"), record("two")]))
    with pytest.raises(UserError, match="2 left out: a text that nobody has labelled yet") as caught:
        read_examples(ExamplesConfig(source=(str(path),)))
    assert "\n" not in str(caught.value)
