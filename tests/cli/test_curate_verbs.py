"""`gather`, `curate` and `data` as a person meets them."""

import json
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from underlay.cli import app
from underlay.data import Corpus
from underlay.data.curate.canaries import read
from underlay.library import Library


def underlay(library: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--library", str(library)])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Notes, gathered and curated by commands."""
    folder = tmp_path_factory.mktemp("verbs")
    notes = folder / "notes"
    notes.mkdir()
    for number in range(8):
        chance = Random(number)
        lines = [" ".join("".join(chance.choices("aehinorst", k=6)) for _ in range(8)) for _ in range(1 + 2 * number)]
        (notes / f"{number}.txt").write_text("\n".join(lines))
    shown = underlay(folder / "library", "gather", str(notes), "--name", "notes-raw")
    assert "Next: underlay curate corpus:notes-raw@" in shown
    shown = underlay(folder / "library", "curate", "corpus:notes-raw", "--rule", "dull=text.letters > 0.1")
    assert "too-short" in shown
    assert "Data card: " in shown
    assert Path(shown.split("Data card: ")[1].strip()).is_file()
    return folder / "library"


def test_what_if_prints_what_stays_and_what_goes(library: Path) -> None:
    asked = ["curate", "corpus:notes-raw", "--what-if", "text.characters >= 300"]
    found = json.loads(underlay(library, *asked, "--json"))
    assert found["rules_of"].startswith("corpus:notes@")
    assert found["bytes_per_token_of"] == "estimate"
    assert found["now"]["documents"] == found["then"]["documents"] + found["goes"]["documents"]
    shown = underlay(library, *asked)
    assert "too-short: text.characters >= 300 instead of text.characters >= 100" in shown
    assert "Tokens are an estimate: 4.00 bytes a token." in shown
    assert "Other thresholds of too-short" in shown
    assert f"goes: {found['examples'][0]['source']}:1" in shown
    assert "about " in shown


def test_what_if_makes_nothing(library: Path) -> None:
    before = [artifact.reference for artifact in Library(library).artifacts()]
    underlay(library, "curate", "corpus:notes-raw", "--what-if", "dull=null", "--examples", "0")
    assert [artifact.reference for artifact in Library(library).artifacts()] == before


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--preset", "gofer"], "there are basic"),
        (["--what-if", "text.bytes > 1", "--name", "x"], "--name has no meaning"),
        (["--what-if", "text.bytes > 1", "--canaries", "3"], "--canaries has no meaning"),
        (["--what-if", "text.bytes >"], "is no condition"),
        (["--rule", "text.bytes > 1"], "write it as name="),
    ],
)
def test_what_cannot_be_is_one_line(library: Path, arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(app, ["curate", "corpus:notes-raw", *arguments, "--library", str(library)])
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_one_card_of_several_corpora(library: Path, tmp_path: Path) -> None:
    asked = ["card", "corpus:notes", "corpus:notes-raw", "--output", str(tmp_path / "cards")]
    assert f"Data card: {tmp_path}" in underlay(library, *asked)
    told = json.loads(underlay(library, *asked, "--json"))
    text = Path(told["markdown"]).read_text("utf-8")
    first = {path.name: path.read_bytes() for path in (tmp_path / "cards").iterdir()}
    counts = [len(Corpus(Library(library).find(one).folder)) for one in ("corpus:notes", "corpus:notes-raw")]
    assert f"**{sum(counts)} documents" in text
    assert "## Part notes-raw" in text
    assert "too-short" in text
    assert set(first) == {"card.html", "card.md"}
    underlay(library, *asked)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cards").iterdir()} == first
    for wrong, complaint in (
        (["corpus:notes", "corpus:notes"], "is named twice"),
        (["attributes:notes"], "a card is of corpora, a dataset, or a model"),
    ):
        result = CliRunner().invoke(app, ["card", *wrong, "--library", str(library)])
        assert (result.exit_code, complaint in result.stderr) == (2, True)


def test_why_and_forget(library: Path) -> None:
    corpus = Library(library).find("corpus:notes")
    document = next(iter(Corpus(corpus.folder)))
    shown = underlay(library, "data", "why", document.id[:12])
    assert f"document {document.id}" in shown
    assert f"read from {document.source}" in shown
    assert "byte 0" in shown
    assert f"{corpus.reference} as {document.id[:12]}" in shown
    assert "text.characters = " in shown
    assert json.loads(underlay(library, "data", "why", document.id, "--json"))["forms"] == [document.id]

    dry = underlay(library, "data", "forget", document.id[:12], "--dry-run")
    assert "would be excluded" in dry
    assert corpus.reference in dry
    assert Library(library).exclusions() == []
    found = json.loads(underlay(library, "data", "forget", document.id, "--reason", "asked", "--json"))
    assert found["written"]
    assert {one["artifact"].split("@")[0] for one in found["rebuild"]} == {
        "corpus:notes-raw",
        "attributes:notes",
        "corpus:notes",
    }
    assert "asked" in underlay(library, "data", "why", document.id)
    assert "excluded before" in underlay(library, "data", "forget", document.id)


def test_canaries_are_planted_as_often_as_told(library: Path) -> None:
    asked = ["curate", "corpus:notes-raw", "--canaries", "4", "--set", "curate.canaries.seed=3", "--name", "watched"]
    shown = underlay(library, *asked)
    assert "Planted: 4 canaries as 22 documents" in shown
    curated = Library(library).find("corpus:watched", "corpus")
    assert curated.manifest.metrics["canaries"] == {"different": 4, "documents": 22}
    assert curated.manifest.config["canaries"] == {"count": 4, "copies": [1, 4, 16], "seed": 3}
    planted = read(curated.folder)
    assert [one["copies"] for one in planted] == [1, 4, 16, 1]
    texts = [document.text for document in Corpus(curated.folder)]
    assert [sum(one["prefix"] + one["secret"] in text for text in texts) for one in planted] == [1, 4, 16, 1]
    again = json.loads(underlay(library, *asked, "--json"))
    assert again["curate"] == curated.reference
    assert not read(Library(library).find("corpus:notes", "corpus").folder)
