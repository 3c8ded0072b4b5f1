"""Configs: what is accepted, and what the user reads when it is not."""

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.config import Config, override, parse, read_yaml
from underlay.errors import UserError


class Inner(Config):
    rate: float = 0.1
    """A rate."""
    steps: int | None = None


class Small(Config):
    verb: Literal["small"] = "small"
    inner: Inner = Inner()


class Large(Config):
    verb: Literal["large"] = "large"
    size: int


class Outer(Config):
    name: str
    inner: Inner = Inner()
    parts: dict[str, Small | Large] | None = None


def fails(values: dict, text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(Outer, values, "here.yaml")
    message = str(caught.value)
    assert message.startswith("here.yaml: ")
    assert text in message
    assert "\n" not in message


def test_unknown_key_names_itself_and_its_neighbour() -> None:
    fails({"name": "a", "inner": {"rat": 1}}, "unknown key 'inner.rat'; did you mean 'rate'?")
    fails({"nam": "a", "name": "b"}, "unknown key 'nam'; did you mean 'name'?")


def test_unknown_key_far_from_all_lists_them() -> None:
    fails({"name": "a", "inner": {"zzz": 1}}, "unknown key 'inner.zzz'; known keys: rate, steps")


def test_wrong_type_and_missing_key() -> None:
    fails({"name": "a", "inner": {"rate": "fast"}}, "key 'inner.rate': input should be a valid number")
    fails({"name": "a", "inner": {"rate": "fast"}}, "found 'fast'")
    fails({}, "key 'name' is missing")


def test_infinite_numbers_are_refused() -> None:
    fails({"name": "a", "inner": {"rate": float("inf")}}, "inner.rate")


def test_several_problems_say_how_many_more() -> None:
    fails({"nam": 1, "inner": {"x": 1}}, "(and 2 more)")


def test_override_reads_yaml_and_leaves_the_original_alone() -> None:
    values = {"inner": {"rate": 1.0}}
    result = override(values, ["inner.rate=3e-4", "inner.steps=null", "new.key=[1, 2]", "text=a=b"])
    assert result == {"inner": {"rate": 3e-4, "steps": None}, "new": {"key": [1, 2]}, "text": "a=b"}
    assert values == {"inner": {"rate": 1.0}}


@pytest.mark.parametrize("assignment", ["rate", "=1", " =1"])
def test_override_without_key_or_value(assignment: str) -> None:
    with pytest.raises(UserError, match=r"write it as key\.subkey=value"):
        override({}, [assignment])


def test_override_through_a_value() -> None:
    with pytest.raises(UserError, match="inner holds a value, not keys"):
        override({"inner": 3}, ["inner.rate=1"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2\n", "line 2: key 'a' stands twice"),
        ("a: [1\n", "line 2"),
        ("- 1\n", "expected keys and values, found list"),
        ("a: !!python/object:os.system {}\n", "line 1"),
        ("a: &x [*x, *x]\n1: 2\n", "key 1 is not text"),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert problem in str(caught.value)


def test_missing_or_binary_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a YAML text file"):
        read_yaml(tmp_path / "b.yaml")


@given(st.floats(1e-12, 1e12))
def test_scientific_numbers_are_numbers(number: float) -> None:
    assert override({}, [f"a={number:e}"])["a"] == pytest.approx(number, rel=1e-5)


def test_schema_carries_the_documentation() -> None:
    assert Inner.model_json_schema()["properties"]["rate"]["description"] == "A rate."
