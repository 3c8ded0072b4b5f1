"""Privacy: what is found, what is left alone, and that hostile text costs no more than other text."""

import sysconfig
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.data.curate.privacy import Finder, PrivacyConfig, Span, change, find, group_of, placeholder
from underlay.data.curate.privacy.ids import NATIONAL_IDS
from underlay.data.curate.privacy.numbers import is_card
from underlay.data.curate.privacy.spans import apart
from underlay.data.curate.texts import Texts


def masked(text: str) -> str:
    return change(text, find(text), placeholder)[0]


SECRETS = {
    "AWS_KEY": "AKIA" + "Q3EGHIJKLMNOP234",
    "GITHUB_TOKEN": "ghp_" + "a1B2" * 9,
    "GITLAB_TOKEN": "glpat-" + "a1B2c3D4e5F6g7H8i9J0",
    "SLACK_TOKEN": "xoxb-" + "123456789012-abcdef",
    "GOOGLE_KEY": "AIza" + "Sy_-D3f4" * 4 + "xyz",
    "STRIPE_KEY": "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "HUGGING_FACE_TOKEN": "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH",
    "SENDGRID_KEY": "SG." + "a" * 22 + "." + "b" * 43,
    "NPM_TOKEN": "npm_" + "a1B2" * 9,
    "PYPI_TOKEN": "pypi-AgE" + "Ia1B2" * 12,
    "TELEGRAM_TOKEN": "123456789:" + "AA" + "h0K7_xQ2w-E4r5T6y7U8i9O0pA1s2D3f4",
    "API_KEY": "sk-proj-" + "Abcd1234" * 5,
    "JWT": "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0" + ".dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "PRIVATE_KEY": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA PRIVATE KEY-----",
}
PRIVATE = SECRETS | {
    "EMAIL": "jane.doe+spam@mail.example.co.uk",
    "IP": "86.121.97.248",
    "CARD": "4111 1111 1111 1111",
    "IBAN": "GB29 NWBK 6016 1331 9268 19",
    "PHONE": "+44 20 7946 0958",
    "US_SSN": "536-90-4399",
    "GB_NINO": "AB 12 34 56 C",
    "ES_NIE": "X-1234567-L",
    "IT_CF": "RCCMNL83S18D969H",
    "BR_CPF": "390.533.447-05",
    "CN_RIC": "11010519491231002X",
    "FR_NIR": "2 95 10 99 126 111 93",
    "KR_RRN": "971013-9019902",
    "MX_CURP": "BOXW310820HNERXN09",
    "BE_NN": "85.07.30-033.28",
}


@pytest.mark.parametrize("kind", PRIVATE)
def test_each_kind_is_found_whole_and_lines_stay(kind: str) -> None:
    text = f"é before {PRIVATE[kind]} after\nnext line"
    assert find(text) == [Span(9, 9 + len(PRIVATE[kind]), kind)]
    assert masked(text).startswith(f"é before <{kind}>")
    assert masked(text).endswith(" after\nnext line")
    assert masked(text).count("\n") == text.count("\n")


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("see https://joe:hunter2@example.org/x", "URL_PASSWORD", "joe:hunter2"),
        ("mailto:joe@example.org", "EMAIL", "joe@example.org"),
        ("(joe@example.org)", "EMAIL", "joe@example.org"),
        ("write to joe@example.org.", "EMAIL", "joe@example.org"),
        ("jürgen@müller.de", "EMAIL", "jürgen@müller.de"),
        ("请联系zhang@example.com谢谢", "EMAIL", "zhang@example.com"),
        ("from 2a00:1450:4001:81b::200e port 80", "IP", "2a00:1450:4001:81b::200e"),
        ("ping 8.8.8.8", "IP", "8.8.8.8"),
        ("http://86.121.97.248:80/", "IP", "86.121.97.248"),
        ("card 4111111111111111,", "CARD", "4111111111111111"),
        ("card 3782-822463-10005", "CARD", "3782-822463-10005"),
        ("iban de89370400440532013000", "IBAN", "de89370400440532013000"),
        ("NO93 8601 1117 947 then", "IBAN", "NO93 8601 1117 947"),
        ("BE68 5390 0754 7034 with", "IBAN", "BE68 5390 0754 7034"),
        ("sort code 12-34-56", "BANK_ACCOUNT", "12-34-56"),
        ("account number: 12345678", "BANK_ACCOUNT", "12345678"),
        ("routing number 021000021", "BANK_ACCOUNT", "021000021"),
        ("(415) 555-2671", "PHONE", "(415) 555-2671"),
        ("415-555-2671x4587", "PHONE", "415-555-2671x4587"),
        ("Telefon: 030 901820", "PHONE", "030 901820"),
        ("call me on 07700 900123 please", "PHONE", "07700 900123"),
        ("my BSN is 111222333", "NL_BSN", "111222333"),
        ("PESEL 44051401359", "PL_PESEL", "44051401359"),
        ("Aadhaar 2341 2341 2346", "IN_AADHAAR", "2341 2341 2346"),
        ("DNI 54362315-K", "ES_DNI", "54362315-K"),
        ('client_secret = "q9Zt7LmX2vBn4Kp8Rw3Y"', "SECRET", "q9Zt7LmX2vBn4Kp8Rw3Y"),
    ],
)
def test_private_values_where_they_stand(text: str, kind: str, value: str) -> None:
    assert [(span.kind, text[span.start : span.end]) for span in find(text)] == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "@property", "a @ b", "x = matrix@vector", "user@localhost", "icon@2x.png", "git@github.com:a/b.git",
        "sk-short", "eyJ.not.token", "risk_live_a", "https://{user}:{password}@host/", "http://host:8080/a@b",
        "127.0.0.1", "10.0.0.7", "192.168.1.1", "192.0.2.55", "version 4.12.0.1", "1.3.6.1.4.1.311", "section 8.1.4.11",
        "fe80::1", "2001:db8::1", "::1", "std::vector", "dead::beef", "12:30:45",
        "4111111111111112", "1000000000000008", "0.4111111111111111", "1234567890123456", "4444444444444444",
        "GB29 NWBK 6016 1331 9268 18", "1914-1918", "2026-11-21", "21.11.2026", "ISBN 978-3-16-148410-0",
        "111222333", "44051401359", "1 2 3 4 5 6 7 8 9 10 11 12", "0x123456789ABCDEF", "3.141592653589793",
        "numbers 1000000 and 2000000", "password = get_password_from_user_1()", "author: someone-else-entirely",
        "000-12-3456", "phones cost $3000 / 200 each", "are 400-120-200 left", "123 456 789", "01234.000000",
        "call f(1500 - 135 - 141 = 1224)",
        "hours earlier than 0900-0130", "-----BEGIN CERTIFICATE-----",
    ],
)  # fmt: skip
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert find(text) == []


def test_only_the_kinds_that_were_asked_for() -> None:
    text = "joe@example.org 86.121.97.248"
    assert [span.kind for span in find(text, PrivacyConfig(kinds=("ip",)))] == ["IP"]


def test_telephones_of_a_country_as_they_are_written_at_home() -> None:
    text = "so 0470 12 34 56 then"
    assert find(text, PrivacyConfig(regions=("BE",)))
    assert not find(text, PrivacyConfig(regions=("US",)))


def test_a_country_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="XX is no country's code"):
        PrivacyConfig(regions=("DE", "XX"))


@given(st.text(alphabet=st.sampled_from("a@.b-\n1 _%+:/0")))
def test_masking_keeps_lines_and_leaves_nothing_to_find(text: str) -> None:
    assert masked(text).count("\n") == text.count("\n")
    assert find(masked(text)) == []


@given(
    st.lists(st.sampled_from([*PRIVATE.values(), " ", "\n", ", ", "call ", "é", "-", "1", "x"]), max_size=12).map(
        "".join
    )
)
def test_spans_are_in_order_apart_and_within(text: str) -> None:
    spans = find(text)
    edges = [edge for span in spans for edge in (span.start, span.end)]
    assert edges == sorted(edges)
    assert all(0 <= span.start < span.end <= len(text) for span in spans)


def test_a_stretch_of_a_column_has_what_its_texts_have() -> None:
    texts = [f"é {value} and {value}" for value in PRIVATE.values()]
    column = pa.array(["not me: joe@example.org", *texts, "nor me: joe@example.org"]).slice(1, len(texts))
    assert Finder(PrivacyConfig())(Texts(column)) == [find(text) for text in texts]


def test_overlapping_spans_cover_all_that_either_did() -> None:
    assert apart([Span(5, 9, "PHONE"), Span(0, 6, "EMAIL"), Span(9, 12, "IP")]) == [
        Span(0, 9, "EMAIL"),
        Span(9, 12, "IP"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a" * 200_000 + "@" + "b." * 100_000,
        "a@" * 100_000,
        "://a:" * 60_000,
        "-----BEGIN PRIVATE KEY-----" * 5_000,
        "-----BEGIN PRIVATE KEY-----\n" + "A" * 300_000,
        "1" * 300_000,
        "1 " * 150_000,
        "1.1." * 80_000,
        "555-1234 " * 40_000,
        "call 0" * 50_000,
        "eyJaaaaaaaaaa." * 20_000,
        "sk-" * 100_000,
        "ghp_" * 80_000,
        "DE89 " * 60_000,
        ":a" * 150_000,
        "secret=" * 40_000,
        "A1B2C3D4E5 " * 30_000,
    ],
    ids=lambda text: text[:12].encode("unicode_escape").decode(),
)
def test_hostile_text_takes_linear_time(text: str) -> None:
    find(text)


def test_the_checksums_of_national_ids_refuse_most_of_what_chance_draws() -> None:
    for one in NATIONAL_IDS:
        assert group_of(one.kind) == "id"
    assert sum(is_card(f"4{number:015d}") for number in range(10**14, 10**14 + 1000)) == 100


def test_hardly_anything_is_found_in_code() -> None:
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [*sorted(folder.glob("*.py")), *sorted(folder.glob("json/*.py"))]
    found: dict[str, int] = {}
    for file in files:
        for span in find(file.read_text("utf-8", "replace")):
            found[group_of(span.kind)] = found.get(group_of(span.kind), 0) + 1
    assert found.pop("email", 1) > 0, "their authors' addresses"
    assert sum(found.values()) < len(files) / 20, found
