"""Tokens: lossless on any bytes, and structure that no text can forge."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.errors import UserError
from underlay.text import Message, Special, Tokenizer, render, train_tokenizer

SAMPLE = [Path(__file__).read_text("utf-8"), "Größe, 大きさ, размер 🙂\n\tdef f(x):\r\n    return x\n" * 5]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(SAMPLE, 500)


@given(st.text())
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.binary(max_size=300))
def test_any_bytes_come_back(tokenizer: Tokenizer, data: bytes) -> None:
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


@pytest.fixture(scope="module")
def marked() -> Tokenizer:
    return train_tokenizer(SAMPLE, 500, mask=True, fim=True)


@given(st.lists(st.sampled_from([s.value for s in Special] + ["a", " ", "\n"])).map("".join))
def test_text_never_becomes_structure(tokenizer: Tokenizer, marked: Tokenizer, text: str) -> None:
    for one in (tokenizer, marked):
        ids = one.encode(text)
        assert not one.special_ids & set(ids)
        assert one.decode(ids) == text


def test_batch_equals_single(tokenizer: Tokenizer) -> None:
    texts = ["", "a", *SAMPLE, "<|eos|>"]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == [tokenizer.encode(text) for text in texts]


def test_training_merges_and_is_deterministic(tokenizer: Tokenizer, tmp_path: Path) -> None:
    again = train_tokenizer(SAMPLE, 500)
    for folder, one in ((tmp_path / "a", tokenizer), (tmp_path / "b", again)):
        folder.mkdir()
        one.save(folder)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()
    assert tokenizer.size == 500
    assert len(tokenizer.encode(SAMPLE[0])) < 0.6 * len(SAMPLE[0])


def test_saved_and_loaded_alike(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    text = SAMPLE[0] + "<|eos|>"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.special_ids == tokenizer.special_ids


@pytest.mark.parametrize("content", ["", "{}", '{"model": 3}', "\0"])
def test_damaged_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_too_small_a_vocabulary() -> None:
    with pytest.raises(UserError, match="need 263"):
        train_tokenizer(SAMPLE, 100)


messages = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=40)), max_size=5
)


@given(messages)
def test_prompts_are_prefixes(tokenizer: Tokenizer, turns: list[Message]) -> None:
    prompt, _ = render(tokenizer, turns, reply=True)
    whole, weights = render(tokenizer, [*turns, Message("assistant", "indeed")])
    assert whole[: len(prompt)] == prompt
    assert len(whole) == len(weights)


@given(messages)
def test_only_the_assistant_is_learned(tokenizer: Tokenizer, turns: list[Message]) -> None:
    ids, weights = render(tokenizer, turns)
    learned = [i for i, weight in zip(ids, weights, strict=True) if weight]
    end = tokenizer.special(Special.END)
    said = [[*tokenizer.encode(turn.content), end] for turn in turns if turn.role == "assistant"]
    assert learned == [i for ids_ in said for i in ids_]
