"""`underlay attack`: how a model that tells labels apart holds up where somebody looks for what it gets wrong."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from underlay.cli.common import JsonOption, LibraryOption, ModelArgument, console, open_library, print_json

if TYPE_CHECKING:
    from underlay.adapt.robust import Attacked, Victim

_SHOWN = 5
"""Texts of each attack that are shown."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(attack)


def attack(
    model: ModelArgument,
    data: Annotated[list[str], typer.Option("--data", metavar="FILE", help="Texts with labels to attack; repeatable.")],
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help="spelling, paraphrase, gradient; repeatable, by default all."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Attack so many texts, evenly spaced among them.")] = 500,
    share: Annotated[float, typer.Option(help="Of the words of a text that may be misspelled.")] = 0.15,
    tries: Annotated[int, typer.Option(help="Misspellings of a word that are tried, and paraphrases of a text.")] = 8,
    epsilon: Annotated[float, typer.Option(help="How far embeddings are moved, as a share of their length.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of all chance.")] = 0,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Attack a model that tells labels apart, and say how often it is still right. Nothing is learned.

    A text holds up if the model is right about it and about every form of it that the attack tried.
    """
    from underlay.adapt.examples import ExamplesConfig, read_examples
    from underlay.adapt.robust import KINDS, AttackConfig, spread, victim_of
    from underlay.adapt.robust import attack as attack_all
    from underlay.config import parse
    from underlay.models.storage import load_model
    from underlay.text import Tokenizer

    given = {"kinds": kind or list(KINDS), "share": share, "tries": tries, "epsilon": epsilon, "texts": limit}
    settings = parse(AttackConfig, given, "attack")
    artifact = open_library(library).find(model, "model")
    examples = read_examples(ExamplesConfig(source=tuple(data))).examples
    victim = victim_of(load_model(artifact.folder), Tokenizer.load(artifact.folder), spread(examples, limit))
    found = attack_all(victim, settings, seed)
    if json_:
        figures = {name: one.accuracy for name, one in found.items()}
        broken = {name: _broken(victim, one) for name, one in found.items() if name != "clean"}
        print_json({"model": artifact.reference, "texts": len(victim.texts), "accuracy": figures, "broken": broken})
        return
    out = console()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "accuracy"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, one in found.items():
        table.add_row(name, f"{one.accuracy:.3f}")
    out.print(table)
    for name, one in found.items():
        for text, worst in _broken(victim, one)[:_SHOWN] if name not in ("clean", "gradient") else ():
            out.print(f"{name}: {text!r} -> {worst!r}", markup=False, style="dim")


def _broken(victim: "Victim", found: "Attacked") -> list[list[str]]:
    """Texts that the model was right about until they were changed, and what they were changed to."""
    pairs = zip(victim.texts, found.worst, found.held, strict=True)
    told = [(one, other) for one, other, held in pairs if not held and one != other]
    return [[text if isinstance(text, str) else " | ".join(text) for text in pair] for pair in told]
