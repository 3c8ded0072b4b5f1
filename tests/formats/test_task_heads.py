"""Heads for tasks against the other library's classes for them: the same scores, in and out."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf_library
from safetensors.torch import save_file

from underlay.errors import UserError
from underlay.formats import hf
from underlay.models import Decoder, Encoder, EncoderConfig, LlamaConfig
from underlay.models.families import blank
from underlay.models.heads import TaskConfig

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
CASES = [
    ("Bert", "ForSequenceClassification", "text"),
    ("Bert", "ForTokenClassification", "token"),
    ("Bert", "ForQuestionAnswering", "span"),
    ("Roberta", "ForSequenceClassification", "text"),
    ("Roberta", "ForTokenClassification", "token"),
    ("Roberta", "ForQuestionAnswering", "span"),
    ("Llama", "ForSequenceClassification", "text"),
    ("Qwen3", "ForSequenceClassification", "text"),
    ("GPT2", "ForSequenceClassification", "text"),
]


def theirs(family: str, ending: str) -> Any:
    labels: dict[str, Any] = {
        "id2label": {0: "calm", 1: "glad", 2: "sad"},
        "label2id": {"calm": 0, "glad": 1, "sad": 2},
    }
    torch.manual_seed(0)
    more = {} if ending == "ForQuestionAnswering" else labels
    more |= {"num_key_value_heads": 2} if family == "Qwen3" else {}
    sizes = {key: size for key, size in SIZES.items() if family != "GPT2" or key != "intermediate_size"}
    model = getattr(hf_library, family + ending)(getattr(hf_library, family + "Config")(**sizes, **IDS, **more))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and which of them are real; rows are padded on the right with 1."""
    tokens = torch.randint(3, 40, (4, 12), generator=torch.Generator().manual_seed(1))
    present = torch.arange(12) < torch.tensor([12, 5, 9, 1])[:, None]
    return tokens.masked_fill(~present, 1), present


def scores(model: Any, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        answer = model(tokens, attention_mask=present.long())
    if hasattr(answer, "start_logits"):
        return torch.stack((answer.start_logits, answer.end_logits), -1)
    return answer.logits


@pytest.mark.parametrize(("family", "ending", "kind"), CASES, ids=lambda value: value)
def test_scores_equal_in_and_out(family: str, ending: str, kind: str, tmp_path: Path) -> None:
    model, (tokens, present) = theirs(family, ending), rows()
    model.save_pretrained(tmp_path / "theirs")
    incoming = hf.open_model(tmp_path / "theirs")
    assert incoming.config.task is not None
    assert incoming.config.task.kind == kind
    if kind != "span":
        assert incoming.config.task.labels == ("calm", "glad", "sad")
    ours = blank(incoming.config)
    ours.load_state_dict(dict(incoming.tensors()))
    expected = scores(model, tokens, present)
    with torch.no_grad():
        found = ours.scores(tokens, present)
    real = present if kind != "text" else slice(None)
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-5)

    values, table = hf.outgoing(incoming.config)
    out = tmp_path / "ours"
    out.mkdir()
    model.config.__class__.from_dict(values | IDS).save_pretrained(out)
    state = ours.state_dict()
    save_file(dict(hf.written_out(table, state.__getitem__)), out / "model.safetensors", metadata={"format": "pt"})
    assert values["architectures"] == [family + ending]
    again, info = type(model).from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(scores(again.eval(), tokens, present), expected)


def test_a_head_of_another_class_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = hf_library.LlamaConfig(**SIZES, **IDS)
    hf_library.LlamaForTokenClassification(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="LlamaForTokenClassification"):
        hf.open_model(tmp_path)


def test_new_heads_can_be_trained() -> None:
    tokens, present = rows()
    task = TaskConfig(kind="text", labels=("a", "b"))
    for config in (
        LlamaConfig(depth=1, width=16, heads=2, vocabulary=40, context=16, task=task),
        _bert(depth=1, width=16, heads=2, vocabulary=40, context=16, task=task, masked_head=False),
    ):
        model = config.build()
        assert isinstance(model, Decoder | Encoder)
        model.scores(tokens, present).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def _bert(**more: Any) -> EncoderConfig:
    from underlay.models.bert import BertConfig

    return BertConfig(**more)


@pytest.mark.parametrize(
    "bad", [{"kind": "span", "labels": ("a",)}, {"kind": "text"}, {"kind": "text", "labels": "aa"}]
)
def test_impossible_tasks(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="labels"):
        TaskConfig(**bad)
