"""From problems to a lesson in answering them."""

from collections.abc import Iterable
from pathlib import Path

from underlay.adapt.examples import Example
from underlay.adapt.lesson import Lesson
from underlay.adapt.reinforce.config import ReinforceConfig
from underlay.adapt.reinforce.critic import with_critic
from underlay.adapt.reinforce.objectives import Surrogate
from underlay.adapt.reinforce.rewards import Reward, named
from underlay.adapt.reinforce.source import Rollouts
from underlay.errors import UserError
from underlay.models import Decoder, Model
from underlay.progress import Progress, silent
from underlay.text import Tokenizer
from underlay.train import TrainConfig


def lesson(
    model: Model,
    tokenizer: Tokenizer,
    examples: Iterable[Example],
    settings: ReinforceConfig,
    context: int,
    seed: int,
    train: TrainConfig,
    scratch: Path,
    progress: Progress = silent,
    reward: Reward | None = None,
) -> Lesson:
    """What trains the model to earn rewards; `scratch` is where the run has its checkpoints, too.

    The model is the one to start from, also where the run goes on from a checkpoint. By `ppo` it is given a critic,
    which `without_critic` takes off again. reward: in the place of the one that the settings name, such as a
    `ModelReward`. Answers are made, and learned from, by one process. Raises UserError where the model is no decoder,
    there is not exactly one reward, or examples are no problems.
    """
    if not isinstance(model, Decoder):
        raise UserError("only decoders answer; take one, or teach this model by labels")
    if (reward is None) == (settings.reward is None):
        raise UserError("reward: name one, or give a reward model; exactly one of the two")
    earns = named(settings.reward) if reward is None and settings.reward is not None else reward
    assert earns is not None
    if settings.name == "ppo":
        with_critic(model)
    source = Rollouts(model, tokenizer, examples, settings, earns, context, seed, train, scratch, progress)
    objective = Surrogate(
        settings.clip,
        settings.temperature,
        settings.beta if settings.name == "grpo" else 0.0,
        settings.value_clip,
        settings.value_weight,
        train.dtype(),
    )
    count = len(source.problems)
    critic = frozenset(name for name, _ in model.named_parameters() if name.startswith("task."))
    fresh = critic if settings.name == "ppo" else frozenset[str]()
    return Lesson(model, source, objective, count, source.left_out, fresh=fresh)
