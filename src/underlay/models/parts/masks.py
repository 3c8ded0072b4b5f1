"""Where a query may look. Masks are bool, True where to look, broadcastable to (batch, heads, time, seen)."""

import torch
from torch import Tensor


def causal(queries: Tensor, keys: Tensor) -> Tensor:
    """What came before, and the position itself; queries: (batch, time), keys: (batch, seen) positions."""
    return keys[:, None, None, :] <= queries[:, None, :, None]


def window(queries: Tensor, keys: Tensor, width: int) -> Tensor:
    """The `width` positions that end with the query's own (arXiv:2004.05150); shapes as in `causal`."""
    return keys[:, None, None, :] > queries[:, None, :, None] - width


def padded(present: Tensor, looks_ahead: bool) -> tuple[Tensor, Tensor]:
    """Mask and positions for rows that were padded, on either side, to one length.

    present: (batch, time) bool, True where a token is real. Returns a mask (batch, 1, time or 1, time), in which what
    pads is seen by nobody, and positions (batch, time) that count real tokens only.
    """
    positions = (present.cumsum(-1) - 1).clamp(min=0)
    if looks_ahead:
        return present[:, None, None, :], positions
    places = torch.arange(present.shape[1], device=present.device)[None]
    # Each place sees itself, also where it only pads: a row of scores that is all masked would be no number.
    itself = torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
    return causal(places, places) & present[:, None, None, :] | itself, positions


def isolated(documents: Tensor) -> tuple[Tensor, Tensor]:
    """Where a query may look, and positions, for packed rows in which no document sees another.

    documents: (batch, time), a number for each token that differs between neighbouring documents. Returns for each
    token the first place that it sees, (batch, time) int64, which attention takes as it is (`within` makes a mask of
    it), and positions (batch, time) that start again at each document.
    """
    places = torch.arange(documents.shape[1], device=documents.device)[None]
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    # The same number may come again later in a row; the place where a document starts does not.
    first = torch.where(starts, places, 0).cummax(-1).values
    return first, places - first


def within(first: Tensor) -> Tensor:
    """What comes before, from the first place that each token sees on; (batch, time) to (batch, 1, time, time)."""
    places = torch.arange(first.shape[1], device=first.device)[None]
    return causal(places, places) & (places[:, None, None, :] >= first[:, None, :, None])


def branched(branches: Tensor) -> tuple[Tensor, Tensor]:
    """Mask and positions for rows in which several continuations share what came before them.

        tokens    a b c  d e f  g h
        branches  0 0 0  1 1 1  2 2
        positions 0 1 2  3 4 5  3 4

    branches: (batch, time) int64; 0, the shared beginning, is seen by all that follows it, other numbers see it and
    themselves. A negative number is padding, at a row's end. Returns a causal mask (batch, 1, time, time) and positions
    (batch, time), in which every branch goes on from the shared beginning; those of padding are 0.
    """
    places = torch.arange(branches.shape[1], device=branches.device)[None]
    shared = branches == 0
    starts = torch.ones_like(shared)
    starts[:, 1:] = branches[:, 1:] != branches[:, :-1]
    first = torch.where(starts, places, 0).cummax(-1).values
    positions = places - first + torch.where(shared, 0, shared.sum(-1, keepdim=True))
    sees = (branches[:, None, :, None] == branches[:, None, None, :]) | shared[:, None, None, :]
    return sees & causal(places, places), torch.where(branches < 0, 0, positions)


def alibi(heads: int, time: int) -> Tensor:
    """Scores that fall with distance, a slope a head (ALiBi, arXiv:2108.12409): (heads, time, time) float32.

    Added to the scores of attention in the place of positions; `heads` must be a power of two.
    """
    slopes = 2.0 ** (-8.0 / heads * torch.arange(1, heads + 1))
    places = torch.arange(time)
    return slopes[:, None, None] * (places[None, :] - places[:, None]).clamp(max=0)
