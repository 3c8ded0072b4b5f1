"""The decoder against its oracle, the reference library's own Llama."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from underlay.errors import UserError
from underlay.models import Decoder, LlamaConfig
from underlay.models.parts import precision
from underlay.models.spectral import spectral_embedding
from underlay.models.storage import load_model, parameter_count, save_model

SHAPES = [
    LlamaConfig(vocabulary=50, context=24, width=32, depth=2, heads=4, kv_heads=4, hidden=48),
    LlamaConfig(
        vocabulary=33, context=24, width=24, depth=3, heads=6, kv_heads=2, hidden=40, tied=False, norm_eps=1e-3
    ),
    LlamaConfig(
        vocabulary=64, context=24, width=16, depth=1, heads=1, kv_heads=1, hidden=8, rope_base=500.0, norm_eps=1e-3
    ),
]


def random_model(config: LlamaConfig) -> Decoder:
    torch.manual_seed(0)
    model = config.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("config", SHAPES)
def test_logits_equal_the_reference_library(config: LlamaConfig) -> None:
    transformers = pytest.importorskip("transformers")
    model = random_model(config)
    oracle = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.hidden,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            rms_norm_eps=config.norm_eps,
            rope_theta=config.rope_base,
            tie_word_embeddings=config.tied,
            attn_implementation="eager",
        )
    )
    names = {
        "embedding": "model.embed_tokens",
        "norm": "model.norm",
        "head": "lm_head",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
        "mlp.gate": "mlp.gate_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.down": "mlp.down_proj",
    }
    tensors = {}
    for name, tensor in model.state_dict().items():
        part = name.removesuffix(".weight")
        if part.startswith("blocks."):
            _, number, rest = part.split(".", 2)
            tensors[f"model.layers.{number}.{names[rest]}.weight"] = tensor
        else:
            tensors[f"{names[part]}.weight"] = tensor
    if config.tied:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    oracle.load_state_dict(tensors)
    tokens = torch.randint(0, config.vocabulary, (3, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), oracle(tokens).logits, rtol=1e-4, atol=1e-5)


def test_what_comes_later_changes_nothing_before() -> None:
    model = random_model(SHAPES[1])
    tokens = torch.randint(0, 33, (2, 16))
    changed = tokens.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 33
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.equal(before[:, 10:], after[:, 10:])


def test_bfloat16_is_computed_in_float32_where_no_unit_is_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for flags, unit in ({"avx512f"}, "none"), ({"avx512_bf16", "amx_bf16"}, "AMX"), ({"bf16"}, "NEON-BF16"):
        monkeypatch.setattr(precision, "_cpu_flags", lambda flags=flags: flags)
        assert precision.bf16_unit(cpu) == unit
        assert precision.computed(torch.float64, cpu) == torch.float64
        expected = torch.float32 if unit == "none" else torch.bfloat16
        assert precision.computed(torch.bfloat16, cpu) == expected
        assert random_model(SHAPES[0])(torch.zeros(1, 3, dtype=torch.long), dtype=torch.bfloat16).dtype == expected


@pytest.mark.usefixtures("bf16_hardware")
def test_bfloat16_is_close_and_keeps_float32_weights() -> None:
    model = random_model(SHAPES[0])
    tokens = torch.randint(0, 50, (2, 16))
    coarse = model(tokens, dtype=torch.bfloat16)
    assert coarse.dtype == torch.bfloat16
    torch.testing.assert_close(coarse.float(), model(tokens), rtol=0.1, atol=0.15)
    coarse.float().sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("config", SHAPES)
def test_saved_and_loaded_alike(config: LlamaConfig, tmp_path: Path) -> None:
    model = random_model(config)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == config
    tokens = torch.randint(0, config.vocabulary, (1, 8))
    assert torch.equal(model(tokens), loaded(tokens))
    again = tmp_path / "again"
    again.mkdir()
    save_model(loaded, again)
    assert (again / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_tied_weights_count_once() -> None:
    tied, untied = (LlamaConfig(vocabulary=100, width=16, heads=2, kv_heads=2, tied=t).build() for t in (True, False))
    assert parameter_count(untied) - parameter_count(tied) == 1600


@pytest.mark.parametrize("damage", ["cut", "shape", "json", "missing", "key"])
def test_damaged_models_are_refused(tmp_path: Path, damage: str) -> None:
    save_model(random_model(SHAPES[0]), tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "shape":
        config.write_text(config.read_text().replace('"hidden": 48', '"hidden": 49'))
    elif damage == "json":
        config.write_text("{")
    elif damage == "missing":
        weights.unlink()
    else:
        config.write_text(config.read_text().replace('"hidden"', '"hiden"'))
    with pytest.raises(UserError, match=str(tmp_path)):
        load_model(tmp_path)


@pytest.mark.parametrize("shape", [{"width": 30, "heads": 4}, {"width": 36, "heads": 12}, {"heads": 4, "kv_heads": 3}])
def test_impossible_shapes(shape: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="heads"):
        LlamaConfig(vocabulary=10, **shape)


@given(st.integers(0, 2**31), st.sampled_from([(10, 4), (6, 6), (5, 12)]))
def test_spectral_embeddings_are_deterministic_and_finite(seed: int, size: tuple[int, int]) -> None:
    tokens = torch.randint(0, size[0], (200,), generator=torch.Generator().manual_seed(seed)).numpy()
    one, two = (spectral_embedding(tokens, *size, seed) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == size
    assert torch.isfinite(one).all()


def test_tokens_in_the_same_places_get_the_same_rows() -> None:
    # 0 is followed by 1 or 2, which stand in the same places; 3 and 4 alternate by themselves.
    tokens = torch.tensor([0, 1, 0, 2] * 50 + [3, 4] * 50).numpy()
    rows = torch.nn.functional.normalize(spectral_embedding(tokens, 5, 4, seed=0))
    similar = rows @ rows.T
    assert similar[1, 2] > 0.9
    assert similar[1, 4].abs() < 0.5
