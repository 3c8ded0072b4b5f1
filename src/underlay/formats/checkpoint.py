"""A stranger's weights, in one file or in shards: names, shapes and dtypes at once, data when asked.

The index beside shards (`model.safetensors.index.json`) is believed in nothing: each name it gives must be a plain file
name, and it must agree with the shards' own headers. Pickled weights are refused, for a pickle can run code.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from underlay.errors import MachineError, UserError
from underlay.formats.safetensors import Header, Place, read_header, read_tensors
from underlay.formats.untrusted import open_plain, parse_json, read_exactly, shown, size_of

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_ENDING, _INDEX_ENDING = ".safetensors", ".safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_LONGEST_INDEX = 1 << 25
_MOST_LISTED = 1 << 19


@dataclass(frozen=True)
class Checkpoint:
    """Weights on disk whose headers have been read and agree."""

    path: Path
    """What was opened, for messages."""
    shards: Mapping[Path, Header]

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Open a folder with `model.safetensors` or an index and its shards, one .safetensors file, or an index.

        Reads headers only. Raises UserError where a shard or a tensor is missing, listed nowhere or there twice, where
        a header breaks the format, or where there are only pickled weights; MachineError where the machine cannot read.
        """
        if path.is_dir():
            path = _choose(path)
        if path.name.endswith(_INDEX_ENDING):
            return cls(path, _shards(path))
        if path.suffix in _PICKLED:
            raise UserError(_pickled(path, [path.name]))
        return cls(path, {path: read_header(path)})

    @property
    def names(self) -> list[str]:
        """All tensors, shard by shard, in the order of the data."""
        return [name for header in self.shards.values() for name in header.tensors]

    @property
    def places(self) -> dict[str, Place]:
        """Shape, dtype and place of each tensor."""
        return {name: place for header in self.shards.values() for name, place in header.tensors.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor."""
        return {name: place.shape for name, place in self.places.items()}

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Dtype of each tensor."""
        return {name: place.dtype for name, place in self.places.items()}

    def tensors(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Read tensors one at a time, shard by shard; all, or those in `names`. Each is fresh memory on the CPU.

        Raises UserError where a name is not there, or a file changed since it was opened.
        """
        wanted = None if names is None else set(names)
        missing = sorted((wanted or set()) - set(self.names))
        if missing:
            raise UserError(f"{self.path}: no tensor {_list(missing)}")
        for path, header in self.shards.items():
            if wanted is None or wanted & header.tensors.keys():
                yield from read_tensors(path, header, wanted)

    def tensor(self, name: str) -> Tensor:
        """Read one tensor. Raises UserError where it is not there."""
        return next(iter(self.tensors([name])))[1]


def _choose(folder: Path) -> Path:
    try:
        there = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise MachineError(f"{folder}: cannot be read: {error.strerror}") from error
    found = [name for name in (SINGLE, INDEX) if name in there]
    if len(found) == 1:
        return folder / found[0]
    if found:
        raise UserError(f"{folder}: has {SINGLE} and {INDEX}; give the path of the one that is meant")
    others = [name for name in there if name.endswith((_ENDING, _INDEX_ENDING))]
    if others:
        raise UserError(f"{folder}: no {SINGLE}; give the path of the one that is meant: {_list(others)}")
    pickled = [name for name in there if name.endswith(_PICKLED)]
    raise UserError(_pickled(folder, pickled) if pickled else f"{folder}: no {SINGLE} and no {INDEX}")


def _pickled(path: Path, names: list[str]) -> str:
    reason = "pickled weights, and a pickle can run any code when it is read"
    return f"{path}: {_list(names)}: {reason}; save them as safetensors with the tool they came from"


def _shards(index: Path) -> dict[Path, Header]:
    listed = _weight_map(index)
    headers: dict[Path, Header] = {}
    for file in sorted(set(listed.values())):
        shard = index.parent / file
        if not shard.exists():
            raise UserError(f"{index}: shard {file} is missing; download it too")
        headers[shard] = read_header(shard)
    holders: dict[str, str] = {}
    for shard, header in headers.items():
        for name in header.tensors:
            if name in holders:
                raise UserError(f"{index}: tensor {shown(name)} is in two shards, {holders[name]} and {shard.name}")
            holders[name] = shard.name
    for name, file in listed.items():
        if holders.get(name) != file:
            fault = f"it is in {holders[name]}" if name in holders else "it is in no shard"
            raise UserError(f"{index}: tensor {shown(name)} is listed in {file}, but {fault}")
    unlisted = sorted(holders.keys() - listed.keys())
    if unlisted:
        raise UserError(f"{index}: shards hold what is not listed: {_list(unlisted)}")
    return headers


def _weight_map(index: Path) -> dict[str, str]:
    with open_plain(index) as file:
        size = size_of(file)
        if size > _LONGEST_INDEX:
            raise UserError(f"{index}: {size} bytes are more than an index can have ({_LONGEST_INDEX})")
        values = parse_json(read_exactly(file, size, index), str(index), depth=8, values=_MOST_LISTED)
    listed = values.get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{index}: weight_map must map tensors to files, is {shown(listed)}")
    for name, shard in listed.items():
        if not isinstance(shard, str) or not _plain(shard):
            raise UserError(f"{index}: tensor {shown(name)}: {shown(shard)} is no plain name of a .safetensors file")
    return listed


def _plain(name: str) -> bool:
    return name.endswith(_ENDING) and name != _ENDING and not set(name) & set("/\\:\0\n\r") and name.isprintable()


def _list(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(shown(name) for name in names[:3]) + more
