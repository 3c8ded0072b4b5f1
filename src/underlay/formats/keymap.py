"""Key maps: which tensors of another tool's file are which of ours, written down once and read both ways.

A map is a tuple of rows. Most say that one tensor is another; some that it is stored on its side, or several in one.
`{layer}` and `{expert}` stand for every number there is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from underlay.errors import UserError
from underlay.formats.checkpoint import Checkpoint

Tensors = list[Tensor]


@dataclass(frozen=True)
class Row:
    """Some of our tensors, theirs that hold the same numbers, and how to get from one to the other and back."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    read: Callable[[Tensors], Tensors] = list
    """Theirs to ours."""
    write: Callable[[Tensors], Tensors] = list
    """Ours to theirs."""


def same(ours: str, theirs: str, *parts: str) -> tuple[Row, ...]:
    """One tensor, under another name; with `parts`, such as weight and bias, one each."""
    if not parts:
        return (Row((ours,), (theirs,)),)
    return tuple(Row((f"{ours}.{part}",), (f"{theirs}.{part}",)) for part in parts)


def transposed(ours: str, theirs: str) -> Row:
    """A matrix that they store on its side, (inputs, outputs)."""
    return Row((ours,), (theirs,), _on_side, _on_side)


def fused(ours: Sequence[str], theirs: str, sideways: bool = False) -> Row:
    """Equal parts of ours in one of theirs: one above the other or, on its side, one beside the other."""

    def read(tensors: Tensors) -> Tensors:
        whole = tensors[0].t() if sideways else tensors[0]
        return [part.contiguous() for part in whole.chunk(len(ours))]

    def write(tensors: Tensors) -> Tensors:
        whole = torch.cat(tensors)
        return _on_side([whole]) if sideways else [whole]

    return Row(tuple(ours), (theirs,), read, write)


def stacked(ours: str, theirs: str) -> Row:
    """One of ours that holds, behind each other, theirs for every `{expert}`."""
    return Row((ours,), (theirs,), lambda tensors: [torch.stack(tensors)], lambda tensors: list(tensors[0].unbind()))


def moved(ours: str, theirs: str, rows: int) -> Row:
    """A table that begins with so many more rows on their side, of which nothing is used; fewer where negative."""

    def fewer(tensor: Tensor, by: int) -> Tensor:
        return tensor[by:] if by >= 0 else torch.cat((tensor.new_zeros(-by, *tensor.shape[1:]), tensor))

    return Row(
        (ours,),
        (theirs,),
        lambda tensors: [fewer(tensors[0], rows).contiguous()],
        lambda tensors: [fewer(tensors[0], -rows).contiguous()],
    )


def _on_side(tensors: Tensors) -> Tensors:
    return [tensor.t().contiguous() for tensor in tensors]


def spelled_out(rows: Iterable[Row], wanted: Iterable[str], depth: int, experts: int = 0) -> list[Row]:
    """The rows for each layer and expert, as far as our model has their tensors (`wanted`: their names)."""
    there, found = set(wanted), []
    for row in rows:
        layered = any("{layer}" in name for name in row.ours)
        for layer in range(depth) if layered else (0,):
            ours = tuple(name.replace("{layer}", str(layer)) for name in row.ours)
            theirs = [name.replace("{layer}", str(layer)) for name in row.theirs]
            if there.issuperset(ours):
                found.append(Row(ours, tuple(_experts(theirs, experts)), row.read, row.write))
    left = there - {name for row in found for name in row.ours}
    assert not left, f"no row for {sorted(left)}"
    return found


def _experts(names: Iterable[str], experts: int) -> Iterator[str]:
    for name in names:
        yield from (
            (name.replace("{expert}", str(number)) for number in range(experts)) if "{expert}" in name else (name,)
        )


def read_in(
    checkpoint: Checkpoint, names: Mapping[str, str], rows: Sequence[Row], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """Our tensors out of a checkpoint, one after the other, in the order of its data.

    names: what each tensor of the checkpoint is called in the rows; shapes: what ours must have. Raises UserError,
    before anything is read, where a tensor is missing or has another shape than the config says.
    """
    found = {name: called for called, name in names.items()}
    absent = [name for row in rows for name in row.theirs if name not in found]
    if absent:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise UserError(f"{checkpoint.path}: tensor {absent[0]} is missing{more}; is the download complete?")
    have = checkpoint.shapes
    for row in rows:
        # Shapes are compared on their side of the map, where the user can look them up.
        wanted = row.write([torch.empty(shapes[ours], device="meta") for ours in row.ours])
        for part, tensor in zip(row.theirs, wanted, strict=True):
            if have[found[part]] != tuple(tensor.shape):
                raise UserError(
                    f"{checkpoint.path}: tensor {found[part]} is {have[found[part]]}, "
                    f"the config says {tuple(tensor.shape)}"
                )
    row_of = {name: row for row in rows for name in row.theirs}
    waiting: dict[str, Tensor] = {}
    for called, tensor in checkpoint.tensors([found[name] for name in row_of]):
        name = names[called]
        waiting[name] = tensor
        row = row_of[name]
        if not all(part in waiting for part in row.theirs):
            continue
        yield from zip(row.ours, row.read([waiting.pop(part) for part in row.theirs]), strict=True)


def written_out(rows: Sequence[Row], tensors: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Their tensors, by name, from ours, which are asked for by name."""
    for row in rows:
        yield from zip(row.theirs, row.write([tensors(name) for name in row.ours]), strict=True)
