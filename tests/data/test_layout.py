"""Rows of whole documents: nothing is lost or doubled, nothing cut that fits, and nothing learned across documents."""

import sysconfig
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from underlay.data import Dataset, MixtureStage, Rows
from underlay.data.dataset import DatasetInfo
from underlay.data.layout import BestFit, Windows
from underlay.errors import UserError
from underlay.models import Batch, LlamaConfig
from underlay.train import CausalLM

CONTEXT = 16


def write(folder: Path, **parts: list[int]) -> Dataset:
    """A dataset of documents of these lengths: BOS 1, EOS 2, and between them other tokens from place to place."""
    lengths = [length for part in parts.values() for length in part]
    ends = np.cumsum(lengths)
    starts = ends - lengths
    tokens = (np.arange(ends[-1]) % 250 + 3).astype("<u2")
    tokens[starts], tokens[ends - 1] = 1, 2
    for split in ("train", "heldout"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        tokens.tofile(folder / split / "tokens.bin")
        names = [f"{number:032x}" for number in range(len(lengths))]
        table = {"id": names, "start": starts, "end": ends, "source": names, "licence": names}
        table |= {line: np.ones(len(lengths), dtype=np.int64) for line in ("first_line", "last_line")}
        pq.write_table(pa.table(table), folder / split / "documents.parquet")
    both = {"train": len(tokens), "heldout": len(tokens)}
    sizes = {name: dict.fromkeys(both, sum(part)) for name, part in parts.items() if name != "whole"}
    info = DatasetInfo(dtype="uint16", vocabulary=256, tokens=both, documents=both, bytes=both, parts=sizes)
    (folder / "dataset.json").write_text(info.model_dump_json())
    return Dataset(folder)


LENGTHS = st.lists(st.integers(2, 3 * CONTEXT + 2), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dataset")


@given(LENGTHS, LENGTHS)
def test_every_token_stands_in_one_row_and_documents_that_fit_stay_whole(
    folder: Path, code: list[int], prose: list[int]
) -> None:
    dataset = write(folder, code=code, prose=prose)
    layout = BestFit(dataset, list(dataset.parts.values()), CONTEXT)
    rows = [layout.pieces(row) for row in range(sum(layout.counts))]
    seen = np.concatenate([np.arange(start, end) for row in rows for start, end in row])
    assert sorted(seen.tolist()) == list(range(len(dataset)))
    assert layout.padding == pytest.approx(1 - len(dataset) / (len(rows) * CONTEXT))
    cut = set()
    for number, row in enumerate(rows):
        assert sum(end - start for start, end in row) <= CONTEXT
        part = dataset.parts["code" if number < layout.counts[0] else "prose"]
        numbers = [dataset.number_at(start) for start, _ in row]
        assert len(set(numbers)) == len(numbers)
        begins = []
        for (start, end), document in zip(row, numbers, strict=True):
            assert start in part
            assert end - 1 in part
            assert dataset.number_at(end - 1) == document
            place = dataset.document(document)
            if (start, end) != (place.start, place.end):
                assert place.end - place.start > CONTEXT
                assert end - start == CONTEXT or end == place.end
                cut.add(document)
            begins.append(start == place.start)
        assert begins == sorted(begins, reverse=True)  # rests come last
    assert layout.cut == len(cut) / len(dataset.ids)


def test_the_drawing_is_true(folder: Path) -> None:
    """The one at the top of `data/layout.py`."""
    layout = BestFit(write(folder, whole=[5, 11, 3]), [range(19)], 8)
    assert [layout.pieces(row) for row in range(3)] == [[(5, 13)], [(0, 5), (13, 16)], [(16, 19)]]


@given(LENGTHS)
def test_windows_of_parts_stay_within_them(folder: Path, prose: list[int]) -> None:
    dataset = write(folder, code=[5, 9, 40, 13], prose=prose)
    layout = Windows(list(dataset.parts.values()), CONTEXT)
    for row in range(sum(layout.counts)):
        ((start, end),) = layout.pieces(row)
        part = dataset.parts["code" if row < layout.counts[0] else "prose"]
        assert start in part
        assert end in part  # the last target, too
        assert (start - part.start) % CONTEXT == 0
    assert layout.counts == [4, (sum(prose) - 1) // CONTEXT]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rng = np.random.default_rng(0)
    lengths = {name: rng.geometric(1 / 12, 200).clip(2, 50).tolist() for name in ("code", "prose")}
    return write(tmp_path_factory.mktemp("parts"), **lengths)


MIXTURE = [
    MixtureStage(tokens=50 * CONTEXT, weights={"code": 1}),
    MixtureStage(weights={"code": 1, "prose": 2}),
]


@pytest.mark.parametrize("packing", ["windows", "best_fit"])
def test_batches_of_mixtures_do_not_depend_on_how_they_are_cut(dataset: Dataset, packing: str) -> None:
    rows = Rows(dataset, CONTEXT, 3, True, packing, MIXTURE)
    for first in (0, 46, 60):
        whole = rows.batch(first, 8)
        parts = [rows.batch(first, 3), rows.batch(first + 3, 5)]
        for field in ("tokens", "targets", "segments"):
            assert torch.equal(getattr(whole, field), torch.cat([getattr(part, field) for part in parts]))
        assert whole.documents == parts[0].documents + parts[1].documents
    assert {dataset.part_at(rows.start(sample)) for sample in range(50)} == {"code"}
    later = Counter(dataset.part_at(rows.start(sample)) for sample in range(50, 50 + 66))
    assert later == {"code": 22, "prose": 44}


def test_batches_hold_whole_documents_and_say_what_is_learned(dataset: Dataset) -> None:
    rows = Rows(dataset, CONTEXT, 0, isolate=True, packing="best_fit")
    batch = rows.batch(0, rows.count)
    assert batch.weights is not None
    assert batch.segments is not None
    learned = Counter[int]()
    for row in range(rows.count):
        pieces = rows.pieces(row)
        places = np.concatenate([np.arange(start, end) for start, end in pieces])
        filled, numbers = len(places), dataset.numbers_at(places)
        assert batch.tokens[row, :filled].tolist() == dataset.tokens[places].tolist()
        assert batch.segments[row].tolist() == numbers.tolist() + [-1] * (CONTEXT - filled)
        assert set(batch.documents[row]) == set(numbers.tolist())
        assert dict(rows.documents(row)) == Counter(numbers.tolist())
        for at, place in enumerate(places.tolist()):
            goes_on = place + 1 < dataset.ends[dataset.number_at(place)]
            assert batch.weights[row, at] == goes_on
            if goes_on:
                assert batch.targets[row, at] == dataset.tokens[place + 1]
                learned[place + 1] += 1
        assert not batch.weights[row, filled:].any()
        assert not batch.tokens[row, filled:].any()
    # Each token of each document is learned once, but for its BOS: nothing comes before that.
    assert learned == Counter(set(range(len(dataset))) - set(dataset.starts.tolist()))


def small(vocabulary: int = 256) -> torch.nn.Module:
    torch.manual_seed(0)
    shape = {"width": 32, "depth": 2, "heads": 2, "kv_heads": 1, "hidden": 48}
    return LlamaConfig(vocabulary=vocabulary, context=CONTEXT, **shape).build()


@pytest.mark.parametrize("pieces", [1, 2])
def test_packed_rows_are_learned_as_if_each_piece_stood_alone(dataset: Dataset, pieces: int) -> None:
    """With short rows, too: what is cut there are the pieces, and no target is lost by it."""
    rows, short = Rows(dataset, CONTEXT, 0, isolate=True, packing="best_fit"), CONTEXT // pieces
    packed, alone = small(), small()
    whole = CausalLM()(packed, rows.batch(0, 12).cut(pieces))
    whole.sum.backward()
    total, count = torch.zeros(()), 0
    for sample in range(12):
        at = 0
        for start, end in rows.pieces(sample):
            edges = [start, *(start + cut - at % short for cut in range(short, CONTEXT, short)), end]
            edges = sorted({edge for edge in edges if start <= edge <= end})
            for first, last in pairwise(edges):
                stop = min(last, int(dataset.ends[dataset.number_at(start)]) - 1)
                if stop > first:
                    window = torch.from_numpy(dataset.tokens[first : stop + 1].astype(np.int64))[None]
                    loss = CausalLM()(alone, Batch(window[:, :-1], window[:, 1:]))
                    loss.sum.backward()
                    total, count = total + loss.sum.detach(), count + int(loss.count)
            at += end - start
    assert whole.count == count
    torch.testing.assert_close(whole.sum, total)
    for one, other in zip(packed.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def first_fit(lengths: list[int], context: int) -> int:
    """Rows that are needed if each piece goes into the first row with room, in the order of arrival."""
    rooms: list[int] = []
    for length in lengths:
        at = next((number for number, room in enumerate(rooms) if room >= length), None)
        if at is None:
            rooms.append(context - length)
        else:
            rooms[at] -= length
    return len(rooms)


def test_real_documents_leave_less_padding_than_first_fit_and_are_cut_less(tmp_path: Path) -> None:
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    sizes = [path.stat().st_size // 3 + 2 for path in sorted(stdlib.glob("*.py")) + sorted(stdlib.glob("[a-f]*/*.py"))]
    dataset, context = write(tmp_path, whole=sizes), 2048
    layout = BestFit(dataset, [range(len(dataset))], context)
    pieces = [min(context, size - at) for size in sizes for at in range(0, size, context)]
    assert layout.padding < 0.5 * (1 - len(dataset) / (first_fit(pieces, context) * context))
    assert layout.cut == np.mean(np.array(sizes) > context)
    assert layout.cut < 0.9 * layout.cut_by_windows
    assert f"windows would cut {layout.cut_by_windows:.1%}" in str(layout)


def test_damaged_parts_are_refused(tmp_path: Path) -> None:
    write(tmp_path, code=[5, 6], prose=[7])
    path = tmp_path / "dataset.json"
    path.write_text(path.read_text().replace('"code":{"train":11', '"code":{"train":10'))
    with pytest.raises(UserError, match="the parts of train hold 17 tokens, not 18"):
        Dataset(tmp_path)
