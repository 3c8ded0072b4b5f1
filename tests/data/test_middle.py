"""Rearranged documents: what is kept of them, how many there are, and where they are cut."""

import itertools
import math
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from underlay.data import MiddleConfig, Middles, middle
from underlay.errors import UserError
from underlay.models import Batch, LlamaConfig
from underlay.text import Gap, Special, Tokenizer, train_tokenizer
from underlay.text.special import GAP
from underlay.train import CausalLM, TrainConfig, train

WORDS = ["Every ", "number ", "keeps ", "its name, ", "naïve ", "Füße ", "大きさ ", "🙂", "31 ", "\n    "]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["".join(WORDS)] * 9, 330, fim=True)


class Documents:
    """Rows of whole and cut documents, of words in random order."""

    def __init__(self, tokenizer: Tokenizer, context: int = 96, seed: int = 0, longest: int = 40) -> None:
        self.tokenizer, self.context, self.seed, self.longest = tokenizer, context, seed, longest
        self.bos, self.eos = tokenizer.special(Special.BOS), tokenizer.special(Special.EOS)

    def row(self, sample: int) -> list[int]:
        random = np.random.default_rng([9, sample % 1000])
        ids: list[int] = []
        while len(ids) < self.context + 40:
            words = random.choice(WORDS, random.integers(4, self.longest))
            ids += [self.bos, *self.tokenizer.encode("".join(words)), self.eos]
        start = int(random.integers(0, 39))
        return ids[start : start + self.context + 1]

    def batch(self, first: int, count: int) -> Batch:
        rows = torch.tensor([self.row(sample) for sample in range(first, first + count)])
        segments = (rows == self.bos).cumsum(1)[:, :-1]
        return Batch(rows[:, :-1], rows[:, 1:], None, ((0,),) * count, segments)


def whole(batch: Batch) -> list[list[int]]:
    return torch.cat([batch.tokens, batch.targets[:, -1:]], 1).tolist()


def pieces(row: list[int], ends: frozenset[int]) -> Iterator[tuple[int, int]]:
    """Where documents' texts stand in a row."""
    edges = [-1, *(at for at, token in enumerate(row) if token in ends), len(row)]
    return ((a + 1, b) for a, b in itertools.pairwise(edges) if a + 1 < b)


def taken_apart(tokenizer: Tokenizer, ids: list[int]) -> tuple[str, list[list[int]]]:
    """The layout of an arrangement, and its prefix, middle and suffix; of SPM prefix and middle together.

    Without a prefix both layouts are the same, which is called SPM here.
    """
    prefix, suffix, gap = map(tokenizer.special, GAP)
    assert ids[0] == prefix
    a, b = ids.index(suffix), ids.index(gap)
    if a == 1:
        return "spm", [ids[b + 1 :], [], ids[2:b]]
    return "psm", [ids[1:a], ids[b + 1 :], ids[a + 1 : b]]


@pytest.mark.parametrize("spm", [0.0, 0.5, 1.0])
@given(first=st.integers(0, 900))
def test_a_rearranged_document_is_its_text_but_for_a_few_tokens_at_an_edge(
    tokenizer: Tokenizer, spm: float, first: int
) -> None:
    rows = Documents(tokenizer)
    before, batch = rows.batch(first, 4), Middles(rows, tokenizer, MiddleConfig(rate=0.7, spm=spm)).batch(first, 4)
    assert torch.equal(batch.targets[:, :-1], batch.tokens[:, 1:])
    assert batch.weights is not None
    assert batch.weights.all()
    assert batch.documents == before.documents
    assert batch.segments is before.segments or torch.equal(batch.segments, before.segments)
    ends = frozenset((rows.bos, rows.eos))
    for old, new in zip(whole(before), whole(batch), strict=True):
        assert len(old) == len(new) == rows.context + 1
        for start, end in pieces(old, ends):
            was, now = old[start:end], new[start:end]
            if now == was:
                continue
            assert new[:start][-1:] == old[:start][-1:]
            cut = end == len(old)
            assert (now[-1] == rows.eos) == cut  # elsewhere EOS is behind it, where it was
            layout, parts = taken_apart(tokenizer, now[:-1] if cut else now)
            assert layout == "spm" or spm < 1
            text, put_back = (tokenizer.decode_bytes(ids) for ids in (was, itertools.chain(*parts)))
            assert put_back in text
            # Three marks, EOS, and what two cuts made of two tokens, none of which is longer than 12 bytes.
            assert len(tokenizer.encode_bytes(text)) - len(tokenizer.encode_bytes(put_back)) <= 4 + 2 * 11
            side = bytes.endswith if start == 0 and not cut else bytes.startswith
            if len(parts[0]) > 24 and len(parts[2]) > 24:
                assert side(text, put_back)


def test_as_many_as_asked_for_in_both_layouts(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Documents(tokenizer, 96)
    layouts: Counter[bool] = Counter()
    arranged = Gap.arranged

    def spy(self: Gap, *parts: list[int], spm: bool) -> list[int]:
        layouts[spm] += 1  # both layouts look alike where there is no prefix
        return arranged(self, *parts, spm=spm)  # type: ignore[arg-type]

    monkeypatch.setattr(Gap, "arranged", spy)
    for rate, spm in ((0.5, 0.5), (0.9, 0.2)):
        source = Middles(rows, tokenizer, MiddleConfig(rate=rate, spm=spm))
        layouts.clear()
        rearranged = whole(source.batch(0, 500))
        ends = frozenset((rows.bos, rows.eos))
        found = [(row, *piece) for row in whole(rows.batch(0, 500)) for piece in pieces(row, ends)]
        long = sum(end - start >= 8 for _, start, end in found)
        moved = layouts.total()
        assert moved == sum(row.count(tokenizer.special(Special.MIDDLE)) for row in rearranged)
        assert moved == pytest.approx(rate * long, abs=4 * math.sqrt(long * rate * (1 - rate)))
        assert layouts[True] == pytest.approx(spm * moved, abs=4 * math.sqrt(moved * spm * (1 - spm)))
        assert long > 700


def test_any_two_characters_are_cut_at_alike(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "naïve Füße 大きさ 🙂"  # characters of one to four bytes
    ids = [tokenizer.encode_bytes(bytes([byte]))[0] for byte in text.encode()]
    seen: Counter[tuple[int, int]] = Counter()
    fitted = middle._fitted

    def spy(prefix: list[int], between: list[int], suffix: list[int], *more: object, **names: bool) -> object:
        parts = [tokenizer.decode_bytes(part).decode() for part in (prefix, between, suffix)]  # whole characters
        assert "".join(parts) == text
        seen[len(parts[0]), len(parts[0] + parts[1])] += 1
        return fitted(prefix, between, suffix, *more, **names)  # type: ignore[arg-type]

    monkeypatch.setattr(middle, "_fitted", spy)

    class One:
        seed = 3

        def batch(self, first: int, count: int) -> Batch:
            tokens = torch.tensor([ids] * count)
            return Batch(tokens[:, :-1], tokens[:, 1:])

    Middles(One(), tokenizer, MiddleConfig(rate=1.0)).batch(0, 5000)
    pairs = list(itertools.combinations(range(len(text) + 1), 2))
    assert set(seen) == set(pairs)
    expected = 5000 / len(pairs)
    statistic = sum((seen[pair] - expected) ** 2 / expected for pair in pairs)
    freedom = len(pairs) - 1
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


def test_they_change_with_the_pass_and_not_with_the_batch(tokenizer: Tokenizer) -> None:
    source = Middles(Documents(tokenizer), tokenizer, MiddleConfig())
    batch = source.batch(40, 6)
    parts = [source.batch(40, 1), source.batch(41, 2), source.batch(43, 3)]
    assert torch.equal(batch.tokens, torch.cat([part.tokens for part in parts]))
    assert torch.equal(batch.targets, torch.cat([part.targets for part in parts]))
    assert not torch.equal(batch.tokens, source.batch(1040, 6).tokens)  # the same rows, one pass later
    other = Middles(Documents(tokenizer, seed=1), tokenizer, MiddleConfig()).batch(40, 6)
    assert not torch.equal(batch.tokens, other.tokens)


def test_rows_are_left_as_they_were(tokenizer: Tokenizer) -> None:
    class Kept(Documents):
        """Always the same tensors."""

        def batch(self, first: int, count: int) -> Batch:
            return kept

    kept = Documents(tokenizer).batch(0, 4)
    tokens = kept.tokens.clone()
    Middles(Kept(tokenizer), tokenizer, MiddleConfig(rate=1.0)).batch(0, 4)
    assert torch.equal(kept.tokens, tokens)


def test_short_documents_stay(tokenizer: Tokenizer) -> None:
    rows = Documents(tokenizer, longest=5)
    rows.row = lambda sample: [rows.bos, *tokenizer.encode("abcdefg"), rows.eos] * 4  # type: ignore[method-assign]
    batch = Middles(rows, tokenizer, MiddleConfig(rate=1.0)).batch(0, 3)
    assert whole(batch) == [rows.row(0)] * 3


def test_what_becomes_shorter_is_padded_and_not_learned(tokenizer: Tokenizer) -> None:
    text = "Every number keeps its name, " * 3
    ids = [tokenizer.encode_bytes(bytes([byte]))[0] for byte in text.encode()]  # encoded anew it is much shorter
    rows = Documents(tokenizer)
    rows.row = lambda sample: [rows.bos, *ids, rows.eos]  # type: ignore[method-assign]
    batch = Middles(rows, tokenizer, MiddleConfig(rate=1.0)).batch(0, 20)
    padded = batch.targets == tokenizer.special(Special.PAD)
    assert batch.weights is not None
    assert torch.equal(batch.weights, (~padded).float())
    for row in whole(batch):
        kept = [token for token in row[1:-1] if token != tokenizer.special(Special.PAD)]
        assert 3 < len(kept) < len(ids)
        assert row[-len(kept) - 1 : -1] == kept  # in front, so that EOS follows the middle
        assert tokenizer.decode_bytes(itertools.chain(*taken_apart(tokenizer, kept)[1])).decode() == text


lists = st.lists(st.integers(0, 9), max_size=12)


@given(lists, st.lists(st.integers(0, 9), min_size=1, max_size=12), lists, st.integers(1, 40), st.booleans())
def test_the_middle_leads_up_to_its_suffix(
    prefix: list[int], between: list[int], suffix: list[int], room: int, at_start: bool
) -> None:
    new = middle._fitted(prefix, between, suffix, room, at_start)
    kept, text = sum(map(len, new)), prefix + between + suffix
    assert kept == min(room, len(text))
    assert prefix[len(prefix) - len(new[0]) :] == new[0]
    assert between[len(between) - len(new[1]) :] == new[1]
    assert suffix[: len(new[2])] == new[2]
    if len(new[1]) < len(between):
        assert new[0] == new[2] == []
    if kept < len(text) and at_start:
        assert new[2] == suffix or new[0] == []
    if kept < len(text) and not at_start:
        assert new[0] == prefix or new[2] == []


class Stopping(Documents):
    """Sends this process a signal while it is asked for a certain sample."""

    def batch(self, first: int, count: int) -> Batch:
        if first == 16:
            os.kill(os.getpid(), signal.SIGINT)
        return super().batch(first, count)


def test_stopped_and_resumed_equals_never_stopped(tokenizer: Tokenizer, tmp_path: Path) -> None:
    models = []
    for folder, kinds in (("a", [Documents]), ("b", [Stopping, Documents])):
        for kind in kinds:
            torch.manual_seed(0)
            model = LlamaConfig(vocabulary=tokenizer.size, context=96, width=16, depth=1, heads=2, hidden=16).build()
            source = Middles(kind(tokenizer), tokenizer, MiddleConfig())
            config = TrainConfig(steps=6, batch_rows=8, micro_rows=4, compile=False, precision="float32")
            if kind is Stopping:
                with pytest.raises(KeyboardInterrupt):
                    train(model, CausalLM(), source, config, tmp_path / folder)
            else:
                train(model, CausalLM(), source, config, tmp_path / folder)
        models.append(model)
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_tokenizer_without_marks_is_refused() -> None:
    plain = train_tokenizer(WORDS, 300)
    with pytest.raises(UserError, match="no tokens for prefix, suffix and middle; learn it with `fim: true`"):
        Middles(Documents(plain), plain, MiddleConfig())


@pytest.mark.parametrize("values", [{"rate": 0}, {"rate": 1.1}, {"spm": -0.1}, {"spm": 1.1}])
def test_impossible_shares(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        MiddleConfig(**values)
