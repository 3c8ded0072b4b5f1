"""Texts are harmed as they should be: by the key alone, within words that may change, keeping what is meant."""

from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.adapt.robust import RobustConfig, misspell, rephrase, variants
from underlay.adapt.robust.chance import Chance
from underlay.adapt.robust.spelling import slips, words
from underlay.adapt.robust.words import harmed_text

TEXT = "Why has my transfer not arrived, and when will it be there?"


def test_draws_follow_from_the_key_alone() -> None:
    one, other = Chance(3, "a"), Chance(3, "a")
    assert [one.below(1000) for _ in range(5)] == [other.below(1000) for _ in range(5)] == [171, 105, 616, 984, 140]
    assert sorted(Chance(0).some(range(10), 10)) == list(range(10))
    assert len({Chance(seed).below(2) for seed in range(20)}) == 2


def test_each_kind_of_slip_does_what_it_says() -> None:
    found = slips("cash")
    assert found["swap"] == ["csah", "cahs"]
    assert found["drop"] == ["csh", "cah", "cas"]
    assert found["double"] == ["caash", "cassh", "cashh"]
    assert found["digit"] == ["c4sh", "ca5h"]
    assert {"cssh", "cadh", "casj"} <= set(found["key"])
    assert all(slip[0] == "c" for kind in found.values() for slip in kind)
    assert "acsh" in slips("cash", first=True)["swap"]
    assert "swap" not in slips("aaaa")


@given(st.text(max_size=60), st.integers(0, 1000), st.floats(0.01, 1.0))
def test_only_words_that_may_change_do_and_only_so_many(text: str, seed: int, share: float) -> None:
    found = misspell(text, Chance(seed), share)
    assert found == misspell(text, Chance(seed), share)
    places = words(text)
    rest = SequenceMatcher(None, text, found, autojunk=False).get_opcodes()
    for kind, start, end, _, _ in rest:
        if kind != "equal":
            assert any(first < start <= last and end <= last for first, last in places), (text, found)
    if not places:
        assert found == text
    else:
        assert found != text
        assert abs(len(found) - len(text)) <= max(1, round(share * len(places)))


def test_a_share_of_the_words_is_misspelled() -> None:
    text = "alpha bravo delta hotel india kilo lima mike november oscar"
    changed = [
        sum(one != other for one, other in zip(text.split(), misspell(text, Chance(n), 0.3).split(), strict=True))
        for n in range(20)
    ]
    assert set(changed) == {3}
    assert len({misspell(text, Chance(n), 0.3) for n in range(20)}) == 20


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("How do I close my account?", "Could you tell me how to close my account?"),
        ("Could you tell me how to close my account?", "How do I close my account?"),
        ("Can I use my card?", "Is it possible to use my card?"),
        ("Is it possible to use my card?", "Can I use my card?"),
        ("cancel my card", "please cancel my card."),
        ("Please cancel my card.", "Cancel my card."),
        ("Could you please cancel my card?", "Please cancel my card."),
        ("I am waiting", "I'm waiting"),
        ("I'm waiting", "I am waiting"),
        ("It doesn't work", "It does not work"),
        ("I want to pay", "I would like to pay"),
        ("Hello, is it late?", "Is it late?"),
    ],
)
def test_rules_say_the_same_in_other_words(text: str, wanted: str) -> None:
    assert wanted in variants(text)


@pytest.mark.parametrize(
    ("text", "never"),
    [
        ("Transfer not received", "please transfer not received"),
        ("It's been late", "it is been"),
        ("Do you know who I am", "i'm"),
        ("Why isn't it here?", "is not it"),
        ("I have to pay", "i've to"),
        ("My purchase", "buy"),
    ],
)
def test_rules_stay_away_where_they_would_change_what_is_meant(text: str, never: str) -> None:
    assert not any(never in one.lower() for one in variants(text))


def test_paraphrases_follow_from_the_key_and_leave_alone_what_no_rule_knows() -> None:
    assert rephrase(TEXT, Chance(1)) == rephrase(TEXT, Chance(1)) != TEXT
    assert len({rephrase(TEXT, Chance(n)) for n in range(20)}) > 3
    assert rephrase("rain in rome", Chance(1)) == "rain in rome"


def test_both_texts_of_a_pair_are_harmed_each_in_its_own_way() -> None:
    settings = RobustConfig(kinds=("spelling",), share=0.5)
    first, second = harmed_text((TEXT, TEXT), ("spelling",), settings, 0, 5)
    assert first != TEXT != second
    assert first != second
