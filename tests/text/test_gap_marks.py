"""Gaps in texts: whose tokens mark them, where the parts stand, and that no text becomes a mark."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_kinds import TEXTS, byte_level, metaspace

from underlay.errors import UserError
from underlay.text import Gap, Special, Tokenizer, train_tokenizer
from underlay.text.special import GAP, GAP_NAMES

makers = pytest.mark.parametrize("names", GAP_NAMES, ids=lambda names: names[0])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 400, fim=True)


@cache
def foreign(names: tuple[str, ...]) -> Tokenizer:
    """As Qwen's: the marks are added tokens that nothing says are special."""
    backend = byte_level()
    backend.add_tokens(list(names))
    return Tokenizer(backend, {"eos_token": "<|endoftext|>"})


def test_the_parts_stand_where_the_paper_has_them(tokenizer: Tokenizer) -> None:
    gap = Gap(tokenizer)
    prefix, suffix, middle = map(tokenizer.special, GAP)
    assert gap.arranged([1, 2], [3], [4, 5]) == [prefix, 1, 2, suffix, 3, middle, 4, 5]
    assert gap.arranged([1, 2], [3], [4, 5], spm=True) == [prefix, suffix, 3, middle, 1, 2, 4, 5]
    before, behind = tokenizer.encode("def f("), tokenizer.encode("):")
    bos = tokenizer.special(Special.BOS)
    assert gap.prompt("def f(", "):") == [bos, prefix, *before, suffix, *behind, middle]
    assert gap.prompt("", "") == [bos, prefix, suffix, middle]
    assert gap.stop_ids == set(range(10))


@makers
def test_marks_are_known_by_their_makers_names(names: tuple[str, ...]) -> None:
    tokenizer = foreign(names)
    ids = [tokenizer.special(mark) for mark in GAP]
    assert [tokenizer.name(index) for index in ids] == list(names)
    assert set(ids) == Gap(tokenizer).marks <= tokenizer.special_ids
    assert Gap(tokenizer).stop_ids >= {*ids, *tokenizer.stop_ids}
    assert tokenizer.decode(ids) == ""
    for some in (names[:2], names[1:]):
        lacking = foreign(some)
        assert not any(map(lacking.has, GAP))
        assert some[0] not in lacking.control
        with pytest.raises(UserError, match="no tokens for prefix, suffix and middle; learn it with `fim: true`"):
            Gap(lacking)


@makers
@given(st.data())
def test_no_text_becomes_a_mark(names: tuple[str, ...], data: st.DataObject) -> None:
    tokenizer = foreign(names)
    pieces = st.sampled_from([*names, *(name[:-1] for name in names), " ", "a", "▁", "<", ">"])
    text = data.draw(st.lists(pieces, max_size=8).map("".join))
    ids = tokenizer.encode(text)
    assert not tokenizer.special_ids & set(ids)
    assert tokenizer.decode(ids) == text
    assert sum(index in Gap(tokenizer).marks for index in Gap(tokenizer).prompt(text, text)) == 3


def test_marks_that_are_pieces_of_a_vocabulary_do_not_arise_from_text() -> None:
    backend = metaspace()
    names = GAP_NAMES[3]
    backend.add_tokens(list(names))
    tokenizer = Tokenizer(backend, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    assert Gap(tokenizer).prompt("a", "b")[:2] == [*tokenizer.start, tokenizer.special(Special.PREFIX)]
    for name in names:
        assert tokenizer.special_ids.isdisjoint(tokenizer.encode(name.replace("▁", " ")))
        assert tokenizer.special_ids.isdisjoint(tokenizer.encode(f"a{name} b"))


def test_saved_and_loaded(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    loaded = Tokenizer.load(folder)
    assert loaded.native
    assert [loaded.special(mark) for mark in GAP] == [7, 8, 9]
    both = train_tokenizer(TEXTS, 400, mask=True, fim=True)
    assert [both.special(mark) for mark in (Special.MASK, *GAP)] == [7, 8, 9, 10]
