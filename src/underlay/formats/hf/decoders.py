"""Decoders of `transformers`: one layout a model type."""

from typing import Any

from underlay.errors import UserError
from underlay.formats.hf.layout import Layout, Values, choice, count
from underlay.formats.hf.rotary import FULL, SLIDING, read_rope, read_two_ropes, write_rope
from underlay.formats.hf.windows import read_windows, write_windows
from underlay.formats.keymap import Row, fused, same, stacked, transposed
from underlay.models.decoder import RotaryConfig, WindowedConfig
from underlay.models.gemma import GemmaConfig
from underlay.models.gpt2 import GPT2Config
from underlay.models.llama import LlamaConfig
from underlay.models.mistral import MistralConfig
from underlay.models.olmo import OLMoConfig
from underlay.models.qwen import QwenConfig

_OURS, _THEIRS = "blocks.{layer}", "model.layers.{layer}"
_HEAD = {"lm_head.weight": "model.embed_tokens.weight"}
_BUFFERS = (r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",)

FIELDS = {
    "vocabulary": "vocab_size",
    "context": "max_position_embeddings",
    "width": "hidden_size",
    "hidden": "intermediate_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
}
"""What Llama calls our sizes, and most others after it."""
OPTIONAL: dict[str, Any] = {"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": False}
"""Keys that may be left out; None: our own default, which is theirs too."""


def _rows(norms: tuple[tuple[str, str], ...]) -> tuple[Row, ...]:
    """Llama's names, with the norms that a family has in a block."""
    parts = ("weight", "bias")
    return (
        *same("embedding.weight", "model.embed_tokens.weight"),
        *same("norm.weight", "model.norm.weight"),
        *same("head.weight", "lm_head.weight"),
        *(row for our, their in norms for row in same(f"{_OURS}.{our}.weight", f"{_THEIRS}.{their}.weight")),
        *same(f"{_OURS}.attention.query_norm.weight", f"{_THEIRS}.self_attn.q_norm.weight"),
        *same(f"{_OURS}.attention.key_norm.weight", f"{_THEIRS}.self_attn.k_norm.weight"),
        *same(f"{_OURS}.attention.query", f"{_THEIRS}.self_attn.q_proj", *parts),
        *same(f"{_OURS}.attention.key", f"{_THEIRS}.self_attn.k_proj", *parts),
        *same(f"{_OURS}.attention.value", f"{_THEIRS}.self_attn.v_proj", *parts),
        *same(f"{_OURS}.attention.output", f"{_THEIRS}.self_attn.o_proj", *parts),
        *same(f"{_OURS}.mlp.gate", f"{_THEIRS}.mlp.gate_proj", *parts),
        *same(f"{_OURS}.mlp.up", f"{_THEIRS}.mlp.up_proj", *parts),
        *same(f"{_OURS}.mlp.down", f"{_THEIRS}.mlp.down_proj", *parts),
    )


_BEFORE = (("attention_norm", "input_layernorm"), ("mlp_norm", "post_attention_layernorm"))
_AFTER = (("attention_out_norm", "post_attention_layernorm"), ("mlp_out_norm", "post_feedforward_layernorm"))
_AROUND = (
    ("attention_norm", "input_layernorm"),
    ("attention_out_norm", "post_attention_layernorm"),
    ("mlp_norm", "pre_feedforward_layernorm"),
    ("mlp_out_norm", "post_feedforward_layernorm"),
)
_EXPERTS = (
    *_rows(_BEFORE)[:-6],  # without the plain MLP's three matrices and biases
    *same(f"{_OURS}.mlp.router.weight", f"{_THEIRS}.block_sparse_moe.gate.weight"),
    stacked(f"{_OURS}.mlp.gate", f"{_THEIRS}.block_sparse_moe.experts.{{expert}}.w1.weight"),
    stacked(f"{_OURS}.mlp.down", f"{_THEIRS}.block_sparse_moe.experts.{{expert}}.w2.weight"),
    stacked(f"{_OURS}.mlp.up", f"{_THEIRS}.block_sparse_moe.experts.{{expert}}.w3.weight"),
)


def _layout(model_type: str, architecture: str, config: type[RotaryConfig], **more: Any) -> Layout:
    """A layout with Llama's names and habits, but for what is given."""
    rope: dict[str, Any] = {
        "read": lambda values, ours, where: read_rope(values, where),  # noqa: ARG005
        "write": write_rope,
    }
    usual: dict[str, Any] = {
        "fields": FIELDS,
        "defaults": OPTIONAL,
        "fixed": {"hidden_act": ("silu",)},
        "rows": _rows(_BEFORE),
        "prefix": "model.",
        "left_out": _BUFFERS,
        "copies": _HEAD,
    }
    return Layout(model_type=model_type, architecture=architecture, config=config, **{**usual, **rope, **more})


def _read_smollm3(values: Values, ours: Values, where: str) -> Values:
    rotated = values.pop("no_rope_layers", None)
    interval: int | None = count(values, "no_rope_layer_interval", 4, where) or None
    fields = read_rope(values, where, base=2_000_000.0)
    if rotated is not None:
        if not isinstance(rotated, list) or len(rotated) < ours["depth"]:
            raise UserError(f"{where}: no_rope_layers must say 0 or 1 for each layer")
        turned = [bool(layer) for layer in rotated[: ours["depth"]]]
        interval = None if all(turned) else turned.index(False) + 1
        if interval and turned != [(layer + 1) % interval != 0 for layer in range(len(turned))]:
            raise UserError(f"{where}: no_rope_layers: only every so many layers can be without positions")
    if values.get("layer_types") is None:
        values.setdefault("use_sliding_window", False)
    else:
        values.pop("use_sliding_window", None)
    windows = read_windows(
        values, ours["depth"], where, None, lambda layer: not interval or (layer + 1) % interval != 0
    )
    if windows["sliding_window"]:
        raise UserError(f"{where}: sliding_window: a smollm3 whose layers slide windows is not known")
    return {**fields, "position_free_every": interval}


def _write_smollm3(config: LlamaConfig) -> Values:
    every = config.position_free_every or config.depth + 1
    turned = [int((layer + 1) % every != 0) for layer in range(config.depth)]
    return {**write_rope(config), "no_rope_layers": turned, "no_rope_layer_interval": every}


def _read_mistral(values: Values, ours: Values, where: str) -> Values:
    return _read_one_window(values, ours, where, 4096, 10_000.0)


def _read_mixtral(values: Values, ours: Values, where: str) -> Values:
    return _read_one_window(values, ours, where, None, 1_000_000.0)


def _read_one_window(values: Values, ours: Values, where: str, window: int | None, base: float) -> Values:
    kinds, slides = values.get("layer_types"), values.get("sliding_window", window) is not None
    windows = read_windows(values, ours["depth"], where, window, lambda layer: False)  # noqa: ARG005
    if kinds and slides and set(kinds) != {SLIDING}:
        raise UserError(f"{where}: layer_types: all layers of this type slide windows, or none does")
    return {**windows, **read_rope(values, where, base)}


def _write_mistral(config: WindowedConfig) -> Values:
    if config.full_layers:
        raise UserError("a mistral of which only some layers slide windows has no place in this format")
    return {"sliding_window": config.sliding_window, **write_rope(config)}


def _read_qwen(values: Values, ours: Values, where: str) -> Values:
    first = count(values, "max_window_layers", 28, where)
    values.setdefault("use_sliding_window", False)
    windows = read_windows(values, ours["depth"], where, 4096, lambda layer: layer < first)
    return {**windows, **read_rope(values, where)}


def _write_qwen(config: WindowedConfig) -> Values:
    used = config.sliding_window is not None
    return {"use_sliding_window": used, **write_windows(config), **write_rope(config)}


def _read_olmo3(values: Values, ours: Values, where: str) -> Values:
    windows = read_windows(values, ours["depth"], where, 4096, lambda layer: (layer + 1) % 4 == 0)
    base = values.get("rope_theta", 500_000.0)
    fields, local = read_two_ropes(values, where, base, base)
    if local != fields["rope_base"]:
        raise UserError(f"{where}: rope_parameters: olmo3 is read with one rope_theta for all layers")
    return {**windows, **fields}


def _read_gemma(values: Values, ours: Values, where: str) -> Values:  # noqa: ARG001
    values.pop("hidden_activation", None)
    return read_rope(values, where)


_CAPS = {
    "query_scale": "query_pre_attn_scalar",
    "score_softcap": "attn_logit_softcapping",
    "logit_softcap": "final_logit_softcapping",
}


def _read_gemma2(values: Values, ours: Values, where: str) -> Values:
    windows = read_windows(values, ours["depth"], where, 4096, lambda layer: (layer + 1) % 2 == 0)
    caps = {name: values.pop(key, default) for (name, key), default in zip(_CAPS.items(), (256, 50, 30), strict=True)}
    return {**caps, **windows, **read_rope(values, where)}


def _write_gemma2(config: GemmaConfig) -> Values:
    return {**_write_caps(config), **write_windows(config), **write_rope(config)}


def _write_caps(config: GemmaConfig) -> Values:
    scale = config.head_dim if config.query_scale is None else config.query_scale
    caps = {"attn_logit_softcapping": config.score_softcap, "final_logit_softcapping": config.logit_softcap}
    return {"query_pre_attn_scalar": int(scale) if scale == int(scale) else scale, **caps}


def _read_gemma3(values: Values, ours: Values, where: str) -> Values:
    hidden = count(values, "_sliding_window_pattern", 6, where)
    every = count(values, "sliding_window_pattern", hidden, where) or 6
    windows = read_windows(values, ours["depth"], where, 4096, lambda layer: (layer + 1) % every == 0)
    caps = {
        name: values.pop(key, default) for (name, key), default in zip(_CAPS.items(), (256, None, None), strict=True)
    }
    fields, local = read_two_ropes(values, where, 1_000_000.0, 10_000.0)
    return {**caps, **windows, **fields, "local_rope_base": local}


def _write_olmo3(config: OLMoConfig) -> Values:
    # The newest readers give the older spelling's base to layers without a window only.
    old = write_rope(config)
    base = {"rope_theta": config.rope_base}
    full = {"rope_type": "default", **base, **(old["rope_scaling"] or {})}
    return {**write_windows(config), **old, "rope_parameters": {FULL: full, SLIDING: {"rope_type": "default", **base}}}


def _write_gemma3(config: GemmaConfig) -> Values:
    return {**_write_gemma2(config), "rope_local_base_freq": config.local_rope_base}


_GEMMA: dict[str, Any] = {
    "defaults": {**OPTIONAL, "tie_word_embeddings": True, "head_dim": 256},
    "rows": _rows(_AROUND),
}
_GEMMA_ACTIVATION = {"hidden_activation": ("gelu_pytorch_tanh", None), "attention_bias": (False,)}


def _read_gpt2(values: Values, ours: Values, where: str) -> Values:
    activations = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
    inner = count(values, "n_inner", 4 * ours["width"], where)
    return {"activation": choice(values, "activation_function", activations, "gelu_new", where), "hidden": inner}


def _write_gpt2(config: GPT2Config) -> Values:
    names = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
    if config.activation not in names:
        raise UserError(f"a gpt2 with the activation {config.activation} has no place in this format")
    return {"activation_function": names[config.activation], "n_inner": config.hidden}


_GPT2_OURS, _GPT2_THEIRS = "blocks.{layer}", "transformer.h.{layer}"
_GPT2_ROWS = (
    *same("embedding.weight", "transformer.wte.weight"),
    *same("positions.weight", "transformer.wpe.weight"),
    *same("norm", "transformer.ln_f", "weight", "bias"),
    *same("head.weight", "lm_head.weight"),
    *same(f"{_GPT2_OURS}.attention_norm", f"{_GPT2_THEIRS}.ln_1", "weight", "bias"),
    *same(f"{_GPT2_OURS}.mlp_norm", f"{_GPT2_THEIRS}.ln_2", "weight", "bias"),
    *(
        fused(
            [f"{_GPT2_OURS}.attention.{name}.{part}" for name in ("query", "key", "value")],
            f"{_GPT2_THEIRS}.attn.c_attn.{part}",
            sideways=part == "weight",
        )
        for part in ("weight", "bias")
    ),
    *(
        row
        for ours, theirs in (("attention.output", "attn.c_proj"), ("mlp.up", "mlp.c_fc"), ("mlp.down", "mlp.c_proj"))
        for row in (
            transposed(f"{_GPT2_OURS}.{ours}.weight", f"{_GPT2_THEIRS}.{theirs}.weight"),
            *same(f"{_GPT2_OURS}.{ours}.bias", f"{_GPT2_THEIRS}.{theirs}.bias"),
        )
    ),
)
_GPT2 = Layout(
    "gpt2",
    "GPT2LMHeadModel",
    GPT2Config,
    fields={
        "vocabulary": "vocab_size",
        "context": "n_positions",
        "width": "n_embd",
        "depth": "n_layer",
        "heads": "n_head",
        "norm_eps": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
        "scale_by_layer": "scale_attn_by_inverse_layer_idx",
    },
    defaults={
        "n_positions": 1024,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "scale_attn_by_inverse_layer_idx": False,
    },
    fixed={"scale_attn_weights": (True,), "add_cross_attention": (False,)},
    rows=_GPT2_ROWS,
    prefix="transformer.",
    read=_read_gpt2,
    write=_write_gpt2,
    left_out=(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",),
    copies={"lm_head.weight": "transformer.wte.weight"},
)

LAYOUTS = (
    _GPT2,
    _layout(
        "llama",
        "LlamaForCausalLM",
        LlamaConfig,
        fields={**FIELDS, "attention_bias": "attention_bias", "mlp_bias": "mlp_bias"},
        defaults={**OPTIONAL, "attention_bias": False, "mlp_bias": False, "rms_norm_eps": 1e-6},
        fixed={"hidden_act": ("silu",), "rope_interleaved": (False,)},
    ),
    _layout(
        "smollm3",
        "SmolLM3ForCausalLM",
        LlamaConfig,
        fields={**FIELDS, "attention_bias": "attention_bias", "mlp_bias": "mlp_bias"},
        defaults={**OPTIONAL, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True},
        read=_read_smollm3,
        write=_write_smollm3,
    ),
    _layout("mistral", "MistralForCausalLM", MistralConfig, read=_read_mistral, write=_write_mistral),
    _layout(
        "mixtral",
        "MixtralForCausalLM",
        MistralConfig,
        fields={
            **FIELDS,
            "experts": "num_local_experts",
            "experts_chosen": "num_experts_per_tok",
            "experts_balance": "router_aux_loss_coef",
        },
        defaults={**OPTIONAL, "router_aux_loss_coef": 0.001},
        rows=_EXPERTS,
        read=_read_mixtral,
        write=_write_mistral,
    ),
    _layout(
        "qwen2",
        "Qwen2ForCausalLM",
        QwenConfig,
        constants={"family": "qwen2"},
        read=_read_qwen,
        write=_write_qwen,
    ),
    _layout(
        "qwen3",
        "Qwen3ForCausalLM",
        QwenConfig,
        fields={**FIELDS, "attention_bias": "attention_bias"},
        defaults={**OPTIONAL, "attention_bias": False, "head_dim": 128},
        constants={"family": "qwen3"},
        read=_read_qwen,
        write=_write_qwen,
    ),
    _layout(
        "olmo",
        "OlmoForCausalLM",
        OLMoConfig,
        fields={**{k: v for k, v in FIELDS.items() if k != "norm_eps"}, "clip": "clip_qkv"},
        defaults={**OPTIONAL, "clip_qkv": None},
        fixed={"hidden_act": ("silu",), "attention_bias": (False,)},
        constants={"family": "olmo", "norm_eps": 1e-5},
    ),
    _layout(
        "olmo2",
        "Olmo2ForCausalLM",
        OLMoConfig,
        fixed={"hidden_act": ("silu",), "attention_bias": (False,)},
        rows=_rows(_AFTER),
        constants={"family": "olmo2"},
    ),
    _layout(
        "olmo3",
        "Olmo3ForCausalLM",
        OLMoConfig,
        fixed={"hidden_act": ("silu",), "attention_bias": (False,)},
        rows=_rows(_AFTER),
        constants={"family": "olmo3"},
        read=_read_olmo3,
        write=_write_olmo3,
    ),
    _layout(
        "gemma",
        "GemmaForCausalLM",
        GemmaConfig,
        defaults={**OPTIONAL, "tie_word_embeddings": True, "head_dim": 256},
        # The first configs said gelu and meant its approximation.
        fixed={"hidden_act": ("gelu_pytorch_tanh", "gelu"), **_GEMMA_ACTIVATION},
        constants={"family": "gemma", "activation": "gelu_tanh"},
        read=_read_gemma,
    ),
    _layout(
        "gemma2",
        "Gemma2ForCausalLM",
        GemmaConfig,
        **_GEMMA,
        fixed={"hidden_act": ("gelu_pytorch_tanh",), **_GEMMA_ACTIVATION},
        constants={"family": "gemma2", "activation": "gelu_tanh"},
        read=_read_gemma2,
        write=_write_gemma2,
    ),
    _layout(
        "gemma3_text",
        "Gemma3ForCausalLM",
        GemmaConfig,
        **_GEMMA,
        fixed={"hidden_act": ("gelu_pytorch_tanh",), **_GEMMA_ACTIVATION},
        constants={"family": "gemma3", "activation": "gelu_tanh"},
        read=_read_gemma3,
        write=_write_gemma3,
    ),
)
