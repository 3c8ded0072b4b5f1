"""Adapters of peft: merged here, they give what they give there."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from underlay.errors import UserError
from underlay.formats import hf
from underlay.formats.peft import CONFIG, WEIGHTS, load_adapter
from underlay.models import Decoder, LlamaConfig
from underlay.models.adapter import Adapter, LowRank, changed
from underlay.models.gpt2 import GPT2Config
from underlay.models.mistral import MistralConfig
from underlay.models.qwen import QwenConfig

SIZES: dict[str, Any] = {"vocabulary": 40, "width": 32, "depth": 2, "heads": 4, "context": 32}
LLAMA = LlamaConfig(**SIZES, kv_heads=2, hidden=48)
QWEN = QwenConfig(**SIZES, family="qwen2", kv_heads=2, hidden=48)
GPT2 = GPT2Config(**SIZES, hidden=64)
FAMILIES = {"llama": LLAMA, "qwen2": QWEN, "gpt2": GPT2}
EVERYTHING = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "qwen2": ["q_proj", "v_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
}
TOKENS = torch.randint(40, (2, 11), generator=torch.Generator().manual_seed(1))


def both(config: Any) -> tuple[Decoder, Any]:
    """The same model, ours and that of transformers."""
    torch.manual_seed(0)
    ours = config.build()
    values, rows = hf.outgoing(config)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**values)).eval()
    state = ours.state_dict()
    missing, unexpected = theirs.load_state_dict(dict(hf.written_out(rows, state.__getitem__)), strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    theirs.tie_weights()
    return ours, theirs


def adapted(theirs: Any, folder: Path, **settings: Any) -> Any:
    """Their model with an adapter that is not nothing, saved into a folder."""
    settings = {"r": 4, "lora_alpha": 6, "lora_dropout": 0.05, "init_lora_weights": False} | settings
    torch.manual_seed(0)
    model = peft.get_peft_model(theirs, peft.LoraConfig(**settings)).eval()
    model.save_pretrained(folder)
    return model


def stated(folder: Path, **changes: Any) -> None:
    """Change what the folder says of its adapter."""
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound adapter of a llama."""
    adapted(both(LLAMA)[1], tmp_path, target_modules=["q_proj", "down_proj"])
    return tmp_path


PATTERNS: dict[str, dict[str, Any]] = {
    "llama": {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    "qwen2": {"rank_pattern": {"down_proj": 9, "^model.layers.0.self_attn.v_proj": 3}},
    "gpt2": {"rank_pattern": {"c_attn": 7}, "alpha_pattern": {"h.0.attn.c_attn": 2, "mlp.c_proj": 20}},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", ["plain", "rslora", "patterns", "some layers"])
def test_merged_it_gives_the_logits_of_peft(tmp_path: Path, family: str, how: str) -> None:
    settings = {
        "rslora": {"use_rslora": True},
        "patterns": PATTERNS[family],
        "some layers": {"layers_to_transform": [1]},
    }
    ours, theirs = both(FAMILIES[family])
    with torch.no_grad():
        before = theirs(TOKENS).logits
        torch.testing.assert_close(ours(TOKENS), before, rtol=0, atol=1e-4)
        model = adapted(theirs, tmp_path, target_modules=EVERYTHING[family], **settings.get(how, {}))
        wanted = model(TOKENS).logits
        merged = changed(ours, load_adapter(tmp_path, ours))
        torch.testing.assert_close(merged(TOKENS), wanted, rtol=0, atol=1e-4)
        assert (wanted - before).abs().max() > 0.01
        torch.testing.assert_close(ours(TOKENS), before, rtol=0, atol=1e-4)


def test_an_adapter_of_the_trunk_alone_is_the_same(tmp_path: Path) -> None:
    ours, theirs = both(LLAMA)
    adapted(theirs.model, tmp_path, target_modules=["v_proj"])
    assert set(load_adapter(tmp_path, ours).changes) == {f"blocks.{n}.attention.value" for n in (0, 1)}


def test_a_head_of_its_own_can_be_changed(tmp_path: Path) -> None:
    ours, theirs = both(LlamaConfig(**SIZES, tied=False))
    model = adapted(theirs, tmp_path, target_modules=["lm_head"])
    with pytest.raises(UserError, match=r"lm_head\.base_layer"):  # a copy of the model's own
        load_adapter(tmp_path, ours)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    with torch.no_grad():
        torch.testing.assert_close(
            changed(ours, load_adapter(tmp_path, ours))(TOKENS), model(TOKENS).logits, rtol=0, atol=1e-4
        )


def test_all_three_parts_of_a_fused_matrix_share_what_comes_in(tmp_path: Path) -> None:
    ours, theirs = both(GPT2)
    adapted(theirs, tmp_path, target_modules=["c_attn"])
    changes = load_adapter(tmp_path, ours).changes
    assert set(changes) == {f"blocks.{n}.attention.{part}" for n in (0, 1) for part in ("query", "key", "value")}
    assert all(change.up.shape == (32, 4) for change in changes.values())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"use_dora": True}, r"lora_magnitude_vector|use_dora"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["embed_tokens"]}, r"embed_tokens\.(base_layer|lora_embedding)"),
        ({"target_modules": ["lm_head"]}, r"lm_head\.base_layer"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, settings: dict[str, Any], complaint: str) -> None:
    ours, theirs = both(LLAMA)
    adapted(theirs, tmp_path, **{"target_modules": ["q_proj"]} | settings)
    with pytest.raises(UserError, match=complaint):
        load_adapter(tmp_path, ours)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"use_qalora": True}, "use_qalora"),
        ({"something_new": 3}, "something_new"),
        ({"r": 5}, "the rank of"),
        ({"r": "4"}, "r and lora_alpha"),
        ({"r": True}, "r and lora_alpha"),
        ({"lora_alpha": -1}, "r and lora_alpha"),
        ({"lora_alpha": float("nan")}, "r and lora_alpha"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
        ({"alpha_pattern": {"(a+)+b": 3}}, "no plain name"),
        ({"alpha_pattern": {"q_proj": "3"}}, "alpha_pattern"),
    ],
)
def test_what_a_config_says_wrongly_is_refused(folder: Path, changes: dict[str, Any], complaint: str) -> None:
    stated(folder, **changes)
    with pytest.raises(UserError, match=complaint):
        load_adapter(folder, LLAMA.build())


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop(FIRST), "only one of its two"),
        (lambda t: t.clear(), "holds no tensors"),
        (lambda t: t.update({"x" * 5000: torch.ones(1)}), "nothing that LoRA adds"),
        (lambda t: t.update({FIRST: t[FIRST] * float("nan")}), "NaN or infinity"),
        (lambda t: t.update({FIRST: t[FIRST].double()}), "float64"),
        (lambda t: t.update({FIRST: t[FIRST][:3].clone()}), "has matrices of"),
        (lambda t: t.update({FIRST: t[FIRST][:, :9].clone()}), "9 inputs"),
        (lambda t: t.update({FIRST: t[FIRST][0].clone()}), "has matrices of"),
        (lambda t: t.update({name.replace("layers.0", "layers.7"): t.pop(name) for name in list(t)}), "no matrix of"),
    ],
)
def test_damaged_tensors_are_refused(folder: Path, change: Any, complaint: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UserError, match=complaint) as refused:
        load_adapter(folder, LLAMA.build())
    assert len(str(refused.value)) < 600


def test_damaged_files_are_refused(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    for end in (0, 7, 50, len(data) - 1):
        (folder / WEIGHTS).write_bytes(data[:end])
        with pytest.raises(UserError):
            load_adapter(folder, LLAMA.build())
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match="pickle"):
        load_adapter(folder, LLAMA.build())
    (folder / CONFIG).write_text("[" * 100_000, "utf-8")
    with pytest.raises(UserError, match=r"nested|JSON"):
        load_adapter(folder, LLAMA.build())
    (folder / CONFIG).unlink()
    with pytest.raises(UserError, match="adapter_config"):
        load_adapter(folder, LLAMA.build())


def test_experts_are_not_supported(folder: Path) -> None:
    model = MistralConfig(**SIZES, kv_heads=2, experts=2, experts_chosen=1).build()
    with pytest.raises(UserError, match="down_proj is no matrix"):
        load_adapter(folder, model)


def test_an_adapter_that_does_not_fit_changes_nothing() -> None:
    model = LLAMA.build()
    for name, rows in (("blocks.9.attention.query", 32), ("blocks.0.attention.query", 31), ("norm", 32)):
        with pytest.raises(UserError, match="made for another"):
            changed(model, Adapter({name: LowRank(torch.ones(1, 32), torch.ones(rows, 1))}))
