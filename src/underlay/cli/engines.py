"""What the verbs that generate share: which engine answers, how precise it is, what memory it has, and its adapters."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from underlay.config import quantity
from underlay.errors import UserError

if TYPE_CHECKING:
    from underlay.generate import Engine
    from underlay.generate.speculate import Guesser
    from underlay.library import Artifact, Library
    from underlay.serve.vllm import VllmEngine

PrecisionName = Literal["float32", "bfloat16", "int8", "int4"]
_PANEL = "How it is computed"

PrecisionOption = Annotated[
    PrecisionName | None,
    typer.Option(
        "--precision", help="Of the weights; by default bfloat16, or what a quantised model has.", show_default=False
    ),
]
AdapterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter", metavar="NAME=ADAPTER", help="A LoRA adapter: adapter:name, or a folder of peft; repeatable."
    ),
]
OneAdapterOption = Annotated[
    str | None,
    typer.Option("--adapter", metavar="ADAPTER", help="Answer with a LoRA adapter: adapter:name, or a folder of peft."),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="For keys and values, such as 2GB; by default every slot's context, or half of what is free.",
        rich_help_panel=_PANEL,
    ),
]
CacheOption = Annotated[
    Literal["float32", "bfloat16", "int8"] | None,
    typer.Option(
        "--cache",
        help="Of keys and values; by default as precise as the weights.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
GuessOption = Annotated[
    bool,
    typer.Option(
        "--guess/--no-guess",
        help="Guess ahead what stood in the text before: faster where texts repeat, the answers stay the same.",
        rich_help_panel=_PANEL,
    ),
]
DraftOption = Annotated[
    str | None,
    typer.Option(
        "--draft",
        metavar="MODEL",
        help="A smaller model with the same tokenizer guesses ahead; the answers stay the same.",
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True)
class EngineChoice:
    """What the user wants of an engine, as it was given."""

    slots: int = 1
    precision: PrecisionName | None = None
    adapters: list[str] = field(default_factory=list)
    """Each NAME=FOLDER."""
    memory: str | None = None
    cache: Literal["float32", "bfloat16", "int8"] | None = None
    guess: bool = False
    draft: str | None = None

    def folders(self, shelf: "Library", artifact: "Artifact") -> dict[str, Path]:
        """The adapters' folders by name.

        Raises UserError where one is not given as NAME=ADAPTER, a name twice, or one is for another model.
        """
        found: dict[str, Path] = {}
        for given in self.adapters:
            name, _, place = given.partition("=")
            if not name or not place:
                raise UserError(f"--adapter {given}: write a name, = and the adapter")
            if name in found:
                raise UserError(f"--adapter {given}: there are two called {name}")
            found[name] = _adapter(shelf, artifact, place) if place.startswith("adapter:") else Path(place)
        return found

    def load(self, shelf: "Library", artifact: "Artifact", shared: bool = False) -> "Engine":
        """Our engine of a model, its adapters loaded. Raises UserError.

        shared: whether the model answers by itself, too, as a server's does.
        """
        from underlay.formats.soft_prompts import kind_of as soft_kind
        from underlay.generate import Engine

        folders, memory = (
            self.folders(shelf, artifact),
            None if self.memory is None else as_bytes("--memory", self.memory),
        )
        guesser = self._guesser(shelf, artifact)
        if soft := [name for name, folder in folders.items() if soft_kind(folder)]:
            return self._behind(artifact, folders, soft[0], memory, guesser)
        if not shared and (grown := self._grown(artifact, folders, memory, guesser)):
            return grown
        engine = Engine.load(
            artifact.folder, self.slots, self.precision, memory=memory, cache=self.cache, guesser=guesser
        )
        for name, folder in folders.items():
            engine.add_adapter(name, engine.read_adapter(folder))
        return engine

    def _behind(
        self, artifact: "Artifact", folders: dict[str, Path], name: str, memory: int | None, guesser: "Guesser | None"
    ) -> "Engine":
        """The engine of a model behind a soft prompt, which can only be the one adapter."""
        from underlay.adapt.prompting.engine import PromptedEngine
        from underlay.formats.soft_prompts import kind_of, read_prompt
        from underlay.models.storage import load_decoder
        from underlay.text import Tokenizer

        if len(folders) > 1:
            raise UserError(f"--adapter {name}: a soft prompt stands before every text; answer with it alone")
        if kind_of(folders[name]) == "prefix":
            raise UserError(
                f"--adapter {folders[name]}: a prefix of keys and values is read from Python alone as yet "
                "(underlay.adapt.prompting.soft.prefixed); to be answered with, learn a soft prompt"
            )
        if self.precision in ("int8", "int4"):
            raise UserError(f"--precision {self.precision}: not with a soft prompt; it takes float32 or bfloat16")
        model, tokenizer = load_decoder(artifact.folder), Tokenizer.load(artifact.folder)
        prompt = read_prompt(folders[name], model)
        precision = self.precision or "bfloat16"
        return PromptedEngine(
            model,
            tokenizer,
            prompt,
            name,
            slots=self.slots,
            precision=precision,
            memory=memory,
            cache=self.cache,
            guesser=guesser,
        )

    def _grown(
        self, artifact: "Artifact", folders: dict[str, Path], memory: int | None, guesser: "Guesser | None"
    ) -> "Engine | None":
        """The engine of a model with an adapter that brings tokens of its own, merged; None where there is no such."""
        from underlay.formats.peft import read_adapter
        from underlay.generate import Engine
        from underlay.models.adapter import Adapter, changed
        from underlay.models.storage import load_config, load_decoder
        from underlay.text import Tokenizer

        if len(folders) != 1:
            return None
        ((name, folder),) = folders.items()
        adapter = read_adapter(folder, load_config(artifact.folder))
        if adapter.tokens is None:
            return None
        model, tokenizer = changed(load_decoder(artifact.folder), adapter), Tokenizer.load(folder)
        precision = self.precision or "bfloat16"
        engine = Engine(model, tokenizer, self.slots, precision, memory=memory, cache=self.cache, guesser=guesser)
        engine.add_adapter(name, Adapter({}))
        return engine

    def load_vllm(self, shelf: "Library", artifact: "Artifact", growing: bool) -> "VllmEngine":
        """vLLM's engine of a model, written for it beside the library. Raises UserError.

        growing: whether adapters may be loaded later.
        """
        from underlay.serve.vllm import VllmEngine, exported, require

        require()
        if self.precision in ("int8", "int4"):
            raise UserError(f"--precision {self.precision}: not with --engine vllm; it takes float32 or bfloat16")
        for option, given in (("--cache", self.cache), ("--guess", self.guess), ("--draft", self.draft)):
            if given:
                raise UserError(f"{option}: not with --engine vllm, which has settings of its own for it")
        memory = None if self.memory is None else as_bytes("--memory", self.memory)
        whole = exported(artifact, shelf.root.parent / f"{shelf.root.name}-exports")
        return VllmEngine(
            artifact.folder,
            whole,
            self.slots,
            self.precision,  # type: ignore[arg-type]
            memory,
            self.folders(shelf, artifact),
            growing,
        )

    def _guesser(self, shelf: "Library", artifact: "Artifact") -> "Guesser | None":
        from underlay.generate.speculate import Lookup

        if self.draft is None:
            return Lookup() if self.guess else None
        if self.guess:
            raise UserError("--guess, --draft: give one of them")
        return _draft(shelf.find(self.draft, "model"), artifact, self.slots)


def _adapter(shelf: "Library", artifact: "Artifact", place: str) -> Path:
    """The folder of an adapter in the library. Raises UserError where it changes another model."""
    found = shelf.find(place, "adapter")
    base = next((parent for parent in found.manifest.parents if parent.role == "model"), None)
    if base is not None and base.hash != artifact.manifest.hash:
        raise UserError(f"{found.reference} changes {base.reference}, not {artifact.reference}; answer with that model")
    return found.folder


def one_adapter(folder: str | None) -> list[str]:
    """The adapter of a verb that takes one, as `EngineChoice` wants it; it is called `ADAPTER`."""
    return [] if folder is None else [f"{ADAPTER}={folder}"]


ADAPTER = "adapter"


def as_bytes(option: str, text: str) -> int:
    """The bytes that `2GB`, `512MB` or `1500000` means. Raises UserError, which names the option."""
    number = re.sub(r"\s*B$", "", text.strip())
    size = quantity(re.sub(r"^([0-9.]+)\s+", r"\1", number).replace("K", "k"), option)
    if size < 1:
        raise UserError(f"{option} {text}: is no room at all")
    return int(size)


def _draft(small: "Artifact", large: "Artifact", slots: int) -> "Guesser":
    """What a smaller model proposes. Raises UserError where its tokens are others."""
    from underlay.generate.engine import precision_of
    from underlay.generate.path import choose_runner
    from underlay.generate.speculate import Draft
    from underlay.models.storage import load_config, load_decoder, load_quantised
    from underlay.text import Tokenizer

    one, other = Tokenizer.load(small.folder), Tokenizer.load(large.folder)
    if not one.same_tokens(other):
        raise UserError(
            f"--draft {small.reference}: its tokens are not those of {large.reference}; take a model with its tokenizer"
        )
    model, quantised = load_decoder(small.folder), load_quantised(small.folder)
    if model.config.vocabulary > (rows := load_config(large.folder).vocabulary):
        raise UserError(f"--draft {small.reference}: it has {model.config.vocabulary} rows of tokens, not {rows}")
    precision = "bfloat16" if quantised is None else precision_of(quantised)
    runner = choose_runner(model, precision, None, "auto", None, quantised)
    return Draft(runner, model.config.context, slots)
