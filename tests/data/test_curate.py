"""Curate: what goes, what is masked, and the ledger's word on each."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.data import Corpus, CurateConfig, Document, curate
from underlay.data.curate import funnel
from underlay.data.quality import QualityConfig, judge, measure
from underlay.data.redact import redact
from underlay.errors import UserError

PROSE = "The quick brown fox jumps over the lazy dog, and then it goes home.\nIt sleeps until the morning.\n" * 2


def document(text: str, source: str = "a.txt", line: int = 1) -> Document:
    return Document(text, source, line, line + text.count("\n"), "MIT", "text")


def curated(tmp_path: Path, documents: list[Document], **settings: object) -> Corpus:
    raw = Corpus.write(tmp_path / "raw", documents, [])
    return curate(raw, CurateConfig(**settings), tmp_path / "curated")


def test_a_corpus_comes_back_as_it_was_written(tmp_path: Path) -> None:
    documents = [document(f"{PROSE}{n}\r\n\t✓", f"{n}.txt") for n in range(5)]
    corpus = Corpus.write(tmp_path / "c", documents, [])
    assert sorted(corpus, key=lambda d: d.source) == documents
    assert len(corpus) == 5


def test_duplicates_keep_the_same_one_in_any_order(tmp_path: Path) -> None:
    copies = [document(PROSE, f"{name}.txt") for name in "bac"]
    for number, order in enumerate(itertools.permutations(copies)):
        corpus = curated(tmp_path / str(number), list(order))
        assert [d.source for d in corpus] == ["a.txt"]
        assert sorted(e.source for e in corpus.ledger()) == ["b.txt", "c.txt"]
        assert {e.detail for e in corpus.ledger()} == {"same text as a.txt"}


def test_duplicates_may_stay(tmp_path: Path) -> None:
    assert len(curated(tmp_path, [document(PROSE, name) for name in "ab"], deduplicate=False)) == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("short", "too-short"),
        ("   \n" * 100, "too-short"),
        ("word " * 1000, "long-line"),
        (("word " * 100 + "\n") * 3, "long-lines"),
        ("{}[]()<>;:,. \n" * 2 + "+-*/=%!?&|^~ @#$\n" * 10, "few-letters"),
        ("the same line again\n" * 20, "repeated-lines"),
        (PROSE + "\x01\x02\x03", "control-characters"),
    ],
)
def test_each_rule_of_quality(text: str, reason: str) -> None:
    broken = judge(measure(text), QualityConfig())
    assert broken is not None
    assert broken[0] == reason


def test_good_prose_and_code_pass(code: list[Path]) -> None:
    for text in [PROSE, *(path.read_text("utf-8") for path in code)]:
        if len(text.strip()) >= 100:
            assert judge(measure(text), QualityConfig()) is None


@given(st.text())
def test_shares_are_shares(text: str) -> None:
    measures = measure(text)
    for share in (measures.letters, measures.repeated_lines, measures.control):
        assert 0 <= share <= 1


SECRETS = {
    "EMAIL": "jane.doe+spam@mail.example.co.uk",
    "AWS_KEY": "AKIA" + "Q3EGHIJKLMNOP234",
    "GITHUB_TOKEN": "ghp_" + "a1B2" * 9,
    "SLACK_TOKEN": "xoxb-" + "123456789012-abcdef",
    "GOOGLE_KEY": "AIza" + "Sy_-D3f4" * 4 + "xyz",
    "STRIPE_KEY": "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "API_KEY": "sk-proj-" + "Abcd1234" * 5,
    "JWT": "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0" + ".dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "PRIVATE_KEY": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA PRIVATE KEY-----",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_are_masked_and_lines_kept(kind: str) -> None:
    text = f"before {SECRETS[kind]} after\nnext line"
    masked, found = redact(text)
    assert found == {kind: 1}
    assert SECRETS[kind] not in masked
    assert masked.startswith(f"before <{kind}>")
    assert masked.endswith(" after\nnext line")
    assert masked.count("\n") == text.count("\n")


@pytest.mark.parametrize(
    "text",
    ["@property", "a @ b", "x = matrix@vector", "user@localhost", "sk-short", "eyJ.not.token", "risk_live_a"],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text) == (text, {})


@given(st.text(alphabet=st.sampled_from("a@.b-\n1 _%+")))
def test_redaction_keeps_lines_and_is_stable(text: str) -> None:
    masked, _ = redact(text)
    assert masked.count("\n") == text.count("\n")
    assert redact(masked)[1].total() == 0


def test_hostile_text_takes_linear_time() -> None:
    redact("a" * 200_000 + "@" + "b." * 100_000)
    redact("-----BEGIN PRIVATE KEY-----" * 5_000)


def test_redaction_is_in_the_ledger(tmp_path: Path) -> None:
    corpus = curated(tmp_path, [document(f"{PROSE} a@example.org b@example.org")])
    assert "<EMAIL>" in next(iter(corpus)).text
    (entry,) = corpus.ledger()
    assert (entry.decision, entry.reason, entry.detail) == ("change", "private-data", "EMAIL x2")


def test_nothing_left_is_an_error_with_reasons(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no document is left: too-short"):
        curated(tmp_path, [document("short")])


def test_the_funnel_adds_up(tmp_path: Path) -> None:
    raw = Corpus.write(tmp_path / "raw", [document(PROSE, "a"), document(PROSE, "b"), document("tiny", "c")], [])
    rows = {name: n for name, n, _ in funnel(raw, curate(raw, CurateConfig(), tmp_path / "curated"))}
    assert rows == {"found": 3, "duplicate": 1, "too-short": 1, "kept": 1}
