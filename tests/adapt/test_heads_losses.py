"""Losses against formulas written out here, and against the other library's on the same weights."""

import math

import pytest
import torch
import transformers
from head_world import LABELS, NUMBERS, QUESTIONS, SEVERAL, SIMILAR, TAGS, made, prepared
from torch import Tensor
from torch.nn.functional import normalize

from underlay.adapt.heads.objectives import Alike, Number, SeveralLabels, SpanEnds, TextClass, TokenClass
from underlay.adapt.heads.source import TaskBatch
from underlay.formats import hf
from underlay.models import Batch
from underlay.models.families import blank
from underlay.train import Objective

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TOKENS = torch.randint(3, 40, (4, 12), generator=torch.Generator().manual_seed(1))
PRESENT = torch.arange(12) < torch.tensor([12, 5, 9, 3])[:, None]
TYPES = (torch.arange(12) > 4).long().expand(4, 12).contiguous()
TAGGED = torch.where(PRESENT & (torch.arange(12) % 3 > 0), TOKENS % 3, -100)


def batch(targets: Tensor, present: Tensor = PRESENT, **more: Tensor) -> TaskBatch:
    weights = more.pop("weights", None)
    return TaskBatch(TOKENS, targets, weights, present=present, types=TYPES, **more)


CASES = {
    "class": (
        "BertForSequenceClassification",
        TextClass(),
        batch(torch.tensor([[0], [2], [1], [1]])),
        {"labels": torch.tensor([0, 2, 1, 1])},
        {"num_labels": 3},
    ),
    "several": (
        "BertForSequenceClassification",
        SeveralLabels(),
        batch(torch.tensor([[0, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 1]])),
        {"labels": torch.tensor([[0.0, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 1]])},
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
    "number": (
        "BertForSequenceClassification",
        Number(),
        batch(torch.zeros(4, 1, dtype=torch.int64), values=torch.tensor([0.5, -1, 2, 0])),
        {"labels": torch.tensor([0.5, -1, 2, 0])},
        {"num_labels": 1},
    ),
    "token": (
        "BertForTokenClassification",
        TokenClass(),
        batch(TAGGED.clamp(min=0), weights=(TAGGED >= 0).float()),
        {"labels": TAGGED},
        {"num_labels": 3},
    ),
    "span": (
        "BertForQuestionAnswering",
        SpanEnds(),
        batch(torch.tensor([[0, 0], [3, 4], [5, 5], [1, 11]]), torch.ones(4, 12, dtype=torch.bool)),
        {"start_positions": torch.tensor([0, 3, 5, 1]), "end_positions": torch.tensor([0, 4, 5, 11])},
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_the_other_librarys(case: str, tmp_path: object) -> None:
    name, objective, rows, targets, more = CASES[case]
    torch.manual_seed(0)
    theirs = getattr(transformers, name)(transformers.BertConfig(**SIZES, **more))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    incoming = hf.open_model(tmp_path)
    if case == "several":
        assert incoming.config.task is not None
        assert incoming.config.task.several
    ours = blank(incoming.config)
    ours.load_state_dict(dict(incoming.tensors()))
    expected = theirs(TOKENS, attention_mask=rows.present.long(), token_type_ids=TYPES, **targets).loss
    expected.backward()
    loss = objective(ours, rows)
    (loss.sum / loss.count).backward()
    torch.testing.assert_close(loss.sum / loss.count, expected, rtol=1e-5, atol=1e-6)
    pairs = [("embedding.weight", "bert.embeddings.word_embeddings.weight")]
    pairs += [("blocks.1.mlp.up.weight", "bert.encoder.layer.1.intermediate.dense.weight")]
    pairs += [("task.output.weight", "qa_outputs.weight" if case == "span" else "classifier.weight")]
    own, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for one, two in pairs:
        torch.testing.assert_close(own[one].grad, other[two].grad, rtol=1e-4, atol=1e-6)


def scores_of(rows: Batch, what: str) -> tuple[Tensor, Tensor]:
    """A tiny encoder's scores, row by row without padding, by the model's own method, and the loss's mean."""
    one = prepared("encoder", what)
    assert isinstance(rows, TaskBatch)
    assert rows.present is not None
    loss = one.objective(one.model, rows)
    found = []
    for tokens, present in zip(rows.tokens, rows.present, strict=True):
        real = tokens[present][None]
        found.append(one.model.scores(real, torch.ones_like(real, dtype=torch.bool))[0])
    return torch.stack(found) if found[0].ndim == 1 else torch.zeros(0), loss.sum / loss.count


def test_plain_formulas() -> None:
    rows = prepared("encoder", "labels").source.batch(0, len(LABELS))
    scores, loss = scores_of(rows, "labels")
    shares = scores.exp() / scores.exp().sum(-1, keepdim=True)
    right = [float(-shares[row, int(target)].log()) for row, (target,) in enumerate(rows.targets)]
    assert float(loss) == pytest.approx(sum(right) / len(LABELS), rel=1e-5)

    rows = prepared("encoder", "several").source.batch(0, len(SEVERAL))
    scores, loss = scores_of(rows, "several")
    shares = 1 / (1 + (-scores).exp())
    likely = torch.where(rows.targets > 0, shares, 1 - shares)
    assert float(loss) == pytest.approx(float(-likely.log().mean()), rel=1e-5)

    rows = prepared("encoder", "numbers").source.batch(0, len(NUMBERS))
    scores, loss = scores_of(rows, "numbers")
    values = [1030.0, 970, 1015, 1000, 955]
    mean = sum(values) / 5
    variance = sum((value - mean) ** 2 for value in values) / 5
    off = scores[:, 0] - rows.values
    assert float(loss) == pytest.approx(float((off**2).mean()) / variance, rel=1e-4)
    assert float(loss) == pytest.approx(1, abs=0.3)  # a fresh head says about the mean


def test_what_is_alike_is_told_apart_from_the_others_of_its_group() -> None:
    one = prepared("encoder", "similar")
    rows = one.source.batch(0, 1)
    assert rows.allowed is not None
    loss = one.objective(one.model, rows)
    vectors = []
    for tokens, present in zip(rows.tokens, rows.present, strict=True):
        vectors.append(normalize(one.model.hidden(tokens[present][None])[0].mean(0), dim=0))
    total = 0.0
    for query in range(4):
        exps = [math.exp(float(vectors[query] @ vectors[candidate]) / 0.05) for candidate in range(4, len(vectors))]
        total -= math.log(exps[query] / sum(exps))
    assert len(vectors) == 2 * len(SIMILAR) + 3
    assert float(loss.sum.detach()) == pytest.approx(total, rel=1e-4)


def test_groups_do_not_see_each_other_and_the_same_text_is_no_negative() -> None:
    one = prepared("encoder", "similar", group=2)
    two = one.source.batch(0, 2)
    assert not two.allowed[:2, 2:4].any()
    assert not two.allowed[2:, :2].any()
    from head_world import examples

    from underlay.adapt.examples import Similar
    from underlay.adapt.heads import HeadConfig, lesson

    model, tokenizer = made("encoder")
    alike = examples(Similar("good", "fine"), Similar("nice", "fine"), Similar("sad", "good"))
    rows = lesson(model, tokenizer, alike, HeadConfig(), 40, 0).source.batch(0, 1)
    assert rows.allowed.sum() == 6  # of 3 x 3: not the other "fine" for two texts, nor "good" for "good"
    assert rows.allowed.diagonal().all()


def test_tags_are_counted_and_the_rest_weighs_nothing() -> None:
    one = prepared("encoder", "tags")
    rows = one.source.batch(0, 4)
    loss = one.objective(one.model, rows)
    assert float(loss.count) == sum(len(example.body.words) for example in TAGS)
    rows.targets[rows.weights == 0] = 1
    assert torch.equal(one.objective(one.model, rows).sum, loss.sum)


OBJECTIVES: list[tuple[str, Objective, str]] = [
    ("labels", TextClass(), "accuracy"),
    ("several", SeveralLabels(), "exact"),
    ("tags", TokenClass(), "accuracy"),
    ("questions", SpanEnds(), "exact"),
    ("similar", Alike("mean"), "accuracy"),
]


@pytest.mark.parametrize(("what", "objective", "metric"), OBJECTIVES)
def test_metrics_are_shares_of_the_count(what: str, objective: Objective, metric: str) -> None:
    one = prepared("encoder", what)
    loss = objective(one.model, one.source.batch(0, 1 if what == "similar" else len(QUESTIONS)))
    assert 0 <= float(loss.metrics[metric]) <= float(loss.count)
    assert float(loss.metrics[metric]) % 1 == 0
