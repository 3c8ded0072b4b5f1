"""What can be set of examples, and of adapting models by them."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from underlay.adapt.answers import AnswerConfig
from underlay.adapt.examples import ExamplesConfig
from underlay.adapt.lora import LoraConfig
from underlay.adapt.pairs import PairKind
from underlay.adapt.prompting.soft import SoftSettings
from underlay.adapt.robust import AttackSettings, RobustSettings
from underlay.recipe.objectives import (
    DistilObjective,
    HeadObjective,
    InstructObjective,
    ObjectiveSettings,
    ReinforceObjective,
)
from underlay.recipe.stages.common import Stage, TaskSettings
from underlay.train import TrainConfig
from underlay.train.record import RecorderName


def _with_words(given: Any) -> Any:
    """Tokens alone in the place of tokens with words that tell what they mean."""
    if isinstance(given, list | tuple):
        return dict.fromkeys(given, "")
    return given


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
