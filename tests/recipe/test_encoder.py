"""An encoder grown from a recipe: it learns what is hidden, and fills it in."""

import math
from pathlib import Path

import pytest
from test_steps import Silent

from underlay.errors import UserError
from underlay.generate.fill import fill
from underlay.library import Library
from underlay.models.storage import load_encoder
from underlay.recipe import read_recipe, run_recipe
from underlay.text import Tokenizer

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"
ENCODER = (
    "tokenizer.mask=true",
    "pretrain.model={family: bert, width: 64, depth: 2}",
    "pretrain.train.steps=60",
    "pretrain.train.batch_rows=8",
)


def test_an_encoder_learns_and_fills_in(tmp_path: Path) -> None:
    made = run_recipe(read_recipe(SMALL, ENCODER), Library(tmp_path), Silent(), until="pretrain")["pretrain"]
    assert made.manifest.metrics["loss"] < 0.85 * math.log(512)
    model, tokenizer = load_encoder(made.folder), Tokenizer.load(made.folder)
    (filled,) = fill(model, tokenizer, ["import <|mask|>\n"])
    assert len(filled.masks[0]) == 5
    assert "<|mask|>" not in filled.text


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (("pretrain.isolate=true",), "isolate: not for encoders"),
        (("pretrain.model={family: bert, masked_head: false}",), "learns through it"),
    ],
)
def test_what_an_encoder_cannot_have(changes: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        read_recipe(SMALL, (*ENCODER, *changes))


def test_a_mask_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no token for the mask"):
        run_recipe(read_recipe(SMALL, ENCODER[1:]), Library(tmp_path), Silent(), until="pretrain")
