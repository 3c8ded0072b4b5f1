"""Arithmetic by formula: against counts by hand, and against what torch counts of a real step."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from underlay.models import Batch, EncoderConfig, LlamaConfig
from underlay.models.bert import BertConfig
from underlay.models.config import TextConfig
from underlay.models.gpt2 import GPT2Config
from underlay.models.mistral import MistralConfig
from underlay.plan.flops import matmul_parameters, training_flops
from underlay.train import CausalLM

LLAMA = LlamaConfig(vocabulary=96, context=64, width=32, depth=2, heads=4, kv_heads=2, hidden=80)
GPT2 = GPT2Config(vocabulary=120, context=48, width=24, depth=3, heads=3)
BERT = BertConfig(vocabulary=100, context=40, width=32, depth=2, heads=2, hidden=64)
EXPERTS = MistralConfig(
    vocabulary=96, context=64, width=32, depth=2, heads=4, kv_heads=2, hidden=80, experts=4, experts_chosen=2
)


def test_a_llama_by_hand() -> None:
    query, key, value, output = 32 * 32, 32 * 16, 32 * 16, 32 * 32  # 2 of 4 heads have keys and values
    gate, up, down = 32 * 80, 32 * 80, 80 * 32
    head = 96 * 32
    matrices = 2 * (query + key + value + output + gate + up + down) + head
    assert matrices == 24_576
    assert matmul_parameters(LLAMA) == matrices
    # Scores and mixing: 2 products of 2 FLOPs for 32 channels in each of 2 blocks, with half of 64 positions; backward
    # twice as much.
    attention = 3 * 2 * 2 * 32 * 2 * (64 // 2)
    assert training_flops(LLAMA, 1000, 64) == 1000 * (6 * matrices + attention) == 172_032_000


def test_a_gpt2_by_hand() -> None:
    matrices = 3 * (4 * 24 * 24 + 2 * 24 * 96) + 120 * 24
    assert matrices == 23_616
    assert matmul_parameters(GPT2) == matrices
    attention = 3 * 2 * 2 * 24 * 3 * (48 // 2)
    assert training_flops(GPT2, 10, 48) == 10 * (6 * matrices + attention) == 1_624_320


def test_of_experts_only_those_count_that_a_token_uses() -> None:
    one, all_ = 3 * 32 * 80, 4 * 3 * 32 * 80
    router = 4 * 32
    assert matmul_parameters(EXPERTS) - matmul_parameters(LLAMA) == 2 * (one + router)
    assert sum(p.numel() for p in EXPERTS.build().blocks.parameters() if p.ndim == 3) == 2 * all_


def counted(config: TextConfig, weights: torch.Tensor | None = None) -> dict[str, int]:
    """FLOPs of a step on 4 rows, as torch counts them, by the name of the operation."""
    torch.manual_seed(0)
    model = config.build()
    tokens = torch.randint(0, config.vocabulary, (4, config.context))
    with FlopCounterMode(display=False) as counter:
        CausalLM()(model, Batch(tokens, tokens.roll(-1, 1), weights)).sum.backward()
    return {str(operation): flops for operation, flops in counter.get_flop_counts()["Global"].items()}


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=lambda config: config.family)
def test_torch_counts_the_same_for_decoders(config: TextConfig) -> None:
    found, tokens = counted(config), 4 * config.context
    matrices = sum(flops for name, flops in found.items() if name in ("aten.mm", "aten.addmm"))
    assert matrices == 6 * matmul_parameters(config) * tokens
    # Of attention's six products torch does not count the two that are added in place, and of rows as short as these
    # also what lies above the diagonal is computed.
    attention = found["aten.bmm"] + found["aten.baddbmm"]
    assert attention * 6 / 4 / 2 == training_flops(config, tokens, config.context) - matrices


@pytest.mark.parametrize("every", [1, 2, 5])
def test_torch_counts_the_same_for_encoders(every: int) -> None:
    weights = torch.zeros(4, BERT.context)
    weights[:, ::every] = 1
    found, tokens = counted(BERT, weights), 4 * BERT.context
    matrices = sum(flops for name, flops in found.items() if name in ("aten.mm", "aten.addmm"))
    attention = 6 * 2 * BERT.depth * BERT.width * BERT.context * tokens
    filled = -(-int(weights.sum()) // 32) * 32  # a multiple of 32 goes through the head
    share = filled / tokens
    assert training_flops(BERT, tokens, BERT.context, share) == pytest.approx(matrices + attention, rel=1e-12)
    assert isinstance(BERT, EncoderConfig)


def test_the_head_is_counted_where_it_is_computed() -> None:
    weights = torch.zeros(4, LLAMA.context)
    weights[:, ::4] = 1
    found, tokens = counted(LLAMA, weights), 4 * LLAMA.context
    attention = 6 * LLAMA.depth * LLAMA.width * LLAMA.context * tokens
    assert training_flops(LLAMA, tokens, LLAMA.context, 0.25) == found["aten.mm"] + attention
