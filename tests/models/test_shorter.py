"""A shortened model is its own first and last blocks, and those between that are spread evenly."""

import pytest
import torch

from underlay.errors import UserError
from underlay.models import LlamaConfig
from underlay.models.bert import BertConfig
from underlay.models.gemma import GemmaConfig
from underlay.models.shorter import shortened

SHAPE = {"vocabulary": 40, "context": 16, "width": 32, "heads": 2, "hidden": 48}


@pytest.mark.parametrize("family", [LlamaConfig, BertConfig])
def test_what_stays_is_the_models_own(family: type) -> None:
    torch.manual_seed(0)
    model = family(**SHAPE, depth=5).build()
    small = shortened(model, 3)
    assert small.config.depth == len(small.blocks) == 3
    for place, layer in enumerate((0, 2, 4)):
        for one, other in zip(small.blocks[place].parameters(), model.blocks[layer].parameters(), strict=True):
            assert one.data_ptr() == other.data_ptr()
    assert torch.equal(small.embedding.weight, model.embedding.weight)
    assert all(parameter.requires_grad for parameter in small.parameters())


def test_without_the_other_blocks_it_computes_what_these_alone_compute() -> None:
    torch.manual_seed(0)
    model = LlamaConfig(**SHAPE, depth=3).build()
    with torch.no_grad():
        for name in ("attention.output.weight", "mlp.down.weight"):
            model.blocks[1].get_parameter(name).zero_()  # a block that adds nothing
    tokens = torch.randint(40, (2, 9), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(shortened(model, 2)(tokens), model(tokens))


@pytest.mark.parametrize("depth", [0, 5, 6])
def test_only_fewer_blocks_are_fewer(depth: int) -> None:
    with pytest.raises(UserError, match="the model has 5; keep fewer"):
        shortened(LlamaConfig(**SHAPE, depth=5).build(), depth)


def test_blocks_that_are_not_alike_do_not_change_places() -> None:
    model = GemmaConfig(family="gemma2", **SHAPE, depth=4, sliding_window=8, full_layers=(1, 3)).build()
    with pytest.raises(UserError, match=r"would not be itself in place|cannot have so few"):
        shortened(model, 2)
