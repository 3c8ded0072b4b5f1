"""Pseudonyms: of the value's shape, the same for the same value, and nobody's."""

import ipaddress
import re
from pathlib import Path

import pytest
import stdnum.iban
import stdnum.luhn
from hypothesis import given
from hypothesis import strategies as st
from test_privacy import PRIVATE

from underlay.data.curate.privacy import Pseudonyms, change, find, read_key
from underlay.errors import UserError

ONE, OTHER = Pseudonyms(b"0123456789abcdef"), Pseudonyms(b"fedcba9876543210")


def shape(value: str) -> str:
    return re.sub(r"[a-z]", "a", re.sub(r"[A-Z]", "A", re.sub(r"\d", "0", value)))


@pytest.mark.parametrize("kind", PRIVATE)
def test_the_same_value_has_the_same_pseudonym_and_another_key_another(kind: str) -> None:
    value = PRIVATE[kind]
    assert ONE(kind, value) == Pseudonyms(b"0123456789abcdef")(kind, value)
    assert len({value, ONE(kind, value), OTHER(kind, value)}) == 3


@pytest.mark.parametrize("kind", [kind for kind in PRIVATE if kind not in ("EMAIL", "IP")])
def test_shapes_stay(kind: str) -> None:
    assert shape(ONE(kind, PRIVATE[kind])) == shape(PRIVATE[kind])


def test_an_address_stays_one_and_leads_nowhere() -> None:
    drawn = ONE("EMAIL", "Jane@mail.org")
    assert re.fullmatch(r"[a-z]+@[a-z]+\.example", drawn)
    assert drawn == ONE("EMAIL", "jane@MAIL.org")
    assert drawn.partition("@")[2] == ONE("EMAIL", "joe@mail.org").partition("@")[2]
    assert [span.kind for span in find(drawn)] == ["EMAIL"]


@given(st.ip_addresses())
def test_internet_addresses_become_ones_that_nobody_has(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    drawn = ipaddress.ip_address(ONE("IP", str(address)))
    assert drawn.version == address.version
    assert not drawn.is_global


@given(st.integers(0, 10**15 - 1))
def test_cards_become_numbers_that_are_none(number: int) -> None:
    assert not stdnum.luhn.is_valid(ONE("CARD", f"4{number:015d}"))


def test_an_iban_keeps_its_country_and_loses_its_checksum() -> None:
    drawn = ONE("IBAN", PRIVATE["IBAN"])
    assert drawn.startswith("GB")
    assert not stdnum.iban.is_valid(drawn)


def test_spacing_does_not_make_another_person() -> None:
    one, other = ONE("PHONE", "+44 20 7946 0958"), ONE("PHONE", "+442079460958")
    assert re.sub(r"\D", "", one) == re.sub(r"\D", "", other)


def test_marks_of_keys_and_headers_stay() -> None:
    assert ONE("GITHUB_TOKEN", PRIVATE["GITHUB_TOKEN"]).startswith("ghp_")
    block = ONE("PRIVATE_KEY", PRIVATE["PRIVATE_KEY"]).splitlines()
    assert block[0] == "-----BEGIN RSA PRIVATE KEY-----"
    assert block[-1] == "-----END RSA PRIVATE KEY-----"
    assert len(block) == 4


@given(st.lists(st.sampled_from([*PRIVATE.values(), " ", "\n", ", ", "call "]), max_size=8).map("".join))
def test_lines_stay(text: str) -> None:
    assert change(text, find(text), ONE)[0].count("\n") == text.count("\n")


def test_keys_come_from_a_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERLAY_TEST_KEY", "from-the-environment")
    assert read_key("env:UNDERLAY_TEST_KEY") == b"from-the-environment"
    (tmp_path / "key").write_bytes(b"from-a-file-of-its-own\n")
    assert read_key(str(tmp_path / "key")) == b"from-a-file-of-its-own"


@pytest.mark.parametrize(
    ("where", "message"),
    [("env:UNDERLAY_NO_SUCH_KEY", "UNDERLAY_NO_SUCH_KEY is not set"), ("/no/such/key", "cannot be read")],
)
def test_a_missing_key_is_one_line(where: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_key(where)


def test_a_short_key_is_refused_and_not_shown() -> None:
    with pytest.raises(UserError, match="at least 16") as caught:
        Pseudonyms(b"hunter2")
    assert "hunter2" not in str(caught.value)


def test_fingerprints_tell_keys_apart() -> None:
    assert ONE.fingerprint != OTHER.fingerprint
    assert len(ONE.fingerprint) == 16
