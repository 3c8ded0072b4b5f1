"""How a model type of `transformers` is written down: its config's keys and its tensors' names, against ours."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from underlay.errors import UserError
from underlay.formats.keymap import Row
from underlay.formats.untrusted import shown
from underlay.models.config import TextConfig

Values = dict[str, Any]

HARMLESS = frozenset(
    """
    _name_or_path _attn_implementation_autoset architectures attn_implementation auto_map bos_token_id
    chunk_size_feed_forward classifier_dropout dtype embd_pdrop eos_token_id attn_pdrop resid_pdrop attention_dropout
    attention_probs_dropout_prob hidden_dropout_prob gradient_checkpointing initializer_range initializer_factor
    is_llama_config keys_to_ignore_at_inference label2id id2label model_type n_ctx
    output_attentions output_hidden_states output_router_logits pad_token_id pretraining_tp problem_type
    reorder_and_upcast_attn return_dict router_jitter_noise sep_token_id cls_token_id mask_token_id
    summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    task_specific_params tokenizer_class torch_dtype transformers_version unsloth_version unsloth_fixed use_cache
    use_return_dict cache_implementation transformers.js_config quantization_config_note
    """.split()  # noqa: SIM905 - a list of words reads best as words
)
"""Keys that change nothing in what a model computes when it is not being trained."""
_SEEN = ("task", "masked_head", "pooler")
"""Our fields that are seen from the names of a file's tensors."""
EXTRA = "underlay"
"""The key under which an exported config keeps what other tools have no word for."""
SIZES = frozenset({"vocabulary", "context", "width", "hidden", "depth", "heads", "kv_heads", "head_dim", "experts"})
"""Our fields that count something of which there must be one at least."""
_NOTES = frozenset(
    """
    mup_width pooling normalised types experts_chosen experts_balance local_rope_base full_layers
    position_free_every query_scale rope_scaling context
    """.split()  # noqa: SIM905
)
"""Our fields that may go under `underlay`: a tool that does not read them computes the same without."""


@dataclass(frozen=True)
class Layout:
    """One `model_type`."""

    model_type: str
    architecture: str
    """Name of the class in `transformers` that has all tensors."""
    config: type[TextConfig]
    fields: Mapping[str, str]
    """Our field to their key, where the value is the same."""
    defaults: Mapping[str, Any]
    """What their keys mean where a config leaves them out."""
    fixed: Mapping[str, tuple[Any, ...]]
    """Keys that must have one of these values, the first of which is what is written."""
    rows: tuple[Row, ...]
    prefix: str
    """What the trunk's names begin with, but not in files of the trunk alone."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Our fields that all models of this type share."""
    read: Callable[[Values, Values, str], Values] = lambda values, ours, where: {}  # noqa: ARG005
    """Our fields that need more than another name, from what is left of their config and what is known of ours; takes
    what it understands out of the former. The last argument names the file in errors."""
    write: Callable[[Any], Values] = lambda config: {}  # noqa: ARG005
    """Their keys for those fields."""
    left_out: tuple[str, ...] = ()
    """Patterns of tensors that are no parameters, or belong to heads that Underlay does not have."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Tensors that only repeat another where embeddings are tied: copy to original."""


def read_config(layout: Layout, values: Values, where: str, ignore: frozenset[str] = frozenset()) -> Values:
    """Our config's values from theirs. Raises UserError for a key that is not understood, or has no place here."""
    left = {key: value for key, value in values.items() if key not in HARMLESS | ignore}
    ours: Values = dict(layout.constants)
    kept = left.pop(EXTRA, {})
    if not isinstance(kept, dict):
        raise UserError(f"{where}: {EXTRA} must hold keys and values")
    for name, key in layout.fields.items():
        value = left.pop(key, None)
        value = layout.defaults.get(key) if value is None else value
        if value is None and key not in layout.defaults:
            raise UserError(f"{where}: key {key!r} is missing")
        if name in SIZES and value is not None and (type(value) is not int or value < 1):
            raise UserError(f"{where}: {key} is {shown(value)}; it must be a whole number above 0")
        if value is not None:
            ours[name] = value
    for key, allowed in layout.fixed.items():
        value = left.pop(key, allowed[0])
        if value not in allowed:
            raise UserError(f"{where}: {key} is {shown(value)}; a {layout.model_type} is read with {allowed[0]!r} only")
    ours |= layout.read(left, ours, where)
    foreign = [key for key in kept if key not in _NOTES]
    if foreign:
        raise UserError(f"{where}: {EXTRA}: key {shown(foreign[0])} is nothing that an export notes there")
    if "context" in kept and (type(kept["context"]) is not int or kept["context"] < 1):
        raise UserError(f"{where}: {EXTRA}: context is {shown(kept['context'])}; it must be a whole number above 0")
    ours |= kept
    # Nearly all keys that are false switch off what is not known here; this one switches off what is.
    both_ways = left.pop("is_causal", True) is False and "is_causal" not in ignore
    if both_ways and "is_decoder" not in layout.fixed:
        raise UserError(f"{where}: is_causal is False; a {layout.model_type} is read as one that looks back only")
    unknown = {key: value for key, value in left.items() if value not in (None, False, [], {})}
    if unknown:
        key, value = next(iter(unknown.items()))
        plain = key if re.fullmatch(r"[\w.-]{1,80}", key) else shown(key)
        raise UserError(
            f"{where}: key {shown(key)} ({shown(value)}) is not known in a {layout.model_type}; "
            f"if it changes nothing in what the model computes, pass --ignore {plain}"
        )
    return ours


def count(values: Values, key: str, default: int, where: str) -> int:
    """Take a whole number of at least 0 out of `values`. Raises UserError where it is something else."""
    value = values.pop(key, None)
    value = default if value is None else value
    if type(value) is not int or value < 0:
        raise UserError(f"{where}: {key} is {shown(value)}; it must be a whole number")
    return value


def choice(values: Values, key: str, known: Mapping[str, str], default: str, where: str) -> str:
    """Take a name out of `values`, and give what it stands for. Raises UserError where it is not known."""
    value = values.pop(key, default)
    if not isinstance(value, str) or value not in known:
        raise UserError(f"{where}: {key} {shown(value)} is not known; there are {', '.join(known)}")
    return known[value]


def write_config(layout: Layout, config: TextConfig) -> Values:
    """Their config's values from ours; what they have no word for goes under `underlay`.

    Raises UserError where what they have no word for changes what the model computes.
    """
    values: Values = {"architectures": [layout.architecture], "model_type": layout.model_type}
    values |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))  # else some types assume ids of their own
    values |= {key: getattr(config, name) for name, key in layout.fields.items()}
    values |= {key: allowed[0] for key, allowed in layout.fixed.items()}
    values |= layout.write(config)
    where = f"{layout.model_type} config"
    mine = config.model_dump()
    base = type(config).model_validate(read_config(layout, values, where)).model_dump()
    lost = {name: value for name, value in mine.items() if base[name] != value and name not in _SEEN}
    for name in lost.keys() - _NOTES:
        raise UserError(f"a {config.family} whose {name} is {lost[name]!r} has no place in this format")
    return values | ({EXTRA: lost} if lost else {})
