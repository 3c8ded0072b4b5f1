"""Tiny models, tokenizers and examples for heads, all made here."""

from pathlib import Path
from typing import TypeVar

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from underlay.adapt.examples import Example, Form, Label, Question, Similar, Tags
from underlay.adapt.heads import HeadConfig, lesson
from underlay.adapt.lesson import Lesson
from underlay.models import Decoder, Encoder, LlamaConfig, Model
from underlay.models.bert import BertConfig
from underlay.text import Tokenizer, train_tokenizer
from underlay.train import Outcome, TrainConfig, train
from underlay.train.config import OptimizerConfig
from underlay.train.schedule import ScheduleConfig

SENTENCES = [
    "paris is the capital of france and berlin of germany",
    "the quick brown fox jumps over the lazy dog nobody asks why",
    "anna walks to london while ben sleeps in rome on monday",
    "good bad fine awful nice poor great sad glad calm",
]
SHAPE = {"width": 32, "depth": 2, "heads": 4, "hidden": 64, "context": 48}


def words() -> Tokenizer:
    """BERT's kind."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted(set("".join(SENTENCES)) - {" "})
    whole = sorted(set(" ".join(SENTENCES).split()) - set(letters))[::2]  # the others come in pieces
    pieces = [*names, *letters, *("##" + letter for letter in letters), *whole]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    backend.add_special_tokens(names)
    return Tokenizer(backend, {f"{name.strip('[]').lower()}_token": name for name in names})


def letters() -> Tokenizer:
    """Ours: byte-level, with a beginning but no end."""
    return train_tokenizer(SENTENCES * 5, 280)


def encoder(tokenizer: Tokenizer, **more: object) -> Encoder:
    torch.manual_seed(0)
    return _stirred(BertConfig.model_validate({"vocabulary": tokenizer.size, **SHAPE, **more}).build())


def decoder(tokenizer: Tokenizer, **more: object) -> Decoder:
    torch.manual_seed(0)
    return _stirred(LlamaConfig.model_validate({"vocabulary": tokenizer.size, **SHAPE, **more}).build())


M = TypeVar("M", Encoder, Decoder)


def _stirred(model: M) -> M:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model


def made(kind: str) -> tuple[Model, Tokenizer]:
    tokenizer = words() if kind == "encoder" else letters()
    return (encoder if kind == "encoder" else decoder)(tokenizer), tokenizer


def examples(*bodies: Form) -> list[Example]:
    return [Example(body, "here", line, "CC0-1.0") for line, body in enumerate(bodies, 1)]


LABELS = examples(
    Label("good", ("up",)),
    Label("fine and nice", ("up",)),
    Label("great glad calm", ("up",)),
    Label("bad", ("down",)),
    Label("awful and poor and sad", ("down",)),
    Label("paris is the capital of france", ("place",)),
    Label("berlin", ("place",)),
    Label("ben sleeps in rome on monday", ("place",)),
    Label("anna walks to london", ("place",)),
    Label("poor dog", ("down",)),
)
SEVERAL = examples(
    Label("good", ("up",)),
    Label("good paris", ("up", "place")),
    Label("bad", ()),
    Label("the lazy dog in rome", ("place",)),
    Label("great", ("up",)),
    Label("nobody asks why", ()),
)
NUMBERS = examples(
    Label("good", value=1030.0),
    Label("bad", value=970.0),
    Label("fine", value=1015.0),
    Label("the quick brown fox", value=1000.0),
    Label("awful and sad", value=955.0),
)
PAIRS = examples(
    Label("paris", ("same",), second="paris"),
    Label("paris", ("other",), second="the lazy dog"),
    Label("good fine", ("same",), second="good fine"),
    Label("bad", ("other",), second="anna walks to london"),
)
TAGS = examples(
    Tags(("paris", "is", "the", "capital", "of", "france"), ("B-place", "O", "O", "O", "O", "B-place")),
    Tags(("anna", "walks", "to", "london"), ("B-person", "O", "O", "B-place")),
    Tags(("ben", "sleeps"), ("B-person", "O")),
    Tags(("the", "quick", "brown", "fox"), ("O", "B-animal", "I-animal", "I-animal")),
)
QUESTIONS = examples(
    Question("who walks", "anna walks to london while ben sleeps", (("anna", 0),)),
    Question("who sleeps", "anna walks to london while ben sleeps", (("ben", 27),)),
    Question("where to", "anna walks to london", (("london", 14),)),
    Question("which fox", "the quick brown fox jumps over the lazy dog", (("quick brown fox", 4),)),
    Question("who asks", "the quick brown fox", ()),
)
SIMILAR = examples(
    Similar("good", "fine", ("bad",)),
    Similar("paris", "france"),
    Similar("berlin", "germany"),
    Similar("dog", "fox", ("monday", "rome")),
)
EVERY = {
    "labels": LABELS,
    "several": SEVERAL,
    "numbers": NUMBERS,
    "pairs": PAIRS,
    "tags": TAGS,
    "questions": QUESTIONS,
    "similar": SIMILAR,
}


def prepared(kind: str, what: str, context: int = 40, batch_rows: int = 4, **settings: object) -> Lesson:
    model, tokenizer = made(kind)
    config = HeadConfig.model_validate({"group": 4} | settings)
    return lesson(model, tokenizer, EVERY[what], config, context, seed=0, batch_rows=batch_rows)


def learn(one: Lesson, folder: Path, steps: int = 80, lr: float = 0.003, **more: object) -> Outcome:
    settings: dict[str, object] = {
        "steps": steps,
        "batch_rows": 4,
        "micro_rows": 4,
        "compile": False,
        "precision": "float32",
        "context": 40,
        "outliers": None,
        "optimizer": OptimizerConfig(muon=False, adam_lr=lr),
        "schedule": ScheduleConfig(warmup_steps=4),
    }
    return train(one.model, one.objective, one.source, TrainConfig.model_validate(settings | more), folder)
