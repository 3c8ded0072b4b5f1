"""Tiny random models of transformers, saved and read back by both sides, for the tests of parity."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from underlay.formats import hf
from underlay.models.families import Model, blank

Values = dict[str, Any]
VOCABULARY, WIDTH, TIME = 37, 24, 20
CLASSES = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config"),
    "llama": ("LlamaForCausalLM", "LlamaConfig"),
    "smollm3": ("SmolLM3ForCausalLM", "SmolLM3Config"),
    "mistral": ("MistralForCausalLM", "MistralConfig"),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config"),
    "olmo": ("OlmoForCausalLM", "OlmoConfig"),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config"),
    "olmo3": ("Olmo3ForCausalLM", "Olmo3Config"),
    "gemma": ("GemmaForCausalLM", "GemmaConfig"),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config"),
    "gemma3_text": ("Gemma3ForCausalLM", "Gemma3TextConfig"),
    "bert": ("BertForMaskedLM", "BertConfig"),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig"),
}
_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_SIZES: Values = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 64}
_MORE: dict[str, Values] = {
    "gpt2": {"n_inner": 40},
    "mixtral": {"num_local_experts": 3},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "bert": {"type_vocab_size": 3},
    "roberta": {"type_vocab_size": 1, "pad_token_id": 1},
}


@dataclass(frozen=True)
class Case:
    """One configuration."""

    kind: str
    """Their model_type."""
    given: Values = field(default_factory=dict)
    """Keys of their config."""
    architecture: str = ""
    """Their class, where it is not the usual one."""
    edit: Callable[[Values], None] | None = None
    """What is done to config.json after it was saved, such as an older spelling."""
    options: Values = field(default_factory=dict)
    """For making the model."""


@dataclass(frozen=True)
class Pair:
    """The same model, as they and as we read it from one folder."""

    folder: Path
    theirs: Any
    ours: Model
    incoming: hf.Incoming


def config_of(case: Case) -> Any:
    """Their config."""
    encoder = case.kind in ("bert", "roberta")
    sizes = _GPT2 if case.kind == "gpt2" else _SIZES if encoder else {**_SIZES, "num_key_value_heads": 2}
    values = {**sizes, **_IDS, **_MORE.get(case.kind, {}), **case.given}
    return getattr(transformers, CLASSES[case.kind][1])(**values)


def noisy(model: Any, seed: int = 0) -> Any:
    """The model with noise on every parameter, so that norms and biases matter."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def saved(case: Case) -> Path:
    """Their model in a fresh folder."""
    folder = Path(mkdtemp(prefix="parity"))
    torch.manual_seed(0)
    made = getattr(transformers, case.architecture or CLASSES[case.kind][0])(config_of(case), **case.options)
    noisy(made).save_pretrained(folder)
    if case.edit is not None:
        path = folder / "config.json"
        values = json.loads(path.read_text())
        case.edit(values)
        path.write_text(json.dumps(values))
    return folder


def their_model(case: Case, folder: Path, attention: str = "eager") -> tuple[Any, Values]:
    """The folder as they read it, and what they say of loading it."""
    kind = getattr(transformers, case.architecture or CLASSES[case.kind][0])
    model, told = kind.from_pretrained(
        folder, attn_implementation=attention, output_loading_info=True, dtype="auto", **case.options
    )
    return model.eval(), told


def our_model(incoming: hf.Incoming) -> Model:
    """The folder as we read it."""
    model = blank(incoming.config)
    model.load_state_dict(dict(incoming.tensors()))
    return model.eval()


@cache
def pair(case: "Named") -> Pair:
    """Both, made once."""
    folder = saved(case.case)
    incoming = hf.open_model(folder)
    return Pair(folder, their_model(case.case, folder)[0], our_model(incoming), incoming)


@dataclass(frozen=True)
class Named:
    """A case that can be a key."""

    name: str
    case: Case = field(compare=False)

    def __repr__(self) -> str:
        return self.name


def named(cases: dict[str, Case]) -> list[Named]:
    """The cases, for `parametrize`."""
    return [Named(name, case) for name, case in cases.items()]


def export(incoming: hf.Incoming, model: Model, folder: Path) -> None:
    """Write our model as a folder of theirs."""
    values, rows = hf.outgoing(incoming.config)
    (folder / "config.json").write_text(json.dumps(values))
    tensors = dict(hf.written_out(rows, model.state_dict().__getitem__))
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def complaints(told: Values) -> Values:
    """What was wrong with a folder they loaded."""
    return {key: value for key, value in told.items() if value}


def tokens(rows: int = 3, time: int = TIME, seed: int = 1, least: int = 0) -> Tensor:
    """Random ids."""
    return torch.randint(least, VOCABULARY, (rows, time), generator=torch.Generator().manual_seed(seed))


def deviation(one: Tensor, two: Tensor) -> float:
    """The largest distance, where there is a number at all."""
    assert one.shape == two.shape
    assert torch.isfinite(one).all()
    return float((one - two).abs().max())


def rotary(kind: str, theta: float = 1000.0, **more: Any) -> Values:
    """Their rope_parameters."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}
