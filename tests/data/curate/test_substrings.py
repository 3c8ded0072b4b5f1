"""Passages that are copied: which go, which stay, and what is left of their documents."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.data import Corpus, CurateConfig, Document, TagConfig, curate, tag, write_corpus
from underlay.data import writer as writing
from underlay.data.curate.substrings import SubstringsConfig, cut

BOILERPLATE = " ".join(f"boiler{n}" for n in range(60))


def document(text: str, number: int = 0) -> Document:
    return Document(text, f"{number}.txt", 1, 1 + text.count("\n"), "MIT", "text")


def curated(
    folder: Path, documents: list[Document], taggers: tuple[str, ...] = ("text",), **settings: object
) -> Corpus:
    raw = write_corpus(folder / "raw", documents)
    wanted = SubstringsConfig.model_validate({"min_tokens": 20} | settings)
    config = CurateConfig(presets=(), near_duplicates=False, substrings=wanted)
    tags = tag(raw, TagConfig.model_validate({"taggers": taggers}), folder / "tags")
    return curate(raw, tags, config, folder / "curated")


def prose(words: int, seed: int) -> str:
    chance = random.Random(seed)
    return " ".join(f"w{chance.randrange(10**6)}" for _ in range(words))


def test_the_first_copy_stays_and_the_others_go(tmp_path: Path) -> None:
    documents = [document(f"{prose(40, n)}\n{BOILERPLATE}\n{prose(40, n + 50)}", n) for n in range(5)]
    corpus = curated(tmp_path, documents)
    first = min(documents, key=lambda one: one.id)
    assert [one.source for one in corpus if BOILERPLATE in one.text] == [first.source]
    by_source = {one.source: one for one in corpus}
    for number, one in enumerate(documents):
        if one is not first:
            left = by_source[one.source]
            assert left.text == f"{prose(40, number)}\n\n{prose(40, number + 50)}"
            (entry,) = [entry for entry in corpus.ledger() if entry.id == one.id]
            assert (entry.stage, entry.decision, entry.reason) == ("deduplicate", "change", "copied-text")
            assert entry.detail == f"{len(BOILERPLATE):,} of {len(one.text):,} characters stand further to the front"
            assert entry.other == left.id


def test_nothing_goes_unless_asked(tmp_path: Path) -> None:
    assert CurateConfig().substrings is None
    raw = write_corpus(tmp_path / "raw", [document(f"{prose(40, n)} {BOILERPLATE}", n) for n in range(2)])
    tags = tag(raw, TagConfig(taggers=("text",)), tmp_path / "tags")
    corpus = curate(raw, tags, CurateConfig(presets=(), near_duplicates=False), tmp_path / "curated")
    assert {one.text for one in corpus} == {one.text for one in raw}


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    passage = BOILERPLATE.replace(" ", "\n")
    documents = [document(f"{prose(40, n)}\n{passage}\nend{n} {prose(30, n + 9)}", n) for n in range(3)]
    for one in curated(tmp_path, documents):
        number = int(one.source.removesuffix(".txt"))
        assert one.text.splitlines()[61].startswith(f"end{number} ")


def test_the_same_words_in_other_lines_are_the_same_passage(tmp_path: Path) -> None:
    documents = [
        document(f"{prose(40, n)} {space.join(BOILERPLATE.split())} {prose(40, n + 9)}", n)
        for n, space in enumerate((" ", "\n", "\t \u2003"))
    ]
    assert sum("boiler30" in one.text for one in curated(tmp_path, documents)) == 1


@pytest.mark.parametrize(("words", "stay"), [(19, 2), (20, 1)])
def test_how_long_a_passage_must_be(tmp_path: Path, words: int, stay: int) -> None:
    passage = " ".join(BOILERPLATE.split()[:words])
    documents = [document(f"{prose(40, n)} {passage} {prose(40, n + 9)}", n) for n in range(2)]
    assert sum(passage in one.text for one in curated(tmp_path, documents)) == stay


def test_a_passage_may_stand_twice_in_one_document(tmp_path: Path) -> None:
    (one,) = curated(tmp_path, [document(f"{BOILERPLATE} {prose(40, 1)} {BOILERPLATE} {prose(40, 2)}")])
    assert one.text == f"{BOILERPLATE} {prose(40, 1)} {prose(40, 2)}"


def test_characters_are_never_cut(tmp_path: Path) -> None:
    passage = "".join(chr(0x4E00 + n) for n in range(60))
    documents = [document(f"前{n}é{passage}{n}後 {prose(30, n)}", n) for n in range(3)]
    first = min(documents, key=lambda one: one.id)
    for one in curated(tmp_path, documents):
        number = one.source.removesuffix(".txt")
        if one.source != first.source:
            assert one.text == f"前{number}é{number}後 {prose(30, int(number))}"


def test_what_is_nearly_empty_afterwards_is_dropped(tmp_path: Path) -> None:
    whole, copy = document(f"{BOILERPLATE} {prose(40, 1)}", 0), document(f"{BOILERPLATE} little", 1)
    other = document(f"little {BOILERPLATE}", 2)
    corpus = curated(tmp_path, [whole, copy, other], min_left=10)
    dropped = [entry for entry in corpus.ledger() if entry.decision == "drop"]
    assert len(dropped) + len(list(corpus)) == 3
    first = min((whole, copy, other), key=lambda one: one.id)
    assert {entry.id for entry in dropped} == {copy.id, other.id} - {first.id}
    assert {entry.reason for entry in dropped} == {"copied-text"}


def test_private_data_is_masked_before_passages_are_compared(tmp_path: Path) -> None:
    documents = [
        document(f"{prose(40, n)} {BOILERPLATE} someone{n}@example.org {BOILERPLATE[::-1]} {prose(40, n + 9)}", n)
        for n in range(2)
    ]
    corpus = list(curated(tmp_path, documents, ("text", "privacy"), min_tokens=100))
    assert sum("<EMAIL>" in one.text for one in corpus) == 1
    assert not any("@" in one.text for one in corpus)


WORDS = st.lists(st.sampled_from("abc"), max_size=30).map(" ".join)


@settings(max_examples=50)
@given(st.lists(WORDS, min_size=1, max_size=4, unique=True), st.integers(1, 5))
def test_what_is_left_equals_looking_at_every_run(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[str], group: int
) -> None:
    length = 10
    documents = [document(f"start{n} {body}", n) for n, body in enumerate(bodies)]
    seen: set[tuple[str, ...]] = set()
    expected = {}
    for one in sorted(documents, key=lambda one: one.id):
        words = one.text.split()
        goes = [False] * len(words)
        for start in range(len(words) - length + 1):
            run = tuple(words[start : start + length])
            if run in seen:
                goes[start : start + length] = [True] * length
            seen.add(run)
        expected[one.source] = [word for word, gone in zip(words, goes, strict=True) if not gone]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_GROUP_ROWS", group)
        corpus = curated(tmp_path_factory.mktemp("corpus"), documents, min_tokens=length, min_left=0)
    assert {one.source: one.text.split() for one in corpus} == expected


@given(st.text(), st.data())
def test_cutting_keeps_all_line_breaks(text: str, data: st.DataObject) -> None:
    edges = sorted({len(text[:place].encode()) for place in data.draw(st.lists(st.integers(0, len(text)), max_size=6))})
    passages = list(zip(edges[::2], edges[1::2], strict=False))
    left = cut(text, passages)
    assert left.count("\n") == text.count("\n")
    gone = sum(end - start - text.encode().count(b"\n", start, end) for start, end in passages)
    assert len(left.encode()) == len(text.encode()) - gone
