"""Low-rank adaptation: a few matrices learn small changes, the model stands still (LoRA, arXiv:2106.09685).

What learns is a hundredth of the model, so gradients, the optimizer's memory and checkpoints are small, and many
adapters serve over one model. The frozen weights are kept in the dtype they are computed in: nothing is cast at every
step, and they take half the memory in bfloat16.
"""

import copy
import hashlib
import math
from collections.abc import Collection, Iterator
from typing import Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from underlay.adapt.new_tokens import rows_of
from underlay.config import Config
from underlay.errors import UserError
from underlay.models import Decoder, Encoder, Model
from underlay.models.adapter import Adapter, LowRank, check
from underlay.models.nf4 import to_nf4
from underlay.models.parts import Embedding, Linear, LoraLinear, computed
from underlay.models.parts.lora import Packed
from underlay.models.quantised import round_to_nearest

M = TypeVar("M", Decoder, Encoder)
Target = Literal["query", "key", "value", "output", "gate", "up", "down"]
TARGETS: tuple[Target, ...] = ("query", "key", "value", "output", "gate", "up", "down")


class LoraConfig(Config):
    """Which matrices change, and how much they can."""

    rank: int = Field(default=16, gt=0)
    """Of each change: its thin matrices have so many rows, or columns."""
    alpha: float | None = Field(default=None, gt=0)
    """The change is multiplied by alpha / rank; by default 2."""
    rooted: bool = False
    """Divide alpha by the root of the rank instead, so that high ranks learn as fast (rsLoRA, arXiv:2312.03732)."""
    targets: tuple[Target, ...] = TARGETS
    """Matrices of each block that change; by default all of them."""
    base: Literal["float", "int8", "nf4"] = "float"
    """What those matrices are kept in while their changes learn: as they are computed, in 8 bits, or in 4 (QLoRA,
    arXiv:2305.14314), for models that would not fit into memory otherwise; every step makes them again."""

    @property
    def scale(self) -> float:
        """What a change is multiplied by."""
        alpha = 2.0 * self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.rooted else self.rank)


def attach(
    model: Decoder | Encoder,
    config: LoraConfig,
    seed: int,
    dtype: torch.dtype = torch.float32,
    start: Adapter | None = None,
    learning: Collection[str] = (),
) -> None:
    """Freeze a model, in `dtype`, and give its matrices changes that learn; so do parameters named in `learning`.

    `start`: an adapter to go on from, whose ranks are then kept. Raises UserError where the model has no matrix that is
    meant, or the adapter is of another model.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)
    if start is not None:
        check(start, model)
    found = dict(_targets(model, config, start))
    if not found:
        raise UserError(f"lora.targets: a {model.config.family} has none of {', '.join(config.targets)} in its blocks")
    for name, linear in found.items():
        parent, _, last = name.rpartition(".")
        if start is None:
            lora = LoraLinear(linear, config.rank, config.scale)
            lora.draw(torch.Generator().manual_seed(_seed(seed, name)))
        else:
            change = start.changes[name]
            lora = LoraLinear(linear, len(change.down), config.scale)
            with torch.no_grad():
                lora.lora_a.copy_(change.down)
                lora.lora_b.copy_(change.up / config.scale)
        if config.base != "float":
            lora.pack(packed(lora.weight, config.base))
        setattr(model.get_submodule(parent), last, lora)
    hold(model, dtype)


def packed(weight: Tensor, base: Literal["int8", "nf4"]) -> Packed:
    """A matrix in fewer bits. Raises UserError where it holds NaN or infinity."""
    return to_nf4(weight) if base == "nf4" else round_to_nearest(weight.detach().float(), 8)


def as_kept(model: M, config: LoraConfig) -> M:
    """A copy of a model whose matrices are what the changes learned upon: rounded, where its base was kept so."""
    kept = copy.deepcopy(model)
    if config.base != "float":
        with torch.no_grad():
            for _, linear in _targets(kept, config, None):
                linear.weight.copy_(packed(linear.weight, config.base).dequantise())
    return kept


def hold(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep frozen matrices, and embeddings, in the dtype that they are computed in."""
    for module in model.modules():
        if isinstance(module, Linear | Embedding) and not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(computed(dtype, module.weight.device))


def adapter_of(model: Model) -> Adapter:
    """What the changes of a model have learned; on the CPU."""
    return Adapter(
        {
            name: LowRank(module.lora_a.detach().cpu().clone(), (module.scale * module.lora_b.detach()).cpu())
            for name, module in model.named_modules()
            if isinstance(module, LoraLinear)
        },
        rows_of(model),
    )


def folded(model: nn.Module, base: nn.Module) -> dict[str, Tensor]:
    """All weights of an adapted model as one without changes: added, in float32, to those of its base.

    What `base` has not, such as a head for a task, is what was learned.
    """
    plain = {name: parameter.detach() for name, parameter in model.named_parameters() if ".lora_" not in name}
    old = dict(base.named_parameters())
    state = {
        name: old[name].detach() if name in old and not parameter.requires_grad else plain[name].float().cpu()
        for name, parameter in model.named_parameters()
        if ".lora_" not in name
    }
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            state[f"{name}.weight"] = state[f"{name}.weight"] + module.change().cpu()
    return state


def _targets(model: Decoder | Encoder, config: LoraConfig, start: Adapter | None) -> Iterator[tuple[str, Linear]]:
    for name, module in model.named_modules():
        if not isinstance(module, Linear):
            continue
        meant = name.startswith("blocks.") and name.rpartition(".")[2] in config.targets
        if name in start.changes if start is not None else meant:
            yield name, module


def _seed(seed: int, name: str) -> int:
    """Of one matrix: which others change must not matter."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little") >> 1
