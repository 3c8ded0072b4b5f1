"""`underlay fill`: what stands at the masks of a text, or in its gap."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from underlay.cli.common import (
    JsonOption,
    LibraryOption,
    ModelArgument,
    console,
    open_library,
    print_json,
    read_argument,
)
from underlay.cli.generate import room
from underlay.errors import UserError

if TYPE_CHECKING:
    from underlay.models import Decoder, Encoder
    from underlay.text import Tokenizer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(fill)


def fill(
    model: ModelArgument,
    text: Annotated[
        str,
        typer.Argument(metavar="TEXT", help="A text with [MASK] or <mask>, whatever the model's own is; - reads it."),
    ],
    top: Annotated[int | None, typer.Option(min=1, help="Encoders: tokens shown for each mask; by default 5.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Decoders: longest middle; by default up to 256, or what the context holds.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Decoders: 0, the default, always takes the most likely token.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Decoders: the same seed gives the same middle; by default 0.")
    ] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Fill in what is missing in a text.

    Write [MASK] or <mask> where it is: either does for any model. An encoder, such as BERT, guesses one token at each
    mask, each for itself. A decoder that was taught to fill in writes what stands at the only one, however long.
    """
    from underlay.models import Encoder
    from underlay.models.storage import load_model
    from underlay.text import Tokenizer

    artifact = open_library(library).find(model, "model")
    loaded, tokenizer = load_model(artifact.folder), Tokenizer.load(artifact.folder)
    given = read_argument(text)
    if isinstance(loaded, Encoder):
        _only_for("decoders", loaded.config.family, max_tokens=max_tokens, temperature=temperature, seed=seed)
        _fill_masks(artifact.reference, loaded, tokenizer, given, top or 5, json_)
    else:
        _only_for("encoders", loaded.config.family, top=top)
        _fill_gap(artifact.reference, loaded, tokenizer, given, max_tokens, temperature or 0.0, seed or 0, json_)


def _only_for(kind: str, family: str, **options: float | None) -> None:
    for name, value in options.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')} is for {kind}, and a {family} is none; leave it out")


def _fill_gap(
    reference: str,
    model: "Decoder",
    tokenizer: "Tokenizer",
    text: str,
    max_tokens: int | None,
    temperature: float,
    seed: int,
    json_: bool,
) -> None:
    from underlay.generate import Engine, Request, Sampling
    from underlay.generate.fill import SPELLINGS
    from underlay.text import Gap

    gap, parts = Gap(tokenizer), re.split("|".join(map(re.escape, SPELLINGS)), text)
    if len(parts) != 2:
        raise UserError(
            f"the text has {len(parts) - 1} gaps; write {SPELLINGS[0]} once, where a {model.config.family} is to write"
        )
    engine, ids = Engine(model, tokenizer, slots=1), gap.prompt(*parts)
    request = Request(ids, room(engine, ids, max_tokens), Sampling(temperature, seed=seed), stop_ids=gap.stop_ids)
    (answer,) = engine.generate([request])
    if json_:
        tokens = {"prompt": answer.prompt_tokens, "completion": len(answer.ids)}
        whole = parts[0] + answer.text + parts[1]
        found = {"model": reference, "text": whole, "middle": answer.text, "finish": answer.finish, "tokens": tokens}
        print_json(found)
        return
    typer.echo(parts[0] + typer.style(answer.text, fg="green", bold=True) + parts[1])  # rich would expand tabs
    if answer.finish == "length":
        message = f"note: the middle was cut off after {len(answer.ids)} tokens; --max-tokens allows more"
        console(stderr=True).print(message, style="yellow")


def _fill_masks(reference: str, model: "Encoder", tokenizer: "Tokenizer", text: str, top: int, json_: bool) -> None:
    from underlay.generate.fill import fill as fill_in

    (filled,) = fill_in(model, tokenizer, [text], top)
    if json_:
        masks = [[{"id": g.id, "text": g.text, "probability": g.probability} for g in mask] for mask in filled.masks]
        print_json({"model": reference, "text": filled.text, "masks": masks})
        return
    out = console()
    out.print(filled.text, markup=False)
    for number, mask in enumerate(filled.masks, 1):
        out.print()
        if len(filled.masks) > 1:
            out.print(f"mask {number}", style="dim")
        for guess in mask:
            out.print(f"  {guess.probability:7.2%}  {guess.text.strip() or repr(guess.text)}", markup=False)
