"""Rows of tokens that were learned beside an adapter, as `peft` keeps them: `trainable_token_indices`.

The settings name the matrices and the ids, `{"embed_tokens": [32000, 32001]}`, or the ids alone, which are then of the
input's embedding. Each matrix has a tensor `<module>.token_adapter.trainable_tokens_delta`, (tokens, width): not what
is added to its rows, as the name says, but what stands in their place. A head that is tied has none of its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from underlay.errors import UserError
from underlay.formats.hf import outgoing
from underlay.formats.untrusted import shown
from underlay.models.config import TextConfig
from underlay.models.growing import TokenRows

_KEY, _TAIL = "trainable_token_indices", ".token_adapter.trainable_tokens_delta"
_BEFORE = "base_model.model."
_MOST = 1 << 20
"""Ids beyond that are no model's."""


def is_row(name: str) -> bool:
    """Whether a tensor of an adapter holds rows of tokens."""
    return name.endswith(_TAIL)


def written(rows: TokenRows, config: TextConfig) -> tuple[dict[str, list[int]], dict[str, Tensor]]:
    """What the settings say of some rows, and the tensors, by their names."""
    tables = {"embedding.weight": rows.embedding} | ({} if rows.head is None else {"head.weight": rows.head})
    modules = _modules(config)
    indices = {modules[ours].rpartition(".")[2]: list(rows.ids) for ours in tables}
    return indices, {f"{_BEFORE}{modules[ours]}{_TAIL}": table.contiguous() for ours, table in tables.items()}


def read(values: Mapping[str, Any], tensors: Mapping[str, Tensor], config: TextConfig, path: Path) -> TokenRows | None:
    """The rows that an adapter has learned; None where it has none.

    Raises UserError where settings and tensors do not agree, or a matrix is neither the embedding nor the head.
    """
    found = {name.removesuffix(_TAIL).rpartition(".")[2]: tensors[name] for name in tensors if is_row(name)}
    given = values.get(_KEY)
    if not found and not given:
        return None
    last = {ours: module.rpartition(".")[2] for ours, module in _modules(config).items()}
    if isinstance(given, list):
        given = {last["embedding.weight"]: given}
    if not isinstance(given, dict) or set(given) != set(found) or last["embedding.weight"] not in found:
        raise UserError(
            f"{path}: {_KEY} name {shown(given)}, there are rows of {', '.join(sorted(found)) or 'nothing'}"
        )
    if strange := sorted(set(found) - set(last.values())):
        raise UserError(
            f"{path}: rows of {shown(strange[0])} are not supported; only those of the embedding and the head"
        )
    ids = given[last["embedding.weight"]]
    whole = isinstance(ids, list) and all(type(one) is int and 0 <= one < _MOST for one in ids)
    if not whole or not ids or len(set(ids)) < len(ids) or any(other != ids for other in given.values()):
        raise UserError(f"{path}: {_KEY} must be ids of tokens, each once, and the same for each matrix")
    for name, rows in found.items():
        if rows.shape != (len(ids), config.width):
            raise UserError(
                f"{path}: rows of {name} are {tuple(rows.shape)}, the model's would be {(len(ids), config.width)}"
            )
        if not rows.isfinite().all():
            raise UserError(f"{path}: rows of {name} hold NaN or infinity; copy them again")
    head = found.get(last.get("head.weight", ""))
    return TokenRows(tuple(ids), found[last["embedding.weight"]].float(), None if head is None else head.float())


def _modules(config: TextConfig) -> dict[str, str]:
    """The names that the embedding and the head have there."""
    rows = {row.ours[0]: row.theirs[0] for row in outgoing(config)[1] if len(row.ours) == len(row.theirs) == 1}
    return {ours: rows[ours].removesuffix(".weight") for ours in ("embedding.weight", "head.weight") if ours in rows}
