"""`underlay data answer`: let a model answer prompts, or label texts, for others to learn from."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from underlay.cli.adapt import stem
from underlay.cli.common import JsonOption, LibraryOption, ModelArgument, console, open_library, print_json
from underlay.cli.examples import ColumnOption, FormOption, WhereOption, given_files
from underlay.errors import UserError

if TYPE_CHECKING:
    from underlay.library import Artifact


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(answer)


def answer(
    model: ModelArgument,
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPTS...", help="Files of prompts or texts, or examples:name.")
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="What the examples are called.")],
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="What to do with each text: a YAML file, or a ready task.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each prompt.")] = 1,
    temperature: Annotated[float | None, typer.Option(min=0, help="By default 0, or 0.7 with several samples.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="REWARD",
            help="Keep only answers that this finds right: matches, parses, FILE.py:function, model:reward, or "
            "judge:TASK.yaml, by which --judge says it.",
        ),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="MODEL", help="What judges answers, with --keep judge:TASK.yaml.")
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="Keep the best answer to each prompt, by --keep.")] = False,
    worth: Annotated[
        float | None, typer.Option(help="What an answer has to earn to be kept; 1 where no model says it.")
    ] = None,
    least: Annotated[
        float, typer.Option(min=0, max=1, help="With a task: leave out what is less sure; labels go to people.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of all chance.")] = 0,
    form: FormOption = None,
    column: ColumnOption = None,
    where: WhereOption = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Let a model answer prompts, or label texts by a task: examples for a model of any size and any tokens.

    Stopped, the same command goes on where it was, and makes the same answers.
    """
    from underlay.cli.display import Display
    from underlay.recipe.recipe import make_recipe
    from underlay.recipe.run import run_recipe

    shelf = open_library(library)
    teacher = shelf.find(model, "model")
    chosen: dict[str, Any] = {"task": task, "samples": samples, "temperature": temperature, "max_tokens": max_tokens}
    chosen |= {"best": best, "worth": worth, "least": least, **_reward(keep, judge)}
    named = [one for one in prompts if one.startswith("examples:")]
    if named and (len(prompts) > 1 or form or column or where):
        raise UserError(f"{named[0]} was read already: name it alone, without --form, --column and --where")
    stages: dict[str, Any] = {}
    asked = prompts[0]
    if not named:
        asked = "prompts"
        stages["prompts"] = {"verb": "examples", "name": f"{name}-{stem(prompts[0])}"}
        stages["prompts"] |= given_files(prompts, form, None, column, where, False)
    stages["answer"] = {"model": teacher.reference, "prompts": asked, **chosen}
    recipe = make_recipe({"name": name, "seed": seed, "stages": stages}, "data answer")
    with Display(console(stderr=json_)) as display:
        made = run_recipe(recipe, shelf, display)["answer"]
    metrics = made.manifest.metrics
    if json_:
        kept = ("examples", "form", "prompts", "answers", "repeated", "left_out", "unsure", "teacher_licences")
        print_json({"made": made.reference} | {key: metrics[key] for key in kept})
        return
    _show(made)


def _reward(keep: str | None, judge: str | None) -> dict[str, str]:
    if keep is not None and keep.startswith("judge:"):
        if judge is None:
            raise UserError(f"--keep {keep}: name the model that judges, as --judge model:x")
        return {"rubric": keep.removeprefix("judge:"), "reward_model": judge}
    if judge is not None:
        raise UserError("--judge: give the task by which it judges, as --keep judge:TASK.yaml")
    if keep is None:
        return {}
    return {"reward_model" if keep.startswith("model:") else "keep": keep}


def _show(made: "Artifact") -> None:
    metrics, out = made.manifest.metrics, console()
    out.print(f"{metrics['examples']:,} {metrics['form']}s of {metrics['prompts']:,} prompts", markup=False)
    for reason, count in metrics["left_out"].items():
        first = metrics["left_out_first"][reason]
        out.print(f"{count:,} left out: {reason}, first at {first}", markup=False, style="yellow")
    if metrics["repeated"]:
        out.print(f"{metrics['repeated']:,} left out: the same as one before", markup=False, style="yellow")
    if metrics["unsure"]:
        out.print(f"For people: {(made.folder / 'label-studio.json').resolve()}", markup=False)
    out.print(f"Next: underlay adapt MODEL --data examples:{made.manifest.name}", markup=False)
