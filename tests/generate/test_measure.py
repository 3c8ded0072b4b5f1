import pytest
import torch
from test_scheduling import make_engine

from underlay.errors import UserError
from underlay.generate.measure import measure


@pytest.mark.parametrize("blocks", [6, 24])
def test_speeds_are_of_tokens_that_were_read_and_written(blocks: int) -> None:
    engine = make_engine(slots=3, blocks=blocks)
    speed = measure(engine)
    assert min(speed.reads, speed.writes, speed.together) > 0
    assert not engine.busy


def test_a_model_that_fails_is_said_rather_than_measured_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    monkeypatch.setattr(engine.runner, "logits", lambda *_: torch.full((300,), float("nan")))
    steps = 0
    step = engine.step

    def counted() -> object:
        nonlocal steps
        steps += 1
        assert steps < 100, "it does not end"
        return step()

    monkeypatch.setattr(engine, "step", counted)
    with pytest.raises(UserError, match="not numbers"):
        measure(engine)
