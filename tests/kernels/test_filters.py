"""The compiled filters say what their plain twins say, of any text."""

import itertools
import string

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from underlay.data.curate.texts import Texts
from underlay.kernels import filters_reference as reference
from underlay.kernels.characters import kinds
from underlay.kernels.gopher import GOPHER
from underlay.kernels.hashes import hash_points
from underlay.kernels.lines import C4, FINEWEB, TEXT
from underlay.kernels.minhash import bands, folded_words, functions
from underlay.kernels.words import decode, known_words, split

_PIECES = (
    "the and that with have words Words don't we'll can't O'Neil's n't 'll cannot U.S. Mr. e.g. i.e. J. NATO. "
    "10km 5m 3.14 1,000 $5 5$ US$7 +1 -1 1980s 2+2 a-b well-known --- -- — – ... .. . , ; : ! ? … \" ' ( ) [12] [edit] "
    "[citation needed] [ ] { } # * _ / and/or http://a.b/c-d www.example.com/x?y=1 me@example.org example.com. x=y "
    "end.Start end.start α β。 日本語 ไทย é ﬁ ½ ٣ 😀 lorem ipsum javascript JavaScript privacy policy • -"
)
PIECES = tuple(_PIECES.split(" "))
GAPS = (" ", "\n", "\n\n", "\n\n\n", "\t", "\r\n", "\x0b", "\x85", "\u2028", "  ", "")
TEXTS = st.one_of(
    st.text(),
    st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(GAPS))).map(
        lambda pairs: "".join(piece + gap for piece, gap in pairs)
    ),
    st.lists(st.sampled_from(PIECES[:6]), max_size=80).map(" ".join),
    st.lists(st.sampled_from(["a b c d.", "This is a line of words.", "", " ", "x", "- point", "and so on..."])).map(
        "\n".join
    ),
)


def texts_of(*texts: str) -> Texts:
    return Texts(pa.array(texts, pa.large_string()))


def points_of(text: str) -> tuple[np.ndarray, int]:
    data = np.frombuffer(text.encode() + b"\0", dtype=np.uint8)
    points = np.empty(len(data), dtype=np.uint32)
    return points, decode(data, 0, len(data) - 1, points)


def words_of(text: str) -> list[str]:
    points, size = points_of(text)
    starts, ends = np.empty((2, size + 2), dtype=np.int32)
    n = split(points, size, kinds(), known_words(), starts, ends)
    return [text[start:end] for start, end in zip(starts[:n], ends[:n], strict=True)]


@given(TEXTS)
def test_code_points_are_decoded(text: str) -> None:
    points, size = points_of(text)
    assert "".join(map(chr, points[:size])) == text


@given(TEXTS)
@example("don't ")
@example("(U.S.A.)... \"Mr. O'Neil's\" 10km, and/or well-known--things.")
def test_words_are_those_of_the_plain_twin(text: str) -> None:
    assert words_of(text) == reference.words(text)


@given(TEXTS)
def test_words_hold_all_that_is_no_space(text: str) -> None:
    assert "".join(words_of(text)) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I don't know, Mr. Smith.", ["I", "do", "n't", "know", ",", "Mr.", "Smith", "."]),
        ("He said: 'No!'", ["He", "said", ":", "'", "No", "!", "'"]),
        ("It's 10km (or $5.50) away...", ["It", "'s", "10", "km", "(", "or", "$", "5.50", ")", "away", "..."]),
        ("well-known and/or U.S. e.g. this", ["well", "-", "known", "and/or", "U.S.", "e.g.", "this"]),
        ("Eliot 's 24-hour day, 8am", ["Eliot", "'s", "24", "-", "hour", "day", ",", "8", "am"]),
        ("see http://example.com/a-b?c=d now", ["see", "http://example.com/a-b?c=d", "now"]),
    ],
)
def test_words_are_cut_as_english_is_written(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(TEXTS)
def test_measures_are_those_of_the_plain_twin(text: str) -> None:
    batch = texts_of("a text before", text, "a text behind").batch
    for names, figures, expected in (
        (TEXT, batch.plain(), reference.plain(text)),
        (GOPHER, batch.gopher(), reference.gopher(text)),
        (C4, batch.cleaned.figures, reference.c4(text)[1]),
        (FINEWEB, batch.fineweb(), reference.fineweb(text)),
    ):
        assert dict(zip(names, figures[1], strict=True)) == pytest.approx(expected)


@given(TEXTS)
def test_c4_keeps_the_lines_of_the_plain_twin(text: str) -> None:
    assert texts_of("before it", text).clean()[1] == reference.c4(text)[0]


@given(TEXTS)
def test_cleaned_texts_are_measured_as_such(text: str) -> None:
    batch, kept = texts_of(text).batch, texts_of(reference.c4(text)[0]).batch
    assert batch.fineweb(cleaned=True) == pytest.approx(kept.fineweb())
    signatures = batch.signatures(functions(16), 5, cleaned=True)
    assert (signatures == kept.signatures(functions(16), 5)).all()


@given(TEXTS)
def test_folded_words_are_those_of_the_plain_twin(text: str) -> None:
    points, size = points_of(text)
    from underlay.kernels.characters import folds

    hashes = np.empty(size + 2, dtype=np.uint64)
    n = folded_words(points, size, kinds(), folds(), hashes)
    expected = [hash_points(points_of(word)[0], 0, len(word)) for word in reference.folded_words(text)]
    assert hashes[:n].tolist() == expected


def all_measures(texts: Texts) -> list[np.ndarray]:
    batch = texts.batch
    return [batch.plain(), batch.gopher(), batch.cleaned.figures, batch.fineweb(), batch.signatures(functions(16), 5)]


@given(st.lists(TEXTS, max_size=5))
def test_a_text_has_the_same_measures_in_any_batch(texts: list[str]) -> None:
    together = all_measures(texts_of(*texts))
    for number, text in enumerate(texts):
        for alone, figures in zip(all_measures(texts_of(text)), together, strict=True):
            assert (alone[0] == figures[number]).all()


def test_case_accents_numbers_and_punctuation_do_not_tell_texts_apart() -> None:
    one, other = texts_of(
        "Der Café kostet 12 Euro, und 1999 waren es 3!", "der cafe kostet 7 euro und 2024 waren es 450"
    ).batch.signatures(functions(112), 5)
    assert (one == other).all()


def test_alike_texts_share_a_band_and_others_do_not() -> None:
    words = [
        "".join(letters) for letters in itertools.islice(itertools.product(string.ascii_lowercase, repeat=4), 2000)
    ]
    near = [*words[:1000], "another", *words[1001:]]
    other = words[::-1]
    texts = texts_of(*(" ".join(one) for one in (words, near, other)))
    found = bands(texts.batch.signatures(functions(112), 5), 8)
    assert (found[0] == found[1]).any()
    assert not (found[0] == found[2]).any()


def test_no_texts_and_empty_ones_have_measures() -> None:
    assert all(len(figures) == 0 for figures in all_measures(texts_of()))
    assert not texts_of("", " ").batch.plain().any()


def test_long_hostile_texts_take_linear_time() -> None:
    for text in ("." * 300_000, "a." * 150_000, "'s" * 150_000, "a-" * 150_000, "[1" * 150_000, "://" * 100_000):
        all_measures(texts_of(text))
