"""How a model lies on the processes that train it.

    data      each process holds a slice of every parameter, and of what the optimizer keeps of it; a block's slices are
              put together right before it runs (FSDP, arXiv:2304.11277; ZeRO stage 3, arXiv:1910.02054)
    tensor    the matrices of a block are cut between processes that run it together: heads and hidden channels by
              rows, what leads back by columns (Megatron-LM, arXiv:1909.08053)

Whoever steps, averages or saves works on `Piece`s: plain tensors that are what lies here.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import checkpoint

from underlay.errors import UserError
from underlay.models.parts import MLP, Attention, Experts, GatedMLP
from underlay.train.config import TrainConfig
from underlay.train.world import World, alone


@dataclass(frozen=True)
class Piece:
    """What of a parameter lies in this process."""

    name: str
    parameter: nn.Parameter
    local: nn.Parameter
    """A plain tensor that shares its memory: all of it where the parameter is not spread."""

    @property
    def spread(self) -> bool:
        """Whether other parts lie elsewhere."""
        return isinstance(self.parameter, DTensor)

    @property
    def dims(self) -> dict[str, int]:
        """Along which of its axes it is cut, by the name of the axis of processes."""
        if not isinstance(self.parameter, DTensor):
            return {}
        names = self.parameter.device_mesh.mesh_dim_names or ()
        return {
            name: placement.dim
            for name, placement in zip(names, self.parameter.placements, strict=True)
            if isinstance(placement, Shard) or hasattr(placement, "dim")
        }

    def gradient(self) -> Tensor | None:
        """This piece's."""
        gradient = self.parameter.grad
        return None if gradient is None else here(gradient)

    def named(self, local: Tensor) -> Tensor:
        """A tensor that lies here as the parameter does, seen as a part of its whole."""
        parameter = self.parameter
        if not isinstance(parameter, DTensor):
            return local
        return DTensor.from_local(
            local, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
        )


class Spread:
    """A model, laid out over the processes of a world."""

    def __init__(self, model: nn.Module, config: TrainConfig | None = None, world: World | None = None) -> None:
        """Move the model to where it trains, and leave of it there what this process is to hold.

        By default it stays whole, in a world of one. In others the weights are those of the leading process, whatever
        the model holds elsewhere: it may be on torch's meta device there. Raises UserError where it cannot be cut so.
        """
        config, world = config or TrainConfig(steps=1), world or alone()
        self.model, self.world = model, world
        if world.size % config.tensor_parallel:
            raise UserError(
                f"train.tensor_parallel {config.tensor_parallel} does not divide the {world.size} processes of this run"
            )
        self.replicas = world.size // config.tensor_parallel
        """Groups of processes that read different rows."""
        self.replica = world.rank // config.tensor_parallel
        """The one that this process is in."""
        if config.batch_rows % self.replicas:
            raise UserError(f"train.batch_rows {config.batch_rows} cannot be shared out evenly among {self.replicas}")
        if config.recompute:
            for block in blocks(model):
                _recompute(block)
        self.mesh: DeviceMesh | None = None
        partial: set[str] = set()
        if world.size == 1:
            model.to(world.device)
        else:
            first = dict(model.state_dict()) if world.leads else {}
            model.to("meta")
            shape = (self.replicas, config.tensor_parallel)
            self.mesh = init_device_mesh(world.device.type, shape, mesh_dim_names=("data", "tensor"))
            if config.tensor_parallel > 1:
                met = {id(p) for block in blocks(model) for p in _cut(block, self.mesh["tensor"])}
                partial = {name for name, p in model.named_parameters() if id(p) in met}
            _shard(model, self.mesh["data"], config)
            model.to_empty(device=world.device)
            # Nowhere but in the first process's memory is the model ever whole.
            options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
            set_model_state_dict(model, first, options=options)
        self.pieces = [
            Piece(name, p, nn.Parameter(here(p)) if isinstance(p, DTensor) else p)
            for name, p in model.named_parameters()
            if p.requires_grad
        ]
        self._partial = [piece for piece in self.pieces if piece.name in partial]

    def sums(self, tensor: Tensor) -> Tensor:
        """The sum over all rows of a step of what was summed over this process's."""
        if self.mesh is not None:
            dist.all_reduce(tensor, group=self.mesh["data"].get_group())
        return tensor

    def scale(self, count: Tensor, longest: float) -> Tensor:
        """Divide all gradients, sums over rows, by `count`, and shorten them together to at most `longest`.

        Returns their norm before that, the root of the sum of all squares; a scalar on the device.
        """
        for piece in self._partial:
            gradient = piece.gradient()
            if gradient is not None and self.mesh is not None:
                dist.all_reduce(gradient, group=self.mesh["tensor"].get_group())
        by_dims: dict[tuple[str, ...], list[Tensor]] = {}
        for piece in self.pieces:
            gradient = piece.gradient()
            if gradient is not None:
                by_dims.setdefault(tuple(sorted(piece.dims)), []).append(gradient)
        norms = []
        for dims, gradients in by_dims.items():
            torch._foreach_div_(gradients, count)
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            if self.mesh is not None:
                norm = norm.square()
                for dim in dims:
                    dist.all_reduce(norm, group=self.mesh[dim].get_group())
                norm = norm.sqrt()
            norms.append(norm)
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        factor = torch.clamp(longest / (norm + 1e-6), max=1.0)
        for gradients in by_dims.values():
            torch._foreach_mul_(gradients, factor)
        return norm

    def gathered(self, stack: Tensor, like: Piece) -> Tensor:
        """Whole matrices from everybody's pieces, each in one process of the data axis.

        stack: (count, *piece), of parameters that lie as `like` does; returns (mine, *whole).
        """
        if self.mesh is None:
            return stack
        group, counts, rows = self._shares(stack, like)
        mine, tail = counts[self.replica], stack.shape[2:]
        row = tail.numel()
        sent = [count * stack.shape[1] * row for count in counts]
        received = [mine * size * row for size in rows]
        flat = stack.new_empty(sum(received))
        dist.all_to_all_single(flat, stack.contiguous().flatten(), received, sent, group=group)
        parts = [part.view(mine, size, *tail) for part, size in zip(torch.split(flat, received), rows, strict=True)]
        whole = torch.cat(parts, dim=1)
        if "tensor" in like.dims:
            others = [torch.empty_like(whole) for _ in range(self.mesh["tensor"].size())]
            dist.all_gather(others, whole, group=self.mesh["tensor"].get_group())
            whole = torch.cat(others, dim=1 + like.dims["tensor"])
        return whole

    def scattered(self, whole: Tensor, stack: Tensor, like: Piece) -> Tensor:
        """The way back of `gathered`: (mine, *whole) to the shape of `stack`, everybody's pieces."""
        if self.mesh is None:
            return whole
        if "tensor" in like.dims:
            tensor = self.mesh["tensor"]
            whole = whole.chunk(tensor.size(), dim=1 + like.dims["tensor"])[tensor.get_local_rank()]
        group, counts, rows = self._shares(stack, like)
        mine, tail = counts[self.replica], stack.shape[2:]
        row = tail.numel()
        sent = [mine * size * row for size in rows]
        received = [count * stack.shape[1] * row for count in counts]
        parts = [part.contiguous().flatten() for part in torch.split(whole, rows, dim=1)]
        flat = whole.new_empty(sum(received))
        dist.all_to_all_single(flat, torch.cat(parts), received, sent, group=group)
        return flat.view(stack.shape)

    def _shares(self, stack: Tensor, like: Piece) -> tuple[dist.ProcessGroup, list[int], list[int]]:
        """The data axis; how many whole matrices each of it makes; how many rows of each it holds."""
        assert self.mesh is not None
        length = like.parameter.shape[0]
        if like.dims.get("tensor") == 0:
            length //= self.mesh["tensor"].size()
        return self.mesh["data"].get_group(), _chunks(len(stack), self.replicas), _chunks(length, self.replicas)

    def taken_apart(self) -> None:
        """Have nothing of the model put together any more, after it was run without a backward pass."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def whole(self) -> dict[str, Tensor]:
        """All weights and buffers, in the memory of the leading process; nothing in the others.

        Where nothing is spread, they are the model's own.
        """
        if self.mesh is None:
            self.model.to("cpu")
            return self.model.state_dict()
        found = {}
        for name, tensor in self.model.state_dict().items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.world.leads:
                found[name] = full.cpu()
        return found


def here(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process; it shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def blocks(model: nn.Module) -> list[nn.Module]:
    """What a model repeats, one after the other."""
    return [block for module in model.modules() if isinstance(module, nn.ModuleList) for block in module]


def _recompute(block: nn.Module) -> None:
    """Keep of a block only what goes in, and run it again in the backward pass (arXiv:1604.06174)."""
    forward = block.forward
    block.forward = lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _shard(model: nn.Module, mesh: DeviceMesh, config: TrainConfig) -> None:
    """Slice every block, then what is left, over the data axis; gradients are summed, not averaged."""
    precision = MixedPrecisionPolicy(param_dtype=config.dtype(), reduce_dtype=torch.float32)
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=precision)
    # What is outside the blocks is read by several methods, so it stays whole from one to the other.
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))
    register_fsdp_forward_method(model, "hidden")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _cut(block: nn.Module, mesh: DeviceMesh) -> list[nn.Parameter]:
    """Cut a block's matrices between the processes of a tensor group.

    Returns the parameters that each of them meets only a part of the work with. Raises UserError where it cannot be.
    """
    plan: dict[str, ColwiseParallel | RowwiseParallel] = {}
    partial: list[nn.Parameter] = []
    size = mesh.size()
    for name, module in block.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, Experts):
            raise UserError("train.tensor_parallel: not for mixtures of experts; they are spread over the data axis")
        if isinstance(module, Attention):
            if module.heads % size or module.kv_heads % size:
                raise UserError(
                    f"train.tensor_parallel {size} divides not both {module.heads} heads and {module.kv_heads} "
                    "key-value heads"
                )
            for norm in (module.query_norm, module.key_norm):
                if norm is not None and norm.width != module.head_dim:
                    raise UserError("train.tensor_parallel: not where queries are normalised over all heads at once")
                partial += [] if norm is None else list(norm.parameters())
            plan |= {f"{prefix}{part}": ColwiseParallel() for part in ("query", "key", "value")}
            plan[f"{prefix}output"] = RowwiseParallel()
        if isinstance(module, MLP | GatedMLP):
            if module.up.out_features % size:
                raise UserError(
                    f"train.tensor_parallel {size} does not divide {module.up.out_features} hidden channels"
                )
            plan |= {f"{prefix}{part}": ColwiseParallel() for part in ("gate", "up") if hasattr(module, part)}
            plan[f"{prefix}down"] = RowwiseParallel()
    parallelize_module(block, mesh, plan)  # type: ignore[arg-type]
    return partial


def _chunks(length: int, parts: int) -> list[int]:
    """How `torch.chunk`, and so FSDP, cuts an axis; parts at the end may be shorter, or empty."""
    size = -(-length // parts)
    return [max(0, min(size, length - part * size)) for part in range(parts)]
