"""How texts begin and end for a model, whatever roles its tokenizer names."""

import pytest
from token_kinds import KINDS, TEXTS

from underlay.errors import UserError
from underlay.text import Special, Tokenizer, train_tokenizer

ENDS = {
    "byte-level": ([], []),
    "whole words": ([], []),
    "metaspace": (["<s>"], []),
    "first metaspace": (["<s>"], []),
    "unigram": ([], ["</s>"]),
    "wordpiece": (["[CLS]"], ["[SEP]"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_texts_begin_and_end_as_the_tokenizers_frame_says(kind: str) -> None:
    make, config = KINDS[kind]
    tokenizer = Tokenizer(make(), config)
    start, end = ENDS[kind]
    assert [tokenizer.name(index) for index in tokenizer.start] == start
    assert [tokenizer.name(index) for index in tokenizer.end] == end
    for text in TEXTS[:5]:
        assert tokenizer.prompt(text) == [*tokenizer.start, *tokenizer.encode(text)]
        assert tokenizer.frame(text).ids == [*tokenizer.prompt(text), *tokenizer.end]


def test_an_empty_prompt_begins_with_bos_wherever_there_is_one() -> None:
    make, config = KINDS["byte-level"]
    with pytest.raises(UserError, match="no token that begins a text"):
        Tokenizer(make(), config).prompt("")
    # GPT-2's files name the end of a text as its beginning too, but texts do not begin with it.
    both = Tokenizer(make(), config | {"bos_token": "<|endoftext|>"})
    assert both.start == []
    assert both.prompt("") == [both.special(Special.EOS)]
    assert both.prompt("The") == both.encode("The")


def test_ours_begin_with_bos_and_know_turns() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    assert tokenizer.start == [tokenizer.special(Special.BOS)]
    assert tokenizer.end == []
    assert tokenizer.converses
    make, config = KINDS["metaspace"]
    assert not Tokenizer(make(), config).converses
    assert Tokenizer(make(), config | {"chat_template": "{{ messages }}"}).converses


def test_ids_without_a_token_stand_for_nothing() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    beyond = [tokenizer.size, tokenizer.size + 1000]
    assert tokenizer.decode_bytes(beyond) == b""
    assert tokenizer.decode(beyond) == ""
    assert tokenizer.name(beyond[0]) is None
