"""Matrices of whole numbers: near to what they stand for, and the same again from disk."""

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from underlay.errors import UserError
from underlay.formats.gguf.quantize import Q4_0, decode, encode
from underlay.models import Decoder, LlamaConfig
from underlay.models.mistral import MistralConfig
from underlay.models.quantised import HIGHEST, LOWEST, Bits, QuantisedMatrix, matrix, quantised_names, round_to_nearest
from underlay.models.quantised_storage import NOTES, Quantisation, dequantised
from underlay.models.storage import WEIGHTS, load_decoder, load_quantised, save_model, save_quantised

BITS = (8, 4)


def tiny(tied: bool = True, width: int = 64, hidden: int = 40) -> Decoder:
    torch.manual_seed(0)
    sizes = {"width": width, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": hidden, "context": 32}
    return LlamaConfig(vocabulary=50, tied=tied, **sizes).build()


def rounded(model: Decoder, bits: Bits) -> dict[str, QuantisedMatrix]:
    return {name: round_to_nearest(matrix(model, name), bits) for name in quantised_names(model)}


def saved(folder: Path, bits: Bits, tied: bool = True) -> tuple[Decoder, dict[str, QuantisedMatrix]]:
    model = tiny(tied)
    matrices = rounded(model, bits)
    notes = Quantisation(bits=bits, group=None, method="nearest", perplexity_before=2.0, perplexity_after=2.5)
    save_quantised(model, matrices, notes, folder)
    return model, matrices


@given(st.sampled_from(BITS), st.integers(0, 2**31), st.floats(1e-30, 1e30), st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=60)
def test_no_weight_is_further_off_than_its_scale(bits: Bits, seed: int, size: float, rows: int, groups: int) -> None:
    weight = size * torch.randn(rows, 32 * groups, generator=torch.Generator().manual_seed(seed))
    made = round_to_nearest(weight, bits)
    assert made.bits == bits
    assert LOWEST[bits] <= int(made.values.min()) <= int(made.values.max()) <= HIGHEST[bits]
    each = made.scales.abs().repeat_interleave(weight.shape[1] // made.scales.shape[1], 1)
    off = (made.dequantise() - weight).abs()
    # Of 8 bits half a step; of 4 the largest weight of a group may be cut, by less than two steps.
    assert bool((off <= each * (0.501 if bits == 8 else 2)).all())


def test_four_bits_err_less_than_ggml_does() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    theirs = torch.from_numpy(decode(b"".join(encode(weight, Q4_0, "w")), Q4_0, (64, 256)))
    ours = round_to_nearest(weight, 4).dequantise()
    assert (ours - weight).square().mean() < 0.93 * (theirs - weight).square().mean()


@pytest.mark.parametrize("bits", BITS)
def test_what_is_quantised_is_quantised_to_itself(bits: Bits) -> None:
    once = round_to_nearest(torch.randn(8, 64, generator=torch.Generator().manual_seed(2)), bits)
    twice = round_to_nearest(once.dequantise(), bits)
    torch.testing.assert_close(twice.dequantise(), once.dequantise(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight", [torch.zeros(2, 32), torch.full((2, 32), 1e-44)])
@pytest.mark.parametrize("bits", BITS)
def test_rows_of_nothing_are_nothing(weight: Tensor, bits: Bits) -> None:
    assert not round_to_nearest(weight, bits).dequantise().any()


def test_rows_that_fill_no_groups_get_eight_bits() -> None:
    assert round_to_nearest(torch.randn(3, 40), 4).bits == 8


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_refused(value: float) -> None:
    with pytest.raises(UserError, match="NaN or infinity"):
        round_to_nearest(torch.tensor([[value] * 32]), 8)


def test_every_matrix_is_named_but_routers() -> None:
    names = quantised_names(tiny())
    assert len(names) == 2 * 7 + 1
    assert names[-1] == "head"
    experts = MistralConfig(vocabulary=50, width=32, depth=1, heads=2, experts=4, experts_chosen=2, context=8).build()
    assert quantised_names(experts) == [
        *(f"blocks.0.attention.{n}" for n in ("query", "key", "value", "output")),
        "head",
    ]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_from_disk_comes_what_was_saved(tmp_path: Path, bits: Bits, tied: bool) -> None:
    model, matrices = saved(tmp_path, bits, tied)
    found = load_quantised(tmp_path)
    assert found is not None
    assert found.keys() == matrices.keys()
    for name, one in found.items():
        assert one.bits == matrices[name].bits
        assert torch.equal(one.values, matrices[name].values)
        assert torch.equal(one.scales, matrices[name].scales)
    tokens = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(3))
    read = load_decoder(tmp_path)
    assert torch.equal(read(tokens), dequantised(model, matrices)(tokens))
    assert torch.equal(read.embedding.weight, model.embedding.weight)


def test_a_plain_model_is_not_quantised(tmp_path: Path) -> None:
    save_model(tiny(), tmp_path)
    assert load_quantised(tmp_path) is None


def test_four_bits_take_half_the_room(tmp_path: Path) -> None:
    saved(tmp_path, 4)
    tensors = load_file(tmp_path / WEIGHTS)
    assert tensors["head.values"].nbytes == 50 * 64 // 2


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("head.values", lambda t: t[:, :-1], "tensor head.values is"),
        ("head.values", lambda t: t.float(), "tensor head.values is"),
        ("head.values", lambda t: t.to(torch.uint8), "tensor head.values is"),
        ("head.values", lambda t: torch.full_like(t, -128), "beyond -127 to 127"),
        ("head.values", lambda _: None, "tensor head.values is missing"),
        ("head.scales", lambda t: t[:-1], "tensor head.scales is"),
        ("head.scales", lambda t: t.double(), "tensor head.scales is"),
        ("head.scales", lambda t: t * float("nan"), "NaN or infinity"),
        ("head.scales", lambda t: t + float("inf"), "NaN or infinity"),
        ("embedding.weight", lambda _: None, "tensor embedding.weight is missing"),
        ("head.weight", lambda _: torch.zeros(50, 64), "the config says none"),
    ],
)
def test_damaged_weights_are_refused(tmp_path: Path, name: str, change, complaint: str) -> None:
    saved(tmp_path, 8)
    tensors = load_file(tmp_path / WEIGHTS)
    changed = change(tensors.pop(name, None))
    save_file(tensors if changed is None else tensors | {name: changed.contiguous()}, tmp_path / WEIGHTS)
    for load in (load_decoder, load_quantised):
        with pytest.raises(UserError, match=complaint):
            load(tmp_path)


@pytest.mark.parametrize(
    ("notes", "complaint"),
    [
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        ("[]", "quantisation.json"),
        ('{"bits": 3}', "bits"),
        (None, "tensor blocks.0"),
    ],
)
def test_damaged_notes_are_refused(tmp_path: Path, notes: str | None, complaint: str) -> None:
    saved(tmp_path, 4)
    path = tmp_path / NOTES
    path.unlink() if notes is None else path.write_text(notes, "utf-8")
    with pytest.raises(UserError, match=complaint):
        load_decoder(tmp_path)


def test_notes_of_another_number_of_bits_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, 4)
    values = json.loads((tmp_path / NOTES).read_text("utf-8"))
    (tmp_path / NOTES).write_text(json.dumps(values | {"bits": 8}), "utf-8")
    with pytest.raises(UserError, match="tensor blocks"):
        load_quantised(tmp_path)


def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, 4)
    path = tmp_path / WEIGHTS
    data = path.read_bytes()
    for end in (4, struct.unpack("<Q", data[:8])[0] // 2, len(data) - 3):
        path.write_bytes(data[:end])
        with pytest.raises(UserError, match="damaged"):
            load_quantised(tmp_path)
