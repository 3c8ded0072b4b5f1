"""Products in 8 bits: near the exact ones, with gradients, and only where they are asked for and pay."""

import pytest
import torch
import torch.nn.functional as F

from underlay.errors import UserError
from underlay.models import LlamaConfig
from underlay.models.parts import Linear, float8
from underlay.train import float8 as training


def close(found: torch.Tensor, expected: torch.Tensor, within: float) -> bool:
    return float(((found - expected).norm() / expected.norm()).detach()) < within


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=random).bfloat16().requires_grad_() for shape in shapes]


@pytest.mark.parametrize(("dtype", "step"), [(float8.E4M3, 2**-4), (float8.E5M2, 2**-3)])
def test_rounding_is_as_fine_as_the_format(dtype: torch.dtype, step: float) -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) * 1e-3
    eight, scale = float8.rounded(x, dtype)
    assert float(eight.float().abs().max()) == torch.finfo(dtype).max
    large = x.abs() > x.abs().max() / 100  # smaller ones may be subnormal
    assert float(((eight.float() * scale - x).abs() / x.abs())[large].max()) <= step * 1.001


def test_nothing_and_extremes_survive_rounding() -> None:
    for x in (torch.zeros(16, 16), torch.full((16, 16), 1e30)):
        eight, scale = float8.rounded(x, float8.E4M3)
        assert torch.allclose(eight.float() * scale, x)


def test_products_and_gradients_are_near_the_exact_ones() -> None:
    x, weight, given = tensors((2, 16, 64), (32, 64), (2, 16, 32))
    float8.linear(x, weight).backward(given)
    found = [float8.linear(x, weight).detach(), x.grad, weight.grad]
    x.grad = weight.grad = None
    F.linear(x, weight).backward(given)
    exact = [F.linear(x, weight).detach(), x.grad, weight.grad]
    # Rounding to m bits errs by 2^-(m + 1) / sqrt(3) on average: 3.6 % in E4M3, 7.2 % in E5M2, each operand for itself.
    for one, expected, within in zip(found, exact, (0.06, 0.1, 0.1), strict=True):
        assert one is not None
        assert one.shape == expected.shape
        assert close(one.float(), expected.float(), within)


def test_a_layer_multiplies_in_8_bits_only_while_it_trains_and_only_what_fits() -> None:
    layer = Linear(64, 32, bias=True).bfloat16()
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(2))
    torch.nn.init.ones_(layer.bias)
    x, odd = tensors((16, 64), (15, 64))
    plain = layer(x)
    layer.eight_bits = True
    assert not torch.equal(layer(x), plain)
    assert close(layer(x).float(), plain.float(), 0.06)
    assert torch.equal(layer(odd), F.linear(odd, layer.weight, layer.bias))
    assert torch.equal(layer.eval()(x), plain)


def test_the_blocks_matrices_learn_in_8_bits() -> None:
    torch.manual_seed(0)
    model = LlamaConfig(vocabulary=64, context=16, width=32, depth=2, heads=2, kv_heads=2, hidden=64).build()
    layers = training.eligible(model)
    assert len(layers) == 2 * 7
    training.use(layers)
    tokens = torch.arange(16)[None]
    model.train()
    model(tokens).float().sum().backward()
    assert all(layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0 for layer in layers)


def test_what_cannot_is_refused() -> None:
    model = LlamaConfig(vocabulary=64, context=16, width=32, depth=1, heads=2, kv_heads=2, hidden=64).build()
    with pytest.raises(UserError, match="precision fp8: needs a GPU that multiplies 8-bit floats"):
        training.begin(model, 64, torch.device("cpu"))
    with pytest.raises(UserError, match="precision fp8: not with tensor_parallel"):
        training.begin(model, 64, torch.device("cpu"), parallel=2)


def test_where_nothing_is_gained_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LlamaConfig(vocabulary=64, context=16, width=32, depth=1, heads=2, kv_heads=2, hidden=64).build()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    gained = iter((0.8, 1.4))
    monkeypatch.setattr(training, "gain", lambda *_: next(gained))
    device = torch.device("cuda", 0)
    with pytest.raises(UserError, match=r"0\.80 times the speed of bfloat16"):
        training.begin(model, 64, device)
    assert not any(layer.eight_bits for layer in training.eligible(model))
    assert training.begin(model, 64, device) == 1.4
    assert all(layer.eight_bits for layer in training.eligible(model))
    with pytest.raises(UserError, match="must be multiples of 16"):
        training.begin(model, 65, device)
