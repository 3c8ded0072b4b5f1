"""`underlay adapt` and `underlay merge`: teach a model by examples, and make one model of it and its adapter."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from underlay.cli.common import JsonOption, LibraryOption, ModelArgument, console, open_library, print_json
from underlay.cli.examples import examples_named
from underlay.errors import UserError

if TYPE_CHECKING:
    from underlay.library import Artifact


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(adapt)
    app.command()(merge)


def adapt(
    model: ModelArgument,
    data: Annotated[
        list[str],
        typer.Option(
            "--data", metavar="FILE", help="What to learn from: files of any format, or examples:name; repeatable."
        ),
    ],
    method: Annotated[
        Literal["full", "lora", "head", "soft_prompt", "prefix"],
        typer.Option(
            help="full: change all weights; lora: learn small additions, an adapter; head: a head for a task alone; "
            "soft_prompt, prefix: learn what stands before every conversation, an adapter too."
        ),
    ] = "full",
    objective: Annotated[
        str | None,
        typer.Option(
            help="instruct, distil, head, dpo, ipo, hinge, kto, reward, grpo, ppo; by default as examples call for."
        ),
    ] = None,
    heldout: Annotated[
        list[str] | None, typer.Option("--heldout", metavar="FILE", help="Examples that are only measured on.")
    ] = None,
    robust: Annotated[
        list[str] | None,
        typer.Option("--robust", metavar="KIND", help="Learn to withstand spelling, paraphrase, gradient; repeatable."),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option("--attack", metavar="KIND", help="Measure what is held out under such an attack; repeatable."),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="What answers are worth, with grpo and ppo: parses, resembles, matches, FILE.py:function, a reward "
            "model, or judge:TASK.yaml, by which --judge says it."
        ),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="MODEL", help="What judges answers, with --reward judge:TASK.yaml.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="The model to learn from, with --objective distil.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Of the additions, with --method lora.")] = None,
    adapter: Annotated[
        str | None, typer.Option(metavar="ADAPTER", help="An adapter in the library to go on from, with --method lora.")
    ] = None,
    new_token: Annotated[
        list[str] | None,
        typer.Option("--new-token", metavar="TEXT", help="A token that the model is to have, as <think>; repeatable."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(help="How conversations are written: alpaca, chatml, llama3, or a Jinja file; if none is known."),
    ] = None,
    passes: Annotated[float | None, typer.Option(help="How often everything is read; by default 3 times.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the run instead.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call it; by default after the model and the data.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as adapt.train.context=512."),
    ] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Teach a model by examples. Stopped, the same command goes on where it was.

    The examples become an artifact of the library, so that every one of them can be traced to what learned from it.
    """
    from rich.console import Console

    from underlay.cli.display import Display
    from underlay.recipe.adapting import adapt_recipe
    from underlay.recipe.run import run_recipe
    from underlay.train.world import joined

    if passes is not None and steps is not None:
        raise UserError("--passes, --steps: give one of them")
    shelf = open_library(library)
    base = shelf.find(model, "model")
    settings: dict[str, Any] = {"method": "full" if method == "head" else method}
    given: dict[str, Any] = {"adapter": adapter, "template": template, "objective": objective, "teacher": teacher}
    given |= {key: {"kinds": kinds} for key, kinds in (("robust", robust), ("attack", attack)) if kinds}
    settings |= {key: value for key, value in given.items() if value is not None}
    if method == "head":
        if objective not in (None, "head"):
            raise UserError(f"--method head: learns a head, not by --objective {objective}")
        settings["objective"] = {"name": "head", "frozen": True}
    if objective in ("grpo", "ppo"):
        settings |= rewarded(objective, reward, judge)
    elif reward is not None or judge is not None:
        raise UserError("--reward: only with --objective grpo or ppo, and --judge beside it")
    if new_token:
        settings["new_tokens"] = new_token
    if rank is not None:
        settings["lora"] = {"rank": rank}
    length = [f"adapt.train.steps={steps}"] if steps else [f"adapt.train.passes={passes}"] if passes else []
    called = name or f"{base.manifest.name}-{stem(data[0])}"
    with joined() as world, Display(console(stderr=json_) if world.leads else Console(quiet=True)) as display:
        learned = examples_named("--data", data, called, shelf, display, world)
        measured = examples_named("--heldout", heldout, f"{called}-heldout", shelf, display, world) if heldout else None
        recipe = adapt_recipe(base, learned, measured, settings, called, [*length, *(set_ or ())])
        made = run_recipe(recipe, shelf, display, world=world)["adapt"]
    if not world.leads:
        return
    if json_:
        kept = ("objective", "examples", "left_out", "steps", "loss", "tokens_per_second", "learning")
        metrics = made.manifest.metrics
        held = {key: value for key, value in metrics.items() if key.startswith("heldout_")}
        print_json({"made": made.reference} | {key: metrics.get(key) for key in kept} | held)
        return
    _show(made, base.reference)


def merge(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="An adapter in the library, such as adapter:mine.")],
    model: Annotated[str | None, typer.Option(help="The model that it changes, if the adapter does not know.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call it; by default as the adapter.")] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Make one model of an adapter and the model that it changes, and say how far the two drift apart."""
    from underlay.cli.display import Display
    from underlay.recipe.recipe import make_recipe
    from underlay.recipe.run import run_recipe

    shelf = open_library(library)
    change = shelf.find(adapter, "adapter")
    base = model or next((parent.reference for parent in change.manifest.parents if parent.role == "model"), None)
    if base is None:
        raise UserError(f"{change.reference} does not know which model it changes; name it as --model")
    stage = {"verb": "merge", "model": base, "adapter": change.reference}
    recipe = make_recipe({"name": name or change.manifest.name, "stages": {"merge": stage}}, "merge")
    with Display(console(stderr=json_)) as display:
        made = run_recipe(recipe, shelf, display)["merge"]
    drift = made.manifest.metrics["drift"]
    if json_:
        print_json({"model": made.reference, "drift": drift})
        return
    console().print(
        f"On {drift['tokens']:,} tokens the two differ by {drift['logits']:.2g} in a logit at most, "
        f"{drift['divergence']:.2g} nats a token; the likeliest next token is the same in {drift['agreement']:.2%}.",
        markup=False,
    )


def rewarded(objective: str, reward: str | None, judge: str | None) -> dict[str, Any]:
    """Settings of a stage that learns from a reward, as it was typed."""
    if reward is not None and reward.startswith("judge:"):
        if judge is None:
            raise UserError(f"--reward {reward}: name the model that judges, as --judge model:x")
        rubric = reward.removeprefix("judge:")
        return {"objective": {"name": objective, "rubric": rubric}, "reward_model": judge}
    if judge is not None:
        raise UserError("--judge: give the task by which it judges, as --reward judge:TASK.yaml")
    if reward is not None and reward.startswith("model:"):
        return {"objective": {"name": objective}, "reward_model": reward}
    return {"objective": {"name": objective, "reward": reward} if reward else {"name": objective}}


def stem(place: str) -> str:
    """A name for what is made of a file or a folder."""
    last = place.removeprefix("examples:").partition("@")[0].rstrip("/").rpartition("/")[2]
    kept = "".join(char if char.isalnum() or char in "-_" else "-" for char in last.partition(".")[0]).strip("-_")
    return kept or "adapted"


def _show(made: "Artifact", base: str) -> None:
    metrics, out = made.manifest.metrics, console()
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_row("examples", f"{metrics['examples']:,} in {metrics['rows']:,} rows")
    for reason, count in metrics["left_out"].items():
        table.add_row("", f"{count:,} left out: {reason}", style="yellow")
    table.add_row("learning", f"{metrics['learning']:,} of {metrics['parameters']:,} parameters")
    table.add_row("loss", f"{metrics['loss']:.3f} after {metrics['steps']:,} steps")
    for key, value in metrics.items():
        if key.startswith("heldout_"):
            table.add_row(key.replace("_", " ").replace("heldout", "held out:"), f"{value:.4g}")
    out.print(table)
    if made.manifest.kind == "adapter":
        out.print(f"Next: underlay chat {base} --adapter adapter:{made.manifest.name}", markup=False)
        out.print(f"      underlay merge adapter:{made.manifest.name}", markup=False)
    elif metrics["objective"] not in ("head", "reward"):
        out.print(f"Next: underlay chat model:{made.manifest.name}", markup=False)
    out.print(f"Loss: {(Path(made.folder) / 'loss.png').resolve()}", markup=False)
