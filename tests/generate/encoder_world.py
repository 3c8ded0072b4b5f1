"""Tiny encoders with tokenizers that were trained here, without any other tool."""

import torch
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from underlay.models import Encoder
from underlay.models.bert import BertConfig
from underlay.models.roberta import RobertaConfig
from underlay.text import Tokenizer

TEXTS = [
    "Paris is the capital of France, and Berlin is the capital of Germany.",
    "The quick brown fox jumps over the lazy dog; nobody asks why.",
    "Größe und Straße, schöne Grüße.",
]
SHAPE = {"width": 32, "depth": 2, "heads": 4, "hidden": 64, "context": 48}


def _framing(backend: Backend, first: str, last: str) -> None:
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(name, backend.token_to_id(name)) for name in (first, last)],
    )


def words() -> Tokenizer:
    """BERT's kind."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=150, show_progress=False, special_tokens=names)
    backend.train_from_iterator(TEXTS * 5, trainer)
    _framing(backend, "[CLS]", "[SEP]")
    return Tokenizer(backend, {f"{name.strip('[]').lower()}_token": name for name in names})


def letters() -> Tokenizer:
    """RoBERTa's kind: byte-level, and the mask takes the space before it."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, show_progress=False, special_tokens=names, initial_alphabet=alphabet)
    backend.train_from_iterator(TEXTS * 5, trainer)
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    _framing(backend, "<s>", "</s>")
    roles = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "mask": "<mask>", "pad": "<pad>"}
    return Tokenizer(backend, {f"{role}_token": name for role, name in roles.items()})


def encoder(tokenizer: Tokenizer, roberta: bool = False, **more: object) -> Encoder:
    """A tiny encoder, its weights drawn wide enough for its guesses to depend on what it read."""
    torch.manual_seed(0)
    kind = RobertaConfig if roberta else BertConfig
    # More rows than tokens, as some models have.
    model = kind.model_validate({"vocabulary": tokenizer.size + 7, **SHAPE, **more}).build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model
