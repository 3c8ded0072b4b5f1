"""The runner that needs nothing but torch: every family, every device.

On a CPU it keeps the promise of row invariance at some cost: each token is a row of its own, always `ROWS` of them in
one pass, so that every product has the same shape, and on one thread, since with several the scratch memory of
attention is aligned differently in each, which changes how it rounds. Sums over the cache are padded to multiples of
`SEEN` places, where masked terms add exact zeros. Elsewhere, or with `exact=False`, prompts are read sequence by
sequence and answers are moved forward together, in whatever shape comes; or by `graphs`, where something captures them.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from underlay.errors import UserError
from underlay.generate.graphs import Capture, DecodeGraphs
from underlay.generate.runner import BLOCK, Work
from underlay.generate.threads import one_thread
from underlay.models import Decoder
from underlay.models.adapter import Adapter, LowRank
from underlay.models.parts import Linear, Rope, computed
from underlay.models.quantised import Bits, QuantisedMatrix, matrix, quantised_names, round_to_nearest

ROWS = 16
"""Tokens of a pass that must always have the same shape."""
SEEN = 64
"""Attention reads the cache in multiples of so many places."""
LOGIT_ROWS = 512
"""Positions whose logits exist at the same time when texts are scored."""


@dataclass(frozen=True)
class _Pages:
    """One layer's cache for rows of which each has its own blocks."""

    keys: Tensor
    """(blocks, kv_heads, BLOCK, head_dim), of this layer; values the same."""
    values: Tensor
    block: Tensor
    """(batch, new) where to write; `offset`: the place within it."""
    offset: Tensor
    tables: Tensor
    """(batch, blocks that attention reads)"""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `LayerCache`."""
        self.keys[self.block, :, self.offset] = keys.transpose(1, 2)
        self.values[self.block, :, self.offset] = values.transpose(1, 2)
        return self._read(self.keys), self._read(self.values)

    def _read(self, pool: Tensor) -> Tensor:
        return pool[self.tables].transpose(1, 2).flatten(2, 3)


class PlainRunner:
    """Runs a decoder by its own modules."""

    def __init__(
        self,
        model: Decoder,
        precision: Literal["float32", "bfloat16", "int8", "int4"] = "float32",
        quantised: Mapping[str, QuantisedMatrix] | None = None,
        why: str = "asked for",
        exact: bool = True,
        graphs: Capture | None = None,
    ) -> None:
        """Compute in float32, or in bfloat16 where that is asked for and the device is fast at it.

        Matrices of 8 or 4 bits are taken at their values, which brings no speed here; `quantised`: what they are, where
        they were calibrated. why: this path was chosen. exact: be invariant, on a CPU. graphs: capture steps in which
        answers move forward by one token; not where the runner is invariant.
        """
        self._device = model.embedding.weight.device
        asked = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._dtype, self._precision, self._why = computed(asked, self._device), precision, why
        if precision in ("int8", "int4"):
            model = _dequantised(model, 8 if precision == "int8" else 4, quantised)
        self._model = _in_dtype(model, self._dtype)
        self.invariant = exact and self._device.type == "cpu"
        config = model.config
        self._shape = (config.kv_heads, BLOCK, config.head_dim)
        self.block_bytes = 2 * config.depth * int(np.prod(self._shape)) * self._dtype.itemsize
        self._keys = self._values = torch.empty(0)
        assert graphs is None or not self.invariant, "rows are padded as graphs need it, not as invariance does"
        self._turns: Mapping[Rope, Tensor] = {}
        self._graphs = None
        if graphs is not None:
            self._turns, sizes = self._model.turns(), (config.context, config.vocabulary)
            self._graphs = DecodeGraphs(self._decode, graphs, *sizes, self._dtype, self._device)
        self._adapters: dict[str, Adapter] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._named: list[str | None] = []

    def describe(self) -> str:
        """Which path this is."""
        how = f"{ROWS} rows at a time on one thread" if self.invariant else "rows in whatever shape comes"
        if self._graphs is not None:
            how += f", {self._graphs.describe()}"
        dtype = str(self._dtype).removeprefix("torch.")
        return f"plain: torch on {self._device.type}, {self._precision} computed in {dtype}, {how} ({self._why})"

    def reserve(self, blocks: int) -> None:
        """Make room; two blocks are spare: what pads a row reads the first and writes to the second."""
        self._spare = blocks
        shape = (self._model.config.depth, blocks + 2, *self._shape)
        self._keys, self._values = (_zeros(shape, self._dtype, self._device) for _ in range(2))

    @torch.inference_mode()
    def run(self, works: Sequence[Work]) -> Tensor:
        """See `Runner`."""
        try:
            with one_thread(self.invariant):
                found = list(self._by_row(works) if self.invariant else self._by_shape(works))
        finally:
            self._named = []  # the model's modules may run for others, too
        return torch.cat(found) if found else torch.empty(0, self._model.config.vocabulary, device=self._device)

    def _by_row(self, works: Sequence[Work]) -> Iterator[Tensor]:
        """Each token a row, in passes of `ROWS`; all keys of a pass are written before any is read."""
        tokens = [(work, index) for work in works for index in range(len(work.tokens))]
        for first in range(0, len(tokens), ROWS):
            part = tokens[first : first + ROWS]
            ids = [work.tokens[index] for work, index in part] + [0] * (ROWS - len(part))
            places = [work.start + index for work, index in part] + [0] * (ROWS - len(part))
            tables = [list(work.blocks) for work, _ in part] + [[self._spare + 1]] * (ROWS - len(part))
            self._named = [work.adapter for work, _ in part]
            hidden = self._pass(
                torch.tensor(ids)[:, None], torch.tensor(places)[:, None], tables, multiple=SEEN // BLOCK
            )[:, 0]
            kept = [row for row, (work, index) in enumerate(part) if index >= len(work.tokens) - work.wanted]
            if kept:
                yield self._model.logits(hidden).float()[kept]

    def _by_shape(self, works: Sequence[Work]) -> Iterator[Tensor]:
        """Prompts one by one; few tokens together with others of the same number."""
        results: dict[int, Tensor] = {}
        groups: dict[int, list[Work]] = {}
        for work in works:
            few = len(work.tokens) <= ROWS
            groups.setdefault(len(work.tokens) if few else -id(work), []).append(work)
        for group in groups.values():
            logits = self._by_graph(group)
            if logits is not None:
                results.update((id(work), row[None]) for work, row in zip(group, logits, strict=True))
                continue
            self._named = [work.adapter for work in group]
            tokens = torch.tensor([list(work.tokens) for work in group])
            places = torch.tensor([[work.start] for work in group]) + torch.arange(tokens.shape[1])
            hidden = self._pass(tokens, places, [work.blocks for work in group], multiple=1)
            for work, row in zip(group, hidden, strict=True):
                if work.wanted:
                    results[id(work)] = self._model.logits(row[-work.wanted :]).float()
        return (results[id(work)] for work in works if work.wanted)

    def _by_graph(self, works: Sequence[Work]) -> Tensor | None:
        """Logits (works, vocabulary); None where no graph does such a step."""
        if self._graphs is None or any(len(work.tokens) > 1 or work.adapter is not None for work in works):
            return None
        self._named = []
        return self._graphs.run(works, self._spare)

    def _decode(self, inputs: Tensor, logits: Tensor) -> None:
        """See `graphs.Step`."""
        hidden = self._hidden(inputs[:, :1], inputs[:, 1:2], inputs[:, 2:], self._turns)
        logits.copy_(self._model.logits(hidden[:, 0]))

    def _pass(self, tokens: Tensor, places: Tensor, tables: Sequence[Sequence[int]], multiple: int) -> Tensor:
        """tokens, places: (batch, time); returns (batch, time, width)."""
        needed = int(places.max()) // BLOCK + 1
        tokens, places = tokens.to(self._device), places.to(self._device)
        width = -(-needed // multiple) * multiple
        padded = [[*table[:width], *[self._spare] * (width - len(table))] for table in tables]
        return self._hidden(tokens, places, torch.tensor(padded, device=self._device))

    def _hidden(
        self, tokens: Tensor, places: Tensor, tables: Tensor, turns: Mapping[Rope, Tensor] | None = None
    ) -> Tensor:
        """tables: (batch, blocks that attention reads); all on the device. With `turns` the host waits for nothing."""
        block, offset = tables.gather(1, places // BLOCK), places % BLOCK
        seen = torch.arange(tables.shape[1] * BLOCK, device=self._device)
        mask = (seen <= places[:, :, None])[:, None]
        cache = [
            _Pages(keys, values, block, offset, tables) for keys, values in zip(self._keys, self._values, strict=True)
        ]
        return self._model.hidden(tokens, places, mask, cache, self._dtype, turns)

    @torch.inference_mode()
    def likelihoods(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """See `Runner`; what stands beside a sequence changes its figures by rounding alone."""
        rows = [torch.as_tensor(sequence, dtype=torch.int64) for sequence in sequences]
        # Attention is causal: what pads a row on the right changes nothing before it.
        tokens = nn.utils.rnn.pad_sequence([row[:-1] for row in rows], batch_first=True)
        hidden = self._model.hidden(tokens.to(self._device), dtype=self._dtype)
        kept = torch.cat([hidden[index, : len(row) - 1] for index, row in enumerate(rows)])
        targets = torch.cat([row[1:] for row in rows]).to(self._device)
        found = torch.empty(len(targets), device=self._device)
        for start in range(0, len(targets), LOGIT_ROWS):
            part = slice(start, start + LOGIT_ROWS)
            logits = self._model.logits(kept[part]).float()
            found[part] = logits.gather(-1, targets[part, None])[:, 0] - logits.logsumexp(-1)
        return list(torch.split(found.cpu(), [len(row) - 1 for row in rows]))

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        """See `Runner`."""
        modules = dict(self._model.named_modules())
        for place, change in adapter.changes.items():
            weight = getattr(modules.get(place), "weight", None)
            shape = None if weight is None else tuple(weight.shape)
            if not place.startswith("blocks.") or shape != (len(change.up), change.down.shape[1]):
                raise UserError(f"adapter {name!r}: {place} does not fit; the model's is {shape or 'not there'}")
        self._adapters[name] = adapter
        self._hook()

    def drop_adapter(self, name: str) -> None:
        """See `Runner`."""
        del self._adapters[name]
        self._hook()

    def _hook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        changed = {matrix for adapter in self._adapters.values() for matrix in adapter.changes}
        modules = dict(self._model.named_modules())
        self._hooks = [modules[matrix].register_forward_hook(self._change(matrix)) for matrix in sorted(changed)]

    def _change(self, matrix: str):  # type: ignore[no-untyped-def]
        changes: Mapping[str, LowRank] = {
            name: adapter.changes[matrix] for name, adapter in self._adapters.items() if matrix in adapter.changes
        }

        def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            for row, name in enumerate(self._named):
                change = changes.get(name or "")
                if change is not None:
                    down, up = change.down.to(output), change.up.to(output)
                    output[row] += inputs[0][row] @ down.T @ up.T
            return output

        return add


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # torch would write the zeros; the system has pages of them, and gives one where a block is first written.
    return torch.from_numpy(np.zeros((*shape[:-1], shape[-1] * dtype.itemsize), np.uint8)).view(dtype)


def _dequantised(model: Decoder, bits: Bits, quantised: Mapping[str, QuantisedMatrix] | None) -> Decoder:
    """A copy whose matrices have the values of so many bits; the embedding stays as it is."""
    copied = copy.deepcopy(model)
    if copied.head is None:
        copied.head = Linear(model.config.width, model.config.vocabulary).to(model.embedding.weight.device)
    with torch.no_grad():
        for name in quantised_names(model):
            weight = matrix(model, name)
            kept = round_to_nearest(weight, bits) if quantised is None else quantised[name]
            copied.get_submodule(name).weight.copy_(kept.dequantise())  # type: ignore[operator]
    return copied


def _in_dtype(model: Decoder, dtype: torch.dtype) -> Decoder:
    """The model with its matrices in `dtype`; norms stay in float32, as they are computed."""
    if dtype == torch.float32:
        return model
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data = parameter.data.to(dtype)
    return model
