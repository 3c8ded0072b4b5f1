"""Rollouts as a source of batches: problems in, answers with their rewards and advantages out.

    round r    problems --engine--> answers --reward--> rewards --+--> advantages --> batches of its steps
                                       +------trainer, once-------+

A round has `batch_rows` answers, from which `updates` steps learn. It is made when its first sample is asked for, by
the weights as they then are, from seeds that follow from the number of the answer alone: so a run that was killed makes
the same answers again. Until a later checkpoint is there, its file stays (`Rounds`).
"""

import hashlib
import json
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from underlay.adapt.examples import Example, Problem
from underlay.adapt.reinforce import losses
from underlay.adapt.reinforce.config import ReinforceConfig
from underlay.adapt.reinforce.figures import figures
from underlay.adapt.reinforce.player import Player, starting
from underlay.adapt.reinforce.reading import read
from underlay.adapt.reinforce.rewards import ByModel, Reward, content, rewards
from underlay.adapt.reinforce.rounds import RolloutBatch, Rounds, evenly, part
from underlay.adapt.starting import of_weights
from underlay.data.rows import permute
from underlay.errors import UserError
from underlay.generate import Answer, Request, Sampling
from underlay.models import Decoder
from underlay.progress import Progress, silent
from underlay.text import Special, Tokenizer, render
from underlay.train import TrainConfig
from underlay.train.checkpoint import newest
from underlay.train.examine import undisturbed

LONGER = "longer than the context leaves room for"
ENDED = "the prompt is empty, or ends with the assistant"
KEPT = "rollouts"
"""The folder of answers that are kept to be read."""


class Rollouts:
    """Answers of the model that is being trained, a sample each, without end."""

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        examples: Iterable[Example],
        settings: ReinforceConfig,
        reward: Reward,
        context: int,
        seed: int,
        train: TrainConfig,
        scratch: Path,
        progress: Progress = silent,
    ) -> None:
        """Take the problems that fit. The model is the one to start from, also where a run goes on.

        Raises UserError where nothing is left, an example is no problem, or a step cannot hold whole groups.
        """
        if train.batch_rows % settings.group:
            raise UserError(f"train.batch_rows {train.batch_rows} is no multiple of group {settings.group}")
        self.problems, self.numbers, left_out = [], [], Counter[str]()
        self._prompts: list[list[int]] = []
        self._longest = min(context, model.config.context)
        for number, example in enumerate(examples):
            made = prompt_of(tokenizer, example, self._longest - settings.max_tokens)
            if isinstance(made, str):
                left_out[made] += 1
                continue
            self._prompts.append(made)
            self.problems.append(problem_of(example))
            self.numbers.append(number)
        if not self.problems:
            why = ", ".join(f"{reason}: {count}" for reason, count in left_out.items()) or "there are no examples"
            raise UserError(f"no problem to learn from: {why}; give others, raise train.context, or lower max_tokens")
        self.left_out: Mapping[str, int] = left_out
        """How many examples are not learned from, by reason."""
        self.spent: defaultdict[str, float] = defaultdict(float)
        """Seconds that went into answering, rewarding and reading, of rounds made by this object."""
        self._model, self._settings, self._reward, self._train = model, settings, reward, train
        self._seed, self._scratch, self._progress = seed, scratch, progress
        self._dtype, self._rows = train.dtype(), train.batch_rows
        self._player = Player(model, tokenizer, self._dtype)
        self._reference = starting(model) if settings.beta else None
        self._pad = tokenizer.special(Special.PAD) if tokenizer.has(Special.PAD) else 0
        self._rounds = Rounds(scratch, self._identity())
        self._made: tuple[int, RolloutBatch] | None = None

    def __len__(self) -> int:
        """Samples in which every problem is answered once by a group, and learned from in all updates."""
        return len(self.problems) * self._settings.group * self._settings.updates

    def examples(self, sample: int) -> Sequence[int]:
        """The number of the example that the `sample`-th answer is to."""
        made, place = divmod(sample, self._rows * self._settings.updates)
        return [self.numbers[self._problem(made, place % self._rows)]]

    def batch(self, first: int, count: int) -> RolloutBatch:
        """The samples first, first + 1, ..., count of them, which must be of one step."""
        step, place = divmod(first, self._rows)
        assert place + count <= self._rows, "the rows of a batch are of one step"
        number = step // self._settings.updates
        if self._made is None or self._made[0] != number:
            self._made = number, self._round(number)
        return part(self._made[1], place, count)

    def _round(self, number: int) -> RolloutBatch:
        found = self._rounds.load(number)
        if found is None:
            with undisturbed(self._model, self._train.compiles()):
                found = self._make(number)
            self._rounds.save(number, found)
            saved = newest(self._scratch)
            done = 0 if saved is None else int(saved.name.rpartition("-")[2])
            self._rounds.forget(min(number, done // self._settings.updates))
        return found

    def _make(self, number: int) -> RolloutBatch:
        settings = self._settings
        which = [self._problem(number, place) for place in range(self._rows)]
        problems, prompts = [self.problems[one] for one in which], [self._prompts[one] for one in which]
        with self._clock("answering"):
            answers = self._player.play(self._requests(number, prompts), self._progress)
        with self._clock("rewarding"):
            earned = rewards(self._reward, problems, [answer.text for answer in answers])
        if earned.isnan().all():
            raise UserError(
                "the reward cannot tell what any answer of a step is worth; take another reward, or problems"
            )
        tokens, targets, active = collate(prompts, answers, self._pad, self._longest)
        with self._clock("reading"):
            said = read(self._model, tokens, targets, active, settings.temperature, self._dtype)
            before = None
            if self._reference is not None:
                self._reference.to(self._model.embedding.weight.device)
                before = read(self._reference, tokens, targets, active, settings.temperature, self._dtype)
        engine = torch.cat([_logprobs(answer) for answer in answers])

        def spread(flat: Tensor) -> Tensor:
            return torch.zeros(active.shape).masked_scatter(active, flat)

        scored = active & ~earned.isnan()[:, None]
        old, reference = spread(said.log_probabilities), None if before is None else spread(before.log_probabilities)
        facts = figures(earned, settings.group, answers, said, engine)
        values = returns = None
        if settings.name == "grpo":
            advantages = losses.group_advantages(earned, settings.group)[:, None] * scored
        else:
            assert said.values is not None
            values = spread(said.values)
            advantages, returns = self._against(values, earned, scored, old, reference)
            facts["explained"] = _explained(values[scored], returns[scored])
        if number % settings.keep == 0:
            self._keep(number, which, answers, earned, advantages)
        return RolloutBatch(
            tokens,
            targets,
            losses.shares(scored, settings.reduction, settings.max_tokens),
            even=losses.shares(scored, "dapo", settings.max_tokens),
            old=old,
            advantages=advantages,
            reference=reference,
            values=values,
            returns=returns,
            facts=facts,
        )

    def _against(
        self, values: Tensor, earned: Tensor, scored: Tensor, old: Tensor, reference: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Advantages over what a critic promised, and its targets; (rows, time).

        Each token costs its divergence from the reference, the last one earns the reward (arXiv:2203.02155).
        """
        settings = self._settings
        rewarded = torch.zeros_like(old) if reference is None else -settings.beta * (old - reference)
        ends = (scored * torch.arange(scored.shape[1])).argmax(1)
        rewarded[torch.arange(len(ends)), ends] += earned.nan_to_num(0.0)
        raw, returns = losses.generalised_advantages(rewarded, values, scored, settings.discount, settings.trace)
        return losses.whitened(raw, scored), returns

    def _problem(self, number: int, place: int) -> int:
        """Which problem the answer at a place of a round is to: all in shuffled order, pass after pass."""
        turn, index = divmod((number * self._rows + place) // self._settings.group, len(self.problems))
        return permute(index, len(self.problems), hashlib.sha256(f"{self._seed}:{turn}".encode()).digest())

    def _requests(self, number: int, prompts: Sequence[Sequence[int]]) -> list[Request]:
        settings, first = self._settings, number * self._rows
        return [
            Request(
                prompt,
                settings.max_tokens,
                Sampling(settings.temperature, seed=seed_of(self._seed, first + place)),
                logprobs=0,
            )
            for place, prompt in enumerate(prompts)
        ]

    def _keep(
        self, number: int, which: Sequence[int], answers: Sequence[Answer], earned: Tensor, advantages: Tensor
    ) -> None:
        """Write all answers of a round, a line each; a round that is made again is written again."""
        folder = self._scratch / KEPT
        if number == 0:
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier run, or to be made again
        folder.mkdir(parents=True, exist_ok=True)
        kept = []
        for row, answer in enumerate(answers):
            own = advantages[row][advantages[row] != 0]
            kept.append(
                {
                    "step": number * self._settings.updates + 1,
                    "sample": number * self._rows + row,
                    "example": self.numbers[which[row]],
                    "prompt": self.problems[which[row]].prompt[-1].content,
                    "answer": answer.text,
                    "truncated": answer.finish == "length",
                    "reward": None if earned[row].isnan() else float(earned[row]),
                    "advantage": float(own.mean()) if len(own) else 0.0,
                }
            )
        lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in kept)
        (folder / f"round-{number:08d}.jsonl").write_text(lines, "utf-8")

    def _identity(self) -> str:
        settings = self._settings
        found = hashlib.sha256(settings.model_dump_json().encode() + content(settings.reward or ""))
        found.update(f"{self._seed} {self._rows} {self._dtype} {self._model.config.model_dump_json()}".encode())
        for problem, prompt in zip(self.problems, self._prompts, strict=True):
            found.update(repr((prompt, problem.answer)).encode())
        of_weights(found, self._model)
        if isinstance(self._reward, ByModel):
            of_weights(found, self._reward.model)
            found.update(self._reward.terms)
        return found.hexdigest()

    @contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.spent[name] += time.perf_counter() - began


def problem_of(example: Example) -> Problem:
    """What an example asks. Raises UserError where it is of another form."""
    body = example.body
    if isinstance(body, Problem):
        return body
    form = type(body).__name__.lower()
    raise UserError(f"{example.source}:{example.line} is no example to be rewarded for: a {form}, no problem")


def prompt_of(tokenizer: Tokenizer, example: Example, longest: int) -> list[int] | str:
    """Ids of a problem, up to where the assistant speaks, `longest` at most; or why it is left out."""
    prompt = problem_of(example).prompt
    if not prompt or prompt[-1].role == "assistant":
        return ENDED
    ids, _ = render(tokenizer, prompt, reply=True)
    return ids if len(ids) <= longest else LONGER


def seed_of(seed: int, number: int) -> int:
    """Of one answer: no other answer, nor any weight, has a part in it."""
    return int.from_bytes(hashlib.sha256(f"{seed}:answer:{number}".encode()).digest()[:8], "little") >> 1


def collate(
    prompts: Sequence[Sequence[int]], answers: Sequence[Answer], pad: int, longest: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, targets, and which of them are an answer's; (rows, time) each, `longest` tokens at most."""
    rows = [torch.tensor([*prompt, *answer.ids]) for prompt, answer in zip(prompts, answers, strict=True)]
    width = evenly(max(map(len, rows)) - 1, longest)
    tokens = torch.full((len(rows), width), pad)
    targets, active = torch.full_like(tokens, pad), torch.zeros(len(rows), width, dtype=torch.bool)
    for place, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        end = len(row) - 1
        tokens[place, :end], targets[place, :end] = row[:-1], row[1:]
        active[place, len(prompt) - 1 : end] = True
    return tokens, targets, active


def _logprobs(answer: Answer) -> Tensor:
    assert answer.logprobs is not None
    return torch.tensor([one.logprob for one in answer.logprobs])


def _explained(values: Tensor, returns: Tensor) -> float:
    """Which share of the returns' variance a critic foretold; 0 where there is none."""
    variance = float(returns.var(correction=0))
    return 1 - float((returns - values).var(correction=0)) / variance if variance > 0 else 0.0
