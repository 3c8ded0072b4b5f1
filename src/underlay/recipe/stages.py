"""What can be set in each stage of a recipe. Inputs are names of other stages, or references into the library."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from underlay.adapt.answers import AnswerConfig
from underlay.adapt.examples import ExamplesConfig
from underlay.adapt.ladder import RungName
from underlay.adapt.lora import LoraConfig
from underlay.adapt.pairs import PairKind
from underlay.adapt.prompting import Task, read_task
from underlay.adapt.prompting.soft import SoftSettings
from underlay.adapt.robust import AttackSettings, RobustSettings
from underlay.config import Config, quantity
from underlay.data import (
    ClassifierConfig,
    CurateConfig,
    GatherConfig,
    MaskingConfig,
    MiddleConfig,
    PackConfig,
    Packing,
    Stages,
    TagConfig,
)
from underlay.models import AnyConfig, EncoderConfig, LlamaConfig
from underlay.models.config import TextConfig
from underlay.models.families import DIALLED
from underlay.recipe.objectives import (
    DistilObjective,
    HeadObjective,
    InstructObjective,
    ObjectiveSettings,
    ReinforceObjective,
)
from underlay.train import TrainConfig
from underlay.train.record import RecorderName

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


TaskSettings = Annotated[Task, BeforeValidator(lambda given: read_task(given) if isinstance(given, str) else given)]
"""A task, or where it stands."""


def _with_words(given: Any) -> Any:
    """Tokens alone in the place of tokens with words that tell what they mean."""
    if isinstance(given, list | tuple):
        return dict.fromkeys(given, "")
    return given


class Stage(Config):
    """What all stages have."""

    name: Name | None = None
    """Name of the artifact; by default the recipe's."""


class GatherStage(Stage, GatherConfig):
    """Read sources into a corpus."""

    verb: Literal["gather"] = "gather"


class TagStage(Stage, TagConfig):
    """Find attributes of a corpus's documents, which decide later what stays."""

    verb: Literal["tag"] = "tag"
    corpus: str
    """The corpus to look at."""


class ClassifierStage(Stage, ClassifierConfig):
    """Learn to tell documents of one kind from others."""

    verb: Literal["classifier"] = "classifier"
    like: str
    """A corpus of what it should find."""
    unlike: str
    """A corpus of other documents."""


class CurateStage(Stage, CurateConfig):
    """Clean a corpus."""

    verb: Literal["curate"] = "curate"
    corpus: str
    """The corpus to clean."""
    attributes: str
    """What was found of its documents."""


class CorporaStage(Stage):
    """What stages have that read one corpus or several."""

    corpus: str | None = None
    """The corpus to read."""
    corpora: dict[Name, str] = Field(default={})
    """Several instead, each under a name of its own: `{code: curated-code, prose: curated-prose}`."""

    @model_validator(mode="after")
    def _some_corpus(self) -> Self:
        if (self.corpus is None) == (not self.corpora):
            raise ValueError("set either corpus or corpora")
        return self


class TokenizerStage(CorporaStage):
    """Learn a tokenizer from a corpus, or from several; or take that of a model, for data that it is to read."""

    verb: Literal["tokenizer"] = "tokenizer"
    model: str | None = None
    """The model whose tokenizer is taken, in the place of learning one."""
    vocabulary: int = Field(default=4096, gt=0)
    """Number of token ids."""
    mask: bool = False
    """Whether one of them is the mask, which encoders need to learn."""
    fim: bool = False
    """Whether three of them mark a gap in a text, which decoders need to learn to fill in the middle."""

    @model_validator(mode="after")
    def _some_corpus(self) -> Self:
        if sum((self.corpus is not None, bool(self.corpora), self.model is not None)) != 1:
            raise ValueError("set one of corpus, corpora and model")
        if self.model is not None and (stray := sorted(self.model_fields_set & {"vocabulary", "mask", "fim"})):
            raise ValueError(f"{stray[0]}: a model's tokenizer is taken as it is; leave it out")
        return self


class PackStage(CorporaStage, PackConfig):
    """Encode a corpus into a dataset, or several into its parts."""

    verb: Literal["pack"] = "pack"
    tokenizer: str
    """What to encode it with."""


class ExamplesStage(Stage, ExamplesConfig):
    """Read examples to adapt a model by from files, or take them out of a corpus."""

    verb: Literal["examples"] = "examples"
    corpus: str | None = None
    """Take pairs of instruction and answer from this corpus, in the place of `source`."""
    pairs: PairKind | Literal["auto"] = "auto"
    """`functions` (signature and docstring -> body), `passages` (prose -> how it goes on), or what the corpus has."""
    dataset: str | None = None
    """What was packed from the corpus: the documents held out there are left out."""
    examples: str | None = None
    """Take them from these, in the place of `source`."""
    task: TaskSettings | None = None
    """Write them as conversations in which this task is done: a task, a YAML file that holds one, or a ready one;
    where the way to an answer is known, it is shown."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.corpus is not None) + (self.examples is not None) + bool(self.source) != 1:
            raise ValueError("set one of source, corpus and examples")
        of_corpus = self.model_fields_set & {"pairs", "dataset"}
        of_files = self.model_fields_set & ExamplesConfig.model_fields.keys() - {"source", "limit"}
        if self.corpus is None and of_corpus:
            raise ValueError(f"{sorted(of_corpus)[0]}: only with corpus")
        if not self.source and of_files:
            raise ValueError(f"{sorted(of_files)[0]}: only with source")
        if self.examples is not None and self.task is None:
            raise ValueError("examples: say which task is to be done in them, as task")
        return self


class LadderStage(Stage):
    """Compare ways to adapt models to one task: those that touch no weights are gone here, others were before."""

    verb: Literal["ladder"] = "ladder"
    models: dict[Name, str]
    """The models to adapt, each under a name."""
    trained: dict[Name, str] = Field(default={})
    """What was adapted from them, each under `MODEL.RUNG.SEED`."""
    adapters: dict[Name, str] = Field(default={})
    """The same for adapters."""
    examples: str
    """What was learned from, and what demonstrations are chosen from."""
    test: str
    """Examples that are measured on."""
    task: TaskSettings
    """What is to be done: a task, a YAML file that holds one, or a ready one."""
    rungs: tuple[RungName, ...] = ("majority", "tfidf", "prompt", "few_shot", "chain_of_thought", "self_consistency")
    """The ways to go here."""
    seeds: int = Field(default=3, gt=0)
    """How often ways are gone in which chance plays a part."""
    shots: int = Field(default=8, gt=0)
    """Demonstrations of a prompt."""
    votes: int = Field(default=5, gt=1)
    """Answers that vote, for self-consistency."""
    limit: int | None = Field(default=None, gt=0)
    """Measure on so many of the test's examples, chosen by their hashes."""
    left_out: dict[str, str] = Field(default={})
    """Ways that are not gone, and why; for who reads the report."""


class AnswerStage(Stage, AnswerConfig):
    """Let a model answer the prompts of examples, or label texts: examples for others to learn from."""

    verb: Literal["answer"] = "answer"
    model: str
    """The teacher."""
    prompts: str
    """Examples whose prompts it answers, or whose texts it labels; their own answers are not shown to it."""
    reward_model: str | None = None
    """What says which answers are kept, in the place of `keep`: a reward model, or with `rubric` any that judges."""

    @model_validator(mode="after")
    def _one_reward(self) -> Self:
        if self.reward_model is not None and self.keep is not None:
            raise ValueError("reward_model: either it or keep says which answers are kept")
        if self.rubric is not None and self.reward_model is None:
            raise ValueError("rubric: a model judges by it; name that as reward_model")
        if self.reward_model is not None and not self.best and self.worth is None:
            raise ValueError("worth: a model knows no bound of what is right; say what answers have to earn, or best")
        if self.keep is None and self.reward_model is None and (self.best or self.worth is not None):
            raise ValueError(f"{'best' if self.best else 'worth'}: needs a reward that tells; name it as keep")
        return self


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


class AdaptStage(Stage):
    """Teach a model a task by examples."""

    verb: Literal["adapt"] = "adapt"
    model: str
    """The model to adapt."""
    examples: str
    """What to learn from; what was made of documents that were held out from the model is left out."""
    heldout: str | None = None
    """Examples that are only measured on, beside those of held-out documents."""
    teacher: str | None = None
    """With the objective `distil`: the model to learn from, any size, the same tokens. With the objective `head` and
    labels: a model of any family that has learned these labels."""
    blocks: int | None = Field(default=None, gt=0)
    """Keep so many of the model's blocks, spread evenly, and learn with those: a smaller model, for a teacher."""
    reward_model: str | None = None
    """With `grpo` and `ppo`: what answers are worth, in the place of `objective.reward`; a reward model, or with
    `objective.rubric` any model that judges by it."""
    adapter: str | None = None
    """With lora: an adapter of the same model to go on from."""
    extend: str | None = None
    """A model to go on from, adapted with the same settings but for its length: from where its rate began to fall."""
    when: PairKind | None = None
    """Learn only where the examples are pairs of this kind out of a corpus; otherwise the stage makes nothing, and its
    model goes on as it is. For recipes that read any corpus."""
    objective: ObjectiveSettings = None
    """What is learned of the examples; by default what their form calls for. A name will do: `instruct`, `distil`,
    `head`, `dpo`, `ipo`, `hinge`, `kto`, `reward`, `grpo`, `ppo`."""
    method: Literal["full", "lora", "soft_prompt", "prefix"] = "full"
    """What changes: all weights, or low-rank additions to them, which make an adapter; where a model gets a head for a
    task, too, they are merged in the end. Or what stands before every conversation, which makes an adapter too: rows of
    the embedding, or keys and values of every layer."""
    lora: LoraConfig = LoraConfig()
    """Of the method lora."""
    robust: RobustSettings = None
    """What the model learns to withstand, beside clean inputs: a list of `spelling`, `paraphrase` and `gradient` will
    do."""
    attack: AttackSettings = None
    """By what it is attacked on held-out texts with labels, to measure how it holds up; by default as `robust` says."""
    new_tokens: Annotated[dict[str, str], BeforeValidator(_with_words)] = Field(default={})
    """Tokens that the model is to have, such as `[<think>, </think>]`: each becomes one id wherever its text stands.
    With words, `{<think>: begin to think}`, a token begins as the mean of theirs; else as the mean of all."""
    soft: SoftSettings = SoftSettings()
    """Of the methods soft_prompt and prefix."""
    template: str | None = None
    """How conversations are written, for a tokenizer that does not know: `alpaca`, `chatml`, `llama3`, or a file."""
    record: tuple[RecorderName, ...] = ()
    """Tools that draw the run's figures while it goes on: `tensorboard`, `mlflow`, `wandb`."""
    train: TrainConfig
    """How it is trained."""

    @field_validator("train", mode="after")
    @classmethod
    def _rewards_come_at_once(cls, train: TrainConfig, info: ValidationInfo) -> TrainConfig:
        """Where rewards stay away for long, the steps in which they come stand out, and are what is learned from."""
        if not isinstance(info.data.get("objective"), ReinforceObjective) or "outliers" in train.model_fields_set:
            return train
        return train.model_copy(update={"outliers": None})

    @model_validator(mode="after")
    def _used(self) -> Self:
        if self.method != "lora" and (self.adapter is not None or self.lora != LoraConfig()):
            given = "adapter" if self.adapter is not None else "lora"
            raise ValueError(f"{given}: only with method lora, and it is {self.method}")
        if isinstance(self.objective, DistilObjective) and self.teacher is None:
            raise ValueError("teacher: the objective distil needs one")
        if self.teacher is not None and not isinstance(self.objective, DistilObjective | HeadObjective):
            raise ValueError("teacher: only with the objectives distil and head")
        if self.blocks is not None and self.method == "lora":
            raise ValueError("blocks: not with lora, whose adapter is for the whole model")
        earns = isinstance(self.objective, ReinforceObjective)
        named = isinstance(self.objective, ReinforceObjective) and self.objective.reward is not None
        if (named + (self.reward_model is not None)) != earns:
            raise ValueError("reward_model: grpo and ppo need it or objective.reward, one of them; others neither")
        if isinstance(self.objective, ReinforceObjective) and self.objective.rubric and self.reward_model is None:
            raise ValueError("objective.rubric: a model judges by it; name that as reward_model")
        if self.method == "lora" and self.extend is not None:
            raise ValueError("extend: not with lora; name its adapter as `adapter`")
        if self.method == "lora" and self.when is not None:
            raise ValueError("when: not with lora; a model that goes on as it is is no adapter")
        if self.new_tokens and self.adapter is not None:
            raise ValueError("new_tokens: not on top of an adapter; merge it into its model first")
        self._soft()
        return self

    def _soft(self) -> None:
        """Raise ValueError for what does not go with what stands before conversations."""
        if self.method not in ("soft_prompt", "prefix"):
            if self.soft != SoftSettings():
                raise ValueError(f"soft: only with the methods soft_prompt and prefix, and it is {self.method}")
            return
        if self.objective is not None and not isinstance(self.objective, InstructObjective):
            raise ValueError(f"method {self.method}: learns from conversations (instruct), not {self.objective.name}")
        for key in ("extend", "blocks", "robust", "new_tokens"):
            if getattr(self, key):
                raise ValueError(f"{key}: not with {self.method}")
        if self.train.short_rows:
            raise ValueError(f"train.short_rows: not with {self.method}, which stands before whole rows")


class MergeStage(Stage):
    """Make one model of a model and an adapter of it."""

    verb: Literal["merge"] = "merge"
    model: str
    """The model that the adapter changes."""
    adapter: str
    """The adapter."""


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


class EvaluateStage(Stage):
    """Measure a base model, and what was adapted from it, on held-out documents."""

    verb: Literal["evaluate"] = "evaluate"
    base: str
    """The base model."""
    models: dict[Name, str] = Field(min_length=1)
    """What was made of it, step after step, each by the name that it is told of under: `{adapted: adapt}`."""
    corpus: str
    """The corpus that the models' dataset was packed from; of several, the one whose held-out documents are scored."""
    max_bytes: int = Field(default=1_000_000, gt=0)
    """Held-out text to score at most."""
    functions: int = Field(default=48, ge=0)
    """Function bodies to sample from each model."""
    max_tokens: int = Field(default=128, gt=0)
    """Longest sampled body."""

    @field_validator("models")
    @classmethod
    def _beside_the_base(cls, models: dict[str, str]) -> dict[str, str]:
        if "base" in models:
            raise ValueError("base: that is the base model; give it another name")
        return models


class TraceStage(Stage):
    """Index a dataset, so that texts can be traced to the documents they stand in."""

    verb: Literal["trace"] = "trace"
    dataset: str
    """The dataset to index."""


class ReportStage(Stage):
    """Show it all on one page."""

    verb: Literal["report"] = "report"
    raw: str
    """The corpus as it was gathered."""
    corpus: str
    """The corpus as it was curated."""
    base: str
    """The base model."""
    evaluation: str
    """What was measured of it and of what was made of it, which are shown as well."""
    index: str
    """The trace index."""
    prompts: tuple[str, ...] = ()
    """Texts for the base model to complete, and to be traced; by default three beginnings of held-out documents."""
    max_tokens: int = Field(default=96, gt=0)
    """Longest completion."""


AnyStage = Annotated[
    GatherStage
    | TagStage
    | ClassifierStage
    | CurateStage
    | TokenizerStage
    | PackStage
    | ExamplesStage
    | AnswerStage
    | PretrainStage
    | AdaptStage
    | MergeStage
    | LadderStage
    | QuantiseStage
    | EvaluateStage
    | TraceStage
    | ReportStage,
    Field(discriminator="verb"),
]
