"""LoRA: it starts as the model was, learns what peft would, and merges without a trace."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn

from underlay.adapt.lora import LoraConfig, adapter_of, as_kept, attach
from underlay.adapt.merge import drift, merge, unmerge
from underlay.errors import UserError
from underlay.formats import hf
from underlay.formats.peft import load_adapter, write_adapter
from underlay.models import Batch, Decoder, LlamaConfig
from underlay.models.adapter import Adapter, LowRank
from underlay.models.gpt2 import GPT2Config
from underlay.models.nf4 import LEVELS, Nf4, to_nf4
from underlay.models.parts import LoraLinear
from underlay.models.qwen import QwenConfig
from underlay.train import CausalLM, TrainConfig, train
from underlay.train.config import OptimizerConfig

SIZES: dict[str, Any] = {"vocabulary": 40, "width": 32, "depth": 2, "heads": 4, "context": 32}
LLAMA = LlamaConfig(**SIZES, kv_heads=2, hidden=48)
FAMILIES = {
    "llama": LLAMA,
    "untied": LlamaConfig(**SIZES, tied=False),
    "qwen2": QwenConfig(**SIZES, family="qwen2", kv_heads=2, hidden=48),
    "gpt2": GPT2Config(**SIZES, hidden=64),
}
TOKENS = torch.randint(40, (2, 12), generator=torch.Generator().manual_seed(1))


def fresh(config: Any = LLAMA, seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    model: Decoder = config.build()
    return model


def stirred(model: Decoder, seed: int = 2) -> Decoder:
    """With changes that are not nothing any more."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, LoraLinear):
            nn.init.normal_(module.lora_b, std=0.2, generator=generator)
    return model


def theirs_of(ours: Decoder) -> Any:
    """The same model in transformers."""
    values, rows = hf.outgoing(ours.config)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**values)).eval()
    theirs.load_state_dict(dict(hf.written_out(rows, ours.state_dict().__getitem__)), strict=False)
    theirs.tie_weights()
    return theirs


@pytest.mark.parametrize("family", FAMILIES)
def test_it_starts_as_the_model_was_and_nothing_else_learns(family: str) -> None:
    model, base = fresh(FAMILIES[family]), fresh(FAMILIES[family])
    attach(model, LoraConfig(rank=3), seed=0)
    assert torch.equal(model(TOKENS), base(TOKENS))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning
    assert all(".lora_" in name for name in learning)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_outputs_and_gradients_are_those_of_peft(family: str, tmp_path: Path) -> None:
    ours = fresh(FAMILIES[family])
    theirs = theirs_of(ours)
    attach(ours, LoraConfig(rank=3, alpha=6, targets=("query", "value", "down")), seed=0)
    stirred(ours)
    write_adapter(adapter_of(ours), ours.config, tmp_path, "base")
    model = peft.PeftModel.from_pretrained(theirs, tmp_path, is_trainable=True)
    logits, wanted = ours(TOKENS), model(TOKENS).logits
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5)
    for one in (logits, wanted):
        nn.functional.cross_entropy(one.flatten(0, 1), TOKENS.roll(-1, 1).flatten()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    found = {name: module for name, module in ours.named_modules() if isinstance(module, LoraLinear)}
    assert len(gradients) == 2 * len(found) == 12
    parts = {"query": "self_attn.q_proj", "value": "self_attn.v_proj", "down": "mlp.down_proj"}
    for name, module in found.items():
        _, layer, _, part = name.split(".")
        stem = f"base_model.model.model.layers.{layer}.{parts[part]}.lora_"
        # Scales are within their B, so a gradient of B is ours divided by the scale, and the other way round.
        torch.testing.assert_close(module.lora_a.grad, gradients[f"{stem}A.default.weight"], rtol=1e-4, atol=1e-7)
        assert module.lora_b.grad is not None
        scaled = module.lora_b.grad / module.scale
        torch.testing.assert_close(scaled, gradients[f"{stem}B.default.weight"], rtol=1e-4, atol=1e-7)


def test_the_pass_back_by_hand_is_that_of_the_formula() -> None:
    from underlay.models.parts.lora import _Changed

    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, a, b = (some(*shape).requires_grad_() for shape in ((2, 3, 5), (2, 5), (4, 2)))
    weight, bias = some(4, 5), some(4)
    result = _Changed.apply(x, weight, bias, a, b, 1.5)
    torch.testing.assert_close(result, nn.functional.linear(x, weight, bias) + 1.5 * x @ a.t() @ b.t())
    assert torch.autograd.gradcheck(lambda *given: _Changed.apply(given[0], weight, bias, *given[1:], 1.5), (x, a, b))


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_what_was_written_and_so_do_we(family: str, tmp_path: Path) -> None:
    ours = fresh(FAMILIES[family])
    theirs = theirs_of(ours)
    attach(ours, LoraConfig(rank=3, rooted=True), seed=0)
    stirred(ours)
    write_adapter(adapter_of(ours), ours.config, tmp_path, "base")
    model = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    with torch.no_grad():
        wanted = ours(TOKENS)
        torch.testing.assert_close(model(TOKENS).logits, wanted, rtol=0, atol=1e-4)
        again = merge(fresh(FAMILIES[family]), load_adapter(tmp_path, fresh(FAMILIES[family])))
        torch.testing.assert_close(again(TOKENS), wanted, rtol=0, atol=1e-4)


def test_a_part_of_a_fused_matrix_can_be_changed_by_itself(tmp_path: Path) -> None:
    ours = fresh(FAMILIES["gpt2"])
    theirs = theirs_of(ours)
    attach(ours, LoraConfig(rank=3, targets=("value",)), seed=0)
    stirred(ours)
    write_adapter(adapter_of(ours), ours.config, tmp_path, "base")
    model = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS).logits, ours(TOKENS), rtol=0, atol=1e-4)


def test_merged_is_unmerged_and_the_way_back_leads_back() -> None:
    model, base = fresh(), fresh()
    attach(model, LoraConfig(rank=3), seed=0)
    adapter = adapter_of(stirred(model))
    merged = merge(base, adapter)
    found = drift(model, merged, TOKENS.tolist())
    assert found.tokens == TOKENS.numel()
    assert found.logits < 1e-4
    assert abs(found.divergence) < 1e-8
    assert found.agreement == 1
    back = unmerge(merged, adapter)
    for name, weight in back.state_dict().items():
        torch.testing.assert_close(weight, base.state_dict()[name], rtol=0, atol=1e-6)
    assert drift(model, base, TOKENS.tolist()).divergence > 1e-3


@pytest.mark.parametrize("base", ["int8", "nf4"])
def test_changes_of_a_rounded_model_are_those_of_what_it_stands_for(base: Any) -> None:
    config = LoraConfig(rank=3, base=base)
    plain = as_kept(fresh(), config)
    assert not torch.equal(plain(TOKENS), fresh()(TOKENS))
    found = []
    for model, one in ((fresh(), config), (plain, LoraConfig(rank=3))):
        attach(model, one, seed=0)
        loss = nn.functional.cross_entropy(stirred(model)(TOKENS).flatten(0, 1), TOKENS.roll(-1, 1).flatten())
        loss.backward()
        found.append((loss.detach(), [p.grad for p in model.parameters() if p.requires_grad]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_four_bits_take_an_eighth_of_the_room() -> None:
    model, config = fresh(LlamaConfig(**SIZES | {"width": 128, "hidden": 256})), LoraConfig(rank=3, base="nf4")
    whole = sum(p.numel() * 4 for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2)
    attach(model, config, seed=0)
    kept = [m.packed for m in model.modules() if isinstance(m, LoraLinear)]
    assert all(isinstance(one, Nf4) for one in kept)
    size = sum(one.codes.nbytes + one.scales.nbytes for one in kept if isinstance(one, Nf4))
    assert size < 0.15 * whole
    assert sum(m.weight.numel() for m in model.modules() if isinstance(m, LoraLinear)) == 0


@pytest.mark.parametrize("shape", [(4, 64), (3, 50), (1, 1)])
def test_four_bits_are_the_nearest_levels_of_a_block(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    packed = to_nf4(weight)
    found = packed.dequantise()
    flat = nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    grid = flat.abs().amax(1)[:, None, None] * torch.tensor(LEVELS)
    nearest = (flat[..., None] - grid).abs().amin(-1).flatten()[: weight.numel()]
    torch.testing.assert_close((found - weight).abs().flatten(), nearest, rtol=1e-5, atol=1e-6)
    assert torch.equal(to_nf4(found).dequantise(), found)
    assert torch.equal(to_nf4(torch.zeros(2, 64)).dequantise(), torch.zeros(2, 64))


def test_what_a_matrix_starts_from_does_not_depend_on_the_others() -> None:
    one, two, other = fresh(), fresh(), fresh()
    attach(one, LoraConfig(rank=3), seed=0)
    attach(two, LoraConfig(rank=3, targets=("value",)), seed=0)
    attach(other, LoraConfig(rank=3), seed=1)
    first, second, third = (m.get_submodule("blocks.1.attention.value").lora_a for m in (one, two, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    neighbour = one.get_submodule("blocks.0.attention.value").lora_a
    assert not torch.equal(first, neighbour)


def test_an_adapter_is_gone_on_from_where_it_was() -> None:
    model, again = fresh(), fresh()
    attach(model, LoraConfig(rank=3), seed=0)
    adapter = adapter_of(stirred(model))
    attach(again, LoraConfig(rank=8, alpha=5), seed=1, start=adapter)
    torch.testing.assert_close(again(TOKENS), model(TOKENS), rtol=0, atol=1e-5)
    kept = adapter_of(again).changes["blocks.0.mlp.up"]
    torch.testing.assert_close(kept.up, adapter.changes["blocks.0.mlp.up"].up)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"targets: a gpt2 has none of gate"):
        attach(fresh(FAMILIES["gpt2"]), LoraConfig(targets=("gate",)), seed=0)
    foreign = Adapter({"blocks.7.mlp.up": LowRank(torch.zeros(1, 32), torch.zeros(48, 1))})
    with pytest.raises(UserError, match=r"no matrix blocks\.7\.mlp\.up"):
        attach(fresh(), LoraConfig(), seed=0, start=foreign)


def outspoken() -> Decoder:
    """A model whose frozen head can tell tokens apart, as that of any trained one can."""
    model = fresh()
    with torch.no_grad():
        model.embedding.weight.mul_(50)
    return model


class Fixed:
    """Ten rows, again and again."""

    rows = torch.randint(40, (10, 13), generator=torch.Generator().manual_seed(3))

    def batch(self, first: int, count: int) -> Batch:
        rows = self.rows[[sample % 10 for sample in range(first, first + count)]]
        return Batch(rows[:, :-1], rows[:, 1:])


def run(scratch: Path, steps: int, total: int | None = None, stop: bool = False) -> tuple[Decoder, list[float]]:
    config = TrainConfig(
        steps=total or steps,
        context=12,
        batch_rows=10,
        micro_rows=5,
        compile=False,
        precision="float32",
        checkpoint_seconds=1e-6 if stop else 100,
        optimizer=OptimizerConfig(adam_lr=0.01),
    )
    model = outspoken()
    attach(model, LoraConfig(rank=16), seed=0)
    source: Any = Fixed()
    if stop:
        calls = iter(range(10**9))

        class Stopping(Fixed):
            def batch(self, first: int, count: int) -> Batch:
                if next(calls) > 2 * steps:
                    raise KeyboardInterrupt
                return super().batch(first, count)

        source = Stopping()
    outcome = train(model, CausalLM(), source, config, scratch)
    return model, [row["loss"] for row in outcome.journal]


def test_ten_examples_are_learned_by_heart(tmp_path: Path) -> None:
    model, losses = run(tmp_path, 300)
    assert losses[0] > 3
    assert losses[-1] < 0.05
    base = outspoken()
    for name, weight in base.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), "the model itself stands still"


def test_stopped_and_resumed_equals_never_stopped_and_checkpoints_are_small(tmp_path: Path) -> None:
    whole, losses = run(tmp_path / "one", 12)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "two", 5, total=12, stop=True)
    (kept,) = (tmp_path / "two").glob("step-*/state.safetensors")
    learning = sum(p.numel() for p in whole.parameters() if p.requires_grad)
    assert kept.stat().st_size < 4 * 3 * learning * 1.2 + 10_000
    again, rest = run(tmp_path / "two", 12)
    assert rest == losses
    for name, tensor in adapter_of(whole).changes.items():
        assert torch.equal(tensor.up, adapter_of(again).changes[name].up)
