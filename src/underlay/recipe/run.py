"""Run a recipe: stage after stage, each made once and reused ever after."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from underlay.data.curate.engine import Engine
from underlay.data.mixture import check_parts
from underlay.errors import UserError
from underlay.library import Artifact, Draft, Library, Made, Order
from underlay.library.reference import one_of
from underlay.recipe import excluding, extend
from underlay.recipe.job import Job
from underlay.recipe.recipe import Recipe
from underlay.recipe.stages import AdaptStage, AnyStage, GatherStage, PackStage, PretrainStage
from underlay.recipe.together import make
from underlay.recipe.verbs import VERBS
from underlay.train.record import installed
from underlay.train.world import World, alone


class Listener(Protocol):
    """Whoever wants to know how a run goes."""

    def started(self, stage: str, number: int, of: int) -> None:
        """A stage begins."""

    def moved(self, done: float, total: float | None, **facts: float | str) -> None:
        """The current stage has come this far."""

    def said(self, line: str) -> None:
        """The current stage has something to say."""

    def ended(self, artifact: Artifact, reused: bool) -> None:
        """The current stage is done."""


def run_recipe(
    recipe: Recipe,
    library: Library,
    listener: Listener,
    until: str | None = None,
    world: World | None = None,
    engine: Engine | None = None,
) -> dict[str, Artifact]:
    """Make every stage's artifact, or take it from the library; returns them by stage.

    All processes of a `world` call it, each with the same recipe; those stages that train are made by all of them.
    Texts are looked at by an `engine`, by default in processes of this machine; what is made is the same.

    Raises UserError where a stage asks for inputs that do not exist or do not fit, before anything is made.
    """
    world = world or alone()
    _check(recipe, library, until)
    made: dict[str, Artifact] = {}
    for number, (stage, settings) in enumerate(recipe.stages.items(), 1):
        listener.started(stage, number, len(recipe.stages))
        verb = VERBS[settings.verb]
        inputs = {
            role: made.get(name) or library.find(name, kind) for role, (name, kind) in verb.inputs(settings).items()
        }
        result = _passed_on(settings, inputs, listener)
        result = result or _made(recipe, settings, inputs, library, listener, world, engine)
        made[stage] = result.artifact
        listener.ended(result.artifact, result.reused)
        if stage == until:
            break
    return made


def _passed_on(settings: AnyStage, inputs: Mapping[str, Artifact], listener: Listener) -> Made | None:
    """The model of a stage that does not learn from such examples; None: the stage has work to do."""
    if not isinstance(settings, AdaptStage) or settings.when is None:
        return None
    model, examples = inputs["model"], inputs["examples"]
    if examples.manifest.metrics.get("pairs_from") == settings.when:
        return None
    listener.said(f"{examples.reference} has no {settings.when}, so {model.reference} goes on as it is")
    return Made(model, reused=True)


def _made(
    recipe: Recipe,
    settings: AnyStage,
    inputs: Mapping[str, Artifact],
    library: Library,
    listener: Listener,
    world: World,
    engine: Engine | None,
) -> Made:
    verb = VERBS[settings.verb]
    config = verb.config(settings)
    seed = recipe.seed if verb.seeded else 0
    name = settings.name or recipe.name
    order = Order(verb.kind(settings), name, settings.verb, config, inputs, seed, verb.revision)
    order = extend.asked_again(order, library)
    together = verb.trains and not verb.alone(settings)
    own = world if together else alone()
    work = _work(order, settings, recipe.seed, library, listener, verb.work, own, engine)
    waiting = partial(listener.said, "another process is busy with this stage; waiting")
    excluding.refuse(settings.verb, inputs, library)
    usable = excluding.usable(settings.verb, library)
    return make(world, library, order, work, together, waiting, usable)


def _work(
    order: Order,
    settings: AnyStage,
    seed: int,
    library: Library,
    listener: Listener,
    work: Callable[[Job], None],
    world: World,
    engine: Engine | None,
) -> Callable[[Draft], None]:
    def made(draft: Draft) -> None:
        moved, said = listener.moved, listener.said
        work(Job(order.name, settings, order.config, order.parents, seed, draft, library, moved, said, world, engine))

    return made


def _check(recipe: Recipe, library: Library, until: str | None) -> None:
    if until and until not in recipe.stages:
        raise UserError(f"--until {until}: no such stage; there are {', '.join(recipe.stages)}")
    kinds: dict[str, str] = {}
    outputs: dict[tuple[str, str], str] = {}
    for stage, settings in recipe.stages.items():
        verb = VERBS[settings.verb]
        for role, (name, kind) in verb.inputs(settings).items():
            found = kinds.get(name)
            if found is None and name in recipe.stages:
                raise UserError(f"stage {stage}: its {role} is {name}, which comes later; move {name} up")
            if found is None:
                library.find(name, kind)
            elif found != kind:
                raise UserError(
                    f"stage {stage}: its {role} is {name}, which makes {one_of(found)}; it needs {one_of(kind)}"
                )
        installed(getattr(settings, "record", ()))
        packed = recipe.stages.get(settings.dataset) if isinstance(settings, PretrainStage) else None
        if isinstance(settings, PretrainStage) and isinstance(packed, PackStage) and settings.mixture:
            check_parts(settings.mixture, packed.corpora)
        output = (verb.kind(settings), settings.name or recipe.name)
        if output in outputs:
            raise UserError(f"stages {outputs[output]} and {stage} both make {output[0]}:{output[1]}; name one of them")
        outputs[output] = stage
        kinds[stage] = verb.kind(settings)
        if not isinstance(settings, GatherStage):  # whose sources take long to read, and come first anyway
            verb.outside(settings)
