"""How a run is trained: its length, its batches, its rates, its precision."""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from underlay.config import Config
from underlay.plan.machine import bf16_unit, find_compiler
from underlay.train.schedule import ScheduleConfig


class OptimizerConfig(Config):
    """How far each step goes."""

    lr: float = Field(default=0.02, gt=0)
    """Muon's rate: the spectral size of each step on a square matrix."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Of Muon (Nesterov)."""
    adam_lr: float = Field(default=0.003, gt=0)
    """AdamW's rate for embeddings, norms and heads."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay of first and second moments."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of matrices, times the rate of the step."""
    muon: bool = True
    """Use Muon for the blocks' matrices; otherwise AdamW, at `adam_lr`, for everything."""


class TrainConfig(Config):
    """How a model is trained, whatever it learns."""

    steps: int | None = Field(default=None, gt=0)
    """Length of the run in steps."""
    minutes: float | None = Field(default=None, gt=0)
    """Length of the run in minutes instead: its number of steps is then set once its speed is known."""
    passes: float | None = Field(default=None, gt=0)
    """Length of the run in passes over the data instead, such as 3 or 0.5."""
    context: int = Field(default=256, gt=1)
    """Tokens in a row."""
    batch_rows: int = Field(default=64, gt=0)
    """Rows in a step."""
    micro_rows: int = Field(default=32, gt=0)
    """Rows that go through the model at once; less needs less memory and changes nothing else. Halved where memory is
    short."""
    short_rows: tuple[tuple[float, int], ...] = ()
    """Shorter rows to begin with: pairs of a share of the run and a number of pieces. `[[0.5, 4], [0.8, 2]]` cuts each
    row into 4 until half of the run is done, then into 2 until 80 % are; nearby words are learned first, and faster."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How far each step goes."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How the rate changes over the run."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient; longer ones are scaled down."""
    outliers: float | None = Field(default=6.0, gt=0)
    """Steps are left out whose loss or gradient is so many standard deviations above that of the steps before; null:
    only those that are not finite."""
    average: float | None = Field(default=None, gt=0, lt=1)
    """Decay of a moving average of the weights, such as 0.999; the model is then the average, not the last step."""
    precision: Literal["auto", "bf16", "float32", "fp8"] = "auto"
    """Of activations; bf16, and auto: bfloat16 where there is a unit for it, else float32. fp8: as bf16, but the
    blocks' products are taken in 8 bits, on GPUs that can and where that is faster. Weights stay in float32."""
    compile: bool | None = None
    """Use torch.compile; by default where a C++ compiler is found, unless a CPU computes in float32: its products take
    the time there, and compiling wins little of it."""
    recompute: bool = False
    """Keep of each block only what goes in and run it again in the backward pass: much less memory, a third more
    work."""
    tensor_parallel: int = Field(default=1, gt=0)
    """Processes that run each block together, of those that `torchrun` started; for models whose blocks are wide."""
    checkpoint_seconds: float = Field(default=30.0, gt=0)
    """Time between checkpoints."""
    keep_stable: bool = True
    """Keep with the model what its rate fell from, so that a run of another length can go on from there (`extend`); of
    `wsd`. Takes up to three times the room of the weights."""

    examine_steps: int | None = Field(default=None, gt=0)
    """Steps between evaluations on held-out rows, with one more after the last step; null: none. They change nothing in
    what is learned."""
    examine_rows: int = Field(default=64, gt=0)
    """Held-out rows that each evaluation reads, always the same; fewer where there are not so many."""

    @model_validator(mode="after")
    def _length(self) -> Self:
        if sum(length is not None for length in (self.steps, self.minutes, self.passes)) != 1:
            raise ValueError("set one of steps, minutes and passes")
        if self.batch_rows % self.micro_rows:
            raise ValueError(f"batch_rows {self.batch_rows} is no multiple of micro_rows {self.micro_rows}")
        for _, pieces in self.short_rows:
            if pieces < 1 or self.context % pieces:
                raise ValueError(f"rows of {self.context} tokens cannot be cut into {pieces} equal pieces")
        return self

    def over(self, rows: int) -> "TrainConfig":
        """The same for data of so many rows: a length in passes becomes one in steps."""
        if self.passes is None:
            return self
        steps = max(1, round(self.passes * rows / self.batch_rows))
        return self.model_copy(update={"steps": steps, "passes": None})

    def pieces(self, step: int, steps: int | None) -> int:
        """Into how many pieces rows are cut at `step`; the first stage lasts while the run's length is not known."""
        done = step / steps if steps else 0.0
        return next((pieces for share, pieces in self.short_rows if done < share), 1)

    def dtype(self) -> torch.dtype:
        """The dtype of activations that `precision` means on this machine."""
        return torch.bfloat16 if self.precision != "float32" and bf16_unit() != "none" else torch.float32

    def compiles(self) -> bool:
        """Whether the run uses torch.compile here."""
        if self.compile is not None:
            return self.compile
        return find_compiler() is not None and (torch.cuda.is_available() or self.dtype() is torch.bfloat16)

    def mode(self) -> str:
        """How the run goes on this machine, in words, such as `compiled, bf16 (AMX)`."""
        lacking = self.compile is None and find_compiler() is None
        how = "compiled" if self.compiles() else "eager" + " (no C++ compiler found)" * lacking
        if self.dtype() is torch.float32:
            return f"{how}, float32"
        return f"{how}, bf16 ({bf16_unit()})" + ", products in 8 bits" * (self.precision == "fp8")
