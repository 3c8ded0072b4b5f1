"""Encoding by ranks: the ids of `tokenizers` on every text and vocabulary, and left to it where that is not proved."""

import json
import random
from itertools import pairwise
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from token_kinds import TEXTS, byte_level, declarations
from tokenizers import AddedToken, Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from underlay.errors import UserError
from underlay.formats.tokenizers.tiktoken import CL100K, GPT2, O200K, QWEN
from underlay.text import Special, Tokenizer, ranks, train_tokenizer
from underlay.text.backend import byte_alphabet
from underlay.text.ranks import Ranks, ranks_of
from underlay.text.training import PIECES

PATTERNS = {"ours": PIECES, "gpt2": GPT2, "cl100k": CL100K, "qwen": QWEN, "o200k": O200K, "plain": ranks._GPT2}
BYTES = sorted(byte_alphabet())


def backend_of(
    pattern: str, merges: list[tuple[str, str]], ids: dict[str, int] | None = None, **settings: Any
) -> Backend:
    """A byte-level BPE whose tokens have the order of their merges, or the ids given."""
    names = list(dict.fromkeys([*BYTES, *(left + right for left, right in merges)]))
    backend = Backend(models.BPE(ids or {name: i for i, name in enumerate(names)}, merges, **settings))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    return backend


def encoder_of(backend: Backend) -> Ranks | None:
    return ranks_of(json.loads(backend.to_str()))


def ids_of(encoder: Ranks, text: str) -> list[int] | None:
    found = encoder.encode(text)
    return None if found is None else found.tolist()


def merges_of(draws: random.Random, letters: str, count: int) -> list[tuple[str, str]]:
    """Merges of tokens that earlier ones have made, with no thought of which can ever be used."""
    tokens, merges = list(letters), list[tuple[str, str]]()
    while len(merges) < count:
        pair = draws.choice(tokens), draws.choice(tokens)
        if pair not in merges and len(pair[0] + pair[1]) < 9:
            merges.append(pair)
            tokens.append(pair[0] + pair[1])
    return merges


def by_token(merges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those merges, in the order in which their tokens first come."""
    first = {left + right: place for place, (left, right) in reversed(list(enumerate(merges)))}
    return sorted(merges, key=lambda pair: first[pair[0] + pair[1]])


TRAINED = {vocabulary: train_tokenizer(TEXTS * 3, vocabulary) for vocabulary in (300, 600, 1200)}
odd = st.text() | st.lists(
    st.sampled_from([*"ab \n\r\t'sS1_", "  ", "ſ", "é", "大", "🙂", "\x1c", "\x85", "\u3000"])
).map("".join)


@pytest.mark.parametrize("vocabulary", TRAINED)
@settings(max_examples=100, deadline=None)
@given(odd)
def test_trained_vocabularies(vocabulary: int, text: str) -> None:
    tokenizer = TRAINED[vocabulary]
    assert tokenizer._ranks is not None
    found = tokenizer._ranks.encode(text)
    assert found is not None
    assert found.tolist() == tokenizer._plain.encode(text, add_special_tokens=False).ids
    assert found.tolist() == tokenizer.encode(text) == tokenizer.encode_batch([text])[0].tolist()


@pytest.mark.parametrize("ignore", [False, True])
@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 20), st.booleans())
def test_random_merges(ignore: bool, draws: random.Random, count: int, ordered: bool) -> None:
    """Where a vocabulary is taken, its ids are the same; and many that nobody trained are taken."""
    merges = merges_of(draws, "abc", count)
    backend = backend_of(r"\p{L}+|\s+", by_token(merges) if ordered else merges, ignore_merges=ignore)
    encoder = encoder_of(backend)
    if encoder is not None:
        for _ in range(30):
            text = "".join(draws.choices("abc ", [4, 3, 2, 1], k=draws.randrange(40)))
            found = encoder.encode(text)
            assert found is not None
            assert found.tolist() == backend.encode(text).ids


def test_many_random_merges_are_taken() -> None:
    draws = random.Random(0)
    made = [backend_of(r"\p{L}+", by_token(merges_of(draws, "abc", 12))) for _ in range(50)]
    assert sum(encoder_of(backend) is not None for backend in made) == 50


def test_all_cuts_as_llama_3_has_them() -> None:
    """Its files list every way to cut a token, and take a piece that is a token as it is, reached or not."""
    names = [*BYTES, "ab", "bc", "abcd", "bcd", "cd"]
    ids = {name: i for i, name in enumerate(names)}
    every = [(ids[n], n[:at], n[at:]) for n in names for at in range(1, len(n)) if n[:at] in ids and n[at:] in ids]
    for lost in (None, ("a", "bcd"), ("ab", "cd")):
        kept = [(left, right) for _, left, right in sorted(every) if (left, right) != lost]
        backend = backend_of(r"\p{L}+| ", kept, ids, ignore_merges=True)
        encoder = encoder_of(backend)
        assert (encoder is None) == (lost == ("ab", "cd"))  # its own bytes give `abcd` by these two
        for text in ("abcd", "aabcd", "abcdabcd abcd", "bcdabcdcd", "abab cdcd bcbcd"):
            if encoder is not None:
                assert ids_of(encoder, text) == backend.encode(text).ids


def test_what_merges_do_not_give_arises_nowhere() -> None:
    """`abc` is in the vocabulary, but b and c are joined first: tiktoken alone would join a and bc."""
    backend = backend_of(r"\p{L}+| ", [("b", "c"), ("a", "b"), ("ab", "c")])
    encoder = encoder_of(backend)
    assert encoder is not None
    for text in ("abc", "abcabc", "aabc bc"):
        assert ids_of(encoder, text) == backend.encode(text).ids
        assert backend.token_to_id("abc") not in backend.encode(text).ids


def test_ids_that_do_not_follow_the_merges_are_refused() -> None:
    merges = [("a", "b"), ("b", "c")]
    ids = {name: i for i, name in enumerate([*BYTES, "ab", "bc"])}
    assert encoder_of(backend_of(PIECES, merges, ids)) is not None
    ids["ab"], ids["bc"] = ids["bc"], ids["ab"]
    assert encoder_of(backend_of(PIECES, merges, ids)) is None


def test_a_missing_byte_is_refused() -> None:
    source = json.loads(backend_of(PIECES, []).to_str())
    assert ranks_of(source) is not None
    del source["model"]["vocab"]["q"]
    assert ranks_of(source) is None


@pytest.mark.parametrize(
    "pattern",
    [
        r"\w+|\s+",  # what \w is differs
        r"(\p{L}+)*",
        r"\p{L}*|\s",  # empty pieces
        r" ?|\s",
        r"\p{L}++|\s",
        r"\p{L}{3,1}",
        r"(?i:ss)|\s",  # ß
        r".+",
        r"\p{Han}+",
        r"[\p{L}&&[^a]]+",
        r"^a",
        r"\p{L}+(?!\S)",
    ],
)
def test_expressions_that_may_be_read_otherwise_are_refused(pattern: str) -> None:
    source = json.loads(backend_of(PIECES, []).to_str())
    source["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
    assert ranks_of(source) is None


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}},
    ],
)
def test_other_steps_are_refused(change: dict[str, Any]) -> None:
    source = json.loads(backend_of(PIECES, []).to_str())
    assert ranks_of(source | change) is None
    assert ranks_of(source | {"model": source["model"] | {"dropout": 0.1}}) is None


@pytest.mark.parametrize("kind", PATTERNS)
@settings(max_examples=200, deadline=None)
@given(odd)
def test_expressions_cut_alike(kind: str, text: str) -> None:
    """With a merge for each two letters that meet, ids tell where the text was cut."""
    encoder, backend = CUTTERS[kind]
    found = encoder.encode(text)
    assert found is not None
    assert found.tolist() == backend.encode(text).ids


def cutter(pattern: str) -> tuple[Ranks, Backend]:
    """Merges any two bytes of the texts that the strategy above likes."""
    characters = sorted(set("".join(TEXTS) + "ab \n\r\t'sS1_ſé大🙂\x1c\x85\u3000"))
    stand_ins = {byte: char for char, byte in byte_alphabet().items()}
    used = sorted({stand_ins[byte] for char in characters for byte in char.encode()})
    backend = backend_of(pattern, [(left, right) for left in used for right in used])
    encoder = encoder_of(backend)
    assert encoder is not None
    return encoder, backend


CUTTERS = {name: cutter(pattern) for name, pattern in PATTERNS.items()}


@pytest.mark.parametrize("kind", PATTERNS)
def test_expressions_cut_many_languages_alike(kind: str) -> None:
    encoder, backend = CUTTERS[kind]
    for text in declarations():
        assert ids_of(encoder, text) == backend.encode(text).ids


@pytest.mark.parametrize("kind", ["L", "Lu", "Lt", "Lm", "Lo", "Ll", "M", "N", "P", "S", "s"])
def test_both_know_every_character(kind: str) -> None:
    """All 1,112,064 of them: the short trial at run time stands for this."""
    pattern = rf"\{kind}" if kind == "s" else rf"\p{{{kind}}}"
    text = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    parts = [text[at : at + (1 << 16)] for at in range(0, len(text), 1 << 16)]
    theirs = "".join(piece for part in parts for piece, _ in split.pre_tokenize_str(part))
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("one class", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    assert bytes(encoding.encode_ordinary(text)).decode() == theirs


def test_other_tables_of_characters_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older(tiktoken.Encoding):
        def encode_ordinary(self, text: str) -> list[int]:
            return super().encode_ordinary(text.replace("\U000105c0", ""))

    assert ranks._same_characters.__wrapped__()
    monkeypatch.setattr(tiktoken, "Encoding", Older)
    assert not ranks._same_characters.__wrapped__()


def test_text_that_the_expression_leaves_out_is_left_to_the_other() -> None:
    backend = backend_of(r"\p{L}+", [])
    encoder = encoder_of(backend)
    assert encoder is not None
    assert encoder.encode("ab") is not None
    assert encoder.encode("a b") is None
    assert encoder.encode("a é") is None


def test_added_tokens_are_left_to_the_other() -> None:
    tokenizer = Tokenizer(byte_level(), {"eos_token": "<|endoftext|>"})
    assert tokenizer._ranks is not None
    assert tokenizer._ranks.encode("a  b") is None
    assert tokenizer._ranks.encode("a <think> b") is None
    assert tokenizer._ranks.encode("a <|endoftext|> b") is not None
    backend = byte_level()
    backend.add_tokens([AddedToken("the end", single_word=True)])
    for text in ("the end", "the endless", "a  b <think>"):
        assert Tokenizer(backend).encode_batch([text])[0].tolist() == backend.encode(text).ids


def test_names_of_special_tokens_are_text() -> None:
    for tokenizer in TRAINED.values():
        names = [token.value for token in Special]
        texts = [*names, "".join(names), *(" ".join(pair) for pair in pairwise(names))]
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            assert tokenizer.decode(ids.tolist()) == text
            assert not tokenizer.special_ids & set(ids.tolist())


@pytest.mark.parametrize("unit", ["a", " ", "\n", " \n", "大", "1", ".", "🙂", "\t\u3000", "ab"])
def test_long_runs(unit: str) -> None:
    tokenizer = TRAINED[600]
    for text in (unit * (1_000_000 // len(unit.encode())), unit * 40_000 + "x", "x" + unit * 33_000 + "."):
        assert tokenizer.encode_batch([text])[0].tolist() == tokenizer._plain.encode(text, add_special_tokens=False).ids


def test_runs_of_space_that_would_overflow_are_seen() -> None:
    most = ranks._LONG_SPACE
    for before in ("", "x", "x" * (most - 1)):
        assert ranks._long_space(before + " " * (2 * most))
        assert not ranks._long_space(before + " " * (most - 1) + "x" * most)
    assert not ranks._long_space((" " * (most - 1) + "x") * 4)


def test_half_a_surrogate_pair_fails_as_ever() -> None:
    tokenizer = TRAINED[600]
    assert tokenizer._ranks is not None
    assert tokenizer._ranks.encode("a\ud800") is None
    with pytest.raises((TypeError, UnicodeEncodeError, UserError)):
        tokenizer.encode_batch(["a\ud800"])


def test_nothing_is_encoded_as_nothing() -> None:
    assert [ids.tolist() for ids in TRAINED[600].encode_batch(["", "a", ""])] == [[], TRAINED[600].encode("a"), []]
    assert TRAINED[600].encode_batch([]) == []
