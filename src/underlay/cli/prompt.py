"""`underlay prompt`: put a task to a model without changing it, or measure how well that goes."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from underlay.cli.common import (
    JsonOption,
    LibraryOption,
    ModelArgument,
    console,
    open_library,
    print_json,
    read_argument,
)
from underlay.cli.engines import CacheOption, EngineChoice, MemoryOption, OneAdapterOption, PrecisionOption, one_adapter
from underlay.errors import UserError

if TYPE_CHECKING:
    from underlay.adapt.prompting import Answers, Figure


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(prompt)


def prompt(
    model: ModelArgument,
    task: Annotated[str, typer.Argument(metavar="TASK", help="A YAML file, or a ready task; `list` names those.")],
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What to work on; - reads it from the input.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="FILE", help="Examples with answers: measure on them instead.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure on so many, the first.")] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Demonstrations to show; by default as the task says.")
    ] = None,
    selector: Annotated[
        Literal["fixed", "random", "balanced", "nearest"],
        typer.Option(help="Which: the first, by chance, as many of each label, those nearest to the text."),
    ] = "fixed",
    encoder: Annotated[
        str | None, typer.Option(metavar="MODEL", help="What finds the nearest; by default their words (TF-IDF).")
    ] = None,
    orders: Annotated[int, typer.Option(min=1, help="Show them in so many orders, and average.")] = 1,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Take off what labels get without content.")] = False,
    reasoning: Annotated[
        Literal["none", "worked", "step_by_step", "least_to_most"],
        typer.Option(help="Think before answering; the direct answer is measured beside it."),
    ] = "none",
    votes: Annotated[int, typer.Option(min=1, help="Sample so many answers; the most frequent is taken.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of all chance.")] = 0,
    adapter: OneAdapterOption = None,
    precision: PrecisionOption = None,
    memory: MemoryOption = None,
    cache: CacheOption = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Put a task to a model: its instruction, demonstrations, and your text. No weight is touched.

    With --data it is measured how often the answers are right, with intervals, and how well confidence can be trusted.
    """
    from underlay.adapt.examples import Example, ExamplesConfig, Problem, read_examples
    from underlay.adapt.prompting import PromptSettings, answer, embedder, measure, read_task, ready_tasks
    from underlay.adapt.prompting.engine import PromptedEngine
    from underlay.cli.display import bar
    from underlay.models.storage import load_encoder
    from underlay.text import Message, Tokenizer

    if task == "list":
        console().print("\n".join(ready_tasks()), markup=False)
        return
    if (text is None) == (not data):
        raise UserError("give either a text to work on, or --data to measure on")
    wanted = read_task(task)
    settings = PromptSettings(
        shots=shots,
        selector=selector,
        orders=orders,
        calibrate=("N/A", "[MASK]", "") if calibrate else (),
        reasoning=reasoning,
        votes=votes,
        seed=seed,
    )
    shelf = open_library(library)
    if data:
        examples = read_examples(ExamplesConfig(source=tuple(data), limit=limit)).examples
    else:
        asked = Problem((Message("user", read_argument(text or "")),))
        examples = [Example(asked, "the text", 1, "")]
    vectors = None
    if encoder is not None:
        found = shelf.find(encoder, "model")
        vectors = embedder(load_encoder(found.folder), Tokenizer.load(found.folder))
    choice = EngineChoice(min(16, max(1, len(examples))), precision, one_adapter(adapter), memory, cache)
    engine = choice.load(shelf, shelf.find(model, "model"))
    if adapter is not None and not isinstance(engine, PromptedEngine):
        raise UserError("--adapter: only soft prompts with tasks as yet; merge the adapter into the model first")
    with bar("answering", console(stderr=True)) as progress:
        begin = engine.begin if isinstance(engine, PromptedEngine) else ()
        answers = answer(engine, wanted, examples, settings, progress, vectors, begin)
    if not data:
        _tell(answers, json_)
        return
    figures = measure(wanted, answers, examples)
    _report(answers, figures, json_)


def _tell(answers: "Answers", as_json: bool) -> None:
    (found,) = answers.predictions
    if as_json:
        print_json({"answer": found.answer, "confidence": found.confidence, "probabilities": dict(found.probabilities)})
        return
    if found.answer is None:
        raise UserError(f"the model gave no answer of the form that the task asks for: {found.texts[0][:200]!r}")
    typer.echo(found.answer)
    if found.confidence is not None:
        console(stderr=True).print(f"confidence {found.confidence:.0%}", style="dim", markup=False)


def _report(answers: "Answers", figures: "dict[str, Figure]", as_json: bool) -> None:
    if as_json:
        told: dict[str, Any] = {name: figure._asdict() for name, figure in figures.items()}
        print_json({"figures": told, "demonstrations_left_out": answers.left_out})
        return
    out = console()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "", "95 %", "examples"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, figure in figures.items():
        between = f"{figure.low:.3f} to {figure.high:.3f}"
        table.add_row(name.replace("_", " "), f"{figure.value:.3f}", between, f"{figure.examples:,}")
    out.print(table)
    if answers.left_out:
        out.print(f"{answers.left_out:,} demonstrations did not fit into the context", style="yellow", markup=False)
