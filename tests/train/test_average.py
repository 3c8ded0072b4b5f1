"""The moving average of weights."""

from pathlib import Path

import pytest
import torch
from test_train import Counting, config, fresh, same

from underlay.train import CausalLM, train
from underlay.train.average import Average
from underlay.train.spread import Spread


def test_it_is_the_exponential_moving_average() -> None:
    model = fresh()
    average = Average(Spread(model), 0.9)
    expected = {name: p.detach().double() for name, p in model.named_parameters()}
    for step in range(1, 200):
        decay = min(0.9, (1 + step) / (10 + step))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape))
        average.update(step)
        expected = {n: decay * expected[n] + (1 - decay) * p.detach().double() for n, p in model.named_parameters()}
    average.apply()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.double(), expected[name], rtol=1e-4, atol=1e-4)


def test_a_run_that_averages_is_resumed_exactly(tmp_path: Path) -> None:
    from test_train import Stopping

    settings = config(average=0.9)
    whole, parts, last = fresh(), fresh(), fresh()
    train(whole, CausalLM(), Counting(), settings, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(parts, CausalLM(), Stopping(40, 2), settings, tmp_path / "b")
    parts = fresh(7)
    train(parts, CausalLM(), Counting(), settings, tmp_path / "b")
    train(last, CausalLM(), Counting(), config(), tmp_path / "c")
    assert same(whole, parts)
    assert not same(whole, last)
