"""What can be set of growing a base model, and of rounding one."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from underlay.config import quantity
from underlay.data import (
    MaskingConfig,
    MiddleConfig,
    Packing,
    Stages,
)
from underlay.models import AnyConfig, EncoderConfig, LlamaConfig
from underlay.models.config import TextConfig
from underlay.models.families import DIALLED
from underlay.recipe.stages.common import Stage
from underlay.train import TrainConfig
from underlay.train.record import RecorderName


class PretrainStage(Stage):
    """Grow a base model on a dataset, or let one go on to learn from another dataset."""

    verb: Literal["pretrain"] = "pretrain"
    dataset: str
    """What to learn from."""
    start: str | None = None
    """A model whose weights to start from, in its own shape, on a dataset of its own tokens; its rate rises anew."""
    extend: str | None = None
    """A model to go on from, trained with the same settings but for its length: from where its rate began to fall."""
    model: AnyConfig = LlamaConfig()
    """The model's family and shape; `{depth: 6}` alone gives sane sizes. Decoders learn what comes next, encoders what
    is masked."""
    params: str | None = Field(default=None, pattern=r"^[0-9]+(\.[0-9]+)?[kMG]?$")
    """Instead of a shape: the size that comes nearest to so many parameters, such as `10M`."""
    isolate: bool = False
    """Whether documents that share a row are kept from seeing each other."""
    packing: Packing = "windows"
    """`windows`: rows are cut from the stream of tokens, wherever documents begin and end; `best_fit`: documents stay
    whole where they fit into a row, what is left of a row is padding (arXiv:2404.10830)."""
    mixture: Stages = ()
    """How much is read of each part of the dataset, stage after stage; by default rows come as they are packed."""
    masking: MaskingConfig = MaskingConfig()
    """What is hidden from an encoder."""
    fim: MiddleConfig | None = None
    """Documents that are rearranged for a decoder to learn to fill in the middle; null: none."""
    embedding: Literal["spectral", "random"] = "spectral"
    """What a decoder's embeddings start from: counted pairs of neighbouring tokens, or chance."""
    samples: tuple[str, ...] = ()
    """Beginnings for a decoder to go on with at each evaluation (`train.examine_steps`)."""
    record: tuple[RecorderName, ...] = ()
    """Tools that draw the run's figures while it goes on: `tensorboard`, `mlflow`, `wandb`."""
    train: TrainConfig
    """How it is trained."""

    @field_validator("model", mode="before")
    @classmethod
    def _llama_by_default(cls, value: Any) -> Any:
        return {"family": "llama", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        given = sorted(self.model.model_fields_set & DIALLED)
        if self.params and given:
            raise ValueError(f"set either params or model.{given[0]}")
        if self.params and not self.parameters():
            raise ValueError("params: ask for more than none, such as 10M")
        if self.start is not None:
            if stray := [key for key in ("model", "params", "embedding") if key in self.model_fields_set]:
                raise ValueError(f"{stray[0]}: not with start, whose own it is; leave one of them out")
        elif unfit := self.unfit(self.model):
            raise ValueError(unfit)
        if self.samples and self.train.examine_steps is None and self.start is None:
            raise ValueError("samples: they are made when the run is examined; set train.examine_steps too")
        if self.fim and self.packing == "best_fit":
            raise ValueError("fim: rearranges rows that are cut from the stream, so packing must be windows")
        return self

    def unfit(self, shape: TextConfig) -> str | None:
        """Why a model of this shape cannot learn by these settings, key first; None where it can."""
        if shape.task is not None:
            return "model.task: a base model is pretrained without a head for a task"
        if not isinstance(shape, EncoderConfig):
            return None
        if self.isolate:
            return f"isolate: not for encoders, and {shape.family} is one"
        if self.fim:
            return f"fim: not for encoders, and {shape.family} is one; masking is theirs"
        if self.packing == "best_fit":
            return f"packing: best_fit is not for encoders, and {shape.family} is one"
        if not shape.masked_head:
            return "model.masked_head: an encoder learns through it"
        return f"samples: an encoder says nothing, and {shape.family} is one" if self.samples else None

    def parameters(self) -> int | None:
        """`params` as a number."""
        return None if self.params is None else round(quantity(self.params, "params"))


class QuantiseStage(Stage):
    """Round a model's matrices to 8 or 4 bits, and measure what that loses on held-out text."""

    verb: Literal["quantise"] = "quantise"
    model: str
    """The model to quantise: one that writes on."""
    bits: Literal[8, 4] = 8
    """Of a weight: 8 with a scale for each row of a matrix, 4 with one for each 32 weights."""
    method: Literal["gptq", "nearest"] = "gptq"
    """`gptq`: the rounding that changes least on real text (arXiv:2210.17323); `nearest`: each weight by itself."""
    dataset: str | None = None
    """What to calibrate on, and to measure on by what was held out; by default what the model was trained on."""
    corpus: str | None = None
    """The same, for models that no dataset here belongs to; a tenth of its documents is measured on."""
    rows: int = Field(default=128, gt=0)
    """Rows of text that are read for calibration."""
    context: int = Field(default=512, gt=1)
    """Tokens in a row, or as many as the model's context holds."""
    heldout_rows: int = Field(default=128, gt=0)
    """Held-out rows to measure on, before and after; fewer where there are not so many."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.dataset is not None and self.corpus is not None:
            raise ValueError("set either dataset or corpus")
        return self
