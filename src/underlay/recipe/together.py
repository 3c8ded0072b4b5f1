"""Stages in a world of many processes: the first one makes what is to be made, the others help it to train.

first     makes, or finds, every stage's artifact; says what it found, and where it is about to train
others    wait for that; train with it; write nothing
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from underlay.library import Artifact, Draft, Library, Made, Order
from underlay.train.world import World


def make(
    world: World,
    library: Library,
    order: Order,
    work: Callable[[Draft], None],
    helped: bool,
    waiting: Callable[[], None],
    usable: Callable[[Artifact], bool] = lambda _: True,
) -> Made:
    """`Library.make`, of which all processes get the outcome; with `helped` all of them do the work.

    The library must be one that all of them see.
    """
    if world.leads:

        def announced(draft: Draft) -> None:
            if helped:
                world.told(draft.scratch)
            work(draft)

        made = library.make(order, announced, waiting, usable)
        world.told((made.artifact.reference, made.reused))
        return made
    heard: Any = world.told(None)
    if isinstance(heard, Path):
        with tempfile.TemporaryDirectory() as folder:
            work(Draft(Path(folder), heard))
        heard = world.told(None)
    reference, reused = heard
    return Made(library.find(reference), reused)
