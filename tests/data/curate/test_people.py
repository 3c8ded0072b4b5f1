"""What concerns people, through tagging and curating: what is found is written, changed, dropped, and told."""

from pathlib import Path

import pytest

from underlay.data import Attributes, Corpus, CurateConfig, Document, TagConfig, curate, tag, write_corpus
from underlay.data.curate.classifier import ClassifierConfig, train
from underlay.errors import UserError

PROSE = "The quick brown fox jumps over the lazy dog, and then it goes home.\nIt sleeps until the morning.\n" * 2
LETTER = f"{PROSE}Write to jane@mail.org, or to Jane@mail.org.\n{PROSE}"
NUMBERS = f"{PROSE}My card is 4111 1111 1111 1111, from 86.121.97.248.\n"
TAGS = {"taggers": ("privacy",)}
PLAIN = {"near_duplicates": False, "presets": ()}


@pytest.fixture
def raw(tmp_path: Path) -> Corpus:
    texts = {"letter": LETTER, "numbers": NUMBERS, "prose": PROSE + "Nothing is private here.\n"}
    documents = [Document(text, name, 1, 1 + text.count("\n"), "MIT", "text") for name, text in texts.items()]
    return write_corpus(tmp_path / "raw", documents)


def tagged(raw: Corpus, folder: Path, **settings: object) -> Attributes:
    return tag(raw, TagConfig(**{**TAGS, **settings}), folder)


def row(raw: Corpus, name: str) -> int:
    return raw.column("source").to_pylist().index(name)


def test_what_is_private_is_written_beside_the_documents(raw: Corpus, tmp_path: Path) -> None:
    attributes = tagged(raw, tmp_path / "tags")
    table = attributes.table(raw.units()[0], ["privacy.found", "privacy.kinds", "privacy.spans"]).to_pylist()
    assert [table[row(raw, name)]["privacy.found"] for name in ("letter", "numbers", "prose")] == [2, 2, 0]
    assert table[row(raw, "numbers")]["privacy.kinds"] == ["CARD", "IP"]
    for span in table[row(raw, "letter")]["privacy.spans"]:
        assert LETTER[span["start"] : span["end"]].lower() == "jane@mail.org"


def test_masking_is_told_without_the_values(raw: Corpus, tmp_path: Path) -> None:
    corpus = curate(raw, tagged(raw, tmp_path / "tags"), CurateConfig(**PLAIN), tmp_path / "out")
    texts = {document.source: document.text for document in corpus}
    assert texts["letter"] == LETTER.replace("jane@mail.org", "<EMAIL>").replace("Jane@mail.org", "<EMAIL>")
    assert "My card is <CARD>, from <IP>." in texts["numbers"]
    changes = {entry.source: entry.detail for entry in corpus.ledger()}
    assert changes == {"letter": "EMAIL x2", "numbers": "CARD x1, IP x1"}


def test_pseudonyms_are_the_same_for_the_same_value(
    raw: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERLAY_TEST_KEY", "0123456789abcdef")
    config = CurateConfig(**PLAIN, redact="pseudonym", key="env:UNDERLAY_TEST_KEY")
    corpus = curate(raw, tagged(raw, tmp_path / "tags"), config, tmp_path / "out")
    text = {document.source: document.text for document in corpus}["letter"]
    one, other = (word.rstrip(".,") for word in text.split() if "@" in word)
    assert one == other != "jane@mail.org"
    assert text.count("\n") == LETTER.count("\n")


def test_dropping_names_the_reason(raw: Corpus, tmp_path: Path) -> None:
    corpus = curate(raw, tagged(raw, tmp_path / "tags"), CurateConfig(**PLAIN, redact="drop"), tmp_path / "out")
    assert [document.source for document in corpus] == ["prose"]
    assert {(entry.reason, entry.detail) for entry in corpus.ledger()} == {("private-data", "privacy.found = 2")}


def test_null_changes_nothing(raw: Corpus, tmp_path: Path) -> None:
    corpus = curate(raw, tagged(raw, tmp_path / "tags"), CurateConfig(**PLAIN, redact=None), tmp_path / "out")
    assert {document.text for document in corpus} == {document.text for document in raw}


@pytest.mark.parametrize("how", ["pseudonym", "drop"])
def test_what_was_not_looked_for_cannot_be_changed(
    raw: Corpus, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERLAY_TEST_KEY", "0123456789abcdef")
    config = CurateConfig(**PLAIN, redact=how, key="env:UNDERLAY_TEST_KEY" if how == "pseudonym" else None)
    with pytest.raises(UserError, match="privacy"):
        curate(
            raw,
            tagged(raw, tmp_path / "tags", taggers=("harm",), harm={"words": (str(Path(__file__)),)}),
            config,
            tmp_path / "out",
        )


@pytest.mark.parametrize("settings", [{"redact": "pseudonym"}, {"key": "env:X"}, {"redact": "drop", "key": "x"}])
def test_a_key_goes_with_pseudonyms_alone(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="pseudonym needs key"):
        CurateConfig(**settings)


def test_words_and_classifiers_become_attributes(raw: Corpus, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("lazy dog\nmorning\n", "utf-8")
    classifier, _ = train([f"dog {n}" for n in range(20)], [f"tree {n}" for n in range(20)], ClassifierConfig(bits=12))
    classifier.save(tmp_path / "classifier")
    attributes = tagged(
        raw,
        tmp_path / "tags",
        taggers=("harm", "classifier"),
        harm={"words": (str(tmp_path / "words"),), "classifier": "dogs"},
        classifiers={"dogs": str(tmp_path / "classifier")},
    )
    assert attributes.figures == {"harm.words", "harm.score", "classifier.dogs"}
    assert attributes.column("harm.words")[row(raw, "prose")] == 4
    assert (attributes.column("harm.score") == attributes.column("classifier.dogs")).all()
    assert str(tmp_path) not in attributes.config.classifiers["dogs"]


@pytest.mark.parametrize(
    "settings",
    [
        {"classifiers": {"a": "b"}},
        {"taggers": ("classifier",)},
        {"taggers": ("harm",)},
        {"harm": {"words": ("x",)}},
        {"taggers": ("harm",), "harm": {"classifier": "a"}},
    ],
)
def test_settings_that_would_be_ignored_are_errors(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"harm|classifier"):
        TagConfig(**settings)
