"""Rounding that knows what a matrix is multiplied with: GPTQ (arXiv:2210.17323).

A matrix W need not stay near itself; its products with what really comes in, X, must. So the error that counts is
tr((W - Q) H (W - Q)') with H = X'X, summed over the tokens of some real text. Columns of W (inputs) are rounded one
after the other, those that matter most first, and those still to come are changed so that they make up for the error:

    e = (w_i - round(w_i)) / U_ii;    w_j = w_j - e U_ij  for all j > i,    with U'U the inverse of H   (equations 2, 3)

Scales are those of the matrix as it was, but chosen by the error of each weight times its input's mean square. A little
is added to the diagonal of H, so that an input that is never there does no harm.

Matrices are taken in the order they are used, each with what comes in once all those before it are rounded.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from underlay.errors import UserError
from underlay.models import Decoder
from underlay.models.quantised import (
    HEAD,
    Bits,
    QuantisedMatrix,
    best_scales,
    levels,
    matrix,
    quantised_names,
    round_to_nearest,
)
from underlay.progress import Progress, silent

DAMPING = 0.01
"""Added to the diagonal of H, as a share of its mean."""
_AT_ONCE = 128
"""Columns whose errors are handed on to all the others in one product."""


@torch.no_grad()
def calibrate(
    model: Decoder, texts: Iterable[Sequence[int]], bits: Bits, progress: Progress = silent
) -> dict[str, QuantisedMatrix]:
    """Quantise a model's matrices, so that what they give for real texts changes least; by `quantised_names`.

    texts: token ids, each text at most as long as the context; a hundred of some hundred tokens will do. Takes the
    memory of a copy of the model, of one state a token, and of one H. Raises UserError where there is no text, or a
    matrix holds NaN or infinity.
    """
    rounded, names = copy.deepcopy(model).eval(), quantised_names(model)
    rows = _rows(rounded, [torch.tensor([list(text)]) for text in texts if len(text)])
    found: dict[str, QuantisedMatrix] = {}
    for index, block in enumerate(rounded.blocks):
        name_of = {rounded.get_submodule(name): name for name in names if name.startswith(f"blocks.{index}.")}
        for group in _groups(block, index, rows[0], list(name_of)):
            hessian = sum_of_squares(_inputs(block, index, rows, group[0]))
            for module in group:
                name = name_of[module]
                found[name] = gptq(matrix(rounded, name), hessian, bits)
                matrix(rounded, name).copy_(found[name].dequantise())
                progress(len(found), len(names))
        for row in rows:
            row.state = row.through(block, index)
    found[HEAD] = gptq(matrix(rounded, HEAD), sum_of_squares(rounded.norm(row.state) for row in rows), bits)
    progress(len(found), len(names))
    return {name: found[name] for name in names}


def gptq(weight: Tensor, hessian: Tensor, bits: Bits) -> QuantisedMatrix:
    """Quantise a matrix (outputs, inputs) for inputs whose products, summed, are `hessian` (inputs, inputs)."""
    plain, damped = round_to_nearest(weight, bits), _damped(hessian)
    bits, order = plain.bits, damped.diagonal().argsort(descending=True, stable=True)
    scales = best_scales(weight.float(), bits, damped.diagonal().float())
    each = scales.repeat_interleave(weight.shape[1] // scales.shape[1], 1).T[order]
    # On its side, so that a column lies together.
    columns, factor = weight.float().T[order], _factor(damped[order][:, order]).float()
    values = torch.empty_like(columns)
    for first in range(0, len(columns), _AT_ONCE):
        last = min(first + _AT_ONCE, len(columns))
        errors = torch.empty_like(columns[first:last])
        for i in range(first, last):
            values[i] = levels(columns[i], each[i], bits)
            error = (columns[i] - values[i] * each[i]).div_(factor[i, i])
            columns[i + 1 : last].addr_(factor[i, i + 1 : last], error, alpha=-1)
            errors[i - first] = error
        columns[last:].addmm_(factor[first:last, last:].T, errors, alpha=-1)
    made = QuantisedMatrix(bits, values[order.argsort()].T.to(torch.int8).contiguous(), scales)
    # Greedy as it is, it can lose to plain rounding; hardly ever.
    return min(made, plain, key=lambda one: output_error(weight, one, hessian))


def output_error(weight: Tensor, rounded: QuantisedMatrix, hessian: Tensor) -> float:
    """The squared error of a matrix's products, summed over outputs and over the tokens that are in `hessian`."""
    gap = weight.double() - rounded.dequantise().double()
    return float(((gap @ hessian) * gap).sum())


def sum_of_squares(inputs: Iterable[Tensor]) -> Tensor:
    """X'X, summed over inputs (..., width): (width, width) float64."""
    total: Tensor | None = None
    for rows in inputs:
        flat = rows.flatten(0, -2)
        square = (flat.T @ flat).double()
        total = square if total is None else total.add_(square)
    assert total is not None
    return total


def _damped(hessian: Tensor) -> Tensor:
    """H with something on its diagonal also for inputs that are never there, so that it has an inverse."""
    mean = float(hessian.diagonal().mean()) or 1.0
    return hessian + DAMPING * mean * torch.eye(len(hessian), dtype=hessian.dtype)


def _factor(hessian: Tensor) -> Tensor:
    """U, upper triangular, with U'U the inverse of H."""
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)


@dataclass
class _Row:
    """A text on its way through the blocks."""

    state: Tensor
    """What the next block reads: (1, time, width)."""
    beside: Sequence[tuple[Any, ...]]
    """What else each block is given: rotations and masks."""

    def through(self, block: nn.Module, index: int) -> Tensor:
        """What a block makes of it: (1, time, width)."""
        return block(self.state, *self.beside[index])


def _rows(model: Decoder, texts: Sequence[Tensor]) -> list[_Row]:
    """Texts (1, time) int64 as they come to the first block."""
    if not texts:
        raise UserError("there is no text to calibrate with; name a corpus or a dataset that has some")
    rows: list[_Row] = []
    beside: dict[int, Sequence[tuple[Any, ...]]] = {}  # the same for texts of one length
    for tokens in texts:
        with _watching(model.blocks) as calls:
            model.hidden(tokens)
        first, others = calls[0][1][0], [given[1:] for _, given in calls]
        rows.append(_Row(first, beside.setdefault(tokens.shape[1], others)))
    return rows


def _groups(block: nn.Module, index: int, row: _Row, modules: Sequence[nn.Module]) -> list[list[nn.Module]]:
    """A block's matrices in the order they are used, those together that are given the same."""
    with _watching(modules) as calls:
        row.through(block, index)
    groups: dict[int, list[nn.Module]] = {}
    for module, given in calls:
        groups.setdefault(id(given[0]), []).append(module)
    return list(groups.values())


def _inputs(block: nn.Module, index: int, rows: Sequence[_Row], module: nn.Module) -> Iterator[Tensor]:
    """What comes into a matrix of a block, row by row: (1, time, inputs)."""
    for row in rows:
        with _watching([module]) as calls:
            row.through(block, index)
        yield from (given[0] for _, given in calls)


@contextmanager
def _watching(modules: Iterable[nn.Module]) -> Iterator[list[tuple[nn.Module, tuple[Any, ...]]]]:
    """A list of the calls of modules, as they come: which module, and what it is given."""
    calls: list[tuple[nn.Module, tuple[Any, ...]]] = []
    handles = [
        module.register_forward_pre_hook(lambda module, given: calls.append((module, given))) for module in modules
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
