"""Log-probabilities by a linear head: equal to those of all logits, with their gradients, however they are cut."""

import pytest
import torch
from torch import Tensor

from underlay.models.gemma import GemmaConfig
from underlay.models.parts import likelihood, linear_log_probabilities, loss


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]))


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return (hidden @ weight.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]


TARGETS = torch.randint(50, (20,), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[1, 7, 64], ids="rows-{}".format)
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """At most so many rows of logits at once, of twenty."""
    rows: int = request.param
    monkeypatch.setattr(likelihood, "chunk_rows", lambda *_: rows)
    monkeypatch.setattr(loss, "_SLICE", 16)
    monkeypatch.setattr(loss, "_EAGER_BYTES", 3 * 50 * 4)
    return rows


@pytest.mark.usefixtures("cut")
def test_equal_to_all_logits_with_a_gradient_for_each_row() -> None:
    of = hidden, weight = (drawn(20, 16) * 3).requires_grad_(), drawn(50, 16).requires_grad_()
    by = drawn(20)
    results = []
    for function in (linear_log_probabilities, plain):
        found = function(hidden, weight, TARGETS)
        results.append((found.detach(), *torch.autograd.grad(found @ by, of)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=2e-5)


@pytest.mark.usefixtures("cut")
def test_gradients_are_those_of_differences() -> None:
    of = drawn(5, 3).double().requires_grad_(), drawn(7, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: linear_log_probabilities(*given, TARGETS[:5] % 7), of)


@pytest.mark.usefixtures("cut")
def test_bfloat16_is_near_and_keeps_dtypes() -> None:
    hidden, weight, by = drawn(20, 16), drawn(50, 16).requires_grad_(), drawn(20)
    coarse = hidden.bfloat16().requires_grad_()
    found = linear_log_probabilities(coarse, weight, TARGETS)
    exact = plain(coarse.float(), weight, TARGETS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0.05)
    to_hidden, to_weight = torch.autograd.grad(found @ by, (coarse, weight))
    assert (to_hidden.dtype, to_weight.dtype) == (torch.bfloat16, torch.float32)
    expected = torch.autograd.grad(exact @ by, (coarse, weight))
    for one, other in zip((to_hidden, to_weight), expected, strict=True):
        assert (one.float() - other.float()).norm() < 0.02 * other.float().norm()


def test_exact_where_the_model_is_sure() -> None:
    # In bfloat16 the probability of the target rounds to one; its gradient must not round to zero.
    logits = torch.tensor([[7.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    linear_log_probabilities(logits, torch.eye(2, dtype=torch.bfloat16), torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    expected = torch.tensor([[1.0, -1.0]]) * torch.tensor(-7.0).sigmoid()
    torch.testing.assert_close(logits.grad.float(), expected, rtol=0.01, atol=0)


@pytest.mark.usefixtures("cut")
def test_what_needs_no_gradient_gets_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "add_products", lambda *_, **__: pytest.fail("the weight's gradient was made"))
    hidden = drawn(20, 16).requires_grad_()
    linear_log_probabilities(hidden, drawn(50, 16), TARGETS).sum().backward()
    assert hidden.grad is not None
    monkeypatch.undo()
    weight = drawn(50, 16).requires_grad_()
    linear_log_probabilities(drawn(20, 16), weight, TARGETS).sum().backward()
    expected = torch.autograd.grad(plain(drawn(20, 16), weight, TARGETS).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-5)


def test_no_rows_are_no_rows() -> None:
    weight = drawn(50, 16).requires_grad_()
    found = linear_log_probabilities(drawn(20, 16)[:0], weight, TARGETS[:0])
    assert found.shape == (0,)
    found.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("cap", [None, 3.0])
def test_a_decoder_heeds_its_softcap(cap: float | None) -> None:
    model = GemmaConfig(vocabulary=50, context=32, width=16, depth=1, heads=2, hidden=32, logit_softcap=cap).build()
    hidden = (drawn(20, 16) * 300).requires_grad_()  # logits beyond the cap
    of = hidden, model.embedding.weight
    expected = model.logits(hidden).log_softmax(-1).gather(1, TARGETS[:, None])[:, 0]
    found = model.log_probabilities(hidden, TARGETS)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    for one, other in zip(
        torch.autograd.grad(found @ drawn(20), of), torch.autograd.grad(expected @ drawn(20), of), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
