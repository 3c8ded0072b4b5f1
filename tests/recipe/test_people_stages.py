"""Stages that concern people: classifiers and word lists as inputs, and a key that is used and never stored."""

import json
from pathlib import Path

import pytest
from test_recipe import Log

from underlay.data import Attributes, Corpus
from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.recipe import read_recipe, run_recipe

RECIPE = """
name: people
stages:
  good: {verb: gather, name: good, source: [%(here)s/good.jsonl]}
  poor: {verb: gather, name: poor, source: [%(here)s/poor.jsonl]}
  gather: {name: raw, source: [%(here)s/raw.jsonl]}
  classifier: {like: good, unlike: poor, bits: 12, examples: 50}
  tag:
    corpus: gather
    taggers: [text, privacy, language, harm, classifier]
    classifiers: {quality: classifier}
    harm: {words: [%(here)s/words], classifier: quality}
  curate:
    corpus: gather
    attributes: tag
    presets: []
    near_duplicates: false
    rules: {poor: "classifier.quality > 0.5", foreign: "language.code == 'en'"}
    redact: pseudonym
    key: env:UNDERLAY_TEST_KEY
"""
KEY = "a-key-that-nobody-else-has"
LETTER = "The committee explains with care that jane@mail.org should be asked about the report."


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNDERLAY_TEST_KEY", KEY)
    texts = {
        "good": [f"The committee read chapter {n} and explains its report with care." for n in range(60)],
        "poor": [f"BUY cheap watches now!!! offer {n} click here best price" for n in range(60)],
        "raw": [LETTER, "Click here, buy cheap watches now, best price offer!!!", LETTER + " Darn it."],
    }
    for name, lines in texts.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    (tmp_path / "words").write_text("darn\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE % {"here": tmp_path})
    return tmp_path


def run(here: Path) -> dict[str, Artifact]:
    return run_recipe(read_recipe(here / "recipe.yaml"), Library(here / "library"), Log())


def test_classifiers_and_lists_decide_and_the_key_stays_outside(here: Path) -> None:
    made = run(here)
    assert made["classifier"].manifest.metrics["auc"] == 1.0
    assert Library(here / "library").parents(made["tag"])["classifiers.quality"] == made["classifier"]
    attributes = Attributes(made["tag"].folder)
    assert sorted(attributes.column("harm.words").tolist()) == [0, 0, 1]
    corpus = Corpus(made["curate"].folder)
    assert {entry.reason for entry in corpus.ledger()} == {"poor", "private-data"}
    assert all(".example" in document.text and "jane" not in document.text for document in corpus)
    for path in (here / "library").rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def test_another_key_is_another_result_and_the_same_one_is_not(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(here)
    assert run(here)["curate"] == first["curate"]
    monkeypatch.setenv("UNDERLAY_TEST_KEY", KEY[::-1])
    again = run(here)
    assert again["tag"] == first["tag"]
    assert again["curate"].manifest.hash != first["curate"].manifest.hash


def test_a_changed_list_is_read_again(here: Path) -> None:
    first = run(here)
    (here / "words").write_text("darn\nreport\n")
    assert run(here)["tag"].manifest.hash != first["tag"].manifest.hash


def test_a_missing_key_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDERLAY_TEST_KEY")
    with pytest.raises(UserError, match="UNDERLAY_TEST_KEY is not set"):
        run(here)
    assert not list((here / "library").rglob("manifest.json")), "nothing is made before it is missed"


def test_a_missing_list_is_one_line(here: Path) -> None:
    (here / "words").unlink()
    with pytest.raises(UserError, match="words cannot be read"):
        run(here)
    assert not list((here / "library").rglob("manifest.json"))


def test_a_corpus_is_no_classifier(here: Path) -> None:
    recipe = (here / "recipe.yaml").read_text().replace("quality: classifier}", "quality: good}", 1)
    (here / "recipe.yaml").write_text(recipe)
    with pytest.raises(UserError, match="classifier"):
        run(here)
