"""Rules over attributes: what they may hold, what they come to, and that nothing else gets in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.data.curate.presets import PRESETS, rules_of
from underlay.data.curate.rules import Rule
from underlay.errors import UserError

COLUMNS = {
    "gopher.words": np.array([10.0, 60.0, 200.0]),
    "language.code": np.array(["en", "de", "fr"]),
    "language.score": np.array([0.9, 0.5, 0.7]),
}


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("gopher.words >= 60", [False, True, True]),
        ("50 <= gopher.words <= 100", [False, True, False]),
        ('language.code in ("en", "fr")', [True, False, True]),
        ('language.code not in ["en"]', [False, True, True]),
        ('language.code == "de" or language.score > 0.8', [True, True, False]),
        ("not gopher.words < 60 and language.score >= 0.5", [False, True, True]),
        ("gopher.words * 2 - 20 > 0", [False, True, True]),
        ("gopher.words / language.score > -1", [True, True, True]),
    ],
)
def test_rules_say_what_they_say_in_python(text: str, met: list[bool]) -> None:
    assert Rule.parse("r", text).met(COLUMNS).tolist() == met
    for row, expected in enumerate(met):

        class Namespace:
            def __init__(self, prefix: str, row: int = row) -> None:
                for name, column in COLUMNS.items():
                    if name.startswith(prefix):
                        setattr(self, name.partition(".")[2], column[row])

        assert eval(text, {"gopher": Namespace("gopher"), "language": Namespace("language")}) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("gopher.words >=", "is no condition"),
        ("", "is no condition"),
        ("__import__('os').system('true')", "may not stand in a condition"),
        ("gopher.words if gopher.words else 1", "may not stand"),
        ("[x for x in gopher.words]", "may not stand"),
        ("gopher.words ** 2 > 1", "may not stand"),
        ("gopher.words[0] > 1", "may not stand"),
        ("lambda: 1", "may not stand"),
        ("(gopher).words.real() > 1", "may not stand"),
        ("1 > 0", "looks at no attribute"),
        ("'a' * 1000000000 == language.code", "may not stand"),
        ("1" + "+1" * 2000, "longer than"),
        ("(" * 500 + "1" + ")" * 500, "is no condition"),
    ],
)
def test_nothing_else_is_a_rule(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Rule.parse("r", text)


def test_a_rule_without_an_answer_is_named() -> None:
    with pytest.raises(UserError, match=r"rule r: 'gopher\.words' is no condition"):
        Rule.parse("r", "gopher.words").met(COLUMNS)
    with pytest.raises(UserError, match="compares numbers with words"):
        Rule.parse("r", "language.code > 3").met(COLUMNS)


def test_unknown_attributes_are_named_with_the_nearest() -> None:
    rule = Rule.parse("r", "gopher.word > 3")
    with pytest.raises(UserError, match=r"no attribute 'gopher\.word'; did you mean gopher\.words\?"):
        rule.check(COLUMNS)


@given(st.text(max_size=60))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    def follow() -> str:
        try:
            rule = Rule.parse("r", text)
            rule.check(COLUMNS)
            rule.met(COLUMNS)
        except UserError as error:
            return str(error)
        return ""

    assert "\n" not in follow()


def test_own_rules_replace_and_take_away() -> None:
    rules = {
        rule.name: rule.text
        for rule in rules_of(("c4",), {"braces": None, "few-sentences": "c4.sentences > 1", "x": "c4.brace < 9"})
    }
    assert rules == {
        "lorem-ipsum": PRESETS["c4"]["lorem-ipsum"],
        "few-sentences": "c4.sentences > 1",
        "x": "c4.brace < 9",
    }
    with pytest.raises(UserError, match="nothing is null, but no preset here has a rule of that name"):
        rules_of(("c4",), {"nothing": None})


def test_figures_say_what_was_seen() -> None:
    assert Rule.parse("r", "language.score > 1 or gopher.words < 3").figures(COLUMNS, 1) == (
        "gopher.words = 60, language.score = 0.5"
    )
