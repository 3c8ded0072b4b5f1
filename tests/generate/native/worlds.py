"""Small models of every family, in sizes that fill no vector, and what runs them plainly."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from underlay.generate.native import NativeRunner, NoLibrary, library
from underlay.generate.runner import BLOCK, Work
from underlay.models import Decoder, LlamaConfig
from underlay.models.adapter import Adapter, LowRank
from underlay.models.decoder import DecoderConfig
from underlay.models.gemma import GemmaConfig
from underlay.models.gpt2 import GPT2Config
from underlay.models.mistral import MistralConfig
from underlay.models.olmo import OLMoConfig
from underlay.models.parts import Linear, RopeScaling
from underlay.models.quantised import Bits, matrix, quantised_names, round_to_nearest
from underlay.models.qwen import QwenConfig

VOCABULARY, CONTEXT = 300, 100
SIZES = {
    "vocabulary": VOCABULARY,
    "width": 72,
    "depth": 2,
    "heads": 6,
    "kv_heads": 2,
    "head_dim": 20,
    "hidden": 100,
    "context": CONTEXT,
}
PLAIN = {"vocabulary": VOCABULARY, "width": 75, "depth": 2, "heads": 5, "hidden": 90, "context": CONTEXT}
YARN = RopeScaling(kind="yarn", factor=4, original_context=32)
LLAMA3 = RopeScaling(kind="llama3", factor=8, original_context=16)

FAMILIES: dict[str, DecoderConfig] = {
    "llama": LlamaConfig(**SIZES),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, tied=False, position_free_every=2),
    "llama stretched": LlamaConfig(**SIZES, rope_scaling=LLAMA3),
    "llama of whole vectors": LlamaConfig(vocabulary=512, width=64, depth=2, heads=4, hidden=512, context=CONTEXT),
    "llama that is deep inside": LlamaConfig(
        vocabulary=VOCABULARY, width=64, depth=1, heads=4, kv_heads=1, hidden=1120, context=CONTEXT
    ),
    "gpt2": GPT2Config(**PLAIN),
    "gpt2 with gelu": GPT2Config(**PLAIN, activation="gelu", scale_by_layer=True),
    "gpt2 with relu2": GPT2Config(**PLAIN, activation="relu2", tied=False),
    "gpt2 with relu": GPT2Config(**PLAIN, activation="relu"),
    "mistral": MistralConfig(**SIZES, sliding_window=16),
    "qwen2": QwenConfig(**SIZES, family="qwen2"),
    "qwen3": QwenConfig(**SIZES, family="qwen3", sliding_window=20, full_layers=(0,), attention_bias=True),
    "olmo": OLMoConfig(**SIZES, family="olmo", clip=0.5),
    "olmo2": OLMoConfig(**SIZES, family="olmo2"),
    "olmo3": OLMoConfig(**SIZES, family="olmo3", sliding_window=17, full_layers=(1,), rope_scaling=YARN),
    "gemma": GemmaConfig(**SIZES, family="gemma"),
    "gemma2": GemmaConfig(
        **SIZES,
        family="gemma2",
        sliding_window=9,
        full_layers=(0,),
        score_softcap=5.0,
        logit_softcap=4.0,
        query_scale=30.0,
    ),
    "gemma3": GemmaConfig(**SIZES, family="gemma3", sliding_window=33, full_layers=(1,)),
}


def missing() -> str | None:
    """Why there is no library here."""
    try:
        library()
    except NoLibrary as error:
        return str(error)
    return None


def build(config: DecoderConfig, seed: int = 0) -> Decoder:
    """Random weights, peaked enough for every part to count."""
    torch.manual_seed(seed)
    model = config.build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def tokens(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()


def forward(model: Decoder, ids: Sequence[int]) -> Tensor:
    """The model's own logits (time, vocabulary)."""
    with torch.inference_mode():
        return model(torch.tensor([list(ids)]))[0]


def blocks_for(length: int, first: int = 0) -> list[int]:
    return list(range(first, first + -(-length // BLOCK)))


def read(runner: NativeRunner, ids: Sequence[int], blocks: Sequence[int] | None = None, chunk: int = 10**6) -> Tensor:
    """Logits (time, vocabulary) of a text, read alone, in chunks."""
    blocks = blocks_for(len(ids)) if blocks is None else blocks
    parts = []
    for start in range(0, len(ids), chunk):
        piece = ids[start : start + chunk]
        parts.append(runner.run([Work(piece, start, blocks, len(piece))]))
    return torch.cat(parts)


def likelihoods(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """Log-probabilities of tokens 1 to n - 1."""
    return logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(list(ids[1:]))[:, None])[:, 0]


def adapter_for(model: Decoder, rank: int, seed: int, every: int = 1) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    changes = {}
    for name in quantised_names(model)[:-1][::every]:
        outputs, inputs = matrix(model, name).shape
        down = torch.randn(rank, inputs, generator=generator) * 0.3
        changes[name] = LowRank(down, torch.randn(outputs, rank, generator=generator) * 0.1)
    return Adapter(changes)


def rounded(model: Decoder, inputs: bool) -> Decoder:
    """A copy whose weights are bfloat16; `inputs`: and what every matrix is given is rounded to it, too."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        for name in quantised_names(result):
            matrix(result, name).copy_(matrix(result, name).bfloat16().float())
        result.embedding.weight.copy_(result.embedding.weight.bfloat16().float())
    if inputs:
        _before_matrices(result, lambda given: given.bfloat16().float())
    return result


def rounds_inputs(runner: NativeRunner) -> bool:
    """Whether products in bfloat16 round what they are given."""
    said = runner.describe()
    return "bfloat16 pairs" in said or "AMX)" in said


def quantised(model: Decoder, bits: Bits) -> Decoder:
    """A copy with weights rounded to nearest, whose matrices are given whole numbers, too: 255 levels in each group.

    The head is no longer tied to the embedding, which is bfloat16.
    """
    result = copy.deepcopy(model)
    known = {name: round_to_nearest(matrix(model, name), bits) for name in quantised_names(model)}
    if result.head is None:
        result.head = Linear(model.config.width, model.config.vocabulary, bias=False)
    with torch.no_grad():
        for name, weights in known.items():
            (result.head.weight if name == "head" else matrix(result, name)).copy_(weights.dequantise())
        result.embedding.weight.copy_(model.embedding.weight.bfloat16().float())
    inputs = {name: weights.values.shape[1] for name, weights in known.items()}
    groups = {width: 64 if width % 32 or bits == 8 else 32 for width in inputs.values()}
    _before_matrices(result, lambda given: _in_groups(given, groups[given.shape[-1]]))
    return result


def _before_matrices(model: Decoder, change: Callable[[Tensor], Tensor]) -> None:
    for module in model.blocks.modules():
        if isinstance(module, Linear):
            module.register_forward_pre_hook(lambda _, given: (change(given[0]),))
    model.norm.register_forward_hook(lambda _, __, found: change(found))  # the head is not called


def _in_groups(x: Tensor, size: int) -> Tensor:
    """The nearest of 255 levels, which the largest of each group of neighbours decides."""
    width = x.shape[-1]
    grouped = torch.nn.functional.pad(x, (0, -width % size)).unflatten(-1, (-1, size))
    scale = grouped.abs().amax(-1, keepdim=True) / 127
    return ((grouped / scale.clamp(min=1e-30)).round() * scale).flatten(-2)[..., :width]


def distances(found: Tensor, expected: Tensor) -> Tensor:
    """Of each row, in parts of its length, the smallest first."""
    return ((found - expected).norm(dim=1) / expected.norm(dim=1)).sort().values
