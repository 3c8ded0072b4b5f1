"""Tiny random models of transformers with our names, and tiny tokenizers, for the tests of GGUF."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from underlay.formats.gguf import Kind, ModelFacts, TokenizerFacts, export
from underlay.formats.gguf.quantize import decode, encode, fitting
from underlay.models.parts import RopeScaling

ROOT = Path(__file__).parents[2]
ORACLE = Path(__file__).with_name("llama_cpp_oracle.py")
VOCABULARY, WIDTH, DEPTH, HEADS, CONTEXT = 320, 64, 2, 4, 64
TOKENS = [7, 60, 301, 12, 99, 99, 250, 3, 41, 180, 77, 5]
TEXT = [
    "The house has 12345 rooms, and don't you forget: they're all the same!",
    "def rotate(x):\n    return -x[half:] if x else None\n\n\n# done\t\t(42)",
    "Ein Gruß aus Köln, garçon; 你好 世界 и привет, 3.14159 ... it's   spaced",
]
_NAMES = [
    (r"^model\.embed_tokens", "embedding"),
    (r"^model\.norm", "norm"),
    (r"^lm_head", "head"),
    (r"^model\.layers", "blocks"),
    (r"self_attn", "attention"),
    (r"q_norm", "query_norm"),
    (r"k_norm", "key_norm"),
    (r"q_proj", "query"),
    (r"k_proj", "key"),
    (r"v_proj", "value"),
    (r"o_proj", "output"),
    (r"(gate|up|down)_proj", r"\1"),
    (r"input_layernorm", "attention_norm"),
    (r"post_feedforward_layernorm", "mlp_out_norm"),
    # bert
    (r"^embeddings\.word_embeddings", "embedding"),
    (r"^embeddings\.position_embeddings", "positions"),
    (r"^embeddings\.token_type_embeddings", "types"),
    (r"^embeddings\.LayerNorm", "embedding_norm"),
    (r"^encoder\.layer", "blocks"),
    (r"attention\.output\.LayerNorm", "attention_out_norm"),
    (r"attention\.output\.dense", "attention.output"),
    (r"attention\.self\.", "attention."),
    (r"intermediate\.dense", "mlp.up"),
    (r"output\.LayerNorm", "mlp_out_norm"),
    (r"(\d)\.output\.dense", r"\1.mlp.down"),
    (r"^pooler\.dense", "pooler"),
]


def our_name(name: str, architecture: str) -> str:
    after = "attention_out_norm" if architecture == "olmo2" else "mlp_norm"
    for pattern, ours in [(r"post_attention_layernorm", after), *_NAMES]:
        name = re.sub(pattern, ours, name)
    return name


def world(architecture: str, scaling: str | None = None, **changed: Any) -> tuple[Any, ModelFacts]:
    """A random model of transformers, and its facts."""
    torch.manual_seed(1)
    encoder = architecture == "bert"
    values = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS if encoder else 2,
        "intermediate_size": 96,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.15,
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
        "rms_norm_eps": 1e-5,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    } | changed
    rope: dict[str, Any] = {"rope_type": scaling or "default", "rope_theta": 5000.0}
    ours = None
    if scaling:
        rope |= {"factor": 4.0} | ({} if scaling == "linear" else {"original_max_position_embeddings": 16})
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if scaling == "llama3" else {}
        ours = RopeScaling(kind=scaling, factor=4.0, original_context=None if scaling == "linear" else 16)  # type: ignore[arg-type]
    if not encoder:
        values["rope_parameters"] = rope
    if architecture == "qwen3":
        values.setdefault("head_dim", 32)  # more than the width holds: allowed there
    name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "olmo2": "Olmo2", "bert": "Bert"}[architecture]
    config = getattr(transformers, f"{name}Config")(**values)
    model = getattr(transformers, "BertModel" if encoder else f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():  # norms and biases are ones and zeros otherwise, and could be left out unseen
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    facts = ModelFacts(
        architecture=architecture,
        vocabulary=VOCABULARY,
        context=CONTEXT,
        width=WIDTH,
        depth=DEPTH,
        heads=HEADS,
        kv_heads=values["num_key_value_heads"],
        head_dim=values.get("head_dim", WIDTH // HEADS),
        hidden=values["intermediate_size"],
        norm_eps=config.layer_norm_eps if encoder else 1e-5,
        activation="gelu" if encoder else "silu",
        rope_base=None if encoder else 5000.0,
        rope_scaling=ours,
        tied=values["tie_word_embeddings"],
    )
    return model, facts


def tensors_of(model: Any, facts: ModelFacts) -> dict[str, Tensor]:
    found = {our_name(name, facts.architecture): tensor for name, tensor in model.state_dict().items()}
    return {name: tensor for name, tensor in found.items() if not (facts.tied and name == "head.weight")}


def write(path: Path, model: Any, facts: ModelFacts, kind: Kind, tokenizer: TokenizerFacts) -> Any:
    tensors = tensors_of(model, facts)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return export(path, kind, facts, tokenizer, shapes, tensors.items())


@torch.no_grad()
def reference(model: Any, facts: ModelFacts, kind_of: dict[str, Kind]) -> np.ndarray:
    """Rows of the model with each weight as a reader of its kind gets it."""
    for name, parameter in model.named_parameters():
        kind = kind_of.get(our_name(name, facts.architecture))
        if kind:
            raw = b"".join(encode(parameter, fitting(tuple(parameter.shape), kind), name))
            kind = fitting(tuple(parameter.shape), kind)
            parameter.copy_(torch.from_numpy(decode(raw, kind, tuple(parameter.shape)).copy()))
    out = model(torch.tensor([TOKENS]))
    return (out.last_hidden_state if facts.architecture == "bert" else out.logits)[0].numpy()


def python_with_llama_cpp() -> str | None:
    if importlib.util.find_spec("llama_cpp"):
        return sys.executable
    beside = ROOT / f"{Path(sys.prefix).name}-bench"
    there = sorted(beside.glob("lib/python*/site-packages/llama_cpp"))
    return str(beside / "bin" / "python") if there else None


def ask(path: Path, encoder: bool = False, texts: list[str] | None = None) -> dict[str, Any]:
    python = python_with_llama_cpp()
    assert python, "asked where it is there"
    question = json.dumps({"tokens": TOKENS, "texts": texts or [], "encoder": encoder})
    done = subprocess.run([python, ORACLE, path, question], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def byte_level(pre: Any = None, size: int = VOCABULARY, ignores: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignores))
    tokenizer.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    return tokenizer


def sentencepiece(size: int = 1000) -> TokenizerFacts:
    """As Llama 2's: BPE on characters, spaces marked, bytes where a character is unknown."""
    special = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    # Word by word, for without a pre-tokenizer the trainer would learn whole texts.
    words = [word for text in TEXT for word in text.split() if word.isascii()]
    tokenizer.train_from_iterator(words * 3, trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][:3]
    return TokenizerFacts(document, bos=1, eos=2, unknown=0, add_bos=True)


def wordpiece(size: int = VOCABULARY) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    return tokenizer


def facts_of(tokenizer: Tokenizer) -> TokenizerFacts:
    document = json.loads(tokenizer.to_str())
    if document["model"]["type"] == "WordPiece":
        return TokenizerFacts(document, unknown=1, padding=0, classification=2, separator=3, mask=4, add_bos=True)
    return TokenizerFacts(document, bos=0, eos=0)
