"""Memory between steps: gradients stay where they lie, and what building has left is given back."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_train import Counting, config, fresh

from underlay.models import Batch
from underlay.train import CausalLM, train
from underlay.train.memory import forget_gradients

GIVING_BACK = """
import psutil, torch
from underlay.train.memory import give_back_freed_memory, keep_freed_memory

assert keep_freed_memory()
here = psutil.Process()
held = [torch.ones(1 << 18) for _ in range(256)]
last = torch.ones(1 << 18)
del held
before = here.memory_info().rss
assert give_back_freed_memory()
print(before - here.memory_info().rss)
"""


def test_gradients_stay_where_they_lie_until_the_run_ends(tmp_path: Path) -> None:
    model = fresh()
    places: list[list[int]] = []

    class Watched(Counting):
        def batch(self, first: int, count: int) -> Batch:
            places.append([0 if p.grad is None else p.grad.data_ptr() for p in model.parameters()])
            return super().batch(first, count)

    train(model, CausalLM(), Watched(), config(steps=3, micro_rows=4), tmp_path)
    before_looking, *later = places
    assert not any(before_looking)
    assert len(later) == 3 * 2
    assert all(later[0])
    assert all(place == later[0] for place in later)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_are_begun_anew() -> None:
    model = fresh()
    CausalLM()(model, Counting().batch(0, 2)).sum.backward()  # type: ignore[no-untyped-call]
    forget_gradients(model, torch.device("cpu"))
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    forget_gradients(model, torch.device("meta"))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to give memory back")
def test_what_was_freed_is_given_back() -> None:
    found = subprocess.run([sys.executable, "-c", GIVING_BACK], check=True, stdout=subprocess.PIPE, text=True)
    assert int(found.stdout) > 200 << 20, "256 MiB were freed"
