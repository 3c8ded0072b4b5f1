"""What training a decoder takes on GPUs: memory in each of them, and time, by formula. Nothing here is measured.

Memory follows what `underlay.train` keeps where parameters are sliced over the data axis (FSDP, arXiv:2304.11277):

    in slices       weights, gradients, optimizer: float32
    whole           two blocks in bfloat16, the one that runs and the next; embeddings and head, with their gradient
    for each row    what blocks keep for the backward pass: 34 bytes a channel and position, or 2 where they are run
                    again (Korthikanti et al., arXiv:2205.05198, sections 4 and 5, without scores, which fused attention
                    does not keep)

Time is that of the arithmetic (`plan.flops`) at a share of the GPU's rate, or that of the traffic where that is longer:
both go on at once. For each pass of rows every process receives the weights twice in bfloat16 and gives away one
gradient in float32, 8 bytes a parameter; in a tensor group also four activations a block (arXiv:1909.08053).
"""

from dataclasses import dataclass
from typing import Literal

import torch

from underlay.errors import UserError
from underlay.models.config import TextConfig
from underlay.models.families import blank, count
from underlay.models.parts.loss import CHUNK_BYTES
from underlay.plan.flops import training_flops

GpuName = Literal["a100", "h100", "h200", "b200"]
OF_PEAK = 0.4
"""Share of a GPU's rate that training is taken to reach: published runs of this kind reach 0.33 to 0.46."""
HOST = 8
"""GPUs of a host, which its fast links join."""
TOKENS_EACH = 20
"""Tokens a parameter where nothing else is said (Chinchilla, arXiv:2203.15556)."""


@dataclass(frozen=True)
class Gpu:
    """What its maker says of it."""

    flops: float
    """Dense bfloat16 products, FLOP/s."""
    memory: float
    """Bytes."""
    link: float
    """To others of its host, bytes/s in one direction."""
    network: float = 50e9
    """To other hosts, bytes/s in one direction: 400 Gbit/s a GPU."""


GPUS: dict[GpuName, Gpu] = {
    "a100": Gpu(312e12, 80e9, 300e9, 25e9),
    "h100": Gpu(989e12, 80e9, 450e9),
    "h200": Gpu(989e12, 141e9, 450e9),
    "b200": Gpu(2250e12, 180e9, 900e9),
}
"""By the makers' data sheets."""


@dataclass(frozen=True)
class Layout:
    """How a run is laid out."""

    gpus: int
    """Processes, each with a GPU of its own."""
    batch_rows: int
    """Rows in a step."""
    context: int
    """Tokens in a row."""
    micro_rows: int = 1
    """Rows at once."""
    tensor_parallel: int = 1
    recompute: bool = False
    muon: bool = True


@dataclass(frozen=True)
class Estimate:
    """What a run comes to."""

    parameters: int
    sliced_bytes: float
    """In each GPU: weights, gradients and optimizer."""
    whole_bytes: float
    """In each GPU: what is put together for a moment, and the logits."""
    row_bytes: float
    """In each GPU: what its rows keep for the backward pass."""
    work_seconds: float
    """Arithmetic of a step."""
    traffic_seconds: float
    """Traffic of a step."""
    step_tokens: int
    tokens: float
    """Of the whole run."""

    @property
    def bytes(self) -> float:
        """In each GPU, all together."""
        return self.sliced_bytes + self.whole_bytes + self.row_bytes

    @property
    def tokens_per_second(self) -> float:
        """Of all GPUs together."""
        return self.step_tokens / max(self.work_seconds, self.traffic_seconds)

    @property
    def seconds(self) -> float:
        """Of the whole run, without what goes wrong."""
        return self.tokens / self.tokens_per_second


def estimate(
    config: TextConfig, layout: Layout, gpu: Gpu, tokens: float | None = None, of_peak: float = OF_PEAK
) -> Estimate:
    """What training on `tokens` comes to; by default on 20 for each parameter.

    Raises UserError where the layout does not go up.
    """
    replicas, left = divmod(layout.gpus, layout.tensor_parallel)
    if left:
        raise UserError(f"a tensor group of {layout.tensor_parallel} does not divide {layout.gpus} GPUs")
    if layout.batch_rows % (replicas * layout.micro_rows):
        raise UserError(
            f"{layout.batch_rows} rows a step are no multiple of {layout.micro_rows} at once in {replicas} places"
        )
    parameters, tensor = count(config), layout.tensor_parallel
    with torch.device("meta"):
        blocks = [sum(p.numel() for p in block.parameters()) for block in blank(config).blocks]
    outside = parameters - sum(blocks)
    moments = (4 * sum(blocks) + 8 * outside) if layout.muon else 8 * parameters
    alone = layout.gpus == 1
    whole = 0.0 if alone else 2 * 2 * max(blocks) / tensor + 8 * outside
    position = (2 if layout.recompute else 34 / tensor) * config.width
    kept = layout.micro_rows * layout.context * config.depth * position
    if layout.recompute:
        kept += layout.micro_rows * layout.context * 34 / tensor * config.width
    passes = layout.batch_rows // (replicas * layout.micro_rows)
    step_tokens = layout.batch_rows * layout.context
    work = training_flops(config, step_tokens, layout.context) * (4 / 3 if layout.recompute else 1)
    slowest = gpu.link if layout.gpus <= HOST else gpu.network
    traffic = 0.0 if alone else passes * 8 * parameters / tensor * (replicas - 1) / replicas / slowest
    if tensor > 1:
        activations = 2 * layout.micro_rows * layout.context * config.width
        traffic += passes * config.depth * 4 * 2 * activations * (tensor - 1) / tensor / gpu.link
    return Estimate(
        parameters,
        (8 * parameters + moments) / layout.gpus,
        whole + 2 * CHUNK_BYTES,
        kept,
        work / (layout.gpus * gpu.flops * of_peak),
        traffic,
        step_tokens,
        float(TOKENS_EACH * parameters if tokens is None else tokens),
    )
