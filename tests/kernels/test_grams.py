"""Features of texts: the compiled loops equal plain Python, and phrases are counted where they stand."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.kernels.characters import folds, kinds
from underlay.kernels.grams import Shape, count_phrases, features, fit, phrases, scores
from underlay.kernels.hashes import mix
from underlay.kernels.minhash import folded_words

SHAPE = Shape(bits=12, words=2, shortest=3, longest=4, read=1 << 16)


def packed(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    data = [text.encode() for text in texts]
    return np.frombuffer(b"".join(data), dtype=np.uint8), np.cumsum([0, *map(len, data)]).astype(np.int64)


def plain(text: str, shape: Shape) -> dict[int, float]:
    """The features of one text, said in Python."""
    points = np.array([ord(char) for char in text], dtype=np.uint32)
    hashes = np.empty(len(points) + 1, dtype=np.uint64)
    known = folded_words(points, len(points), kinds(), folds(), hashes)
    found: Counter[int] = Counter()
    shift = np.uint64(64 - shape.bits)
    with np.errstate(over="ignore"):
        for count in range(1, shape.words + 1):
            for first in range(known - count + 1):
                value = hashes[first]
                for word in hashes[first + 1 : first + count]:
                    value = value * np.uint64(0x9E3779B97F4A7C15) + word
                found[int(mix(value + np.uint64(count)) >> shift)] += 1
        folded = [chr(point) for point in folds()[points] if point]
        kept = "".join(char for at, char in enumerate(folded) if char != " " or (at and folded[at - 1] != " "))
        kept = kept.removeprefix(" ")
        for length in range(shape.shortest, shape.longest + 1):
            for first in range(len(kept) - length + 1):
                value = np.uint64(0xCBF29CE484222325)
                for char in kept[first : first + length]:
                    value = (value ^ np.uint64(ord(char))) * np.uint64(0x100000001B3)
                found[int(mix(value) >> shift)] += 1
    weights = {number: 1 + np.log(count) for number, count in found.items()}
    norm = sum(weight**2 for weight in weights.values()) ** 0.5
    return {number: weight / norm for number, weight in weights.items()}


@given(st.lists(st.text(alphabet=st.sampled_from("abcÀé, 12\n中文")), max_size=3))
def test_features_equal_their_plain_twin(texts: list[str]) -> None:
    found = features(*packed(texts), SHAPE)
    for i, text in enumerate(texts):
        row = slice(found.offsets[i], found.offsets[i + 1])
        have = dict(zip(found.numbers[row].tolist(), found.weights[row].tolist(), strict=True))
        assert have == pytest.approx(plain(text, SHAPE), rel=1e-5)


def test_only_the_start_of_a_text_is_read_and_no_character_is_cut() -> None:
    shape = SHAPE._replace(read=64)
    long, short = features(*packed(["é" * 33 + "tail"]), shape), features(*packed(["é" * 32]), shape)
    assert sorted(long.numbers) == sorted(short.numbers)
    odd = features(*packed(["x" + "é" * 40]), shape), features(*packed(["x" + "é" * 31]), shape)
    assert sorted(odd[0].numbers) == sorted(odd[1].numbers)


@given(st.lists(st.text(alphabet="ab ", max_size=20), min_size=1, max_size=4))
def test_scores_are_those_of_the_features(texts: list[str]) -> None:
    weights = np.random.default_rng(0).normal(size=1 << SHAPE.bits).astype(np.float32)
    found = features(*packed(texts), SHAPE)
    sums = [
        (weights[found.numbers[a:b]] * found.weights[a:b]).sum()
        for a, b in zip(found.offsets, found.offsets[1:], strict=False)
    ]
    assert scores(*packed(texts), SHAPE, weights, 0.25) == pytest.approx(
        1 / (1 + np.exp(-0.25 - np.array(sums))), abs=1e-5
    )


def test_fitting_parts_what_can_be_parted_and_is_repeatable() -> None:
    texts = [f"apple number {n}" for n in range(40)] + [f"brick number {n}" for n in range(40)]
    likes = np.repeat([1, 0], 40).astype(np.float32)
    found = features(*packed(texts), SHAPE)
    order = np.tile(np.random.default_rng(0).permutation(80), 5)
    fitted = [fit(found, likes, np.ones(80, dtype=np.float32), order, SHAPE.bits, 0.3, 1e-6) for _ in range(2)]
    assert (fitted[0][0] == fitted[1][0]).all()
    assert ((scores(*packed(texts), SHAPE, *fitted[0]) > 0.5) == (likes == 1)).all()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Wicked apples and WICKED Ápple, pie", 3),
        ("wickedness", 0),
        ("big bad wolf; big bad", 1),
        ("the big bad wicked wolf", 1),
        ("他是坏人吗", 1),
        ("", 0),
    ],
)
def test_phrases_are_counted_once_each(text: str, count: int) -> None:
    wanted = phrases(["wicked", "apple pie", "Big Bad Wolf", "坏人", "", "--"])
    assert wanted.longest == 3
    assert count_phrases(*packed([text, text]), wanted).tolist() == [count, count]
