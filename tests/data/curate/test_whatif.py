"""What-if: the same documents stay as if the other rule had been curated by, and nothing but examples is read."""

import random
from pathlib import Path

import pytest

from underlay.data import Attributes, Corpus, CurateConfig, Document, TagConfig, curate, tag, write_corpus
from underlay.data.curate.whatif import Amount, as_dict, changed, named_rule, what_if
from underlay.errors import UserError

CONFIG = CurateConfig(presets=(), rules={"few-words": "gopher.words >= 20"})


def text(number: int) -> str:
    """Of `number` * 5 words, like no other."""
    chance = random.Random(number)
    return " ".join("".join(chance.choices("aehinorst", k=6)) for _ in range(number * 5)) + "."


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Attributes]:
    folder = tmp_path_factory.mktemp("what-if")
    documents = [
        Document(text(n) + (" a@example.org" if n == 9 else ""), f"{n}.txt", 1, 1, "MIT", "text") for n in range(1, 21)
    ]
    corpus = write_corpus(folder / "raw", [*documents, Document(text(12), "again.txt", 1, 1, "MIT", "text")])
    return corpus, tag(corpus, TagConfig(), folder / "attributes")


@pytest.mark.parametrize("asked", ["gopher.words >= 45", "few-words=gopher.words >= 10", "few-words=null"])
def test_it_says_what_curating_by_it_keeps(made: tuple[Corpus, Attributes], tmp_path: Path, asked: str) -> None:
    found = what_if(*made, CONFIG, [asked])
    other, _, _ = changed(CONFIG, [asked])
    for config, amount in ((CONFIG, found.now), (other, found.then)):
        curated = curate(*made, config.model_copy(update={"redact": None}), tmp_path / str(config is other))
        size = sum(len(document.text.encode()) for document in curated)
        assert amount == Amount(len(curated), size)
    assert found.then.documents == found.now.documents - found.goes.documents + found.comes_back.documents
    assert found.then.bytes == found.now.bytes - found.goes.bytes + found.comes_back.bytes
    assert found.goes.documents or found.comes_back.documents


def test_a_condition_takes_the_place_of_the_rule_on_the_same_attribute() -> None:
    config, replaced, removed = changed(CONFIG, ["gopher.words >= 30"])
    assert config.rules == {"few-words": "gopher.words >= 30"}
    assert replaced == {"few-words": "gopher.words >= 20"}
    assert removed == ()
    config, replaced, _ = changed(CONFIG, ["text.letters > 0.5"])
    assert config.rules == {"few-words": "gopher.words >= 20", "what-if": "text.letters > 0.5"}
    assert replaced == {"what-if": None}
    config, _, removed = changed(CONFIG, ["few-words=null", "a=text.bytes > 1"])
    assert config.rules == {"a": "text.bytes > 1"}
    assert removed == ("few-words",)
    config, _, _ = changed(CurateConfig(), ["too-short=null"])
    assert config.rules == {"too-short": None}
    with pytest.raises(UserError, match="no rule nothere; there are few-words"):
        changed(CONFIG, ["nothere=null"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a=text.bytes > 1", ("a", "text.bytes > 1")),
        ("text.bytes>=1", ("", "text.bytes>=1")),
        ('code=="en"', ("", 'code=="en"')),
        ("few-words= gopher.words >= 3 ", ("few-words", "gopher.words >= 3")),
    ],
)
def test_names_are_told_from_comparisons(given: str, expected: tuple[str, str]) -> None:
    assert named_rule(given, "") == expected


def test_other_thresholds_are_counted_among_what_the_other_rules_keep(made: tuple[Corpus, Attributes]) -> None:
    found = what_if(*made, CONFIG, ["gopher.words >= 45"])
    rows = found.thresholds["few-words"]
    kept = [row.kept.documents for row in rows]
    assert kept == sorted(kept, reverse=True)
    (asked,) = [row for row in rows if row.asked]
    assert asked.rule == "gopher.words >= 45"
    assert asked.kept == found.then
    assert what_if(*made, CONFIG, ["few-words=45 <= gopher.words <= 90"]).thresholds == {}
    assert set(what_if(*made, CONFIG, ["few-words=45 <= gopher.words"]).thresholds) == {"few-words"}


def test_examples_lie_near_the_threshold_and_hold_no_private_data(made: tuple[Corpus, Attributes]) -> None:
    found = what_if(*made, CONFIG, ["gopher.words >= 48"], examples=2)
    assert [example.fate for example in found.examples] == ["goes", "goes", "stays", "stays"]
    numbers = [float(example.figures.split(" = ")[1]) for example in found.examples]
    assert numbers[0] < 48 <= numbers[2]
    assert abs(numbers[0] - 48) <= abs(numbers[1] - 48)
    assert "a@example.org" not in str(as_dict(found))
    assert "<EMAIL>" in str(as_dict(found))


def test_what_does_not_fit_is_named(made: tuple[Corpus, Attributes]) -> None:
    with pytest.raises(UserError, match=r"no attribute 'gopher.word'; did you mean gopher\.words"):
        what_if(*made, CONFIG, ["gopher.word >= 3"])
    with pytest.raises(UserError, match="no condition"):
        what_if(*made, CONFIG, ["gopher.words >="])
