"""What is worth knowing of a round: whether rewards rise for the reason one thinks, and whether there is much to learn.

`even_groups`    share of groups whose rewards are all equal: nothing is learned from them
`truncated`      share of answers that were cut off at the longest length
`reward_length`  correlation of reward and length; near 1, longer answers may be all that is learned
`unscorable`     share of answers whose worth could not be told
`parity_*`       how far the engine's log-probabilities of the tokens it drew are from the trainer's, in nats
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from underlay.adapt.reinforce import losses
from underlay.adapt.reinforce.reading import Read
from underlay.generate import Answer


def figures(earned: Tensor, group: int, answers: Sequence[Answer], said: Read, engine: Tensor) -> dict[str, float]:
    """Figures of a round; earned: (answers,), NaN where unscorable; engine: log-probabilities, (tokens,)."""
    scored = ~earned.isnan()
    lengths = torch.tensor([float(len(answer.ids)) for answer in answers])
    known = earned[scored]
    apart = (engine - said.plain).abs()
    return {
        "reward": float(known.mean()),
        "reward_std": float(known.std(correction=0)),
        "even_groups": float(losses.even_groups(earned, group).float().mean()),
        "truncated": sum(answer.finish == "length" for answer in answers) / len(answers),
        "unscorable": float((~scored).float().mean()),
        "entropy": float(said.entropy.mean()),
        "length": float(lengths.mean()),
        "reward_length": correlation(known, lengths[scored]),
        "parity_max": float(apart.max()),
        "parity_mean": float(apart.mean()),
    }


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's; 0 where either does not vary."""
    one, other = one - one.mean(), other - other.mean()
    size = float(one.norm() * other.norm())
    return float(one @ other) / size if size > 0 else 0.0
