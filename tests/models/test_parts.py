"""The parts of models against their formulas and against torch's and transformers' own."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from underlay.models.parts import MLP, Attention, Experts, GatedMLP, LayerNorm, RMSNorm, Rope, masks, rotate

WIDTH, HEADS, TIME = 24, 4, 9


def drawn(module: nn.Module, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module


def states(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape or (2, TIME, WIDTH), generator=torch.Generator().manual_seed(seed))


def plain(part: Attention, x: Tensor, bias: Tensor, memory: Tensor | None = None) -> Tensor:
    """Attention written out; bias: added to the scores."""
    source = x if memory is None else memory

    def split(y: Tensor) -> Tensor:
        return y.unflatten(-1, (-1, part.head_dim)).transpose(1, 2)

    query, key, value = split(part.query(x)), split(part.key(source)), split(part.value(source))
    key, value = (y.repeat_interleave(part.heads // part.kv_heads, 1) for y in (key, value))
    scores = query @ key.transpose(-1, -2) * (part.scale or 1 / math.sqrt(part.head_dim))
    if part.softcap is not None:
        scores = part.softcap * torch.tanh(scores / part.softcap)
    return part.output(((scores + bias).softmax(-1) @ value).transpose(1, 2).flatten(2))


def barred(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("scale", [None, 0.9])
@pytest.mark.parametrize("mask", ["causal", "everything", "bool", "float", "alibi", "window"])
def test_attention_is_its_formula(kv_heads: int, softcap: float | None, scale: float | None, mask: str) -> None:
    part = Attention(WIDTH, HEADS, kv_heads, 6, causal=mask != "everything", bias=True, softcap=softcap, scale=scale)
    drawn(part)
    x, places = states(), torch.arange(TIME)[None]
    causal = masks.causal(places, places)
    given: Tensor | None = None
    bias = barred(causal)
    if mask == "everything":
        bias = torch.zeros(TIME, TIME)
    elif mask == "bool":
        given = causal & (states(TIME, TIME, seed=3) > 0) | torch.eye(TIME, dtype=torch.bool)
        bias = barred(given)
    elif mask == "float":
        given = bias = states(1, HEADS, TIME, TIME, seed=4)
    elif mask == "alibi":
        given = bias = masks.alibi(HEADS, TIME) + barred(causal)
    elif mask == "window":
        given = causal & masks.window(places, places, 3)
        bias = barred(given)
    torch.testing.assert_close(part(x, mask=given), plain(part, x, bias), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 0.7])
def test_attention_to_a_memory(softcap: float | None) -> None:
    part = drawn(Attention(WIDTH, HEADS, 2, 6, softcap=softcap))
    x, memory = states(), states(2, 5, WIDTH, seed=2)
    assert part(x, memory=memory).shape == x.shape
    torch.testing.assert_close(part(x, memory=memory), plain(part, x, torch.zeros(1), memory), rtol=1e-4, atol=1e-5)
    present = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=torch.bool)[:, None, None]
    seen = part(x, mask=present, memory=memory)
    torch.testing.assert_close(seen, plain(part, x, barred(present), memory), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen[1], part(x[1:], memory=memory[1:, :2])[0], rtol=1e-4, atol=1e-5)


def test_a_float_mask_follows_the_dtype_of_the_states() -> None:
    part = drawn(Attention(WIDTH, HEADS, HEADS, 6))
    bias = masks.alibi(HEADS, TIME)
    coarse = part(states().bfloat16(), mask=bias)
    assert coarse.dtype == torch.bfloat16
    torch.testing.assert_close(coarse.float(), part(states(), mask=bias), rtol=0.1, atol=0.1)


def test_alibi_is_the_papers() -> None:
    found = masks.alibi(8, 4)
    assert [float(found[head, 3, 2]) for head in range(8)] == [-(2.0 ** -(head + 1)) for head in range(8)]
    assert found[0, 3].tolist() == [-1.5, -1.0, -0.5, 0.0]


def test_queries_keys_and_values_are_clipped() -> None:
    part, free = (drawn(Attention(WIDTH, HEADS, 2, 6, clip=clip)) for clip in (0.2, None))
    for name in ("query", "key", "value"):
        inner = getattr(free, name)
        inner.register_forward_hook(lambda module, args, out: out.clamp(-0.2, 0.2))
    assert torch.equal(part(states()), free(states()))


@pytest.mark.parametrize("over", ["head", "all heads"])
def test_queries_and_keys_are_normalised(over: str) -> None:
    norms = [drawn(RMSNorm(6 if over == "head" else 24, 1e-5), 5), drawn(RMSNorm(6 if over == "head" else 12, 1e-5), 6)]
    part = drawn(Attention(WIDTH, HEADS, 2, 6, query_norm=norms[0], key_norm=norms[1]))
    bare = drawn(Attention(WIDTH, HEADS, 2, 6))
    bare.load_state_dict({name: tensor for name, tensor in part.state_dict().items() if "norm" not in name})

    def apply(norm: RMSNorm) -> Any:
        return lambda module, args, out: norm(out.unflatten(-1, (-1, norm.width))).flatten(2)

    bare.query.register_forward_hook(apply(norms[0]))
    bare.key.register_forward_hook(apply(norms[1]))
    torch.testing.assert_close(part(states()), bare(states()), rtol=1e-5, atol=1e-6)


def test_norms_are_torchs() -> None:
    x = states() * 3 + 1
    rms, theirs = drawn(RMSNorm(WIDTH, 1e-3)), nn.RMSNorm(WIDTH, 1e-3)
    theirs.load_state_dict(rms.state_dict())
    torch.testing.assert_close(rms(x), theirs(x))
    gemma = RMSNorm(WIDTH, 1e-3, offset=1.0)
    with torch.no_grad():
        gemma.weight.copy_(rms.weight - 1)
    torch.testing.assert_close(gemma(x), rms(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(RMSNorm(WIDTH, 1e-3, offset=1.0)(x), RMSNorm(WIDTH, 1e-3)(x))
    layer, other = drawn(LayerNorm(WIDTH, 1e-3)), nn.LayerNorm(WIDTH, 1e-3)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), other(x))
    bare = LayerNorm(WIDTH, 1e-3, learned=False)
    assert not list(bare.parameters())
    torch.testing.assert_close(
        bare(x), (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-3).sqrt()
    )
    assert dict(LayerNorm(WIDTH, 1e-3, bias=False).named_parameters()).keys() == {"weight"}
    # Sums are taken in float32: a mean square over coarse numbers would be off by more.
    torch.testing.assert_close(rms(x.bfloat16()), rms(x.bfloat16().float()).bfloat16(), rtol=0, atol=0)


GELU = {
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "relu": lambda x: x.clamp(min=0),
    "relu2": lambda x: x.clamp(min=0) ** 2,
}


@pytest.mark.parametrize("activation", GELU)
@pytest.mark.parametrize("bias", [True, False])
def test_mlps_are_their_formulas(activation: Any, bias: bool) -> None:
    x, act = states(), GELU[activation]
    mlp, gated = drawn(MLP(WIDTH, 20, activation, bias)), drawn(GatedMLP(WIDTH, 20, activation, bias))
    torch.testing.assert_close(mlp(x), mlp.down(act(mlp.up(x))), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gated(x), gated.down(act(gated.gate(x)) * gated.up(x)), rtol=1e-4, atol=1e-5)
    assert sum("bias" in name for name, _ in gated.named_parameters()) == (3 if bias else 0)


@pytest.mark.parametrize(("experts", "chosen"), [(4, 2), (3, 1), (5, 5)])
def test_experts_are_mixtrals(experts: int, chosen: int) -> None:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    ours = drawn(Experts(WIDTH, 20, "silu", experts, chosen))
    config = MixtralConfig(
        hidden_size=WIDTH, intermediate_size=20, num_local_experts=experts, num_experts_per_tok=chosen
    )
    config._experts_implementation = "eager"
    theirs = MixtralSparseMoeBlock(config)
    with torch.no_grad():
        theirs.gate.weight.copy_(ours.router.weight)
        theirs.experts.gate_up_proj.copy_(torch.cat((ours.gate, ours.up), 1))
        theirs.experts.down_proj.copy_(ours.down)
    answer = theirs.eval()(states())
    torch.testing.assert_close(
        ours.eval()(states()), answer[0] if isinstance(answer, tuple) else answer, rtol=1e-4, atol=1e-5
    )


def test_the_balancing_loss_is_learned_from_as_if_it_were_added() -> None:
    part = drawn(Experts(WIDTH, 20, "silu", 4, 2, balance=0.3))
    x = states()
    probabilities = part.router(x.flatten(0, 1)).softmax(-1)
    picks = probabilities.topk(2).indices
    used = torch.stack([(picks == expert).float().mean() for expert in range(4)])
    loss = 4 * (used * probabilities.mean(0)).sum() * 0.3 * 2 * TIME
    (wanted,) = torch.autograd.grad(loss, part.router.weight)
    one, two = (torch.autograd.grad(part.train(on)(x).mean(), part.router.weight)[0] for on in (True, False))
    torch.testing.assert_close(one - two, wanted, rtol=1e-3, atol=1e-4)
    assert wanted.abs().max() > 1e-2
    torch.testing.assert_close(part.train()(x), part.eval()(x))  # nothing else changes


def test_even_use_has_the_least_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    from underlay.models.parts import mlp

    seen: list[Tensor] = []
    monkeypatch.setattr(mlp, "_learn", lambda x, loss: seen.append(loss.detach()) or x)
    part = drawn(Experts(4, 8, "silu", 4, 1, balance=1.0)).train()
    with torch.no_grad():
        part.router.weight.copy_(torch.eye(4) * 9)
    part(torch.eye(4))  # each expert once
    part(torch.eye(4)[[0, 0, 0, 0]])  # one for all
    even, uneven = (float(loss) / 4 for loss in seen)
    assert even == pytest.approx(1)
    assert uneven == pytest.approx(4, rel=0.01)


def test_turning_keeps_lengths_and_sees_only_distances() -> None:
    rope = Rope(8, 100.0)
    query, key = states(1, 1, 1, 8), states(1, 1, 1, 8, seed=2)

    def score(one: int, two: int) -> float:
        turned = [rotate(x, rope.rotation(torch.tensor([[place]]))) for x, place in ((query, one), (key, two))]
        assert turned[0].norm().item() == pytest.approx(query.norm().item(), rel=1e-5)
        return float((turned[0] * turned[1]).sum())

    assert score(5, 3) == pytest.approx(score(50, 48), abs=1e-4)
    assert abs(score(5, 3) - score(5, 4)) > 1e-2


rows = st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=4)


@given(rows, st.booleans())
def test_padded_masks(present: list[list[bool]], looks_ahead: bool) -> None:
    real = torch.tensor(present)
    mask, positions = masks.padded(real, looks_ahead)
    mask = mask.expand(len(present), 1, 7, 7)
    for row, line in enumerate(present):
        count = 0
        for place in range(7):
            seen = {key for key in range(7) if mask[row, 0, place, key]}
            wanted = {key for key in range(7) if line[key] and (looks_ahead or key <= place)}
            assert seen == (wanted if looks_ahead else wanted | {place})
            if line[place]:
                assert positions[row, place] == count
                count += 1


@given(st.lists(st.lists(st.integers(0, 2), min_size=8, max_size=8), min_size=1, max_size=3))
def test_isolated_masks(documents: list[list[int]]) -> None:
    first, positions = masks.isolated(torch.tensor(documents))
    mask = masks.within(first)
    assert mask.shape == (len(documents), 1, 8, 8)
    for row, line in enumerate(documents):
        for place in range(8):
            start = place
            while start and line[start - 1] == line[place]:
                start -= 1
            assert {key for key in range(8) if mask[row, 0, place, key]} == set(range(start, place + 1))
            assert positions[row, place] == place - start


@given(st.integers(1, 9), st.integers(1, 9))
def test_windows_end_at_the_query(time: int, width: int) -> None:
    places = torch.arange(time)[None]
    mask = (masks.window(places, places, width) & masks.causal(places, places))[0, 0]
    assert mask.sum(1).tolist() == [min(place + 1, width) for place in range(time)]


def test_the_norm_of_scores_is_float32() -> None:
    part = drawn(Attention(WIDTH, HEADS, HEADS, 6, softcap=50.0))
    torch.testing.assert_close(part(states().bfloat16()).float(), part(states()), rtol=0.1, atol=0.15)
