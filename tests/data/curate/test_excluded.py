"""What is excluded stays out, also where curation would change it, and what is like it may stay instead."""

import random
from pathlib import Path

from underlay.data import Attributes, Corpus, CurateConfig, Document, GatherConfig, TagConfig, curate, gather, tag
from underlay.data import write_corpus as write
from underlay.data.curate.decide import decide, rows_of


def prose(seed: int, words: int = 120) -> str:
    chance = random.Random(seed)
    return "\n".join("".join(chance.choices("aehinorst", k=6)) for _ in range(words))


def document(text: str, source: str) -> Document:
    return Document(text, source, 1, 1, "MIT", "text")


def prepared(folder: Path) -> tuple[Corpus, Attributes, dict[str, Document]]:
    documents = {
        "private": document(f"{prose(1)} me@example.org", "private.txt"),
        "long": document(f"{prose(2)} and so on", "long.txt"),
        "short": document(prose(2), "short.txt"),
        "other": document(prose(3), "other.txt"),
    }
    raw = write(folder / "raw", documents.values())
    return raw, tag(raw, TagConfig(), folder / "attributes"), documents


def test_a_document_is_known_before_it_is_changed(tmp_path: Path) -> None:
    raw, attributes, documents = prepared(tmp_path)
    out = {documents["private"].id}
    corpus = curate(raw, attributes, CurateConfig(), tmp_path / "out", out=out)
    assert sorted(one.source for one in corpus) == ["long.txt", "other.txt"]
    (entry,) = [entry for entry in corpus.ledger() if entry.source == "private.txt"]
    assert (entry.decision, entry.stage, entry.reason, entry.id) == ("drop", "exclude", "excluded", *out)


def test_a_document_is_known_by_what_it_is_changed_into(tmp_path: Path) -> None:
    raw, attributes, documents = prepared(tmp_path)
    changed = next(
        one for one in curate(raw, attributes, CurateConfig(), tmp_path / "a") if one.source == "private.txt"
    )
    assert changed.id != documents["private"].id
    corpus = curate(raw, attributes, CurateConfig(), tmp_path / "b", out={changed.id})
    assert sorted(one.source for one in corpus) == ["long.txt", "other.txt"]


def test_what_was_nearly_the_same_stays_in_its_place(tmp_path: Path) -> None:
    raw, attributes, documents = prepared(tmp_path)
    for out, stays in ((frozenset(), "long.txt"), ({documents["long"].id}, "short.txt")):
        corpus = curate(raw, attributes, CurateConfig(), tmp_path / stays, out=out)
        assert {one.source for one in corpus} & {"long.txt", "short.txt"} == {stays}


def test_rows_are_found_by_ids_or_their_beginnings(tmp_path: Path) -> None:
    documents = [document(prose(number, 9), f"{number:03d}.txt") for number in range(2500)]
    corpus = write(tmp_path / "c", documents)
    assert len(corpus.units()) > 2
    ids = corpus.column("id").to_pylist()
    wanted = [ids[0], ids[1023], ids[1024], ids[-1]]
    assert rows_of(corpus, wanted) == [0, 1023, 1024, 2499]
    for row in (0, 1023, 1024, 2499):
        ((id_, unit, inside),) = corpus.places([ids[row][:20]])
        assert (id_, corpus.document(unit, inside).id) == (ids[row], ids[row])
    begun = [id_ for id_, _, _ in corpus.places(["a", ids[0]])]
    assert sorted(begun) == sorted({id_ for id_ in ids if id_.startswith("a")} | {ids[0]})
    assert list(corpus.places(["0" * 32, "f" * 32])) == []


def test_gathering_leaves_it_out_wherever_it_stands(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, seed in (("a", 1), ("b", 2), ("copy", 1)):
        (folder / f"{name}.txt").write_text(prose(seed))
    out = {document(prose(1), "").id}
    corpus = gather(GatherConfig(source=(str(folder),)), tmp_path / "raw", excluded=out)
    assert [Path(one.source).name for one in corpus] == ["b.txt"]
    assert [(Path(e.source).name, e.reason) for e in corpus.ledger()] == [
        ("a.txt", "excluded"),
        ("copy.txt", "excluded"),
    ]


def test_without_exclusions_nothing_is_looked_for(tmp_path: Path) -> None:
    raw, attributes, _ = prepared(tmp_path)
    assert (decide(raw, attributes, CurateConfig()).codes != -4).all()
    assert rows_of(raw, ()) == []
