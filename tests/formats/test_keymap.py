"""Rows between their tensors and ours: both directions undo each other, and nothing is claimed twice."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parity_world import CLASSES, Case, config_of
from torch import Tensor

from underlay.formats import hf
from underlay.formats.hf.layout import read_config
from underlay.formats.keymap import Row, fused, moved, same, spelled_out, stacked, transposed
from underlay.models.families import blank

ROWS = {
    "same": (same("a", "b")[0], 1, 1),
    "transposed": (transposed("a", "b"), 1, 1),
    "fused": (fused(["a", "b", "c"], "d"), 3, 1),
    "fused on its side": (fused(["a", "b"], "c", sideways=True), 2, 1),
    "stacked": (stacked("a", "b.{expert}"), 1, 3),
    "moved": (moved("a", "b", 2), 1, 1),
}


def matrices(count: int, shape: tuple[int, ...], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("name", ROWS)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_reading_undoes_writing(name: str, high: int, wide: int, seed: int) -> None:
    row, ours, theirs = ROWS[name]
    mine = matrices(ours, (theirs, high, wide) if name == "stacked" else (high, wide), seed)
    written = row.write(mine)
    assert len(written) == theirs
    again = row.read(written)
    assert len(again) == ours
    assert all(torch.equal(one, two) for one, two in zip(mine, again, strict=True))
    assert all(tensor.is_contiguous() for tensor in again)
    back = row.write(again)
    assert all(torch.equal(one, two) for one, two in zip(written, back, strict=True))


def test_the_formulas_themselves() -> None:
    one, two = torch.arange(6).view(2, 3), torch.arange(6, 12).view(2, 3)
    assert transposed("a", "b").write([one])[0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert fused(["a", "b"], "c").write([one, two])[0].tolist() == [*one.tolist(), *two.tolist()]
    aside = fused(["a", "b"], "c", sideways=True).write([one, two])[0]
    assert aside.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert stacked("a", "b").read([one, two])[0][1].equal(two)
    assert moved("a", "b", 1).write([one])[0].tolist() == [[0, 0, 0], *one.tolist()]
    assert moved("a", "b", 1).read([one])[0].tolist() == [[3, 4, 5]]
    assert moved("a", "b", -1).write([one])[0].tolist() == [[3, 4, 5]]


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("depth", [1, 12])
def test_rows_cover_a_model_and_claim_nothing_twice(kind: str, tied: bool, depth: int) -> None:
    layout = hf.LAYOUTS[kind]
    key = layout.fields["depth"]
    values = {**config_of(Case(kind)).to_dict(), layout.fields["tied"]: tied, key: depth}
    for derived in ("layer_types", "no_rope_layers"):
        values.pop(derived, None)
    config = layout.config.model_validate(read_config(layout, values, "config.json"))
    wanted = blank(config).state_dict().keys()
    rows = hf.outgoing(config)[1]
    assert Counter(name for row in rows for name in row.ours if row.theirs[0][-12:] != "decoder.bias") == Counter(
        wanted
    )
    assert max(Counter(name for row in rows for name in row.theirs).values()) == 1
    assert not any("{" in name for row in rows for name in (*row.ours, *row.theirs))


def test_a_tensor_without_a_row_is_a_mistake_of_ours() -> None:
    rows = same("blocks.{layer}.a", "layers.{layer}.b")
    assert [row.theirs for row in spelled_out(rows, ["blocks.0.a", "blocks.1.a"], 2)] == [
        ("layers.0.b",),
        ("layers.1.b",),
    ]
    with pytest.raises(AssertionError, match=r"no row for \['c'\]"):
        spelled_out(rows, ["blocks.0.a", "c"], 1)
    assert spelled_out([Row(("a", "b"), ("c",))], [], 1) == []  # only where our model has all of them
    assert spelled_out([stacked("a", "b.{expert}")], ["a"], 1, 3)[0].theirs == ("b.0", "b.1", "b.2")
