"""The example of a mixture is the table of the LLaMA paper, shares and epochs alike."""

from pathlib import Path

import pytest

from underlay.data.mixture import Mixture
from underlay.recipe import read_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "llama-mixture.yaml"
# arXiv:2302.13971, table 1: share of what is read, epochs, bytes on disk.
TABLE = {
    "commoncrawl": (0.67, 1.10, 3.3e12),
    "c4": (0.15, 1.06, 783e9),
    "github": (0.045, 0.64, 328e9),
    "wikipedia": (0.045, 2.45, 83e9),
    "books": (0.045, 2.23, 85e9),
    "arxiv": (0.025, 1.06, 92e9),
    "stackexchange": (0.02, 1.03, 78e9),
}
READ = 1.4e12


def test_shares_are_read_and_come_to_the_epochs_of_the_paper() -> None:
    (stage,) = read_recipe(RECIPE).stages["pretrain"].mixture
    assert set(stage.weights) == set(TABLE)
    context, scale = 2048, 2e5  # all parts made smaller alike, so that rows can be counted
    rows = {name: round(READ * share / epochs / scale / context) for name, (share, epochs, _) in TABLE.items()}
    total = round(READ / scale / context)
    read = Mixture([stage], rows, context, 0).read(total)
    for name, (share, epochs, size) in TABLE.items():
        assert read[name][0] / total == pytest.approx(share, abs=1 / total)
        assert read[name][1] == pytest.approx(epochs, rel=0.02)
        # The table agrees with itself: what is read, without its repeats, has some bytes a token.
        assert 2.5 < size / (READ * share / epochs) < 4.5
