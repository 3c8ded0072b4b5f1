"""All families: the one dial, what weights start from, and models on disk."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.errors import UserError
from underlay.models import Decoder, DecoderConfig, EncoderConfig, LlamaConfig
from underlay.models.bert import BertConfig
from underlay.models.config import TextConfig
from underlay.models.families import Model, count, sized
from underlay.models.gemma import GemmaConfig
from underlay.models.gpt2 import GPT2Config
from underlay.models.initial import STD, rates
from underlay.models.mistral import MistralConfig
from underlay.models.olmo import OLMoConfig
from underlay.models.parts import RopeScaling
from underlay.models.qwen import QwenConfig
from underlay.models.roberta import RobertaConfig
from underlay.models.storage import load_decoder, load_encoder, load_model, parameter_count, save_model

BASE = {"vocabulary": 500, "context": 32}
FAMILIES: dict[str, TextConfig] = {
    "gpt2": GPT2Config(**BASE),
    "llama": LlamaConfig(**BASE),
    "llama untied": LlamaConfig(**BASE, tied=False, attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(**BASE, sliding_window=8),
    "mixtral": MistralConfig(**BASE, experts=4),
    "qwen2": QwenConfig(**BASE, family="qwen2"),
    "qwen3": QwenConfig(**BASE),
    "olmo": OLMoConfig(**BASE, family="olmo"),
    "olmo2": OLMoConfig(**BASE),
    "olmo3": OLMoConfig(**BASE, family="olmo3"),
    "gemma": GemmaConfig(**BASE, family="gemma"),
    "gemma2": GemmaConfig(**BASE, family="gemma2", score_softcap=50.0, logit_softcap=30.0),
    "gemma3": GemmaConfig(**BASE, sliding_window=8, full_layers=(0,)),
    "bert": BertConfig(**BASE, pooler=True),
    "roberta": RobertaConfig(**BASE, tied=False),
}
each_family = pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)


def small(config: TextConfig, **more: object) -> TextConfig:
    return type(config)(**{**config.model_dump(exclude_unset=True), "depth": 2, "width": 64, "heads": 4, **more})


def built(config: TextConfig, seed: int = 0) -> Model:
    assert isinstance(config, DecoderConfig | EncoderConfig)
    torch.manual_seed(seed)
    return config.build()


@each_family
def test_counting_needs_no_model_and_is_right(config: TextConfig) -> None:
    model = built(small(config))
    assert count(model.config) == parameter_count(model)


@each_family
@pytest.mark.parametrize("millions", [0.3, 2, 50])
def test_asking_for_a_size_gives_about_that_size(config: TextConfig, millions: float) -> None:
    wanted = int(millions * 1e6)
    found = sized(config, wanted)
    experts = getattr(config, "experts", None)  # of which each layer more is a large step
    assert abs(count(found) / wanted - 1) < (0.15 if experts else 0.1)
    assert found.width % 16 == 0
    assert found.depth <= 8 + 3 * found.width / 64  # no thread
    assert found.width <= 64 * 8 * found.depth  # no plate
    assert found.heads % found.kv_heads == 0
    assert found.head_dim * found.heads == found.width


@settings(max_examples=8)
@given(st.integers(200_000, 300_000_000), st.integers(2, 2000))
def test_any_size_can_be_asked_for(parameters: int, vocabulary: int) -> None:
    found = sized(LlamaConfig(vocabulary=vocabulary, context=64), parameters)
    assert abs(count(found) / parameters - 1) < 0.1
    assert (found.vocabulary, found.context) == (vocabulary, 64)


def test_asking_for_more_gives_more() -> None:
    sizes = [count(sized(FAMILIES["llama"], int(10**exponent))) for exponent in (5.5, 6, 6.5, 7, 8)]
    assert sizes == sorted(set(sizes))


def test_what_was_set_by_hand_stays() -> None:
    config = LlamaConfig(**BASE, tied=False, rope_base=777.0, mlp_bias=True, norm_eps=0.1, mup_width=32)
    found = sized(config, 3_000_000)
    assert found.model_dump(include={"tied", "rope_base", "mlp_bias", "norm_eps", "mup_width"}) == config.model_dump(
        include={"tied", "rope_base", "mlp_bias", "norm_eps", "mup_width"}
    )


@each_family
def test_a_size_below_the_smallest_is_refused(config: TextConfig) -> None:
    with pytest.raises(UserError, match="1,000 parameters are too few for 500 token ids: the smallest") as caught:
        sized(config, 1000)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", [LlamaConfig, GPT2Config, QwenConfig, OLMoConfig, GemmaConfig, BertConfig])
@pytest.mark.parametrize("depth", [1, 2, 6, 12, 24, 40])
def test_depth_alone_gives_all_sizes(family: type[TextConfig], depth: int) -> None:
    config = family(depth=depth, **BASE)
    assert config.width == 64 * depth
    assert (config.head_dim, config.heads) == (64, depth)
    inner = count(config) - count(family(depth=depth - 1, width=config.width, **BASE)) if depth > 1 else None
    if inner is not None:  # a block has about 12 width^2 weights
        assert abs(inner / (12 * config.width**2) - 1) < 0.1


@each_family
def test_what_weights_start_from(config: TextConfig) -> None:
    config = small(config, depth=3)
    decoder = isinstance(config, DecoderConfig)
    for name, parameter in built(config).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.ndim == 1:
            assert parameter.unique().tolist() == [0.0 if config.family.startswith("gemma") else 1.0], name
        else:
            added = name.endswith(("attention.output.weight", "mlp.down.weight", "mlp.down"))
            std = STD / math.sqrt(2 * 3) if added and decoder else STD
            assert float(parameter.detach().std()) == pytest.approx(std, rel=6 / math.sqrt(parameter.numel())), name
            assert abs(float(parameter.detach().mean())) < 5 * std / math.sqrt(parameter.numel()), name


@each_family
def test_the_same_seed_draws_the_same_weights(config: TextConfig) -> None:
    one, two, three = (built(small(config), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], three[name]) for name in one)


@each_family
def test_the_maximal_update_parametrisation(config: TextConfig) -> None:
    if config.family.startswith("gemma"):
        return  # refuses it, see below
    untied = {"tied": False} if config.family == "olmo" else {}  # its norm has no weights that could divide logits
    plain, wide = (built(small(config, mup_width=width, **untied)) for width in (None, 16))
    assert set(rates(plain).values()) == {1.0}
    factors, weights = rates(wide), dict(plain.named_parameters())
    tied = wide.config.tied
    for name, parameter in wide.named_parameters():
        hidden = parameter.ndim >= 2 and name.startswith(("blocks.", "masked.dense.", "pooler."))
        last = name.rpartition(".")[0] in ("norm", "masked.norm")
        factor = 1 / 4 if hidden or name == "head.weight" or (last and tied) else 1.0
        assert factors[name] == factor, name
        narrow = name == "head.weight" or "router" in name  # its outputs do not widen with the model
        shrink = 1 / 4 if narrow else 1 / 2 if hidden else 1.0
        if parameter.ndim >= 2:
            torch.testing.assert_close(parameter, weights[name] * shrink, rtol=1e-5, atol=1e-8)
        elif last and tied:
            assert parameter.unique().tolist() == [0.0 if name.endswith("bias") else 1 / 4]
        else:
            assert torch.equal(parameter, weights[name]), name


@each_family
def test_saved_and_loaded_alike(config: TextConfig, tmp_path: Path) -> None:
    model = built(small(config)).eval()
    save_model(model, tmp_path)
    loaded = load_model(tmp_path).eval()
    assert loaded.config == model.config
    assert type(loaded.config) is type(model.config)
    tokens = torch.randint(0, 500, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model(tokens), loaded(tokens))
    again = tmp_path / "again"
    again.mkdir()
    save_model(loaded, again)
    for file in ("config.json", "model.safetensors"):
        assert (again / file).read_bytes() == (tmp_path / file).read_bytes()
    right, wrong = (load_decoder, load_encoder) if isinstance(model, Decoder) else (load_encoder, load_decoder)
    assert right(tmp_path).config == model.config
    with pytest.raises(UserError, match=f"a {config.family} (fills in|only writes on)"):
        wrong(tmp_path)


@each_family
def test_each_family_learns(config: TextConfig) -> None:
    model = built(small(config, vocabulary=30)).train()
    tokens = torch.randint(0, 30, (2, 12), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(30), abs=1)
    assert losses[-1] < 0.5 * losses[0]
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unused <= {"pooler.weight", "pooler.bias"}


@pytest.mark.parametrize(
    ("family", "values", "words"),
    [
        (LlamaConfig, {"width": 30, "heads": 4}, "does not split"),
        (LlamaConfig, {"heads": 4, "kv_heads": 3}, "cannot share"),
        (LlamaConfig, {"width": 12, "heads": 4}, "even size"),
        (GPT2Config, {"heads": 4, "width": 32, "kv_heads": 2}, "as many key-value heads"),
        (MistralConfig, {"experts": 2, "experts_chosen": 3}, "cannot be chosen"),
        (QwenConfig, {"family": "qwen2", "attention_bias": True}, "qwen2 always has its own"),
        (OLMoConfig, {"clip": 3.0}, "does not cut"),
        (OLMoConfig, {"sliding_window": 3}, "has no windows"),
        (GemmaConfig, {"family": "gemma", "score_softcap": 3.0}, "came with gemma2"),
        (BertConfig, {"width": 32, "heads": 4, "head_dim": 4}, "share its width"),
    ],
)
def test_what_no_family_can_be(family: type[TextConfig], values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        family(**BASE, **values)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: RopeScaling(kind="dynamic", factor=2, original_context=8), "dynamic scaling begins"),
        (lambda: RopeScaling(kind="llama3", factor=2, low=4, high=4), "must be below"),
        (lambda: MistralConfig(full_layers=(0,)), "no sliding_window"),
        (lambda: MistralConfig(depth=2, sliding_window=4, full_layers=(1, 0)), "in their order"),
        (lambda: MistralConfig(depth=2, sliding_window=4, full_layers=(2,)), "from 0 to 1"),
        (lambda: OLMoConfig(family="olmo", mup_width=64), "set tied: false"),
        (lambda: GemmaConfig(mup_width=64), "grow with its width"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(make: Callable[[], object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make()


@pytest.mark.parametrize("config", [LlamaConfig(), OLMoConfig(family="olmo"), LlamaConfig(mup_width=16)])
def test_embeddings_from_counts_start_nearly_even(config: DecoderConfig) -> None:
    """Also where the last norm has no weights, and where muP divides the logits."""
    model = small(config, width=128, vocabulary=500, context=32).build()  # type: ignore[attr-defined]
    torch.manual_seed(0)
    model.start_from(torch.randn(500, 128))
    tokens = torch.randint(0, 500, (4, 32))
    with torch.no_grad():
        logits = model(tokens)
    ratio = 128 / 16 if config.mup_width else 1
    assert 0.05 / ratio < float(logits.std()) < 0.6 / ratio
