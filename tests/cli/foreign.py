"""Folders as other tools leave them: tiny models of `transformers`, each with a tokenizer that was trained here."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from underlay.text import train_tokenizer

TEXTS = [
    "Paris is the capital of France, and Berlin is the capital of Germany.",
    "def add(a, b):\n    return a + b\n",
    "The quick brown fox jumps over the lazy dog; nobody asks why.",
    "Größe und Straße, schöne Grüße.",
]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}


def _save(model: torch.nn.Module, folder: Path) -> Path:
    """Save a model whose answers depend on what it read: its weights are drawn wider than usual."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    model.save_pretrained(folder)  # type: ignore[operator]
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


def llama(folder: Path) -> Path:
    """A Llama with a tokenizer of our own kind, BOS and marks of turns included."""
    tokenizer = train_tokenizer(TEXTS * 5, 300)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=tokenizer.size, intermediate_size=64, num_key_value_heads=2, **SHAPE)
    _save(LlamaForCausalLM(config), folder)
    tokenizer.save(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    return folder


def qwen(folder: Path, template: bool = True) -> Path:
    """A Qwen: no BOS, turns by a template, and more rows than tokens."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, show_progress=False, special_tokens=special, initial_alphabet=alphabet
    )
    backend.train_from_iterator(TEXTS * 5, trainer)
    torch.manual_seed(0)
    size = backend.get_vocab_size() + 20
    config = Qwen2Config(vocab_size=size, intermediate_size=64, num_key_value_heads=2, **SHAPE)
    _save(Qwen2ForCausalLM(config), folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token=None
    )
    if template:
        tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return folder


def bert(folder: Path) -> Path:
    """A BERT with its masked head."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, show_progress=False, special_tokens=names)
    backend.train_from_iterator(TEXTS * 5, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, names.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    torch.manual_seed(0)
    config = BertConfig(vocab_size=backend.get_vocab_size(), intermediate_size=64, **SHAPE)
    _save(BertForMaskedLM(config), folder)
    roles = {f"{name.strip('[]').lower()}_token": name for name in names}
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    return folder


def change(folder: Path, **values: object) -> None:
    """Change keys of a folder's config."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
