"""What the starting model says of all answers, computed once, before the first step.

It never changes, so no second model is held, nor run at each step. The figures are kept in a file named by the hash of
all that they follow from: a run that goes on finds them, one with other weights, rows or precision does not.
"""

import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from underlay.adapt.preference.rows import ANSWERS, log_probabilities
from underlay.adapt.preference.source import Rows
from underlay.adapt.starting import of_weights
from underlay.models import Decoder
from underlay.models.parts import computed
from underlay.models.storage import write_tensors
from underlay.progress import Progress, silent

_TOKENS = 1 << 13
"""How many are computed at once."""
_NAME = "log_probabilities"


def reference(model: Decoder, rows: Rows, dtype: torch.dtype, scratch: Path, progress: Progress = silent) -> Tensor:
    """Summed log-probabilities of the rows' answers by the model as it is: (rows, 2) float32, on the CPU.

    Read from `scratch` where they are already there; otherwise computed, and left there.
    """
    device = next(model.parameters()).device
    path = scratch / f"reference-{fingerprint(model, rows, computed(dtype, device))}.safetensors"
    try:
        return load_file(path)[_NAME]
    except (FileNotFoundError, SafetensorError, KeyError):
        found = compute(model, rows, dtype, progress)
    scratch.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    write_tensors({_NAME: found}, unfinished)
    unfinished.replace(path)
    return found


@torch.no_grad()
def compute(model: Decoder, rows: Rows, dtype: torch.dtype, progress: Progress = silent) -> Tensor:
    """The same, without a file."""
    device, learning = next(model.parameters()).device, model.training
    model.eval()
    found = torch.zeros(len(rows.rows), ANSWERS)
    order = sorted(range(len(rows.rows)), key=lambda number: len(rows.rows[number]))
    done = 0
    while done < len(order):
        # The longest of a batch is its last.
        count = 1
        while done + count < len(order) and (count + 1) * len(rows.rows[order[done + count]]) <= _TOKENS:
            count += 1
        numbers = order[done : done + count]
        found[numbers] = log_probabilities(model, rows.gather(numbers).to(device), dtype)[0].float().cpu()
        done += count
        progress(done, len(order))
    model.train(learning)
    return found


def fingerprint(model: Decoder, rows: Rows, dtype: torch.dtype) -> str:
    """Hash of the weights, of the tokens of all rows, and of the precision they are computed in."""
    found = hashlib.sha256(f"{model.config.model_dump_json()} {dtype}".encode())
    of_weights(found, model)
    for row in rows.rows:
        found.update(repr((row.prompt, row.answers)).encode())
    return found.hexdigest()
