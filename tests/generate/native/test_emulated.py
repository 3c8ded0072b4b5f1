"""Products of tiles (AMX) and of pairs, whose instructions are done here in C++: what lies around them is the same."""

import ctypes

import pytest
import torch

from generate.native.worlds import (
    FAMILIES,
    adapter_for,
    blocks_for,
    build,
    distances,
    forward,
    missing,
    read,
    rounded,
    tokens,
)
from underlay.generate.native import NativeRunner
from underlay.generate.native import build as building
from underlay.generate.runner import Work
from underlay.models import Decoder, LlamaConfig
from underlay.models.decoder import DecoderConfig

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"no native library: {missing()}")

# Rounding hides most differences within a model, so the head is what shows them: here its inputs are many.
WIDE = LlamaConfig(vocabulary=300, width=460, depth=1, heads=10, kv_heads=1, hidden=64, context=70)
LONG = LlamaConfig(vocabulary=300, width=80, depth=2, heads=4, kv_heads=1, hidden=150, context=300)
SHAPES: dict[str, DecoderConfig] = {
    **{name: FAMILIES[name] for name in ("llama with biases", "gpt2", "gemma2", "olmo")},
    **{name: FAMILIES[name] for name in ("llama of whole vectors", "llama that is deep inside")},
    "llama of wide rows": WIDE,
    "llama of more rows than a band": LONG,
}
"""Inputs and outputs that fill their tiles, and such that do not."""
FAULTS = {1: "refused by the system", 2: "products are wrong", 3: "products are wrong"}
NO_TILES = 1


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "FLAGS", (*building.FLAGS, "-DUNDERLAY_EMULATED"))
        return building.library(tmp_path_factory.mktemp("emulated"))


class Tiles:
    """Makes runners that go through emulated tiles."""

    def __init__(self, library: ctypes.CDLL, patch: pytest.MonkeyPatch) -> None:
        self.library, self.patch = library, patch

    def runner(self, model: Decoder, precision: str, threads: int = 2, fault: int = 0) -> NativeRunner:
        with self.patch.context() as patch:
            patch.setattr(building, "library", lambda: self.library)
            self.library.underlay_emulate(fault)
            made = runner_of(model, precision, threads)
            self.library.underlay_emulate(0)
        assert fault or precision not in ("bfloat16", "int8") or "AMX)" in made.describe(), "they passed their check"
        return made


@pytest.fixture
def tiles(emulated: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Tiles:
    return Tiles(emulated, monkeypatch)


def runner_of(model: Decoder, precision: str, threads: int = 2) -> NativeRunner:
    runner = NativeRunner(model, precision, "float32", threads)  # type: ignore[arg-type]
    runner.reserve(64)
    return runner


@pytest.mark.parametrize("fault", [0, NO_TILES], ids=["tiles", "pairs"])
@pytest.mark.parametrize("family", SHAPES)
def test_bfloat16_rounds_inputs_and_nothing_else(tiles: Tiles, family: str, fault: int) -> None:
    model, ids = build(SHAPES[family]), tokens(60)
    found = read(tiles.runner(model, "bfloat16", fault=fault), ids)
    near = distances(found, forward(rounded(model, inputs=True), ids))
    # A number between two bfloat16 may be rounded to the other one here: what is read from then on is off by that.
    assert near[len(ids) // 4] < 1e-6
    assert near[-1] < 0.02
    assert distances(found, forward(rounded(model, inputs=False), ids))[0] > 1e-4


@pytest.mark.parametrize("family", SHAPES)
def test_int8_is_the_same_bit_for_bit(tiles: Tiles, family: str) -> None:
    model, ids = build(SHAPES[family]), tokens(SHAPES[family].context)
    tiled, plain = tiles.runner(model, "int8"), runner_of(model, "int8")
    for length, chunk in ((len(ids), 1000), (len(ids), 19), (40, 1)):
        assert torch.equal(read(tiled, ids[:length], chunk=chunk), read(plain, ids[:length], chunk=chunk))


@pytest.mark.parametrize(("precision", "fault"), [("bfloat16", 0), ("bfloat16", NO_TILES), ("int8", 0)])
@pytest.mark.parametrize("family", SHAPES)
def test_rows_threads_and_neighbours_change_no_bit(tiles: Tiles, family: str, precision: str, fault: int) -> None:
    model, longest = build(SHAPES[family]), SHAPES[family].context
    ids = tokens(longest)
    one = tiles.runner(model, precision, threads=1, fault=fault)
    alone = read(one, ids, chunk=1)
    three = tiles.runner(model, precision, threads=3, fault=fault)
    for runner in (one, three):
        for chunk in (2, 4, 15, 16, 17, 33, 130, longest):
            assert torch.equal(read(runner, ids, chunk=chunk), alone)
    others = [tokens(length, seed=length) for length in (3, 17, 40)]
    works = [Work(ids[:50], 0, blocks_for(50), 50)]
    works += [Work(text, 0, blocks_for(len(text), 10 * (i + 1)), len(text)) for i, text in enumerate(others)]
    for order in (works, works[::-1]):
        found = dict(zip((id(work) for work in order), three.run(order).split([w.wanted for w in order]), strict=True))
        assert torch.equal(found[id(works[0])], alone[:50])
        for text, work in zip(others, works[1:], strict=True):
            assert torch.equal(found[id(work)], read(one, text, chunk=1))
    scored = three.likelihoods([ids, ids[:20]])
    assert torch.equal(scored[0], one.likelihoods([ids])[0])
    assert torch.equal(scored[0][:19], scored[1])


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_adapters_are_added_to_tiles(tiles: Tiles, precision: str) -> None:
    model = build(FAMILIES["llama with biases"])
    texts, names = [tokens(n, seed=n) for n in (20, 33, 2)], ["a", None, "a"]
    tiled, plain = tiles.runner(model, precision), runner_of(model, precision)
    for runner in (tiled, plain):
        runner.add_adapter("a", adapter_for(model, 5, 1))
    works = [
        Work(text, 0, blocks_for(len(text), 4 * i), len(text), name)
        for i, (text, name) in enumerate(zip(texts, names, strict=True))
    ]
    found = tiled.run(works)
    for work, part in zip(works, found.split([work.wanted for work in works]), strict=True):
        assert torch.equal(tiled.run([work]), part)
    expected = plain.run(works)
    assert torch.equal(found, expected) if precision == "int8" else distances(found, expected)[-1] < 0.03


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_tiles_that_are_refused_or_wrong_are_not_used(tiles: Tiles, precision: str, fault: int) -> None:
    model, ids = build(FAMILIES["llama"]), tokens(30)
    runner = tiles.runner(model, precision, fault=fault)
    assert FAULTS[fault] in runner.describe()
    if precision == "bfloat16":
        assert distances(read(runner, ids), forward(rounded(model, inputs=True), ids))[0] < 1e-6
    else:
        assert torch.equal(read(runner, ids), read(runner_of(model, precision), ids))


def test_it_tells_that_tiles_are_used(tiles: Tiles) -> None:
    model = build(FAMILIES["llama"])
    says = {
        precision: tiles.runner(model, precision).describe() for precision in ("bfloat16", "int8", "int4", "float32")
    }
    assert [precision for precision, said in says.items() if "lanes, AMX)" in said] == ["bfloat16", "int8"]
