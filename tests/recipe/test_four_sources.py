"""A web archive, a wiki's dump, books and a source tree: one recipe makes one dataset of them, in parts."""

import json
import lzma
from pathlib import Path

import pytest
import yaml
from test_recipe import Log

from underlay.data import Corpus, Dataset
from underlay.data.curate import Attributes
from underlay.library import Artifact, Library
from underlay.recipe import read_recipe, run_recipe
from underlay.recipe.carding import card_of

DATA = Path(__file__).parents[3] / "shared" / "data"
SOURCES = {
    "web": [DATA / "warc-samples"],
    "wiki": [DATA / "wikipedia-xml" / "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"],
    "code": ["python-stdlib"],
}
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs the data beside the project (../shared/data)")


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("books")
    with lzma.open(DATA / "gutenberg" / "children.jsonl.xz", "rt", encoding="utf-8") as file:
        for _ in range(6):
            book = json.loads(file.readline())
            (folder / f"{book['title'][:40].replace('/', ' ')}.txt").write_text(book["text"], "utf-8")
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def made(books: Path, library: Library, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    stages: dict[str, dict[str, object]] = {}
    for name, sources in {**SOURCES, "books": [books]}.items():
        stages[f"gather-{name}"] = {"verb": "gather", "name": f"{name}-raw", "source": [str(one) for one in sources]}
        taggers = ["text", "gopher", "c4", "minhash", "privacy", "language", "terms"]
        stages[f"tag-{name}"] = {"verb": "tag", "name": name, "corpus": f"gather-{name}", "taggers": taggers}
        stages[name] = {
            "verb": "curate",
            "name": name,
            "corpus": f"gather-{name}",
            "attributes": f"tag-{name}",
            "presets": ["basic", "gopher"] if name in ("wiki", "books") else ["basic"],
        }
    stages["gather-code"]["exclude"] = ["[!j]*"]
    named = {name: name for name in (*SOURCES, "books")}
    stages["tokenizer"] = {"corpora": named, "vocabulary": 1000}
    stages["pack"] = {"corpora": named, "tokenizer": "tokenizer", "heldout": 0.1}
    recipe = tmp_path_factory.mktemp("recipe") / "four.yaml"
    recipe.write_text(yaml.safe_dump({"name": "four", "stages": stages}, sort_keys=False))
    return run_recipe(read_recipe(recipe), library, Log())


def test_one_dataset_holds_all_four(made: dict[str, Artifact]) -> None:
    parts = Dataset(made["pack"].folder).parts
    assert set(parts) == {"web", "wiki", "books", "code"}
    assert all(len(tokens) > 300 for tokens in parts.values())


def test_every_document_says_where_it_is_from_and_in_which_language(made: dict[str, Artifact]) -> None:
    kinds = {name: {one.language for one in Corpus(made[name].folder)} for name in ("web", "wiki", "books", "code")}
    assert kinds["code"] == {"python"}
    for name in kinds:
        for document in Corpus(made[name].folder):
            assert document.source
            assert document.text.strip()
    assert all(document.date[:4].isdigit() for document in Corpus(made["wiki"].folder))
    assert any(document.date[:4].isdigit() for document in Corpus(made["web"].folder))
    codes = Attributes(made["tag-books"].folder).table(
        Corpus(made["gather-books"].folder).units()[0], ["language.code"]
    )
    assert set(codes.column(0).to_pylist()) == {"en"}


def test_one_card_tells_of_all_four(made: dict[str, Artifact], library: Library, tmp_path: Path) -> None:
    page, text = card_of(library, [made["pack"].reference], tmp_path)
    said = text.read_text("utf-8")
    metrics = made["pack"].manifest.metrics
    assert f"{metrics['tokens']['train']:,} tokens to learn from" in said
    for name in ("web", "wiki", "books", "code"):
        assert f"## Part {name}" in said
        assert f"{metrics['parts'][name]['train']:,}" in said
        kept = made[name].manifest.metrics["documents"]
        assert f"| documents kept | {kept:,} of" in said
    assert page.stat().st_size > 10_000


def test_each_has_a_card_that_names_its_sources(made: dict[str, Artifact]) -> None:
    for name in ("web", "wiki", "books", "code"):
        card = (made[name].folder / "card.md").read_text("utf-8")
        assert f"{made[name].manifest.metrics['documents']:,}" in card
        assert (made[name].folder / "card.html").stat().st_size > 10_000
    assert "enwiki" in (made["wiki"].folder / "card.md").read_text("utf-8")
