"""Models of transformers through the library and out again: byte by byte, in shards, within memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from parity_world import CLASSES, Case, deviation, our_model, saved, their_model, tokens
from safetensors.torch import load_file, save_file

from underlay.errors import UserError
from underlay.formats import hf
from underlay.formats.hf.layout import HARMLESS
from underlay.formats.transfer import export_model, import_model
from underlay.library import Draft, Library, Order
from underlay.models import Encoder, LlamaConfig
from underlay.models.bert import BertConfig
from underlay.models.config import TextConfig
from underlay.models.gemma import GemmaConfig
from underlay.models.gpt2 import GPT2Config
from underlay.models.mistral import MistralConfig
from underlay.models.olmo import OLMoConfig
from underlay.models.parts import RopeScaling
from underlay.models.qwen import QwenConfig
from underlay.models.roberta import RobertaConfig
from underlay.models.storage import save_model
from underlay.text import Tokenizer, train_tokenizer

KINDS = list(CLASSES)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FILES = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["one two three, one two three four. "] * 3, 280)


def with_tokenizer(folder: Path, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32) -> Path:
    tokenizer.save(folder)
    path = folder / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    return folder


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_out_and_in_again_changes_no_byte(kind: str, dtype: torch.dtype, tokenizer: Tokenizer, tmp_path: Path) -> None:
    given = {"vocab_size": 290, **({"tie_word_embeddings": False} if dtype == torch.float16 else {})}
    folder = with_tokenizer(saved(Case(kind, given)), tokenizer, dtype)
    library = Library(tmp_path / "library")
    first = import_model(library, folder, "first").artifact
    written = export_model(first, tmp_path / "out", "hf")
    second = import_model(library, written.path, "second").artifact
    for file in FILES:
        assert (first.folder / file).read_bytes() == (second.folder / file).read_bytes()
    assert {tensor.dtype for tensor in load_file(second.folder / "model.safetensors").values()} == {dtype}
    assert first.manifest.metrics["parameters"] == second.manifest.metrics["parameters"]
    # And once more: what was exported is what is exported from it.
    again = export_model(second, tmp_path / "again", "hf")
    assert all((written.path / file).read_bytes() == (again.path / file).read_bytes() for file in FILES)


SIZES: dict[str, Any] = {"depth": 2, "width": 32, "heads": 4, "hidden": 40, "vocabulary": 290, "context": 32}
OURS: list[TextConfig] = [
    LlamaConfig(**SIZES, mup_width=16),
    LlamaConfig(**SIZES, position_free_every=2),
    LlamaConfig(**SIZES, position_free_every=7, tied=False),
    LlamaConfig(**SIZES, rope_scaling=RopeScaling(kind="dynamic", factor=2)),
    LlamaConfig(**SIZES, rope_scaling=RopeScaling(kind="linear", factor=2, low=3)),
    LlamaConfig(**SIZES, rope_scaling=RopeScaling(kind="yarn", factor=2, truncate=False, sharpen=1.5)),
    GPT2Config(**SIZES, mup_width=64, activation="gelu"),
    MistralConfig(**SIZES, experts=3, experts_balance=0.5, experts_chosen=1),
    MistralConfig(**SIZES, experts_chosen=1, experts_balance=0),
    QwenConfig(**SIZES, family="qwen2", head_dim=10),
    QwenConfig(**SIZES, sliding_window=5, full_layers=(0,), mup_width=8),
    OLMoConfig(**SIZES, family="olmo3", sliding_window=5, rope_base=777.0),
    OLMoConfig(**SIZES, family="olmo3", rope_scaling=RopeScaling(kind="yarn", factor=2)),
    GemmaConfig(**SIZES, family="gemma2", query_scale=None, score_softcap=3.0),
    GemmaConfig(**SIZES, local_rope_base=123.0, sliding_window=5, full_layers=(1,), rope_base=777.0),
    GemmaConfig(**SIZES, family="gemma", local_rope_base=123.0),
    BertConfig(**SIZES, pooling="cls", normalised=False, pooler=True),
    BertConfig(**SIZES, pooling="last", masked_head=False, mup_width=16),
    BertConfig(**SIZES, types=0),
    RobertaConfig(**SIZES, tied=False, normalised=False),
]


@pytest.mark.parametrize("config", OURS, ids=lambda config: config.family)
def test_what_they_have_no_word_for_comes_back(config: TextConfig, tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = config.build().eval()  # type: ignore[attr-defined]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    library = Library(tmp_path / "library")

    def work(draft: Draft) -> None:
        save_model(model, draft.folder)
        tokenizer.save(draft.folder)

    artifact = library.make(Order("model", "mine", "train", {}), work).artifact
    mine = artifact.folder
    written = export_model(artifact, tmp_path / "out", "hf")
    back = import_model(library, written.path, "back").artifact
    assert (back.folder / "config.json").read_bytes() == (mine / "config.json").read_bytes()
    assert (back.folder / "model.safetensors").read_bytes() == (mine / "model.safetensors").read_bytes()
    # A tool that cannot read our notes computes the same all the same.
    named = json.loads((written.path / "config.json").read_text())["architectures"][0]
    theirs, told = getattr(transformers, named).from_pretrained(written.path, output_loading_info=True)
    wrong = {name for value in told.values() for name in value}
    # Their class for filling in has no pooler, and their trunk always has one.
    assert all("pooler." in name for name in wrong)
    assert bool(wrong) == (isinstance(model, Encoder) and (model.masked is None) == (model.pooler is None))
    ids = tokens(2, 20, least=8)
    with torch.no_grad():
        answer = theirs.eval()(ids)
        if isinstance(model, Encoder) and model.masked is None:
            assert deviation(answer.last_hidden_state, model.hidden(ids)) < 1e-4
        else:
            assert deviation(answer.logits, model(ids)) < 1e-4


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (OLMoConfig(**SIZES, family="olmo", norm_eps=0.1), "norm_eps"),
        (GemmaConfig(**SIZES, activation="silu"), "activation"),
        (GPT2Config(**SIZES, activation="relu2"), "activation"),
        (BertConfig(**SIZES, activation="relu2"), "activation"),
        (MistralConfig(**SIZES, sliding_window=4, full_layers=(0,)), "only some layers"),
    ],
)
def test_what_would_compute_something_else_is_refused(config: TextConfig, field: str) -> None:
    with pytest.raises(UserError, match=f"{field}.* no place in this format"):
        hf.outgoing(config)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_left_out_means_what_it_means_to_them(kind: str) -> None:
    case = Case(kind, {"tie_word_embeddings": True})
    folder = saved(case)
    path = folder / "config.json"
    values = json.loads(path.read_text())
    compared = 0
    for key in sorted(values.keys() - HARMLESS):
        path.write_text(json.dumps({other: value for other, value in values.items() if other != key}))
        try:
            ours = our_model(hf.open_model(folder))
        except UserError:
            continue  # such as a size that the weights do not have
        theirs = their_model(case, folder)[0]
        with torch.no_grad():
            assert deviation(theirs(tokens(least=4)).logits, ours(tokens(least=4))) < 1e-4, key
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("kind", ["gpt2", "mixtral", "bert"])
def test_shards_are_read_like_one_file(kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = with_tokenizer(saved(Case(kind, {"vocab_size": 290})), tokenizer)
    model, _ = their_model(Case(kind), folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="12KB")
    tokenizer.save(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    library = Library(tmp_path / "library")
    one, many = (
        import_model(library, path, name).artifact for path, name in ((folder, "one"), (tmp_path / "shards", "many"))
    )
    assert all((one.folder / file).read_bytes() == (many.folder / file).read_bytes() for file in FILES)


CHILD = """
import resource, sys
from pathlib import Path
import torch
from underlay.formats.transfer import import_model
from underlay.library import Draft, Library, Order
torch.randn(64, 64) @ torch.randn(64, 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import_model(Library(Path(sys.argv[2])), Path(sys.argv[1]), "large")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="getrusage counts in other units elsewhere")
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_an_import_needs_the_model_and_a_shard_of_memory(kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 9}
    if kind == "gpt2":
        sizes = {"n_embd": 512, "n_layer": 10, "n_inner": 2048, "n_head": 8}
    elif kind == "mixtral":
        sizes |= {"num_hidden_layers": 3, "num_local_experts": 4}
    folder = tmp_path / "in"
    theirs = getattr(transformers, CLASSES[kind][0])
    with torch.device("meta"):
        model = theirs(transformers.AutoConfig.for_model(kind, vocab_size=290, **sizes))
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
    model.save_pretrained(folder, max_shard_size="30MB")
    tokenizer.save(folder)
    del model
    shards = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert len(shards) > 3
    assert sum(shards) > 100e6
    result = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(tmp_path / "library")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(result.stdout) * 1024 < sum(shards) + max(shards) + (16 << 20)
