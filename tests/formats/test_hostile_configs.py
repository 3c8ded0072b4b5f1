"""Configs and weights that do not fit, or mean harm: one line that names the culprit, quickly and in little memory."""

import json
import time
import tracemalloc
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parity_world import CLASSES, Case, our_model, rotary, saved, tokens
from safetensors.torch import load_file, save_file

from underlay.errors import UserError
from underlay.formats import hf

NaN = float("nan")


@cache
def folder_of(kind: str) -> tuple[Path, str]:
    given = {"llama": rotary("yarn", factor=4.0, original_max_position_embeddings=16)}.get(kind, {})
    folder = saved(Case(kind, {"tie_word_embeddings": True, **given}))
    return folder, (folder / "config.json").read_text()


@pytest.fixture(params=["llama"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A fresh copy of a model."""
    source, _ = folder_of(request.param)
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((source / file).read_bytes())
    return tmp_path


def opened(folder: Path, ignore: frozenset[str] = frozenset()) -> hf.Incoming:
    incoming = hf.open_model(folder, ignore)
    for _ in incoming.tensors():
        pass
    return incoming


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        opened(folder)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < len(str(folder)) + 400
    assert line.startswith(str(folder))
    return line


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change(folder: Path, **changed: Any) -> None:
    """Replace tensors; None takes one out."""
    path = folder / "model.safetensors"
    tensors = {**load_file(path), **{name.replace("__", "."): tensor for name, tensor in changed.items()}}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, {"format": "pt"})


def test_the_model_that_is_damaged_below_is_whole(folder: Path) -> None:
    incoming = opened(folder)
    assert torch.isfinite(our_model(incoming)(tokens())).all()


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change(folder, model__norm__weight=None)
    assert "tensor model.norm.weight is missing; is the download complete?" in refused(folder)
    change(folder, **{"model.layers.1.mlp.up_proj.weight": None})
    assert "(and 1 more)" in refused(folder)


def test_an_unknown_tensor_is_named(folder: Path) -> None:
    change(folder, **{"model.layers.0.self_attn.q_proj.lora_A": torch.zeros(2, 2)})
    assert "'model.layers.0.self_attn.q_proj.lora_A' is unknown in a llama" in refused(folder)


def test_a_wrong_shape_is_named_as_in_their_file_before_anything_is_read(folder: Path, monkeypatch: Any) -> None:
    change(folder, **{"model.layers.1.mlp.up_proj.weight": torch.zeros(40, 23)})
    incoming = hf.open_model(folder)
    monkeypatch.setattr(type(incoming.checkpoint), "tensors", lambda *_: pytest.fail("was read"))
    line = refused(folder)
    assert "tensor model.layers.1.mlp.up_proj.weight is (40, 23), the config says (40, 24)" in line


def test_a_fused_tensor_is_compared_on_their_side(tmp_path: Path) -> None:
    source, text = folder_of("gpt2")
    (tmp_path / "config.json").write_text(text)
    tensors = load_file(source / "model.safetensors")
    tensors["transformer.h.0.attn.c_attn.weight"] = torch.zeros(72, 24)
    save_file(tensors, tmp_path / "model.safetensors")
    assert "c_attn.weight is (72, 24), the config says (24, 72)" in refused(tmp_path)


@pytest.mark.parametrize(
    "copy",
    [lambda t: t + 1, lambda t: t.half(), lambda t: t[:-1], lambda t: t.int(), lambda t: t[None]],
    ids=["value", "dtype", "rows", "integers", "dimensions"],
)
def test_a_tied_copy_must_be_one(folder: Path, copy: Any) -> None:
    original = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change(folder, lm_head__weight=original.clone())
    opened(folder)
    change(folder, lm_head__weight=copy(original).contiguous())
    line = refused(folder)
    assert "lm_head.weight differs from model.embed_tokens.weight" in line
    assert "set tie_word_embeddings to false" in line


def test_whole_numbers_are_no_weights(folder: Path) -> None:
    change(folder, model__norm__weight=torch.ones(24, dtype=torch.int64))
    assert "tensor model.norm.weight is int64; float32, float16 and bfloat16" in refused(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not known; there are gpt2, llama"),
        ({"model_type": ["llama"]}, "model_type ['llama'] is not known"),
        ({"model_type": None}, "model_type None is not known"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; a llama is read with 'silu' only"),
        ({"hidden_act": {"a": 1}}, "hidden_act is {'a': 1}"),
        ({"residual_scale": 0.5}, "key 'residual_scale' (0.5) is not known in a llama"),
        ({"residual_scale": 0.5}, "pass --ignore residual_scale"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: quantised weights"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_scaling of the kind 'longrope' is not known"),
        ({"rope_parameters": {"rope_type": ["yarn"]}}, "rope_scaling of the kind ['yarn'] is not known"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2, "mscale": 1}}, "linear has no 'mscale'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_scaling: key 'factor' is missing"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "rope_scaling: key 'factor'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": NaN}}, "rope_scaling: key 'factor'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": [1]}, "rope_parameters must hold keys"),
        ({"rope_scaling": "linear"}, "rope_scaling must hold keys"),
        (
            rotary("llama3", factor=8.0, low_freq_factor=4.0, high_freq_factor=4.0),
            "must be below high",
        ),
        ({"rms_norm_eps": NaN}, "key 'rms_norm_eps'"),
        ({"rms_norm_eps": -1}, "key 'rms_norm_eps'"),
        ({"rms_norm_eps": "small"}, "key 'rms_norm_eps'"),
        ({"hidden_size": "24"}, "hidden_size is '24'; it must be a whole number above 0"),
        ({"hidden_size": 24.0}, "hidden_size is 24.0; it must be a whole number"),
        ({"hidden_size": -24}, "hidden_size is -24"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": [24]}, "hidden_size is [24]"),
        ({"hidden_size": 10**12}, "hidden_size is 1000000000000; by the weights it can be"),
        ({"hidden_size": 10**4000}, "hidden_size is 1000"),
        ({"intermediate_size": 10**12}, "intermediate_size is 1000000000000; by the weights"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000; by the weights"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"num_attention_heads": 10**12}, "num_attention_heads is 1000000000000"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3"),
        ({"head_dim": 10**12}, "head_dim is 1000000000000; by the weights"),
        ({"head_dim": 7}, "heads of an even size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, but the weights are only 20 tensors"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"num_hidden_layers": None}, "key 'num_hidden_layers' is missing"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings is 1000000000000"),
        ({"tie_word_embeddings": "perhaps"}, "key 'tie_word_embeddings'"),
        ({"underlay": 3}, "underlay must hold keys"),
        ({"underlay": {"depht": 3}}, "key 'depht' is nothing that an export notes"),
        ({"underlay": {"depth": 10**9}}, "key 'depth' is nothing that an export notes"),
        ({"underlay": {"context": 10**30}}, "max_position_embeddings is 1000"),
        ({"vocab_size": 38}, "model.embed_tokens.weight is (37, 24), the config says (38, 24)"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_what_a_config_may_not_say(folder: Path, values: dict[str, Any], words: str) -> None:
    edit(folder, **values)
    assert words in refused(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "not a model's config"),
        ("3", "not a model's config"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"model_type": ' + "[" * 100_000, "nested too deeply"),
        ('{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}", "not JSON"),
        ("{}", "model_type None"),
    ],
    ids=range(7),
)
def test_what_is_no_config(folder: Path, text: str, words: str) -> None:
    (folder / "config.json").write_text(text)
    assert words in refused(folder)


def test_unknown_keys_can_be_ignored(folder: Path) -> None:
    edit(folder, residual_scale=0.5, other_scale=2)
    assert opened(folder, frozenset({"residual_scale", "other_scale"})).config.depth == 2
    with pytest.raises(UserError, match="other_scale"):
        opened(folder, frozenset({"residual_scale"}))
    edit(folder, other_scale=None)  # nothing, under any name, changes nothing
    opened(folder, frozenset({"residual_scale"}))


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("gpt2", {"n_inner": 10**12}, "hidden is 1000000000000"),
        ("gpt2", {"n_positions": 10**12}, "n_positions is 1000000000000; by the weights"),
        ("gpt2", {"activation_function": ["gelu"]}, "activation_function ['gelu'] is not known"),
        ("gpt2", {"n_embd": 10**12}, "n_embd is 1000000000000"),
        ("bert", {"max_position_embeddings": 10**12}, "1000000000000; by the weights"),
        ("bert", {"max_position_embeddings": "many"}, "max_position_embeddings is 'many'"),
        ("bert", {"hidden_act": {}}, "hidden_act {} is not known"),
        ("bert", {"type_vocab_size": 10**12}, "type_vocab_size is 1000000000000"),
        ("bert", {"is_decoder": True}, "is_decoder is True"),
        ("roberta", {"max_position_embeddings": 2}, "there must be more than 2"),
        ("roberta", {"pad_token_id": 10**12}, "leaves no positions"),
        ("roberta", {"pad_token_id": "x"}, "pad_token_id is 'x'"),
        ("mixtral", {"num_local_experts": 10**12}, "num_local_experts is 1000000000000"),
        ("mixtral", {"num_experts_per_tok": 9}, "9 of 3 cannot be chosen"),
        ("mistral", {"sliding_window": -3}, "sliding_window"),
        ("mistral", {"sliding_window": 5, "layer_types": ["full_attention"] * 2}, "all layers of this type"),
        ("qwen3", {"layer_types": 7}, "layer_types must say"),
        ("qwen3", {"layer_types": [[], {}]}, "layer_types must say"),
        ("qwen2", {"max_window_layers": "x", "layer_types": None}, "max_window_layers is 'x'"),
        ("gemma3_text", {"sliding_window_pattern": "x"}, "sliding_window_pattern is 'x'"),
        ("gemma3_text", {"rope_parameters": {"full_attention": 3}}, "must hold keys"),
        (
            "olmo3",
            {"rope_parameters": {"full_attention": {}, "sliding_attention": {"rope_theta": 7}}},
            "one rope_theta",
        ),
        ("smollm3", {"no_rope_layers": 3}, "no_rope_layers must"),
        ("smollm3", {"no_rope_layers": [0, 1]}, "only every so many"),
        (
            "smollm3",
            {"use_sliding_window": True, "sliding_window": 4, "layer_types": None, "no_rope_layers": [1, 0]},
            "slide windows is not known",
        ),
    ],
)
def test_what_other_configs_may_not_say(kind: str, values: dict[str, Any], words: str, tmp_path: Path) -> None:
    source, text = folder_of(kind)
    (tmp_path / "model.safetensors").symlink_to(source / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    edit(tmp_path, **values)
    assert words in refused(tmp_path)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.integers(-3, 70),
    st.sampled_from([10**9, 10**12, 2**63, 1e308, 5e-324, -0.0, NaN, float("inf"), 0, 1, 2, 24]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["linear", "dynamic", "llama3", "yarn", "default", "full_attention", "sliding_attention", "gelu"]),
)
ANY = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
LATER = {"rope_theta", "rope_scaling", "layer_types", "sliding_window", "underlay", "architectures", "id2label"}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from places(child, (*path, key))


@pytest.mark.parametrize("kind", list(CLASSES))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_is_read_or_refused(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    source, text = folder_of(kind)
    link = tmp_path / "model.safetensors"
    if not link.exists():
        link.symlink_to(source / "model.safetensors")
    values = json.loads(text)
    for _ in range(data.draw(st.integers(1, 3))):
        there = sorted(places(values), key=str) + [(key,) for key in LATER]
        *path, last = data.draw(st.sampled_from(there))
        owner = values
        for step in path:
            owner = owner[step]
        if isinstance(owner, dict) and data.draw(st.integers(0, 4)) == 0:
            owner.pop(last, None)
        else:
            owner[last] = data.draw(ANY)
    (tmp_path / "config.json").write_text(json.dumps(values))
    began, line = time.perf_counter(), ""
    try:
        incoming = opened(tmp_path)
    except UserError as error:
        line = str(error)
    else:
        with torch.no_grad():
            our_model(incoming)(tokens(1, 3, least=4))
    assert "\n" not in line
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size", "head_dim"])
def test_hostile_sizes_cost_neither_time_nor_memory(folder: Path, key: str) -> None:
    edit(folder, **{key: 10**9})
    tracemalloc.start()
    began = time.perf_counter()
    refused(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.perf_counter() - began < 1
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"is_causal": False}, "looks back only"),
        ({"underlay": {"depth": 1}}, "nothing that an export notes"),
        ({"underlay": {"context": "x"}}, "whole number"),
        ({"a\x1b[31mb": 1}, "pass --ignore"),
    ],
)
def test_what_a_decoder_does_not_believe(change: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_attention_heads=4))
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=complaint) as refusal:
        hf.open_model(tmp_path)
    assert "\x1b" not in str(refusal.value)
