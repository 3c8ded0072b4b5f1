"""Whatever is there for speed alone, against the plain way to compute the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underlay.models import Batch, Decoder, LlamaConfig
from underlay.models.bert import BertConfig
from underlay.models.gemma import GemmaConfig
from underlay.models.parts import Attention, blocked, linear_cross_entropy, loss, masks
from underlay.train import CausalLM


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def gradients(result: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(9))
    return torch.autograd.grad(result, of, weights)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("time", [2, 7, 127, 128, 129, 300])
@pytest.mark.parametrize("scale", [0.125, 0.3])
def test_attention_in_blocks_equals_torchs_own(
    causal: bool, heads: int, kv_heads: int, time: int, scale: float
) -> None:
    # As the layer makes them: heads are a transposed view.
    query, key, value = (
        drawn(2, time, count, 8).transpose(1, 2).requires_grad_() for count in (heads, kv_heads, kv_heads)
    )
    ours = blocked.attend(query, key, value, causal, scale)
    theirs = F.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale, enable_gqa=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    found = gradients(ours, query, key, value)
    expected = gradients(theirs, query, key, value)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)])
@pytest.mark.parametrize(
    "lengths",
    [[[300], [1, 299]], [[40, 40, 220], [128, 128, 44]], [[129, 127, 44], [256, 30, 14]], [[1] * 300, [2] * 150]],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_attention_in_blocks_keeps_documents_apart(
    heads: int, kv_heads: int, lengths: list[list[int]], compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    documents = torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths])
    first, _ = masks.isolated(documents)
    query, key, value = (
        drawn(2, 300, count, 8).transpose(1, 2).requires_grad_() for count in (heads, kv_heads, kv_heads)
    )
    ours = blocked.attend(query, key, value, True, 0.3, first)
    mask = masks.within(first)
    theirs = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    found = gradients(ours, query, key, value)
    expected = gradients(theirs, query, key, value)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_attention_in_blocks_may_see_more_keys_than_queries() -> None:
    query, key, value = (drawn(2, 4, time, 8) for time in (150, 40, 40))
    ours, theirs = (
        blocked.attend(query, key, value, False, 0.3),
        F.scaled_dot_product_attention(query, key, value, scale=0.3),
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_attention_in_blocks_in_bfloat16_is_as_near_as_torchs_own() -> None:
    inputs = [drawn(2, 4, 256, 64) for _ in range(3)]
    exact = F.scaled_dot_product_attention(*inputs, is_causal=True)
    coarse = [x.bfloat16() for x in inputs]
    errors = [
        float((found.float() - exact).norm() / exact.norm())
        for found in (
            blocked.attend(*coarse, True, 0.125),
            F.scaled_dot_product_attention(*coarse, is_causal=True),
        )
    ]
    assert errors[0] < 2 * errors[1] < 0.02


@pytest.mark.parametrize("kind", ["bool", "float", "one key"])
def test_masks_reach_attention(kind: str) -> None:
    layer = Attention(32, 4, 2, 8)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = drawn(2, 20, 32)
    mask: Tensor = torch.ones(20, 20).tril().bool()
    if kind == "one key":
        mask = torch.eye(20, dtype=torch.bool)
    given = torch.zeros(20, 20).masked_fill(~mask, float("-inf")) if kind == "float" else mask
    query, key, value = (part(x).view(2, 20, -1, 8).transpose(1, 2) for part in (layer.query, layer.key, layer.value))
    scores = (query @ key.repeat_interleave(2, 1).mT / 8**0.5).masked_fill(~mask, float("-inf"))
    mixed = scores.softmax(-1) @ value.repeat_interleave(2, 1)
    expected = layer.output(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x, mask=given), expected, rtol=1e-4, atol=1e-4)
    if kind == "bool":
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    losses = F.cross_entropy(F.linear(hidden, weight, bias).float(), targets, reduction="none")
    return (losses * weights).sum()


@pytest.mark.parametrize("chunk", [1, 7 * 50 * 4, 1 << 27])
@pytest.mark.parametrize("biased", [False, True])
def test_the_fused_loss_equals_the_plain_one(chunk: int, biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(loss, "_SLICE", 16)
    monkeypatch.setattr(loss, "_EAGER_BYTES", 3 * 50 * 4)
    hidden, weight, bias = (x.requires_grad_() for x in (drawn(20, 16) * 3, drawn(50, 16), drawn(50)))
    targets, weights = torch.randint(50, (20,)), torch.rand(20)
    of = (hidden, weight, bias) if biased else (hidden, weight)
    results = []
    for function in (linear_cross_entropy, plain):
        found = function(hidden, weight, targets, weights, bias if biased else None)
        results.append((found.detach(), *torch.autograd.grad(found * 0.5, of)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_the_fused_loss_stays_exact_where_the_model_is_sure() -> None:
    # In bfloat16 the probability of the target rounds to one; its gradient must not round to zero.
    logits = torch.tensor([[7.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    head = torch.eye(2, dtype=torch.bfloat16)
    linear_cross_entropy(logits, head, torch.tensor([0]), torch.ones(1)).backward()
    assert logits.grad is not None
    expected = torch.tensor([[-1.0, 1.0]]) * torch.tensor(-7.0).sigmoid()
    torch.testing.assert_close(logits.grad.float(), expected, rtol=0.01, atol=0)


def test_the_fused_loss_keeps_dtypes_and_is_learned_from_once() -> None:
    hidden = drawn(6, 4).bfloat16().requires_grad_()
    weight = drawn(9, 4).requires_grad_()
    found = linear_cross_entropy(hidden, weight, torch.arange(6), torch.ones(6))
    assert found.dtype == torch.float32
    found.backward(retain_graph=True)
    assert hidden.grad is not None
    assert weight.grad is not None
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)
    with pytest.raises(AssertionError, match="once"):
        found.backward()


def test_the_fused_loss_makes_no_gradient_of_what_stands_still() -> None:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(9, 8), torch.randn(11, 8), torch.randn(11)
    targets, weights = torch.randint(11, (9,)), torch.rand(9)
    found = []
    for moves in (True, False):
        given = [hidden.clone().requires_grad_(), weight.clone().requires_grad_(moves), bias.clone().requires_grad_()]
        linear_cross_entropy(given[0], given[1], targets, weights, given[2]).backward()
        found.append([tensor.grad for tensor in given])
    (one, moved, shifted), (other, still, again) = found
    assert moved is not None
    assert still is None
    assert torch.equal(one, other)
    assert torch.equal(shifted, again)


def test_without_gradients_the_fused_loss_is_the_same() -> None:
    arguments = drawn(6, 4), drawn(9, 4).requires_grad_(), torch.arange(6), torch.ones(6)
    with torch.no_grad():
        quiet = linear_cross_entropy(*arguments)
    assert not quiet.requires_grad
    assert torch.equal(quiet, linear_cross_entropy(*arguments))


MODELS = {
    "tied": LlamaConfig(vocabulary=60, context=16, width=32, depth=2, heads=4, kv_heads=2),
    "untied": LlamaConfig(vocabulary=60, context=16, width=32, depth=1, tied=False),
    "capped": GemmaConfig(family="gemma2", vocabulary=60, context=16, width=32, depth=1, logit_softcap=5.0),
    "biased": BertConfig(vocabulary=60, context=16, width=32, depth=2, heads=4),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("weighted", ["all", "some", "none given", "nothing"])
def test_an_objective_learns_what_the_logits_say(name: str, weighted: str) -> None:
    model = MODELS[name].build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    tokens, targets = torch.randint(60, (2, 3, 16))
    weights = {
        "all": torch.rand(3, 16) + 0.5,
        "some": torch.rand(3, 16) * (torch.rand(3, 16) < 0.15),
        "none given": None,
        "nothing": torch.zeros(3, 16),
    }[weighted]
    found = CausalLM()(model, Batch(tokens, targets, weights))
    found.sum.backward()
    grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    logits = model(tokens).flatten(0, 1)
    counts = torch.ones(48) if weights is None else weights.flatten()
    expected = plain(logits, torch.eye(60), targets.flatten(), counts, None)
    expected.backward()
    torch.testing.assert_close(found.sum, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.count, counts.sum())
    expected_grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert expected_grads.keys() == grads.keys()
    torch.testing.assert_close(grads, expected_grads, rtol=1e-3, atol=1e-4)
    assert isinstance(model, Decoder) == (name != "biased")
