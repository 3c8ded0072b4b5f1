"""The rules of reading: what is renamed, chosen, told, and refused as a whole."""

from pathlib import Path

from example_files import lines, read, refusal

from underlay.adapt.examples import Examples, Label, write_examples

GOOD, BAD = {"review": "fine", "stars": "5", "split": "train"}, {"review": "awful", "stars": "1", "split": "test"}
RENAMED = {"text": "review", "label": "stars"}


def test_columns_are_renamed_and_what_is_not_read_is_told(tmp_path: Path) -> None:
    reading = read(lines(tmp_path / "a.jsonl", GOOD, BAD), columns=RENAMED)
    assert [one.body for one in reading.examples] == [Label("fine", ("5",)), Label("awful", ("1",))]
    assert reading.unread == {"split"}
    assert sum(reading.formats.values()) == 2


def test_of_two_columns_for_one_thing_the_other_is_told(tmp_path: Path) -> None:
    records = [{"text": "a", "label": "x", "score": 3}, {"text": "b", "label": "y", "sentence": "c"}]
    reading = read(lines(tmp_path / "a.jsonl", *records))
    assert [one.body for one in reading.examples] == [Label("a", ("x",)), Label("b", ("y",))]
    assert reading.unread == {"score", "sentence"}


def test_a_renamed_column_takes_the_place_of_one_of_that_name(tmp_path: Path) -> None:
    records = [{"text": "title", **GOOD}, {"text": "title", **BAD}]
    found = read(lines(tmp_path / "a.jsonl", *records), columns=RENAMED).examples
    assert [one.body.text for one in found] == ["fine", "awful"]


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD)
    assert "no column 'body'; there are review, stars, split" in refusal(path, columns={"text": "body"})
    assert "no column 'part'" in refusal(path, where={"part": "train"}, columns=RENAMED)


def test_only_the_records_that_are_wanted(tmp_path: Path) -> None:
    records = [GOOD, BAD, {**GOOD, "review": "bad", "stars": "2"}]
    path = lines(tmp_path / "a.jsonl", *records)
    found = read(path, columns=RENAMED, where={"split": "train"}).examples
    assert [(one.line, one.body.text) for one in found] == [(1, "fine"), (3, "bad")]
    assert [one.line for one in read(path, columns=RENAMED, limit=2).examples] == [1, 2]


def test_the_limit_holds_over_files_and_counts_what_is_usable(tmp_path: Path) -> None:
    good = [{"instruction": str(n), "output": "x"} for n in range(4)]
    lines(tmp_path / "a.jsonl", {"instruction": "", "output": ""}, *good[:2])
    lines(tmp_path / "b.jsonl", *good[2:])
    assert [one.body.messages[0].content for one in read(tmp_path, limit=3).examples] == ["0", "1", "2"]


def test_of_equal_examples_one_is_kept_and_the_others_are_counted(tmp_path: Path) -> None:
    reading = read(lines(tmp_path / "a.jsonl", GOOD, BAD, GOOD), columns=RENAMED)
    assert len(reading.examples) == 2
    assert reading.left_out.first == {"the same as an example before it": f"{tmp_path / 'a.jsonl'}:3"}
    assert len(write_examples(reading.examples, tmp_path)) == len(Examples(tmp_path)) == 2


def test_labels_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD, {**BAD, "stars": "5"})
    assert "every label, of 2, is '5'" in refusal(path, columns=RENAMED)


def test_several_forms_are_refused_with_both_places(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"prompt": "a", "completion": "b"}, {"text": "a", "label": "b"})
    said = refusal(path)
    assert "a.jsonl:1 is a conversation" in said
    assert "a.jsonl:2 a label" in said
    assert len(read(path, form="conversation").examples) == 1


def test_where_nothing_is_usable_it_is_told_what_there_is_and_what_is_known(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD, BAD, {"text": "a", "label": None})
    said = refusal(path)
    assert f"2 left out: columns that no format has, first at {path}:1 (review, stars, split)" in said
    assert "1 left out: the label is missing or null" in said
    assert "preference from prompt, chosen, rejected" in said
    narrow = refusal(path, form="tags")
    assert "no tags in" in narrow
    assert "tags from tokens/words, tags/ner_tags" in narrow
    assert "preference" not in narrow


def test_names_of_columns_cannot_steer_a_terminal_or_break_a_manifest(tmp_path: Path) -> None:
    odd = "a\x1b[31m\n\ud800"
    assert "a\ufffd[31m\ufffd?" in refusal(lines(tmp_path / "a.jsonl", {odd: "x"}))
    reading = read(lines(tmp_path / "b.jsonl", {"instruction": "a", "output": "b", odd: "x"}))
    assert reading.unread == {"a\ufffd[31m\ufffd?"}


def test_a_record_states_its_licence_and_a_person_overrules_all(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("Apache License, Version 2.0")
    path = lines(tmp_path / "a.jsonl", {**GOOD, "license": "mit"}, BAD)
    assert [one.licence for one in read(path, columns=RENAMED).examples] == ["MIT", "Apache-2.0"]
    assert {one.licence for one in read(path, columns=RENAMED, licence="CC0-1.0").examples} == {"CC0-1.0"}
