"""Counting words of lists: the compiled loop equals a regular expression, whatever the bytes are."""

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.data.curate.taggers import TAGGERS, TagConfig
from underlay.data.curate.terms import GENDERED, REGIONAL
from underlay.data.curate.texts import Texts
from underlay.kernels.terms import count_terms, term_table

LISTS = [["she", "her"], ["he", "his"], ["Asia", "Peru"]]
NAMES = [False, False, True]


def compiled(texts: list[str]) -> list[list[int]]:
    keys, marks = term_table(LISTS, NAMES)
    data = [text.encode() for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in data])]).astype(np.int64)
    counts = np.zeros((len(texts), len(LISTS)), dtype=np.int32)
    count_terms(np.frombuffer(b"".join(data), dtype=np.uint8), offsets, keys, marks, counts)
    return counts.tolist()


def plain(text: str) -> list[int]:
    words = re.findall(rb"[A-Za-z0-9_\x80-\xff]+", text.encode())
    count = Counter()
    for word in words:
        for number, (terms, name) in enumerate(zip(LISTS, NAMES, strict=True)):
            if word.lower() in {term.lower().encode() for term in terms} and (not name or word[:1].isupper()):
                count[number] += 1
    return [count[number] for number in range(len(LISTS))]


PIECES = st.sampled_from(
    ["she", "SHE", "her", "he", "his", "Asia", "asia", "ASIA", "Peru", "é", "_", "1", " ", ".", "\n", "s"]
)


@given(st.lists(st.one_of(st.text(), st.lists(PIECES).map("".join)), max_size=5))
def test_it_equals_a_regular_expression(texts: list[str]) -> None:
    assert compiled(texts) == [plain(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("She told her: he's HIS own man", [2, 2, 0]),
        ("his_name, sheé, Ésthe", [0, 0, 0]),
        ("asia and Asia, PERU", [0, 0, 2]),
        ("", [0, 0, 0]),
    ],
)
def test_words_are_whole(text: str, counts: list[int]) -> None:
    assert compiled(["he", text, "she"]) == [[0, 1, 0], counts, [1, 0, 0]]


def test_a_word_is_in_one_list_only() -> None:
    words = [word for text in (*GENDERED.values(), *REGIONAL.values()) for word in text.split()]
    assert len(set(words)) == len(words)
    assert all(word[0].isupper() for text in REGIONAL.values() for word in text.split())
    with pytest.raises(AssertionError, match="listed twice"):
        term_table([["a"], ["A"]], [False, True])


def test_the_tagger_has_a_column_for_each_list() -> None:
    tagger = TAGGERS["terms"](TagConfig())
    texts = Texts(pa.array(["none", "She met Brazilian women in Kenya.", "He, and she."]).slice(1))
    found = {name: column.tolist() for name, column in tagger(texts).items()}
    assert set(found) == set(tagger.fields) == {*GENDERED, *REGIONAL}
    expected = {"female": [2, 1], "male": [0, 1], "latin_america": [1, 0], "africa": [1, 0]}
    assert {name: counts for name, counts in found.items() if any(counts)} == expected
