"""Encoders against transformers: imported, exported, padded; the same numbers throughout."""

import json
from pathlib import Path

import pytest
import torch
from parity_world import (
    TIME,
    Case,
    Named,
    Pair,
    Values,
    complaints,
    deviation,
    export,
    named,
    our_model,
    pair,
    saved,
    their_model,
    tokens,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from underlay.errors import UserError
from underlay.formats import hf
from underlay.models import Encoder
from underlay.models.families import blank

PLAIN = {"add_pooling_layer": False}


def sparse(values: Values) -> None:
    for key in ("tie_word_embeddings", "layer_norm_eps", "hidden_act", "position_embedding_type", "pad_token_id"):
        values.pop(key, None)


CASES = {
    "bert": Case("bert"),
    "bert odd": Case("bert", {"hidden_size": 21, "num_attention_heads": 3, "intermediate_size": 17}),
    "bert tanh": Case("bert", {"hidden_act": "gelu_new", "layer_norm_eps": 0.01}),
    "bert silu": Case("bert", {"hidden_act": "silu"}),
    "bert relu untied": Case("bert", {"hidden_act": "relu", "tie_word_embeddings": False}),
    "bert by default": Case("bert", edit=sparse),
    "bert trunk": Case("bert", {"type_vocab_size": 2}, "BertModel"),
    "bert trunk without pooler": Case("bert", {}, "BertModel", options=PLAIN),
    "bert of pretraining": Case("bert", {}, "BertForPreTraining"),
    "roberta": Case("roberta"),
    "roberta untied": Case("roberta", {"tie_word_embeddings": False, "type_vocab_size": 2}),
    "roberta trunk": Case("roberta", {"layer_norm_eps": 1e-5}, "RobertaModel"),
    "roberta trunk without pooler": Case("roberta", {}, "RobertaModel", options=PLAIN),
    "roberta padded with 0": Case("roberta", {"pad_token_id": 0}),
    "roberta padded with 3": Case("roberta", {"pad_token_id": 3}, "RobertaModel"),
}
ENCODERS = named(CASES)
each_encoder = pytest.mark.parametrize("encoder", ENCODERS, ids=repr)


def of(encoder: Named) -> tuple[Pair, Encoder]:
    both = pair(encoder)
    assert isinstance(both.ours, Encoder)
    return both, both.ours


def texts(encoder: Named) -> tuple[Tensor, Tensor, int]:
    """Ids in which what pads does not occur, kinds of segment, and the id that pads."""
    pad = encoder.case.given.get("pad_token_id", 1) if encoder.case.kind == "roberta" else 0
    kinds = 1 if encoder.case.kind == "roberta" else 2
    return tokens(least=4), torch.randint(0, kinds, (3, TIME), generator=torch.Generator().manual_seed(3)), pad


def answers(
    theirs: object, ours: Encoder, ids: Tensor, types: Tensor, present: Tensor, positions: Tensor | None
) -> list:
    """Pairs of what they and we say at places that are real."""
    with torch.no_grad():
        told = theirs(ids, present.long(), types, **({} if positions is None else {"position_ids": positions}))
        hidden = ours.hidden(ids, None if present.all() else present, types)
        if not ours.config.masked_head:
            states = (told.last_hidden_state[present], hidden[present])
            return [states, (told.pooler_output, ours.pooled(hidden))] if ours.config.pooler else [states]
        logits = told.prediction_logits if "prediction_logits" in told else told.logits
        return [(logits[present], ours.logits(hidden)[present])]


@each_encoder
def test_the_same_states_and_logits(encoder: Named) -> None:
    both, ours = of(encoder)
    ids, types, _ = texts(encoder)
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    for attention in ("eager", "sdpa"):
        theirs, _ = their_model(encoder.case, both.folder, attention)
        for mine, other in answers(theirs, ours, ids, types, everywhere, None):
            assert deviation(mine, other) < 1e-4
    assert ours.config.pooler == (
        encoder.name in ("bert trunk", "bert of pretraining", "roberta trunk", "roberta padded with 3")
    )
    assert ours.config.masked_head != ("trunk" in encoder.name or encoder.name == "roberta padded with 3")


@each_encoder
def test_what_is_exported_is_the_same_to_them(encoder: Named, tmp_path: Path) -> None:
    both, ours = of(encoder)
    pad = texts(encoder)[2]
    if pad not in (0, 1) or (encoder.case.kind == "roberta" and pad == 0):
        return  # their positions then depend on the tokenizer: see below
    if encoder.name == "bert of pretraining":
        return  # has a head that is left out
    export(both.incoming, ours, tmp_path)
    back, told = their_model(encoder.case, tmp_path)
    assert not complaints(told)
    ids, types, _ = texts(encoder)
    with torch.no_grad():
        one, two = back(ids, None, types), both.theirs(ids, None, types)
    assert one.keys() == two.keys()
    assert all(deviation(one[key], two[key]) <= 1e-6 for key in one)
    again = hf.open_model(tmp_path)
    assert again.config == both.incoming.config
    mine, kept = ours.state_dict(), dict(again.tensors())
    assert mine.keys() == kept.keys()
    assert all(torch.equal(mine[name], kept[name]) for name in mine)


@each_encoder
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows(encoder: Named, side: str) -> None:
    both, ours = of(encoder)
    ids, types, pad = texts(encoder)
    present = torch.arange(TIME) < torch.tensor([TIME, 13, 1])[:, None]
    present = present.flip(1) if side == "left" else present
    ids = torch.where(present, ids, pad)
    roberta = encoder.case.kind == "roberta"  # finds its positions by itself
    positions = None if roberta else (present.cumsum(-1) - 1).clamp(min=0)
    found = answers(both.theirs, ours, ids, types, present, positions)
    for mine, other in found if side == "right" else found[:1]:  # poolers take the first place, which pads on the left
        assert deviation(mine, other) < 1e-4


@pytest.mark.parametrize("pad", [0, 1, 2, 7])
def test_a_roberta_is_exported_for_the_tokenizer_that_pads(pad: int, tmp_path: Path) -> None:

    both, ours = of(Named("roberta", CASES["roberta"]))
    values, rows = hf.outgoing(both.incoming.config, pad)
    (tmp_path / "config.json").write_text(json.dumps(values))
    tensors = {name: tensor.contiguous() for name, tensor in hf.written_out(rows, ours.state_dict().__getitem__)}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    back, told = their_model(CASES["roberta"], tmp_path)
    assert not complaints(told)
    ids, present = tokens(least=8), torch.arange(TIME) < torch.tensor([TIME, 13, 1])[:, None]
    with torch.no_grad():
        theirs = back(torch.where(present, ids, pad), present.long()).logits
        assert deviation(theirs[present], ours(ids, present)[present]) < 1e-4
    again = hf.open_model(tmp_path)
    assert again.config == both.incoming.config
    with torch.no_grad():
        assert torch.equal(our_model(again)(ids, present), ours(ids, present))


def test_a_model_without_types_is_one_with_a_row_of_zeros(tmp_path: Path) -> None:
    both, _ = of(Named("bert", CASES["bert"]))
    config = both.incoming.config.model_copy(update={"types": 0})
    torch.manual_seed(0)
    ours = config.build().eval()
    assert ours.types is None
    values, rows = hf.outgoing(config)
    tensors = dict(hf.written_out(rows, ours.state_dict().__getitem__))

    (tmp_path / "config.json").write_text(json.dumps(values))
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    back, told = their_model(CASES["bert"], tmp_path)
    assert not complaints(told)
    with torch.no_grad():
        assert deviation(back(tokens()).logits, ours(tokens())) < 1e-4
    again = hf.open_model(tmp_path)
    assert again.config == config
    assert torch.equal(our_model(again)(tokens()), ours(tokens()))
    tensors["bert.embeddings.token_type_embeddings.weight"] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="token_type_embeddings must be 0"):
        list(hf.open_model(tmp_path).tensors())


def test_the_oldest_names_are_read() -> None:
    both, ours = of(Named("bert of old", Case("bert")))
    path = both.folder / "model.safetensors"
    tensors = load_file(path)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    assert old.keys() != tensors.keys()
    save_file(old, path)
    with torch.no_grad():
        assert torch.equal(our_model(hf.open_model(both.folder))(tokens()), ours(tokens()))
    save_file({**old, "bert.embeddings.LayerNorm.weight": torch.zeros(24)}, path)
    with pytest.raises(UserError, match="there twice"):
        hf.open_model(both.folder)


def test_what_pretraining_leaves_is_told() -> None:
    both, _ = of(Named("bert of pretraining", CASES["bert of pretraining"]))
    assert both.incoming.left_out == ("cls.seq_relationship.bias", "cls.seq_relationship.weight")


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("normalised", [True, False])
def test_how_vectors_are_made_is_noted_as_sentence_transformers_does(
    pooling: str, normalised: bool, tmp_path: Path
) -> None:
    folder = saved(CASES["bert trunk"])
    config = hf.open_model(folder).config.model_copy(update={"pooling": pooling, "normalised": normalised})
    hf.write_pooling(config, folder)
    assert hf.open_model(folder).config == config
    assert (folder / "2_Normalize").is_dir() == normalised
    assert blank(config).config == config


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("modules.json", "{}", "must be a list"),
        ("modules.json", '[{"type": "sentence_transformers.models.Dense"}]', "'Dense' is not known"),
        ("1_Pooling/config.json", "[]", "must hold keys"),
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}', "pooling_mode_max_tokens is not known"),
        ("1_Pooling/config.json", "{}", "by nothing is not known"),
        (
            "config_sentence_transformers.json",
            '{"prompts": {"query": "query: "}, "default_prompt_name": "query"}',
            "'query: ' is to stand before each text",
        ),
        ("sentence_bert_config.json", '{"do_lower_case": true}', "lower-cased first"),
    ],
)
def test_other_ways_of_making_vectors_are_refused(file: str, text: str, words: str) -> None:
    folder = saved(CASES["bert trunk"])
    hf.write_pooling(hf.open_model(folder).config, folder)
    (folder / file).write_text(text)
    with pytest.raises(UserError, match=words):
        hf.open_model(folder)


def test_notes_of_sentence_transformers_that_change_nothing_are_fine() -> None:
    folder = saved(CASES["bert trunk"])
    config = hf.open_model(folder).config
    hf.write_pooling(config, folder)
    prompts = {"prompts": {"query": "query: ", "plain": ""}}
    for told in {"default_prompt_name": None}, {"default_prompt_name": "plain"}:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts | told))
        (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
        (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
        assert hf.open_model(folder).config == config
