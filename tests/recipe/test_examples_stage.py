"""The stage `examples`: what it keeps of each example, when it is made again, and what the library notices."""

import json
from pathlib import Path
from typing import Any

import pytest

from underlay.adapt.examples import Conversation, Examples, Preference
from underlay.data import Corpus, Dataset
from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.library.exclusions import Exclusion
from underlay.library.reference import one_of
from underlay.recipe import excluding, run_recipe
from underlay.recipe.recipe import make_recipe

TALK = [{"prompt": f"{n}?", "chosen": "yes", "rejected": "no"} for n in range(3)]


class Said:
    """Listens to a run and remembers its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.reused: list[bool] = []

    def started(self, stage: str, number: int, of: int) -> None: ...
    def moved(self, done: float, total: float | None, **facts: float | str) -> None: ...

    def said(self, line: str) -> None:
        self.lines.append(line)

    def ended(self, artifact: Artifact, reused: bool) -> None:
        self.reused.append(reused)


def run(library: Library, listener: Said | None = None, **stages: dict[str, Any]) -> dict[str, Artifact]:
    return run_recipe(make_recipe({"name": "a", "stages": stages}, "test"), library, listener or Said())


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library")


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "talks.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(map(json.dumps, [*TALK, {"prompt": "x", "chosen": "a", "rejected": ""}, TALK[0]])))
    (path.parent / "LICENSE").write_text("Apache License, Version 2.0")
    return path


def test_source_line_and_licence_stay_with_each_example(library: Library, talks: Path) -> None:
    listener = Said()
    made = run(library, listener, examples={"source": [str(talks)]})["examples"]
    assert made.reference.startswith("examples:a@")
    kept = Examples(made.folder)
    assert kept.form is Preference
    assert [(one.source, one.line, one.licence) for one in kept] == [(str(talks), n, "Apache-2.0") for n in (1, 2, 3)]
    metrics = made.manifest.metrics
    assert metrics["examples"] == 3
    assert metrics["form"] == "preference"
    assert metrics["left_out"] == {"the rejected answer is empty": 1, "the same as an example before it": 1}
    assert metrics["left_out_first"]["the rejected answer is empty"] == f"{talks}:4"
    assert list(made.manifest.licences) == ["Apache-2.0"]
    assert made.manifest.licences["Apache-2.0"] == sum(size for _, size in kept.sizes()) > 100
    assert any("2 records left out" in line for line in listener.lines)


def test_made_again_when_the_files_change_and_only_then(library: Library, talks: Path) -> None:
    stage = {"source": [str(talks)]}
    listener = Said()
    first = run(library, listener, examples=stage)["examples"]
    assert run(library, listener, examples=stage)["examples"].reference == first.reference
    talks.write_text("\n".join(map(json.dumps, TALK[:2])))
    second = run(library, listener, examples=stage)["examples"]
    assert listener.reused == [False, True, False]
    assert len(Examples(second.folder)) == 2
    assert len(Examples(library.find(first.reference).folder)) == 3


def test_a_damaged_table_is_noticed(library: Library, talks: Path) -> None:
    made = run(library, examples={"source": [str(talks)]})["examples"]
    assert dict(library.verify()) == {made.reference: []}
    table = made.folder / "examples.parquet"
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    ((_, problems),) = library.verify("examples:a")
    assert problems == ["examples.parquet: its bytes have changed"]
    table.write_bytes(data[:-9])
    with pytest.raises(UserError, match="damaged"):
        Examples(made.folder)


GATHERED = {
    "gather": {"source": ["python-stdlib"], "exclude": ["[!a]*", "a[!s]*"]},
    "tokenizer": {"corpus": "gather", "vocabulary": 300},
    "pack": {"corpus": "gather", "tokenizer": "tokenizer", "heldout": 0.2},
}


def test_pairs_of_a_corpus_know_their_documents(library: Library) -> None:
    made = run(
        library,
        **GATHERED,
        all={"verb": "examples", "corpus": "gather", "pairs": "functions", "name": "all"},
        few={"verb": "examples", "corpus": "gather", "pairs": "functions", "name": "few", "limit": 2},
        train={"verb": "examples", "corpus": "gather", "pairs": "functions", "name": "train", "dataset": "pack"},
    )
    documents = {one.id: one for one in Corpus(made["gather"].folder)}
    kept = Examples(made["all"].folder)
    assert kept.form is Conversation
    for one in kept:
        document = documents[str(one.document)]
        assert (one.source, one.licence) == (document.source, document.licence)
        assert document.first_line <= one.line <= document.last_line
        line = document.text.split("\n")[one.line - document.first_line].strip()
        assert one.body.messages[0].content.startswith(line[:20])
    assert [parent.role for parent in made["all"].manifest.parents] == ["corpus"]
    assert len(Examples(made["few"].folder)) == 2
    heldout = set(Dataset(made["pack"].folder, "heldout").ids)
    assert heldout & {one.document for one in kept}
    assert {one.document for one in Examples(made["train"].folder)} == {one.document for one in kept} - heldout


def test_no_examples_are_taken_from_a_corpus_with_an_excluded_document(library: Library) -> None:
    corpus = run(library, gather=GATHERED["gather"])["gather"]
    made = run(library, examples={"corpus": corpus.reference, "pairs": "functions"})["examples"]
    document = str(Examples(made.folder)[0].document)
    library.exclude([Exclusion(id=document, forms=(document,), date="2026-01-01", reason="asked")])
    with pytest.raises(UserError, match="holds an excluded document"):
        run(library, examples={"corpus": corpus.reference, "pairs": "functions"})
    touched = {one.artifact.reference: one.why for one in excluding.touched(library, [document])}
    assert touched == {corpus.reference: "holds it", made.reference: f"was made from {corpus.reference}"}
    again = run(library, gather=GATHERED["gather"], examples={"corpus": "gather", "pairs": "functions"})["examples"]
    assert document not in {one.document for one in Examples(again.folder)}


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({}, "set one of source, corpus and examples"),
        ({"source": ["a"], "corpus": "b"}, "set one of source, corpus and examples"),
        ({"source": ["a"], "pairs": "passages"}, "pairs: only with corpus"),
        ({"corpus": "b", "worked": True}, "worked: only with source"),
        ({"source": ["a"], "form": "poem"}, "form"),
        ({"source": ["gone.jsonl"]}, "gone.jsonl: no such file"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(
    library: Library, stage: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as error:
        run(library, examples=stage)
    assert said in str(error.value)
    assert not list(library.artifacts())


def test_kinds_in_the_plural_have_no_article() -> None:
    assert [one_of(kind) for kind in ("examples", "attributes", "index", "model")] == [
        "examples",
        "attributes",
        "an index",
        "a model",
    ]
