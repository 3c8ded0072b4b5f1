"""Reward models: a decoder with one score for a text, read at the end of an answer (InstructGPT, arXiv:2203.02155)."""

from collections.abc import Sequence

import torch

from underlay.adapt.preference.rows import render_answer
from underlay.errors import UserError
from underlay.models import Decoder
from underlay.models.families import blank
from underlay.models.heads import TaskConfig
from underlay.models.initial import STD
from underlay.text import Message, Tokenizer

TASK = TaskConfig(kind="text", labels=("reward",))
HEAD = "task.output.weight"
_TOKENS = 1 << 13
"""How many are computed at once."""


def with_reward(base: Decoder, seed: int) -> Decoder:
    """The base with a head for one reward; its own matrix for the next token goes, and the trunk is its own memory.

    The head is drawn small, by the seed. A base that has such a head stays as it is.
    """
    if base.config.task == TASK:
        return base
    config = type(base.config).model_validate(base.config.model_dump() | {"task": TASK, "tied": True})
    with torch.device("meta"):
        model = blank(config)
    assert isinstance(model, Decoder)
    old = dict(base.named_parameters())
    state = {name: old[name].detach() for name, _ in model.named_parameters() if name != HEAD}
    drawn = torch.empty(1, config.width).normal_(std=STD, generator=torch.Generator().manual_seed(seed))
    state[HEAD] = drawn.to(base.embedding.weight.device)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True)


@torch.no_grad()
def score(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[Message]],
    answers: Sequence[str],
    dtype: torch.dtype = torch.float32,
) -> list[float]:
    """The reward of each answer to its prompt.

    Raises UserError where the model has no head for rewards, an answer does not fit into its context, or a chat
    template writes a prompt in another way before an answer.
    """
    if model.config.task is None or model.config.task.scores != 1:
        raise UserError("the model has no head for rewards; train one from preferences")
    texts = []
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), 1):
        made = render_answer(tokenizer, prompt, answer)
        if made is None:
            raise UserError(
                f"answer {number}: the chat template writes its prompt in another way; use another template"
            )
        ids = made[0] + made[1]
        if len(ids) > model.config.context:
            raise UserError(f"answer {number}: {len(ids)} tokens, the reward model reads {model.config.context}")
        texts.append(ids)
    device = model.embedding.weight.device
    found = [0.0] * len(texts)
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]), reverse=True)
    while order:
        longest = len(texts[order[0]])
        at_once = max(1, _TOKENS // longest)
        numbers, order = order[:at_once], order[at_once:]
        tokens = torch.zeros(len(numbers), longest, dtype=torch.int64)
        present = torch.zeros(len(numbers), longest, dtype=torch.bool)
        for row, number in enumerate(numbers):
            tokens[row, : len(texts[number])] = torch.tensor(texts[number])
            present[row, : len(texts[number])] = True
        rewards = model.scores(tokens.to(device), present.to(device), dtype)[:, 0].float().tolist()
        for number, reward in zip(numbers, rewards, strict=True):
            found[number] = reward
    return found
