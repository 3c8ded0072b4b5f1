"""LoRA adapters as `peft` writes them: `adapter_config.json` beside `adapter_model.safetensors`, read and written.

An adapter there belongs to a model of `transformers`, whose matrices have other names than ours and sometimes hold
several of ours. The key maps of `formats.hf` say which, so they serve adapters as well.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from underlay.errors import UserError
from underlay.formats import trained_tokens
from underlay.formats.hf import outgoing
from underlay.formats.keymap import Row
from underlay.formats.safetensors import read_header, read_tensors
from underlay.formats.untrusted import shown
from underlay.models.adapter import Adapter, LowRank, check
from underlay.models.config import TextConfig
from underlay.models.decoder import DecoderConfig
from underlay.models.families import Model, blank
from underlay.models.storage import write_tensors
from underlay.text.files import read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def load_adapter(folder: Path, model: Model) -> Adapter:
    """Read a folder of `peft`: `adapter_config.json` and `adapter_model.safetensors`.

    The adapter belongs to the same model in `transformers`, whose names are mapped to ours. Raises UserError, in one
    line that names it, for what is damaged, missing, of another model, or not supported.
    """
    path = folder / WEIGHTS
    values = read_json(folder / CONFIG, _LONGEST)
    scales = _Scales.read(values, f"{folder / CONFIG}")
    if not path.exists() and (folder / "adapter_model.bin").exists():
        raise UserError(f"{folder}: pickled weights, and a pickle can run any code; save them as safetensors")
    header = read_header(path)
    _check_dtypes(header.tensors, path)
    pairs = _pairs([name for name in header.tensors if not trained_tokens.is_row(name)], path)
    tensors = dict(read_tensors(path, header))
    rows = {row.theirs[0].removesuffix(".weight"): row for row in outgoing(model.config)[1] if _matrices(row)}
    changes: dict[str, LowRank] = {}
    for module, (first, second) in pairs.items():
        row = rows.get(module) or next((rows[prefix + module] for prefix in _TRUNKS if prefix + module in rows), None)
        if row is None:
            raise UserError(f"{path}: {module} is no matrix of a {model.config.family} whose change is supported")
        down, up = (tensors[name].float() for name in (first, second))
        if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
            raise UserError(f"{path}: {module} has matrices of {tuple(down.shape)} and {tuple(up.shape)}")
        if not down.isfinite().all() or not up.isfinite().all():
            raise UserError(f"{path}: {module} holds NaN or infinity; copy it again")
        if up.shape[0] % len(row.ours):
            raise UserError(f"{path}: {module} gives {up.shape[0]} outputs, which are not {len(row.ours)} equal parts")
        up = up * scales.of(module, down.shape[0])
        parts = row.read([up.T if _sideways(row) else up])
        for name, part in zip(row.ours, parts, strict=True):
            changes[name.removesuffix(".weight")] = LowRank(down, part.contiguous())
    rows_ = trained_tokens.read(values, tensors, model.config, path)
    adapter = Adapter(changes, rows_)
    check(adapter, model, str(path))
    return adapter


def write_adapter(adapter: Adapter, config: TextConfig, folder: Path, base: str) -> None:
    """Write an adapter of a model with this config into an existing folder, as `peft` reads it.

    base: what `peft` shows as the model's name. Scales are within B, and alpha is the rank, so that it changes nothing.
    Where one of their matrices is several of ours, its rank is the sum of theirs, and B has a block for each. Raises
    UserError where a change has no place in their model.
    """
    left = dict(adapter.changes)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    sideways = False
    for row in outgoing(config)[1]:
        ours = [name.removesuffix(".weight") for name in row.ours]
        parts = [left.pop(name, None) for name in ours] if _matrices(row) else []
        there = [part for part in parts if part is not None]
        if not there:
            continue
        module = row.theirs[0].removesuffix(".weight")
        outputs = next(iter(there)).up.shape[0]  # equal parts: so says the key map
        rank = sum(len(part.down) for part in there)
        ups, first = [], 0
        for part in parts:
            own = 0 if part is None else len(part.down)
            up = torch.zeros(outputs, rank)
            if part is not None:
                up[:, first : first + own] = part.up
            ups.append(up)
            first += own
        whole = row.write(ups)[0]
        sideways |= _sideways(row)
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = torch.cat([part.down for part in there])
        tensors[f"{name}.lora_B.weight"] = whole.T if _sideways(row) else whole
        ranks[module] = rank
    if left:
        raise UserError(f"{min(left)}: a change of it has no place in a {config.family} of other tools")
    rank = min(ranks.values())
    others = {module: own for module, own in ranks.items() if own != rank}
    values: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if isinstance(config, DecoderConfig) and config.task is None else None,
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": sideways,
        "inference_mode": True,
    }
    if adapter.tokens is not None:
        indices, rows = trained_tokens.written(adapter.tokens, config)
        values["trainable_token_indices"] = indices
        tensors |= rows
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    write_tensors(tensors, folder / WEIGHTS)


def read_adapter(folder: Path, config: TextConfig) -> Adapter:
    """`load_adapter` where the model itself is not at hand: its names and shapes suffice."""
    with torch.device("meta"):
        model = blank(config)
    return load_adapter(folder, model)


_LONGEST = 16 << 20
_TRUNKS = ("model.", "transformer.")
"""What names begin with unless only the trunk of a model was adapted."""
_NAME = re.compile(r"base_model\.model\.(?P<module>[\w.]+)\.lora_(?P<side>[AB])\.weight")
_PLAIN = re.compile(r"\^?\w+(\.\w+)*")
_STARTS = (True, False, "gaussian", "orthogonal", "eva", "true", "True")
"""Ways to begin that leave the model's own weights as they are."""
_HARMLESS = frozenset(
    """
    auto_mapping base_model_name_or_path corda_config eva_config exclude_modules fan_in_fan_out inference_mode
    layers_pattern layers_to_transform loftq_config lora_dropout lora_ga_config megatron_core peft_version
    qalora_group_size revision target_modules task_type ensure_weight_tying runtime_config trainable_token_indices
    """.split()  # noqa: SIM905
)
"""Keys that change nothing in what the tensors mean."""


@dataclass(frozen=True)
class _Scales:
    """What the product of the two matrices is multiplied with, module by module."""

    rank: int
    alpha: float
    ranks: Mapping[str, float]
    alphas: Mapping[str, float]
    rooted: bool
    """Whether alpha is divided by the root of the rank (arXiv:2312.03732)."""
    where: str

    @classmethod
    def read(cls, values: Any, where: str) -> "_Scales":
        """Raises UserError for a key that is not supported."""
        if not isinstance(values, dict) or values.get("peft_type") != "LORA":
            kind = values.get("peft_type") if isinstance(values, dict) else values
            raise UserError(f"{where}: peft_type is {str(kind)[:40]!r}; only LORA is supported")
        left = {
            key: value for key, value in values.items() if key not in _HARMLESS and value not in (None, False, [], {})
        }
        del left["peft_type"]
        bias, start = left.pop("bias", "none"), left.pop("init_lora_weights", True)
        if bias != "none":
            raise UserError(f"{where}: bias is {str(bias)[:40]!r}; only adapters that leave biases alone are supported")
        if start not in _STARTS:
            raise UserError(
                f"{where}: init_lora_weights {str(start)[:40]!r} changes the model too, and is not supported"
            )
        rank, alpha = left.pop("r", 8), left.pop("lora_alpha", 8)
        ranks, alphas = left.pop("rank_pattern", {}), left.pop("alpha_pattern", {})
        rooted = left.pop("use_rslora", False)
        if left:
            key = min(left)
            raise UserError(f"{where}: {key[:40]} is not supported; merge the adapter into the model where it was made")
        if not _number(rank) or not _number(alpha) or rank != int(rank) or type(rooted) is not bool:
            raise UserError(f"{where}: r and lora_alpha must be numbers above 0, and use_rslora true or false")
        for key, given in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
            if not isinstance(given, dict) or not all(map(_number, given.values())):
                raise UserError(f"{where}: {key} must map names of modules to numbers above 0")
            odd = [name for name in given if not _PLAIN.fullmatch(name)]
            if odd:  # regular expressions of strangers can take for ever
                raise UserError(f"{where}: {key}: {odd[0][:40]!r} is no plain name of a module")
        return cls(int(rank), alpha, ranks, alphas, rooted, where)

    def of(self, module: str, rank: int) -> float:
        """The scale of a module whose matrices have this rank."""
        wanted, alpha = self._found(self.ranks, module, self.rank), self._found(self.alphas, module, self.alpha)
        if wanted != rank:
            raise UserError(f"{self.where}: the rank of {module} is {wanted:g}, its matrices have {rank}")
        return alpha / (math.sqrt(rank) if self.rooted else rank)

    @staticmethod
    def _found(patterns: Mapping[str, float], module: str, default: float) -> float:
        # As peft looks: the first pattern that is the end of the name, from a dot on.
        return next((value for name, value in patterns.items() if re.match(rf"(.*\.)?({name})$", module)), default)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e9


def _pairs(names: Iterable[str], path: Path) -> dict[str, tuple[str, str]]:
    """The two tensors of each module."""

    found: dict[str, dict[str, str]] = {}
    for name in names:
        known = _NAME.fullmatch(name)
        if not known:
            raise UserError(f"{path}: tensor {shown(name)} is nothing that LoRA adds to a matrix; it is not supported")
        found.setdefault(known["module"], {})[known["side"]] = name
    if not found:
        raise UserError(f"{path}: holds no tensors; there is nothing to change")
    for module, sides in found.items():
        if sides.keys() != {"A", "B"}:
            raise UserError(f"{path}: {module} has only one of its two matrices; is the download complete?")
    return {module: (sides["A"], sides["B"]) for module, sides in found.items()}


def _check_dtypes(tensors: Mapping[str, Any], path: Path) -> None:
    for name, place in tensors.items():
        if place.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise UserError(f"{path}: tensor {name[:80]} is {place.dtype}; float32, float16 and bfloat16 are supported")


def _matrices(row: Row) -> bool:
    """Whether a row of a key map is of one matrix of theirs, in which ours stand above or beside each other."""
    ours = all(name.startswith(("blocks.", "head.")) and name.endswith(".weight") for name in row.ours)
    return ours and len(row.theirs) == 1 and "norm" not in row.ours[0]


def _sideways(row: Row) -> bool:
    """Whether they store it as (inputs, outputs)."""
    (whole,) = row.write([torch.empty(1, 2, device="meta") for _ in row.ours])
    return whole.shape[0] == 2
