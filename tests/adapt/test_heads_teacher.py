"""A teacher's scores are learned from: the formula, labels in another order, and what is refused."""

from pathlib import Path

import pytest
import torch
from head_world import LABELS, NUMBERS, SEVERAL, TAGS, learn, made, prepared

from underlay.adapt.examples import Label
from underlay.adapt.heads import HeadConfig, lesson, predict_labels, with_head
from underlay.adapt.heads.objectives import TextClass
from underlay.adapt.heads.predict import text_label_scores
from underlay.adapt.heads.teacher import teacher_scores
from underlay.errors import UserError
from underlay.models.heads import TaskConfig

TASK = TaskConfig(kind="text", labels=("down", "place", "up"))
TEXTS = [example.body.text for example in LABELS if isinstance(example.body, Label)]


def test_the_loss_is_that_of_the_formula() -> None:
    model, tokenizer = made("encoder")
    teacher = with_head(*made("decoder")[:1], TASK, seed=3), made("decoder")[1]
    one = lesson(
        model, tokenizer, LABELS, HeadConfig(teacher_share=0.3, teacher_temperature=3.0), 40, 0, batch_rows=4,
        teacher=teacher,
    )  # fmt: skip
    batch = one.source.batch(0, 5)
    found = one.objective(one.model, batch)
    plain = TextClass()(one.model, batch)
    order = [one.source.examples(number)[0] for number in range(5)]
    own = text_label_scores(one.model, tokenizer, [TEXTS[number] for number in order])
    told = text_label_scores(*teacher, [TEXTS[number] for number in order])
    p, q = (told / 3).softmax(-1), (own / 3).softmax(-1)
    soft = (p * (p.log() - q.log())).sum()
    torch.testing.assert_close(plain.sum, torch.nn.functional.cross_entropy(own, batch.targets[:, 0], reduction="sum"))
    torch.testing.assert_close(found.sum.detach(), 0.7 * plain.sum.detach() + 0.3 * 9 * soft, rtol=1e-4, atol=1e-5)


def test_a_students_labels_are_in_its_own_order() -> None:
    model, tokenizer = made("encoder")
    turned = with_head(model, TaskConfig(kind="text", labels=("up", "place", "down")), seed=3)
    found = teacher_scores((turned, tokenizer), TEXTS, TASK)
    torch.testing.assert_close(found, text_label_scores(turned, tokenizer, TEXTS).flip(-1))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_student_comes_to_say_what_its_teacher_says_where_labels_say_otherwise(kind: str, tmp_path: Path) -> None:
    teacher = prepared("encoder", "labels")
    learn(teacher, tmp_path / "teacher", 120)
    told = (teacher.model, made("encoder")[1])
    wrong = [Label(text, ("up" if number % 2 else "down",)) for number, text in enumerate(TEXTS)]
    wrong[0] = Label(TEXTS[0], ("place",))
    examples = [type(LABELS[0])(body, "here", line, "CC0-1.0") for line, body in enumerate(wrong, 1)]
    model, tokenizer = made(kind)
    settings = HeadConfig(teacher_share=1.0)
    student = lesson(model, tokenizer, examples, settings, 40, 0, batch_rows=4, teacher=told)
    learn(student, tmp_path / "student", 150)
    said = [guess.labels for guess in predict_labels(student.model, tokenizer, TEXTS)]
    assert said == [guess.labels for guess in predict_labels(*told, TEXTS)]
    assert said != [label.labels for label in wrong]


@pytest.mark.parametrize("examples", [SEVERAL, NUMBERS, TAGS])
def test_a_teacher_teaches_one_label_of_a_text(examples: list[object]) -> None:
    model, tokenizer = made("encoder")
    teacher = with_head(made("encoder")[0], TASK, 0), tokenizer
    with pytest.raises(UserError, match="teaches one label of a text"):
        lesson(model, tokenizer, examples, HeadConfig(), 40, 0, teacher=teacher)  # type: ignore[arg-type]


def test_a_teacher_knows_the_same_labels() -> None:
    model, tokenizer = made("encoder")
    other = with_head(made("encoder")[0], TaskConfig(kind="text", labels=("a", "b")), 0), tokenizer
    with pytest.raises(UserError, match="it has a head for 2 labels; adapt it to the same 3 labels"):
        lesson(model, tokenizer, LABELS, HeadConfig(), 40, 0, teacher=other)
    with pytest.raises(UserError, match="it has no head for labels"):
        lesson(model, tokenizer, LABELS, HeadConfig(), 40, 0, teacher=made("encoder"))
