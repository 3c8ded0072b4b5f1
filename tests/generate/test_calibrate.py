"""Rounding that knows its inputs: nearer in what it gives than rounding that does not."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from underlay.errors import UserError
from underlay.generate.calibrate import calibrate, gptq, output_error, sum_of_squares
from underlay.models import Decoder, LlamaConfig
from underlay.models.gpt2 import GPT2Config
from underlay.models.mistral import MistralConfig
from underlay.models.quantised import Bits, matrix, quantised_names, round_to_nearest
from underlay.models.quantised_storage import dequantised

TOKENS = 64


def a_language(seed: int, count: int) -> Tensor:
    """Texts (count, 33) in which a token depends on the one before it."""
    chance = torch.Generator().manual_seed(seed)
    follows = torch.randn(TOKENS, TOKENS, generator=torch.Generator().manual_seed(9)).mul(2).softmax(1)
    texts = [torch.randint(TOKENS, (count,), generator=chance)]
    for _ in range(32):
        texts.append(torch.multinomial(follows[texts[-1]], 1, generator=chance)[:, 0])
    return torch.stack(texts, 1)


def loss(model: Decoder, texts: Tensor) -> Tensor:
    return F.cross_entropy(model(texts[:, :-1]).flatten(0, 1), texts[:, 1:].flatten())


@pytest.fixture(scope="module")
def trained() -> Decoder:
    torch.manual_seed(0)
    model = LlamaConfig(vocabulary=TOKENS, width=64, depth=2, heads=4, kv_heads=2, hidden=96, context=32).build()
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    for step in range(150):
        optimizer.zero_grad()
        loss(model, a_language(step, 16)).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("width", [96, 320])  # in one piece, and in several
@pytest.mark.parametrize("bits", [8, 4])
def test_products_are_nearer_than_of_plain_rounding(bits: Bits, width: int) -> None:
    chance = torch.Generator().manual_seed(0)
    weight = torch.randn(24, width, generator=chance)
    inputs = torch.randn(1000, width, generator=chance) @ torch.randn(width, width, generator=chance)
    made, plain = gptq(weight, sum_of_squares([inputs]), bits), round_to_nearest(weight, bits)
    errors = [(inputs @ (one.dequantise() - weight).T).square().sum() for one in (made, plain)]
    assert errors[0] < 0.7 * errors[1]
    assert output_error(weight, made, sum_of_squares([inputs[:100], inputs[100:]])) == pytest.approx(
        float(errors[0]), rel=1e-3
    )


def test_inputs_of_one_kind_leave_plain_rounding() -> None:
    """Where inputs have nothing to do with each other, no error can be made up for."""
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    made, plain = gptq(weight, 7 * torch.eye(64, dtype=torch.float64), 4), round_to_nearest(weight, 4)
    assert torch.equal(made.values, plain.values)


@pytest.mark.parametrize("bits", [8, 4])
def test_an_input_that_is_never_there_does_no_harm(bits: Bits) -> None:
    inputs = torch.randn(100, 64, generator=torch.Generator().manual_seed(2))
    inputs[:, 5] = 0
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(3))
    made = gptq(weight, sum_of_squares([inputs]), bits)
    near = made.scales.abs().repeat_interleave(64 // made.scales.shape[1], 1)
    assert bool(((made.dequantise() - weight).abs()[:, 5] <= 2 * near[:, 5]).all())
    nothing = gptq(weight, torch.zeros(64, 64, dtype=torch.float64), bits)
    assert torch.equal(nothing.values, round_to_nearest(weight, bits).values)


@pytest.mark.parametrize("bits", [8, 4])
def test_every_matrix_errs_less_on_what_comes_in(trained: Decoder, bits: Bits) -> None:
    texts = a_language(1000, 40)[:, :-1]
    found = calibrate(trained, texts.tolist(), bits)
    assert list(found) == quantised_names(trained)
    # By an oracle of its own: each matrix is given what comes in where those before it are quantised already.
    model = dequantised(trained, found)
    given: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    for name in found:
        modules[name].register_forward_pre_hook(lambda _, args, name=name: given.__setitem__(name, args[0]))
    given["head"] = model.hidden(texts)
    for name, made in found.items():
        weight = matrix(trained, name).detach()
        plain = round_to_nearest(weight, bits)
        errors = [(given[name] @ (one.dequantise() - weight).T).square().sum() for one in (made, plain)]
        assert errors[0] < errors[1], name


def test_a_trained_model_loses_less(trained: Decoder) -> None:
    texts = a_language(2000, 200)
    before = float(loss(trained, texts).detach())
    assert before < 0.9 * math.log(TOKENS)
    plain = {name: round_to_nearest(matrix(trained, name), 4) for name in quantised_names(trained)}
    found = calibrate(trained, a_language(1000, 60).tolist()[:-1], 4)
    lost = [float(loss(dequantised(trained, one), texts).detach()) - before for one in (found, plain)]
    assert lost[0] < 0.8 * lost[1]
    assert lost[0] < 0.05


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocabulary=TOKENS, width=32, depth=2, heads=2, context=16, tied=False),
        MistralConfig(vocabulary=TOKENS, width=32, depth=1, heads=2, experts=3, experts_chosen=2, context=16),
        MistralConfig(vocabulary=TOKENS, width=32, depth=1, heads=2, sliding_window=4, context=16),
    ],
    ids=["gpt2", "experts", "window"],
)
def test_other_families_and_texts_of_all_lengths(config) -> None:
    model = config.build()
    before = copy.deepcopy(model.state_dict())
    seen: list[tuple[float, float | None]] = []
    found = calibrate(model, [[1], [], list(range(16)), [5, 6, 7]], 4, lambda done, total: seen.append((done, total)))
    assert list(found) == quantised_names(model)
    assert seen[-1] == (len(found), len(found))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_without_text_it_says_so(trained: Decoder) -> None:
    with pytest.raises(UserError, match="no text to calibrate with"):
        calibrate(trained, [[]], 4)
