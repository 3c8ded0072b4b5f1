"""A model on the CPU, in C++: the weights lie as the processor wants to read them, and a step is one call.

    float32    as the model is
    bfloat16   weights at half the bytes; sums are float32; inputs are rounded too where the processor multiplies
               bfloat16 itself
    int8       a quarter: one scale an output
    int4       an eighth: a scale for every 32 inputs

Whole numbers are multiplied with whole numbers: of the inputs, each 64 neighbours (int4: 32) are rounded to 8 bits with
a scale of their own (as in arXiv:2310.19102), and sums within such a group are exact.

Why it is row-invariant, and how matrices are laid out, is told in linear.h, matrix.h, tiles.h and attention.h.
"""

import ctypes
import weakref
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from underlay.errors import MachineError, UserError
from underlay.generate.native import build, draw
from underlay.generate.native.describe import HEAD, MATRICES, Step, matrices, norms, ropes, settings, shape, unsupported
from underlay.generate.request import TokenLogprob
from underlay.generate.runner import BLOCK, Work
from underlay.generate.sampler import Sampler
from underlay.models import Decoder
from underlay.models.adapter import Adapter
from underlay.models.parts import LayerNorm, Linear, RMSNorm
from underlay.models.quantised import Bits, QuantisedMatrix, round_to_nearest
from underlay.plan.machine import cores

Precision = Literal["float32", "bfloat16", "int8", "int4"]
CachePrecision = Literal["float32", "bfloat16", "int8"]
KINDS: Mapping[str, int] = {"float32": 0, "bfloat16": 1, "int8": 2, "int4": 3}
"""As matrix.h counts them."""
TILES = ("", ", AMX", ", AMX refused by the system", ", AMX unused: its products are wrong here")
"""What to say of the states in tile_instructions.h."""
TILES_USED = 1
ROWS = 384
"""Tokens that are scored in one step: enough to run at full speed, few enough to stay in the cache."""


class NativeRunner:
    """A `Runner` for decoders that are not `unsupported`. Row-invariant in all precisions."""

    invariant = True

    def __init__(
        self,
        model: Decoder,
        precision: Precision = "bfloat16",
        cache: CachePrecision = "float32",
        threads: int | None = None,
        quantised: Mapping[str, QuantisedMatrix] | None = None,
    ) -> None:
        """Pack a model's weights, which it does not need afterwards.

        threads: by default as many as cores. quantised: matrices by name, for int8 and int4; those that are not there
        are rounded to nearest. Raises NoLibrary where the library cannot be built, UserError where the model cannot
        run here.
        """
        if reason := unsupported(model):
            raise UserError(f"this model does not run natively: {reason}")
        self.precision, self.cache_precision, self.threads = precision, cache, threads or cores()
        self.config = model.config
        self._library = _declared(build.library())
        shaped = shape(model, KINDS[cache], self.threads)
        self._native = self._library.underlay_new(ctypes.byref(shaped))
        if not self._native:
            raise MachineError(f"the native runner gets no memory, or not {self.threads} threads, from the system")
        weakref.finalize(self, self._library.underlay_free, self._native)
        self.block_bytes: int = self._library.underlay_block_bytes(self._native)
        self._adapters: dict[str, int] = {}
        self._names = {part.name: part for part in matrices(model)}
        self._pool: Tensor | None = None
        with torch.no_grad():
            self._load(model, quantised or {})

    def describe(self) -> str:
        """Which path this is, in one line."""
        has = f"{self._library.underlay_lanes()} lanes"
        if self.precision in ("bfloat16", "int8"):
            tiles = self._library.underlay_tiles(self._native)
            if tiles != TILES_USED and self.precision == "bfloat16" and self._library.underlay_paired():
                has += ", bfloat16 pairs"
            has += TILES[tiles]
        return (
            f"native: C++ for this processor ({has}), {self.threads} threads, {self.precision} weights, "
            f"{self.cache_precision} keys and values"
        )

    def reserve(self, blocks: int) -> None:
        """Make room for blocks 0 to blocks - 1."""
        self._pool = _pool(blocks, self.block_bytes)

    def run(self, works: Sequence[Work]) -> Tensor:
        """See `Runner.run`."""
        assert self._pool is not None, "reserve comes first"
        logits = torch.empty(sum(work.wanted for work in works), self.config.vocabulary)
        self._step(works, self._pool, logits)
        return logits

    def best(self, logits: Tensor) -> list[int | None]:
        """See `underlay.generate.sampler.Best`."""
        return draw.best(self._library, self._native, logits)

    def draw(self, logits: Tensor, rows: Sequence[int], samplers: Sequence[Sampler]) -> list[int | None]:
        """See `underlay.generate.sampler.Draw`."""
        return draw.draw(self._library, self._native, logits, rows, samplers)

    def tell(self, logits: Tensor, chosen: Sequence[int], counts: Sequence[int]) -> list[TokenLogprob]:
        """See `underlay.generate.sampler.Tell`."""
        return draw.tell(self._library, self._native, logits, chosen, counts)

    def likelihoods(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """See `Runner.likelihoods`."""
        results = [torch.empty(max(len(sequence) - 1, 0)) for sequence in sequences]
        batch: list[int] = []
        for index, sequence in enumerate(sequences):
            if len(sequence) < 2:
                continue
            if batch and sum(len(sequences[other]) - 1 for other in batch) + len(sequence) - 1 > ROWS:
                self._score(batch, sequences, results)
                batch = []
            batch.append(index)
        self._score(batch, sequences, results)
        return results

    def _score(self, batch: list[int], sequences: Sequence[Sequence[int]], results: list[Tensor]) -> None:
        """Score some sequences side by side, or a long one in pieces."""
        first, works = 0, []
        for index in batch:
            blocks = range(first, first + -(-(len(sequences[index]) - 1) // BLOCK))
            works.append(Work(sequences[index][:-1], 0, blocks, len(sequences[index]) - 1))
            first += len(blocks)
        if not works:
            return
        pool = _pool(first, self.block_bytes)
        if len(works) > 1:
            found = torch.empty(sum(work.wanted for work in works))
            self._step(works, pool, found, list(chain.from_iterable(sequences[index][1:] for index in batch)))
            for index, scores in zip(batch, torch.split(found, [work.wanted for work in works]), strict=True):
                results[index].copy_(scores)
            return
        (work,), (index,) = works, batch
        for start in range(0, work.wanted, ROWS):
            piece = work.tokens[start : start + ROWS]
            part = Work(piece, start, work.blocks, len(piece))
            targets = sequences[index][start + 1 : start + 1 + len(piece)]
            self._step([part], pool, results[index][start : start + len(piece)], targets)

    def _step(self, works: Sequence[Work], pool: Tensor, result: Tensor, targets: Sequence[int] | None = None) -> None:
        tokens, blocks = array("i"), array("i")
        steps = (Step * len(works))()
        for step, work in zip(steps, works, strict=True):
            end = work.start + len(work.tokens)
            assert len(work.blocks) * BLOCK >= end, "blocks cover all places"
            adapter = -1 if work.adapter is None else self._adapters[work.adapter]
            step.start, step.tokens, step.blocks = work.start, len(work.tokens), len(blocks)
            step.wanted, step.adapter = work.wanted, adapter
            tokens.extend(work.tokens)
            blocks.extend(work.blocks)
        told = None if targets is None else array("i", targets)
        complaint: bytes | None = self._library.underlay_run(
            self._native,
            len(works),
            steps,
            tokens.buffer_info()[0],
            blocks.buffer_info()[0],
            pool.data_ptr(),
            len(pool),
            result.data_ptr(),
            None if told is None else told.buffer_info()[0],
        )
        if complaint is not None:
            raise ValueError(f"the native runner cannot do this step: {complaint.decode()}")

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        """See `Runner.add_adapter`."""
        for matrix, change in adapter.changes.items():
            if matrix not in self._names:
                raise UserError(f"adapter {name}: the model has no matrix {matrix}")
            module = self._names[matrix].module
            assert isinstance(module, Linear)
            rank = len(change.down)
            wanted = (rank, module.in_features), (module.out_features, rank)
            if rank == 0 or (tuple(change.down.shape), tuple(change.up.shape)) != wanted:
                raise UserError(
                    f"adapter {name}: {matrix} takes {wanted[0]} and {wanted[1]}, "
                    f"not {tuple(change.down.shape)} and {tuple(change.up.shape)}"
                )
        self.drop_adapter(name)
        index = next(number for number in range(len(self._adapters) + 1) if number not in self._adapters.values())
        self._library.underlay_adapt(self._native, index, 0, 0, None, None)
        for matrix, change in adapter.changes.items():
            down, up = _float32(change.down), _float32(change.up)
            slot = self._names[matrix].slot
            self._library.underlay_adapt(self._native, index, slot, len(down), down.data_ptr(), up.data_ptr())
        self._adapters[name] = index

    def drop_adapter(self, name: str) -> None:
        """See `Runner.drop_adapter`."""
        if name in self._adapters:
            self._library.underlay_forget(self._native, self._adapters.pop(name))

    def _load(self, model: Decoder, quantised: Mapping[str, QuantisedMatrix]) -> None:
        library, native, config = self._library, self._native, model.config
        for layer in range(config.depth):
            library.underlay_layer(native, layer, ctypes.byref(settings(model, layer)))
        for part in norms(model):
            norm = part.module
            assert isinstance(norm, RMSNorm | LayerNorm)
            if isinstance(norm, RMSNorm):
                kind, weight, bias = 1, _maybe(norm.weight + norm.offset), None
            else:
                kind, weight, bias = 2, _maybe(norm.weight), _maybe(norm.bias)
            library.underlay_norm(native, part.slot, kind, norm.width, norm.eps, _at(weight), _at(bias))
        places = torch.arange(config.context)[None]
        for rope in ropes(model):
            cos, sin = (_float32(side[0, 0]) for side in rope.rotation(places))
            library.underlay_rotation(native, _at(cos), _at(sin))
        rows = _float32(model.embedding.weight)
        positions = None if model.positions is None else _float32(model.positions.weight)
        kept = KINDS["float32" if self.precision == "float32" else "bfloat16"]
        library.underlay_embedding(native, kept, _at(rows), _at(positions))
        for part in matrices(model):
            assert isinstance(part.module, Linear)
            self._load_matrix(part.slot, part.module.weight, part.module.bias, quantised.get(part.name))
        head = model.embedding.weight if model.head is None else model.head.weight
        self._load_matrix(config.depth * len(MATRICES), head, None, quantised.get(HEAD))

    def _load_matrix(self, slot: int, weight: Tensor, bias: Tensor | None, known: QuantisedMatrix | None) -> None:
        outputs, inputs = weight.shape
        values, scales, kind = _float32(weight), None, KINDS[self.precision]
        if self.precision in ("int8", "int4"):
            bits: Bits = 8 if self.precision == "int8" else 4
            matrix = round_to_nearest(weight, bits) if known is None else known
            assert matrix.values.shape == weight.shape, "the matrix that was quantised"
            values, scales, kind = matrix.values.contiguous(), _float32(matrix.scales), KINDS[f"int{matrix.bits}"]
        shift = _maybe(bias)
        self._library.underlay_matrix(self._native, slot, kind, outputs, inputs, _at(values), _at(scales), _at(shift))


def _float32(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()


def _maybe(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _float32(tensor)


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _pool(blocks: int, block_bytes: int) -> Tensor:
    """Zeroed memory for blocks, (blocks, block_bytes) uint8, that begins where vectors like it."""
    # torch would write the zeros; the system has pages of them, and gives one where a block is first written.
    whole = torch.from_numpy(np.zeros(blocks * block_bytes + 64, np.uint8))
    start = -whole.data_ptr() % 64
    return whole[start : start + blocks * block_bytes].view(blocks, block_bytes)


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Say what the functions of the library take and give."""
    whole, pointer = ctypes.c_int32, ctypes.c_void_p
    takes: dict[str, list[type]] = {
        "new": [pointer],
        "free": [pointer],
        "block_bytes": [pointer],
        "lanes": [],
        "paired": [],
        "tiles": [pointer],
        "layer": [pointer, whole, pointer],
        "matrix": [pointer, whole, whole, whole, whole, pointer, pointer, pointer],
        "norm": [pointer, whole, whole, whole, ctypes.c_float, pointer, pointer],
        "rotation": [pointer, pointer, pointer],
        "embedding": [pointer, whole, pointer, pointer],
        "adapt": [pointer, whole, whole, whole, pointer, pointer],
        "forget": [pointer, whole],
        "best": [pointer, whole, whole, pointer, pointer],
        "draw": [pointer, whole, whole, pointer, pointer, pointer],
        "tell": [pointer, whole, whole, pointer, pointer, whole, pointer, pointer, pointer],
        "run": [pointer, whole, pointer, pointer, pointer, pointer, whole, pointer, pointer],
    }
    gives = {"new": pointer, "block_bytes": ctypes.c_int64, "lanes": whole, "paired": whole, "tiles": whole}
    gives |= dict.fromkeys(("run", "draw", "tell"), ctypes.c_char_p)
    for name, arguments in takes.items():
        function = getattr(library, f"underlay_{name}")
        function.argtypes, function.restype = arguments, gives.get(name)
    return library
