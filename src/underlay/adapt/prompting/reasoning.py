"""Chains of thought: the model writes its way to an answer before the answer (arXiv:2201.11903).

    worked          demonstrations show the way, so the model shows its own:   ... <way> The answer is 42
    step by step    Let's think step by step. <way>  ->  The answer is 42      (two calls, arXiv:2205.11916)
    least to most   which simpler questions?  ->  q1: a1, q2: a2, ...  ->  42  (arXiv:2205.10625)

They help large models, and often hurt small ones; whoever uses them looks at the direct answer as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from underlay.adapt.prompting.settings import PromptSettings
from underlay.adapt.prompting.task import Task
from underlay.adapt.prompting.writing import Writer
from underlay.generate import Answer, Engine, Request, Sampling

STEPS = "Let's think step by step."
SIMPLER = "To answer this, these simpler questions are answered first, one a line:\n-"
MOST_QUESTIONS = 6
"""More simpler questions than that are not asked."""


@dataclass(frozen=True)
class Asked:
    """A prompt, and the chance by which it is answered."""

    prompt: list[int]
    sampling: Sampling


@dataclass(frozen=True)
class Said:
    """What a model wrote on its way, all in all, and the part that holds the answer."""

    text: str
    final: str | None
    """None: it never came to an answer."""
    cut: bool = False
    """Whether it was cut off at the most tokens, where the whole is the answer."""


class Reasoner:
    """Puts prompts to an engine, and leads each to an answer."""

    def __init__(self, engine: Engine, task: Task, writer: Writer, settings: PromptSettings) -> None:
        self._engine, self._task, self._writer, self._settings = engine, task, writer, settings
        self._constraint = task.output.constraint() if settings.constrained else None
        labels = task.output.labels if settings.constrained else ()
        # A model is free to write a label in more tokens than it has to, at worst byte by byte.
        self._final = max((len(label.encode()) + 2 for label in labels), default=task.decoding.max_tokens)
        """Longest answer, in tokens."""

    def room(self, reasoning: bool) -> int:
        """How many tokens may follow a prompt."""
        final = self._final
        if not reasoning:
            return final
        way, opening = self._settings.reasoning_tokens, self._writer.opening
        if self._settings.reasoning == "worked":
            return way + final
        if self._settings.reasoning == "step_by_step":
            return len(opening(STEPS)) + way + len(self._led()) + final
        # First the list of questions; then, in its place, each of them with its answer.
        return max(len(opening(SIMPLER)) + way, 2 * way + len(self._led()) + final)

    def direct(self, asked: Sequence[Asked]) -> list[Said]:
        """Answers at once."""
        found = self._answers([one.prompt for one in asked], asked, self._final, final=True)
        return [Said(one.text, one.text, one.finish == "length") for one in found]

    def reason(self, asked: Sequence[Asked]) -> list[Said]:
        """Answers by the way that the settings name."""
        ways: dict[str, Callable[[Sequence[Asked]], list[Said]]] = {
            "worked": self._worked,
            "step_by_step": self._step_by_step,
            "least_to_most": self._least_to_most,
        }
        return ways[self._settings.reasoning](asked)

    def _worked(self, asked: Sequence[Asked]) -> list[Said]:
        room = self._settings.reasoning_tokens + self._final
        texts = self._write([one.prompt for one in asked], asked, room)
        return [_after(text, self._task.lead) for text in texts]

    def _step_by_step(self, asked: Sequence[Asked]) -> list[Said]:
        begun = [one.prompt + self._writer.opening(STEPS) for one in asked]
        ways = self._write(begun, asked, self._settings.reasoning_tokens)
        return self._conclude(begun, [f"{STEPS}{way}" for way in ways], ways, asked)

    def _least_to_most(self, asked: Sequence[Asked]) -> list[Said]:
        begun = [one.prompt + self._writer.opening(SIMPLER) for one in asked]
        lists = self._write(begun, asked, self._settings.reasoning_tokens)
        questions = [simpler_questions(text) for text in lists]
        ways = ["" for _ in asked]
        share = max(self._settings.reasoning_tokens // MOST_QUESTIONS, 1)
        for turn in range(max(map(len, questions), default=0)):
            going = [place for place, some in enumerate(questions) if turn < len(some)]
            for place in going:
                ways[place] += f"\nQuestion: {questions[place][turn]}\nAnswer:"
            prompts = [asked[place].prompt + self._kept(ways[place], share) for place in going]
            texts = self._write(prompts, [asked[place] for place in going], share, stop=("\n",))
            for place, text in zip(going, texts, strict=True):
                ways[place] += text
        shown = [f"{SIMPLER}{text}{way}" for text, way in zip(lists, ways, strict=True)]
        return self._conclude([one.prompt for one in asked], shown, ways, asked)

    def _conclude(
        self, prompts: Sequence[list[int]], shown: Sequence[str], ways: Sequence[str], asked: Sequence[Asked]
    ) -> list[Said]:
        """Ask for the answer behind each way."""
        led = [prompt + self._kept(way) + self._led() for prompt, way in zip(prompts, ways, strict=True)]
        finals = self._write(led, asked, self._final, final=True)
        lead = self._task.lead
        return [Said(f"{one}\n{lead} {final}", final) for one, final in zip(shown, finals, strict=True)]

    def _kept(self, way: str, less: int = 0) -> list[int]:
        """Tokens of what was written, as many as there is room for; its end counts most."""
        factor = 2 if self._settings.reasoning == "least_to_most" else 1
        ids = self._engine.tokenizer.encode(way)
        return ids[max(len(ids) - factor * self._settings.reasoning_tokens + less, 0) :]

    def _led(self) -> list[int]:
        return self._engine.tokenizer.encode(f"\n{self._task.lead} ")

    def _write(
        self,
        prompts: Sequence[list[int]],
        asked: Sequence[Asked],
        most: int,
        final: bool = False,
        stop: tuple[str, ...] = (),
    ) -> list[str]:
        return [answer.text for answer in self._answers(prompts, asked, most, final, stop)]

    def _answers(
        self,
        prompts: Sequence[list[int]],
        asked: Sequence[Asked],
        most: int,
        final: bool = False,
        stop: tuple[str, ...] = (),
    ) -> list[Answer]:
        requests = [
            Request(
                prompt,
                max_tokens=most,
                sampling=one.sampling,
                stop=(*self._writer.stop, *stop),
                constraint=self._constraint if final else None,
            )
            for prompt, one in zip(prompts, asked, strict=True)
        ]
        return self._engine.generate(requests)


def simpler_questions(text: str) -> list[str]:
    """One a line, without what numbers it; each once, the first few."""
    lines = (line.strip().lstrip("-*0123456789.) ").strip() for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line))[:MOST_QUESTIONS]


def _after(text: str, lead: str) -> Said:
    _, found, final = text.rpartition(lead)
    return Said(text, final.strip() if found else None)
