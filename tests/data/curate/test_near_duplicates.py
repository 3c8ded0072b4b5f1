"""Near-duplicates: what is found, against the theory, and what it must not depend on."""

import json
import lzma
import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.data import Corpus, CurateConfig, Document, TagConfig, curate, tag, write_corpus
from underlay.data import writer as writing
from underlay.data.curate.duplicates import same_text
from underlay.data.curate.engine import Local
from underlay.errors import UserError

SHARED = Path(__file__).parents[4] / "shared" / "data"
needs_texts = pytest.mark.skipif(not (SHARED / "c4-wiki-demo").exists(), reason="../shared/data is not here")
TAGS = TagConfig(taggers=("text", "minhash"))
KEEP = CurateConfig(presets=(), redact=None)


def document(text: str, number: int = 0) -> Document:
    return Document(text, f"{number}.txt", 1, 1, "MIT", "text")


def curated(
    folder: Path, documents: list[Document], config: CurateConfig = KEEP, engine: Local | None = None
) -> Corpus:
    raw = write_corpus(folder / "raw", documents)
    return curate(raw, tag(raw, TAGS, folder / "tags", engine=engine), config, folder / "curated")


def spelt(number: int) -> str:
    """A word of letters: all numbers are compared as one."""
    return str(number).translate(str.maketrans("0123456789", "abcdefghij"))


def prose(words: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [spelt(chance.randrange(10**6)) for _ in range(words)]


def changed(words: list[str], places: int, seed: int) -> list[str]:
    """With so many words replaced, spread evenly."""
    words = [*words]
    for number in range(places):
        words[(2 * number + 1) * len(words) // (2 * places)] = f"new{spelt(seed)}x{spelt(number)}"
    return words


def test_the_best_of_nearly_equal_documents_stays_and_is_named(tmp_path: Path) -> None:
    words = prose(400, 0)
    best = document(" ".join([*words, "and", "a", "little", "more"]), 1)
    others = [document(" ".join(changed(words, 1, seed)[:-seed]), 1 + seed) for seed in (1, 2)]
    alone = document(" ".join(prose(400, 1)), 9)
    corpus = curated(tmp_path, [*others, best, alone])
    assert {one.id for one in corpus} == {best.id, alone.id}
    assert {entry.id for entry in corpus.ledger()} == {one.id for one in others}
    for entry in corpus.ledger():
        assert (entry.stage, entry.decision, entry.reason) == ("deduplicate", "drop", "near-duplicate")
        assert entry.other == best.id
        assert entry.detail == f"nearly the same text as {best.source}"


def test_of_equally_good_ones_the_least_id_stays(tmp_path: Path) -> None:
    words = prose(400, 0)
    documents = [document(" ".join([*words[:-1], end]), number) for number, end in enumerate(("one", "two", "six"))]
    assert [one.id for one in curated(tmp_path, documents)] == [min(one.id for one in documents)]


def test_another_attribute_may_say_which_is_better(tmp_path: Path) -> None:
    words = prose(400, 0)
    long, short = document(" ".join([*words, *"!?!?!?"]), 1), document(" ".join(words), 2)
    for better, stays in (("text.characters", long), ("text.letters", short)):
        config = KEEP.model_copy(update={"better": better})
        assert [one.id for one in curated(tmp_path / better, [long, short], config)] == [stays.id]
    with pytest.raises(UserError, match="better: there is no attribute"):
        curated(tmp_path / "again", [long, short], KEEP.model_copy(update={"better": "nonsense"}))


def test_of_the_same_text_one_stays(tmp_path: Path) -> None:
    text = " ".join(prose(100, 0))
    documents = [Document(text, f"{name}.txt", 1, 1, "MIT", "text") for name in "ab"]
    corpus = curated(tmp_path, documents)
    assert [one.source for one in corpus] == ["a.txt"]
    assert [(entry.source, entry.reason) for entry in corpus.ledger()] == [("b.txt", "duplicate")]


@given(st.lists(st.sampled_from("abc"), min_size=1).map(sorted), st.data())
def test_the_first_stays_of_those_that_may(ids: list[str], data: st.DataObject) -> None:
    """A copy stays where the first one was dropped for another reason."""
    rows = sorted(data.draw(st.sets(st.integers(0, len(ids) - 1))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=3)))
    chunks = [ids[first:last] for first, last in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    kept = same_text(
        [pa.chunked_array([chunk], pa.string()) for chunk in chunks], np.array(rows, dtype=np.int64)
    ).tolist()
    for row, id_ in enumerate(ids):
        alike = [other for other in rows if ids[other] == id_]
        assert kept[row] == (alike[0] if row in rows else row)


def test_documents_without_words_are_alike_to_none(tmp_path: Path) -> None:
    assert len(curated(tmp_path, [document("... !"), document("?"), document("-- --")])) == 3


def story(corpus: Corpus) -> tuple[list[Document], list[tuple[object, ...]]]:
    entries = [(e.id, e.decision, e.reason, e.detail, e.other, e.source) for e in corpus.ledger()]
    return list(corpus), sorted(entries)


@pytest.fixture(scope="module")
def families() -> list[Document]:
    """Forty families of documents, each with some that are nearly the same."""
    found = []
    for family in range(40):
        words = prose(150, family)
        for member in range(family % 4 + 1):
            found.append(document(" ".join(changed(words, member, member)), len(found)))
    return found


@settings(max_examples=5)
@given(st.randoms(use_true_random=False), st.integers(1, 30))
def test_neither_order_nor_sharding_matters(
    families: list[Document], tmp_path_factory: pytest.TempPathFactory, random: random.Random, group: int
) -> None:
    expected = story(curated(tmp_path_factory.mktemp("expected"), families))
    shuffled = random.sample(families, len(families))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_GROUP_ROWS", group)
        patch.setattr(writing, "_SHARD_BYTES", 5_000)
        corpus = curated(tmp_path_factory.mktemp("shuffled"), shuffled)
        assert len(corpus.shards) > 1
    assert story(corpus) == expected
    assert 0 < len(corpus) < len(families)


def test_the_number_of_processes_does_not_matter(
    families: list[Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_GROUP_ROWS", 20)
    one, two = (curated(tmp_path / str(n), families, engine=Local(n)) for n in (1, 2))
    assert story(one) == story(two)


# Recall and precision on real text, against the curve. ------------------------------------------------------------


def texts() -> list[str]:
    with lzma.open(SHARED / "c4-wiki-demo" / "c4_demo.jsonl.xz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.sub(r"[^a-z0-9 ]", " ", text).split()
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def jaccard(one: str, other: str) -> float:
    left, right = shingles(one), shingles(other)
    return len(left & right) / len(left | right)


@needs_texts
def test_recall_and_precision_follow_the_curve(tmp_path: Path) -> None:
    """Pairs of known similarity are found as often as 1 - (1 - s^8)^14 says, and no others."""
    chance = np.random.default_rng(0)
    # What the words of a text are must not be in question here, so only letters are left of them.
    plain = [re.sub(r"[^a-z]+", " ", text.lower()).strip() for text in texts()]
    plain = [text for text in plain if len(text.split()) >= 200]
    documents: dict[str, int] = {}
    expected, pairs = [], []
    for number, text in enumerate(plain):
        words = text.split()
        places = chance.choice(len(words), round(len(words) * chance.uniform(0.005, 0.1)), replace=False)
        other = [*words]
        for place in places:
            other[place] = f"x{spelt(int(chance.integers(10**9)))}"
        copy = " ".join(other)
        similar = jaccard(text, copy)
        expected.append(1 - (1 - similar**8) ** 14)
        pairs.append((document(text, 2 * number).id, document(copy, 2 * number + 1).id))
        documents |= {text: 2 * number, copy: 2 * number + 1}
    corpus = curated(tmp_path, [document(text, number) for text, number in documents.items()])
    kept = {one.id for one in corpus}
    partner = {one: other for pair in pairs for one, other in (pair, pair[::-1])}
    found = [not kept.issuperset(pair) for pair in pairs]
    spread = np.sqrt(sum(p * (1 - p) for p in expected))
    assert len(pairs) > 150
    assert 0.2 < np.mean(expected) < 0.95  # the pairs tell something
    assert abs(sum(found) - sum(expected)) < 4 * spread
    # Every document that went has gone for its own copy: texts that have nothing in common are never taken for alike.
    dropped = [entry for entry in corpus.ledger() if entry.decision == "drop"]
    similar = [entry.other == partner[entry.id] for entry in dropped]
    assert all(similar), [entry.detail for entry, own in zip(dropped, similar, strict=True) if not own]
