"""Repeated runs of words against looking at every one of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.kernels.characters import IDEOGRAPH, folds, kinds
from underlay.kernels.repeats import around, copied, landmarks, words


def batch(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    data = [text.encode() for text in texts]
    return np.frombuffer(b"".join(data), dtype=np.uint8), np.cumsum([0, *map(len, data)])


def plain_words(text: str) -> list[tuple[int, str]]:
    """Where words begin, in characters, and what they are."""
    found: list[tuple[int, str]] = []
    fresh, single = True, False
    for place, char in enumerate(text):
        if char.isspace():
            fresh = True
            continue
        alone = bool(kinds()[ord(char)] & IDEOGRAPH)
        if not fresh and folds()[ord(char)] and (alone or single):
            fresh = True
        if fresh:
            found.append((place, char))
            fresh, single = False, alone
        else:
            found[-1] = (found[-1][0], found[-1][1] + char)
    return found


TEXTS = st.lists(st.text(st.sampled_from("abé \n\u2003中กิx̂😀"), max_size=30) | st.text(max_size=15), max_size=4)


@given(TEXTS)
def test_words_and_where_they_begin(texts):
    found = words(*batch(texts))
    assert np.diff(found.edges).tolist() == [len(plain_words(text)) for text in texts]
    starts = iter(found.starts.tolist())
    spelt = {}
    data, offsets = batch(texts)
    for number, text in enumerate(texts):
        for place, word in plain_words(text):
            start = next(starts)
            assert start == offsets[number] + len(text[:place].encode())
            assert data[start : start + len(word.encode())].tobytes().decode() == word
    for value, (_, word) in zip(
        found.hashes.tolist(), (one for text in texts for one in plain_words(text)), strict=True
    ):
        assert spelt.setdefault(value, word) == word
    assert len(set(spelt.values())) == len(spelt)


def test_an_accent_is_never_parted_from_its_letter():
    assert [word for _, word in plain_words("กิน")] == ["กิ", "น"]
    assert words(*batch(["กิน"])).starts.tolist() == [0, 6]


LENGTHS = st.integers(2, 9)
RUNS = st.lists(st.lists(st.integers(0, 3), max_size=40), min_size=1, max_size=4)


@given(RUNS, LENGTHS)
def test_equal_runs_have_a_landmark_in_common(runs, length):
    found = words(*batch([" ".join("abcd"[word] for word in run) for run in runs]))
    starts, values = landmarks(found, length)
    assert sorted(set(starts.tolist())) == starts.tolist()
    known = dict(zip(starts.tolist(), values.tolist(), strict=True))
    seen: dict[tuple[int, ...], set[tuple[int, int]]] = {}
    hashes = found.hashes.tolist()
    for first, last in zip(found.edges, found.edges[1:], strict=False):
        for start in range(first, last - length + 1):
            within = {(at - start, known[at]) for at in range(start, start + length - length // 2 + 1) if at in known}
            run = tuple(hashes[start : start + length])
            seen[run] = seen.get(run, within) & within
    assert all(seen.values())


@given(RUNS, LENGTHS)
def test_what_is_around_a_landmark_holds_every_run_with_it(runs, length):
    found = words(*batch([" ".join("abcd"[word] for word in run) for run in runs]))
    starts, _ = landmarks(found, length)
    chosen = starts[::2]
    wanted = around(found, chosen, length)
    expected = np.zeros(len(found.hashes), dtype=bool)
    for first, last in zip(found.edges, found.edges[1:], strict=False):
        for start in range(first, last - length + 1):
            if any(start <= at <= start + length - length // 2 for at in chosen):
                expected[start : start + length] = True
    assert not (expected & ~wanted).any()
    # And nothing further away than a run of this length may reach.
    for at in np.flatnonzero(wanted):
        assert any(abs(at - start) < length for start in chosen)


def test_landmarks_are_few():
    rng = np.random.default_rng(0)
    found = words(*batch([" ".join(map(str, rng.integers(0, 10**6, 100_000)))]))
    starts, _ = landmarks(found, 50)
    assert len(starts) / len(found.hashes) == pytest.approx(2 / 27, rel=0.03)
    assert np.diff(starts).max() <= 26


def plain_copied(tokens: list[int], length: int) -> list[bool]:
    seen: set[tuple[int, ...]] = set()
    marked = [False] * len(tokens)
    for start in range(len(tokens) - length + 1):
        run = tuple(tokens[start : start + length])
        if run in seen:
            marked[start : start + length] = [True] * length
        seen.add(run)
    return marked


TOKENS = st.lists(st.integers(0, 3), max_size=60)


@given(TOKENS, LENGTHS)
def test_copied_tokens_equal_looking_at_every_run(tokens, length):
    assert copied(np.array(tokens, dtype=np.uint32), length).tolist() == plain_copied(tokens, length)


@given(TOKENS, LENGTHS)
def test_of_every_token_that_goes_an_equal_one_stays(tokens, length):
    marked = copied(np.array(tokens, dtype=np.uint32), length)
    assert {token for token, goes in zip(tokens, marked, strict=True) if not goes} == set(tokens)
