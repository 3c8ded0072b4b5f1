"""What a run starts from, as a hash: what follows from it may be kept in a file, and found again by no other run."""

import hashlib

import torch
from torch import nn


def of_weights(found: "hashlib._Hash", model: nn.Module) -> None:
    """Add all weights and buffers of a model, with their names, to a hash."""
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
