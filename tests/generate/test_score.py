import pytest
import torch

import underlay.generate.native.runner as native
import underlay.generate.plain as plain_runner
import underlay.generate.score as scoring
from underlay.generate import Engine, ParameterError
from underlay.generate.path import Path
from underlay.generate.score import windows
from underlay.models import Decoder
from underlay.text import Tokenizer


def ids_of(length: int, seed: int, size: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [0, *torch.randint(7, size, (length - 1,), generator=generator).tolist()]


def plain(model: Decoder, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        scores = model(torch.tensor([ids])).log_softmax(-1)[0, :-1]
        return scores.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_scores_equal_a_plain_forward(engine: Engine, model: Decoder, tokenizer: Tokenizer) -> None:
    lists = [ids_of(n, n, tokenizer.size) for n in (193, 2, 50, 192, 1, 51, 17)]
    for ids, scores in zip(lists, engine.score(lists), strict=True):
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, plain(model, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [194, 288, 289, 290, 1000])
def test_long_lists_are_read_in_overlapping_windows(
    engine: Engine, model: Decoder, tokenizer: Tokenizer, length: int
) -> None:
    ids = ids_of(length, 3, tokenizer.size)
    scores = engine.score([ids])[0]
    assert scores.shape == (length - 1,)
    context, stride = 192, 96
    torch.testing.assert_close(scores[:context], plain(model, ids[: context + 1]), atol=1e-4, rtol=0)
    for start in range(stride, length - 1 - context + stride, stride):
        expected = plain(model, ids[start : start + context + 1])[context - stride :]
        found = scores[start + context - stride : start + context]
        torch.testing.assert_close(found, expected[: len(found)], atol=1e-4, rtol=0)


@pytest.mark.parametrize("context", [1, 2, 5, 8])
def test_every_token_is_scored_once_with_half_a_window_of_context(context: int) -> None:
    for length in range(1, 40):
        scored = []
        for w in windows(0, length, context):
            assert 0 < w.end - w.start <= context
            for place in range(w.first, w.end):
                scored.append(place + 1)
                assert place + 1 - w.start >= min(place + 1, max(context // 2, 1))
        assert scored == list(range(1, length))


@pytest.mark.parametrize("path", ["native", "plain"])
def test_batches_and_parts_change_nothing(
    model: Decoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    engine = Engine(model, tokenizer, path=path)
    lists = [ids_of(n, n, tokenizer.size) for n in range(2, 60, 5)]
    before = engine.score(lists)
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 100)
    monkeypatch.setattr(plain_runner, "LOGIT_ROWS", 7)
    monkeypatch.setattr(native, "ROWS", 50)
    calls: list[tuple[float, float | None]] = []
    after = engine.score(lists, lambda done, total, **facts: calls.append((done, total)))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    total = sum(len(ids) - 1 for ids in lists)
    assert len(calls) > 5
    assert calls[-1] == (total, total)


@pytest.mark.usefixtures("bf16_hardware")
def test_bfloat16_is_near(model: Decoder, tokenizer: Tokenizer, engine: Engine) -> None:
    ids = ids_of(150, 1, tokenizer.size)
    half = Engine(model, tokenizer, precision="bfloat16")
    exact, near = engine.score([ids])[0], half.score([ids])[0]
    assert near.dtype == torch.float32
    assert 0 < float((exact - near).abs().mean()) < 0.1 * float(exact.abs().mean())
    assert model.embedding.weight.dtype == torch.float32  # the caller's model is left alone


def test_what_cannot_be_scored_is_named(engine: Engine, tokenizer: Tokenizer) -> None:
    assert engine.score([]) == []
    with pytest.raises(ParameterError, match="sequence 1 is empty"):
        engine.score([[3], []])
    with pytest.raises(ParameterError, match="sequence 0 holds an id outside"):
        engine.score([[tokenizer.size]])
