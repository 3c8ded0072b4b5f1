"""Decoders against transformers: imported, exported, padded, cached, packed; the same numbers throughout."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_world import (
    TIME,
    VOCABULARY,
    Case,
    Named,
    Pair,
    Values,
    complaints,
    deviation,
    export,
    named,
    our_model,
    pair,
    rotary,
    saved,
    their_model,
    tokens,
)
from torch import Tensor

from underlay.formats import hf
from underlay.generate.native import NativeRunner, unsupported
from underlay.generate.plain import PlainRunner
from underlay.generate.runner import BLOCK, Runner, Work
from underlay.models import Decoder
from underlay.models.parts import masks

BLOCKS = -(-(TIME + 1) // BLOCK)
"""Of keys and values, for one text."""
FULL, SLIDING = "full_attention", "sliding_attention"


def old_rope(kind: str | None = None, theta: float = 700.0, key: str = "type", **more: Any) -> Any:
    """The spelling before rope_parameters."""

    def edit(values: Values) -> None:
        values.pop("rope_parameters", None)
        values["rope_theta"] = theta
        values["rope_scaling"] = {key: kind, **more} if kind else None

    return edit


def without(*keys: str, **new: Any) -> Any:
    def edit(values: Values) -> None:
        for key in keys:
            values.pop(key)
        values |= new

    return edit


def old_olmo3(values: Values) -> None:
    values.pop("layer_types")
    old_rope("yarn", 500_000.0, "rope_type", factor=4.0, original_max_position_embeddings=12)(values)


def old_gemma3(values: Values) -> None:
    for key in ("layer_types", "rope_parameters", "_sliding_window_pattern"):
        values.pop(key, None)
    values |= {"sliding_window_pattern": 2, "rope_theta": 50_000.0, "rope_local_base_freq": 300.0}
    values["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
TWO_ROPES = {
    FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 50_000.0},
    SLIDING: {"rope_type": "default", "rope_theta": 300.0},
}
YARN_FULL = {
    FULL: {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5000.0, "original_max_position_embeddings": 12},
    SLIDING: {"rope_type": "default", "rope_theta": 5000.0},
}
MIXED = [SLIDING, FULL, SLIDING]
CASES: dict[str, Case] = {
    "gpt2": Case("gpt2"),
    "gpt2 by layer": Case("gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3, "n_head": 3}),
    "gpt2 gelu untied": Case(
        "gpt2",
        {"activation_function": "gelu", "n_inner": None, "tie_word_embeddings": False, "layer_norm_epsilon": 0.1},
    ),
    "gpt2 relu odd": Case("gpt2", {"activation_function": "relu", "n_embd": 21, "n_head": 3, "n_inner": 17}),
    "llama": Case("llama"),
    "llama plain heads": Case("llama", {"num_key_value_heads": 4, "rms_norm_eps": 0.05}),
    "llama one key head": Case("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama biases": Case("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama own heads": Case("llama", {"head_dim": 10, "num_attention_heads": 4}),
    "llama linear": Case("llama", rotary("linear", factor=3.0)),
    "llama dynamic": Case("llama", {"max_position_embeddings": 8, **rotary("dynamic", factor=4.0)}),
    "llama dynamic not yet": Case("llama", rotary("dynamic", factor=4.0)),
    "llama 3": Case("llama", rotary("llama3", original_max_position_embeddings=16, **LLAMA3)),
    "llama 3 odd": Case(
        "llama",
        rotary("llama3", factor=3.5, low_freq_factor=0.7, high_freq_factor=2.9, original_max_position_embeddings=13),
    ),
    "llama 3 no original": Case("llama", rotary("llama3", theta=50.0, **LLAMA3)),
    "llama yarn": Case("llama", rotary("yarn", factor=4.0, original_max_position_embeddings=16)),
    "llama yarn no original": Case("llama", rotary("yarn", factor=4.0)),
    "llama yarn sharp": Case(
        "llama", rotary("yarn", factor=4.0, original_max_position_embeddings=17, attention_factor=1.7)
    ),
    "llama yarn betas": Case(
        "llama",
        {
            "head_dim": 16,
            **rotary("yarn", factor=5.0, beta_fast=3.0, beta_slow=0.5, original_max_position_embeddings=33),
        },
    ),
    "llama yarn smooth": Case(
        "llama",
        {"head_dim": 16, **rotary("yarn", factor=5.0, original_max_position_embeddings=33, truncate=False)},
    ),
    "llama old yarn": Case("llama", edit=old_rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    "llama old linear": Case("llama", edit=old_rope("linear", factor=2.5)),
    "llama old dynamic": Case("llama", {"max_position_embeddings": 8}, edit=old_rope("dynamic", factor=2.0)),
    "llama oldest": Case(
        "llama",
        {"num_key_value_heads": 4},
        edit=without("rope_parameters", "num_key_value_heads", "tie_word_embeddings", "head_dim", "attention_bias"),
    ),
    "llama trunk alone": Case("llama", {"tie_word_embeddings": True}, edit=None),
    "smollm3": Case("smollm3", {"num_hidden_layers": 4}),
    "smollm3 every second": Case(
        "smollm3", {"num_hidden_layers": 4, "no_rope_layer_interval": 2, "tie_word_embeddings": False}
    ),
    "smollm3 listed": Case("smollm3", {"num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 0], "head_dim": 8}),
    "smollm3 all turned": Case("smollm3", {"no_rope_layers": [1, 1], "attention_bias": True, "mlp_bias": True}),
    "mistral": Case("mistral", {"sliding_window": 5}),
    "mistral whole": Case("mistral", {"sliding_window": None, "head_dim": 10, "tie_word_embeddings": True}),
    "mistral default window": Case("mistral", {"sliding_window": 4096}, edit=without("sliding_window")),
    "mixtral": Case("mixtral", {"num_experts_per_tok": 2}),
    "mixtral one of four": Case("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 1, "sliding_window": 4}),
    "mixtral default base": Case("mixtral", edit=without("rope_parameters")),
    "qwen2": Case("qwen2"),
    "qwen2 windows": Case(
        "qwen2",
        {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        edit=without("layer_types"),
    ),
    "qwen2 window unused": Case("qwen2", {"sliding_window": 4, "tie_word_embeddings": True, "head_dim": 8}),
    "qwen3": Case("qwen3", {"attention_bias": True}),
    "qwen3 windows": Case(
        "qwen3", {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 6, "layer_types": MIXED}
    ),
    "qwen3 yarn": Case(
        "qwen3",
        {"head_dim": 16, "tie_word_embeddings": True, **rotary("yarn", factor=4.0, original_max_position_embeddings=9)},
    ),
    "olmo": Case("olmo"),
    "olmo clipped": Case("olmo", {"clip_qkv": 0.3, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "olmo2": Case("olmo2", {"rms_norm_eps": 0.02}),
    "olmo2 one key head": Case("olmo2", {"num_key_value_heads": 1, "tie_word_embeddings": True, "head_dim": 8}),
    "olmo3": Case("olmo3", {"num_hidden_layers": 4, "sliding_window": 6}),
    "olmo3 yarn": Case(
        "olmo3", {"num_hidden_layers": 3, "sliding_window": 4, "layer_types": MIXED, "rope_parameters": YARN_FULL}
    ),
    "olmo3 old": Case("olmo3", {"num_hidden_layers": 4, "sliding_window": 5}, edit=old_olmo3),
    "gemma": Case("gemma", {"num_key_value_heads": 1}),
    "gemma own heads": Case("gemma", {"head_dim": 10, "tie_word_embeddings": False}),
    "gemma2": Case("gemma2", {"sliding_window": 6, "query_pre_attn_scalar": 24, "num_hidden_layers": 3}),
    "gemma2 tight caps": Case(
        "gemma2", {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.8, "sliding_window": 3}
    ),
    "gemma2 no caps": Case("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma2 listed": Case("gemma2", {"num_hidden_layers": 3, "sliding_window": 4, "layer_types": MIXED}),
    "gemma3": Case("gemma3_text", {"num_hidden_layers": 7, "sliding_window": 6, "rope_parameters": TWO_ROPES}),
    "gemma3 listed": Case(
        "gemma3_text",
        {"num_hidden_layers": 3, "sliding_window": 4, "layer_types": MIXED, "rope_parameters": TWO_ROPES},
    ),
    "gemma3 old": Case("gemma3_text", {"num_hidden_layers": 4, "sliding_window": 5}, edit=old_gemma3),
}
DECODERS = named(CASES)
UNSTRETCHED = [each for each in DECODERS if each.name not in ("llama dynamic", "llama old dynamic")]
"""In which what a token sees does not depend on how long the text will become."""
each_decoder = pytest.mark.parametrize("decoder", DECODERS, ids=repr)
each_unstretched = pytest.mark.parametrize("decoder", UNSTRETCHED, ids=repr)


def asked(theirs: Any, ids: Tensor, **more: Any) -> Tensor:
    """Their logits."""
    with torch.no_grad():
        theirs(ids[:, :1])  # their dynamic positions remember the longest text; a short one makes them forget
        return theirs(ids, **more).logits


def of(decoder: Named) -> tuple[Pair, Decoder]:
    both = pair(decoder)
    assert isinstance(both.ours, Decoder)
    return both, both.ours


@each_decoder
def test_the_same_logits(decoder: Named) -> None:
    both, ours = of(decoder)
    ids = tokens()
    with torch.no_grad():
        assert deviation(ours(ids), asked(both.theirs, ids)) < 1e-4
        assert deviation(ours(ids[:1, :1]), asked(both.theirs, ids[:1, :1])) < 1e-4
    assert not both.incoming.left_out


FUSED = [each for each in DECODERS if " " not in each.name and each.name != "gemma2"]  # gemma2 has only the plain one


@pytest.mark.parametrize("decoder", FUSED, ids=repr)
def test_the_same_as_their_fused_attention(decoder: Named) -> None:
    both, ours = of(decoder)
    fused, _ = their_model(decoder.case, both.folder, "sdpa")
    with torch.no_grad():
        assert deviation(ours(tokens()), asked(fused, tokens())) < 1e-4


@each_decoder
def test_what_is_exported_is_the_same_to_them(decoder: Named, tmp_path: Path) -> None:
    both, ours = of(decoder)
    export(both.incoming, ours, tmp_path)
    back, told = their_model(decoder.case, tmp_path)
    assert not complaints(told)
    assert deviation(asked(back, tokens()), asked(both.theirs, tokens())) <= 1e-6
    again = hf.open_model(tmp_path)
    assert again.config == both.incoming.config
    mine, kept = ours.state_dict(), dict(again.tensors())
    assert mine.keys() == kept.keys()
    assert all(torch.equal(mine[name], kept[name]) for name in mine)


@each_decoder
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows(decoder: Named, side: str) -> None:
    both, ours = of(decoder)
    ids = tokens()
    present = torch.arange(TIME) < torch.tensor([TIME, 13, 1])[:, None]
    present = present.flip(1) if side == "left" else present
    mask, positions = masks.padded(present, looks_ahead=False)
    theirs = asked(both.theirs, ids, attention_mask=present.long(), position_ids=positions)
    with torch.no_grad():
        mine = ours(ids, positions, mask)
        others = ours(torch.where(present, ids, (ids + 1) % VOCABULARY), positions, mask)
    assert deviation(mine[present], theirs[present]) < 1e-4
    assert deviation(mine[present], others[present]) < 1e-5  # nobody sees what pads


def runner_of(path: str, model: Decoder) -> Runner:
    if path == "native" and (reason := unsupported(model)):
        pytest.skip(f"not run natively: {reason}")
    runner = NativeRunner(model, "float32") if path == "native" else PlainRunner(model)
    runner.reserve(2 * BLOCKS)
    return runner


def cached(runner: Runner, ids: Tensor, cuts: list[int]) -> Tensor:
    """Logits (2, time, vocabulary) of two texts side by side: chunks first, then token by token."""
    steps = [0, *cuts, *range(cuts[-1] + 1, ids.shape[1] + 1)]
    found: list[Tensor] = []
    for start, end in itertools.pairwise(steps):
        works = [
            Work(ids[row, start:end].tolist(), start, range(row * BLOCKS, (row + 1) * BLOCKS), end - start)
            for row in (0, 1)
        ]
        found.append(runner.run(works).unflatten(0, (2, -1)))
    return torch.cat(found, 1)


@each_unstretched
@pytest.mark.parametrize("path", ["native", "plain"])
@pytest.mark.parametrize("cuts", [[1], [3, 4, 11]], ids=["token by token", "in chunks"])
def test_with_a_cache(decoder: Named, cuts: list[int], path: str) -> None:
    both, ours = of(decoder)
    ids = tokens(2)
    assert deviation(cached(runner_of(path, ours), ids, cuts), asked(both.theirs, ids)) < 1e-4


@each_unstretched
@pytest.mark.parametrize("path", ["native", "plain"])
def test_greedy_answers(decoder: Named, path: str) -> None:
    both, ours = of(decoder)
    ids = tokens(2, 6)
    with torch.no_grad():
        theirs = both.theirs.generate(
            ids, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(ids), pad_token_id=0
        )
    mine, runner = ids, runner_of(path, ours)
    for _ in range(8):
        mine = torch.cat((mine, cached(runner, mine, [mine.shape[1] - 1])[:, -1].argmax(-1)[:, None]), 1)
    assert torch.equal(mine, theirs)


@each_unstretched
def test_packed_documents_are_as_if_alone(decoder: Named) -> None:
    _, ours = of(decoder)
    lengths = [7, 1, 12]
    row = tokens(1)
    mask, positions = masks.isolated(torch.repeat_interleave(torch.tensor([4, 9, 4]), torch.tensor(lengths))[None])
    targets = tokens(1, seed=2)
    packed = ours(row, positions, mask)
    alone = torch.cat([ours(part) for part in row.split(lengths, 1)], 1)
    assert deviation(packed.detach(), alone.detach()) < 1e-5
    weights = list(ours.parameters())
    one, two = (
        torch.autograd.grad(torch.nn.functional.cross_entropy(logits[0], targets[0]), weights)
        for logits in (packed, alone)
    )
    for first, second in zip(one, two, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("name", ["llama dynamic", "llama old dynamic"])
def test_dynamic_positions_follow_the_length_of_the_text(name: str) -> None:
    decoder = next(each for each in DECODERS if each.name == name)
    both, ours = of(decoder)
    with torch.no_grad():
        for time in (7, 8, 9, 20):
            assert deviation(ours(tokens(2, time)), asked(both.theirs, tokens(2, time))) < 1e-4
        assert not torch.allclose(ours(tokens(1))[:, :8], ours(tokens(1)[:, :8]), atol=1e-3)


def test_what_a_dynamic_config_calls_original_is_ignored_as_they_ignore_it() -> None:
    given = rotary("dynamic", factor=4.0, original_max_position_embeddings=3)
    case = Case("llama", {"max_position_embeddings": 8, **given})
    folder = saved(case)
    ours = our_model(hf.open_model(folder))
    with torch.no_grad():
        assert deviation(ours(tokens()), asked(their_model(case, folder)[0], tokens())) < 1e-4


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_a_trunk_without_prefix_is_read(kind: str) -> None:
    from safetensors.torch import load_file, save_file

    prefix = "transformer." if kind == "gpt2" else "model."
    both, ours = of(Named(f"{kind} tied", Case(kind, {"tie_word_embeddings": True})))
    path = both.folder / "model.safetensors"
    tensors = {name.removeprefix(prefix): tensor for name, tensor in load_file(path).items()}
    if kind == "gpt2":  # the first published files hold their masks too
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
        tensors["h.1.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, path, {"format": "pt"})
    incoming = hf.open_model(both.folder)
    with torch.no_grad():
        assert torch.equal(our_model(incoming)(tokens()), ours(tokens()))
    assert len(incoming.left_out) == (2 if kind == "gpt2" else 0)
