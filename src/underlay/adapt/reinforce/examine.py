"""How well a model answers problems that it did not learn from."""

from collections.abc import Iterable

import torch

from underlay.adapt.examples import Example
from underlay.adapt.reinforce.player import Player
from underlay.adapt.reinforce.rewards import Reward, rewards
from underlay.adapt.reinforce.source import problem_of, prompt_of, seed_of
from underlay.errors import UserError
from underlay.generate import Request, Sampling
from underlay.models import Decoder
from underlay.text import Tokenizer
from underlay.train import Examination


def examine(
    model: Decoder,
    tokenizer: Tokenizer,
    examples: Iterable[Example],
    reward: Reward,
    max_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shown: int = 4,
) -> Examination:
    """Mean rewards of an answer that takes the likeliest token each time, and of a sampled one, to each problem.

    Answers whose worth cannot be told are left out of the means, and their share is told. Of `shown` problems the
    answers are given, too. Raises UserError where no problem fits into the model's context beside `max_tokens`, or the
    reward can tell nothing of any answer.
    """
    made = [(example, prompt_of(tokenizer, example, model.config.context - max_tokens)) for example in examples]
    asked = [(problem_of(example), prompt) for example, prompt in made if isinstance(prompt, list)]
    if not asked:
        raise UserError("no problem to examine by; give some that fit into the model's context beside max_tokens")
    requests = [
        Request(prompt, max_tokens, Sampling(heat, seed=seed_of(seed, number)))
        for heat in (0.0, temperature)
        for number, (_, prompt) in enumerate(asked)
    ]
    answers = Player(model, tokenizer, dtype).play(requests)
    problems = [problem for problem, _ in asked]
    earned = rewards(reward, problems * 2, [answer.text for answer in answers])
    if earned.isnan().all():
        raise UserError("the reward cannot tell what any answer is worth; take another reward, or other problems")
    greedy, sampled = earned.view(2, -1)
    figures = {
        "greedy_reward": float(greedy.nanmean()),
        "sampled_reward": float(sampled.nanmean()),
        "unscorable": float(earned.isnan().float().mean()),
        "truncated": sum(answer.finish == "length" for answer in answers) / len(answers),
    }
    samples = [
        {"prompt": problem.prompt[-1].content, "text": answer.text, "reward": f"{float(worth):g}"}
        for problem, answer, worth in zip(problems[:shown], answers, greedy, strict=False)
    ]
    return Examination(figures, samples)
