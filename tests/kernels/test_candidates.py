"""Candidates for private things: the compiled loop finds what its plain twin does, in code points."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.data.curate.privacy.secrets import PREFIXES
from underlay.kernels.candidates import (
    ASSIGNED,
    AT,
    BANK,
    BLOCK,
    COLONS,
    MIXED,
    NUMBER,
    PREFIX,
    candidates,
    candidates_reference,
    pairs,
)

PIECES = [
    *"aZx_07 -./()+@:=>'\"\né\u00a0\u2011😀",
    *(
        "12",
        "345",
        "6789",
        "1234567",
        "9x12",
        "::",
        "sk-",
        "ghp_",
        "eyJ",
        "DE89",
        "AB12CD34EF",
        "-----",
        "BEGIN",
        "fe80",
    ),
    "k9" * 9,
]


def found(texts: list[str]) -> list[set[tuple[int, int]]]:
    data = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, data)]).astype(np.int64)
    kept: list[set[tuple[int, int]]] = [set() for _ in texts]
    for text, kind, start, end in zip(
        *candidates(np.frombuffer(b"".join(data), dtype=np.uint8), offsets, pairs(PREFIXES)), strict=True
    ):
        assert 0 <= start <= end <= len(texts[text])
        kept[text].add((int(kind), int(start)))
    return kept


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), min_size=1, max_size=4))
def test_the_compiled_loop_equals_its_plain_twin(texts: list[str]) -> None:
    assert found(texts) == [candidates_reference(text, PREFIXES) for text in texts]


@given(st.text())
def test_any_text_has_the_same_candidates_in_both(text: str) -> None:
    assert found([text]) == [candidates_reference(text, PREFIXES)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("é jane@example.org", {(AT, 6)}),
        ("@property x @ y", set()),
        ("call 555-123-4567x89 now", {(NUMBER, 5)}),
        ("in 1914 and 1918", set()),
        ("8.8.4.4", {(NUMBER, 0)}),
        ("AB 12 34 56 C", {(NUMBER, 3)}),
        ("AB123456C ab123456c", {(MIXED, 0)}),
        ("DE89 3704 0044 0532 0130 00", {(BANK, 0), (NUMBER, 5)}),
        ("2001:db8::1", {(COLONS, 0)}),
        ("std::abs(x)", set()),
        ("token = 'a1b2c3d4e5f6g7h8'", {(ASSIGNED, 9)}),
        ("sk-abcdefghijklmn", {(PREFIX, 0)}),
        ("--------BEGIN", {(BLOCK, 3)}),
    ],
)
def test_examples(text: str, expected: set[tuple[int, int]]) -> None:
    assert found([text]) == [expected]


def test_more_candidates_than_there_was_room_for() -> None:
    (only,) = found(["a@b" * 5_000])
    assert len(only) == 5_000
