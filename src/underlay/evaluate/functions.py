"""Is it code? The share of sampled functions that Python accepts.

Held-out signatures with docstrings are the prompts: the base model continues them as text, an adapted model is asked in
the instruction format. A sample is cut where the function ends (the first line that is not indented), or, where the
model runs out of tokens, after its last whole line. It counts if `ast.parse` takes signature and body, and the body is
more than nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from underlay.adapt import Pair
from underlay.adapt.pairs import parses
from underlay.generate import Engine, Request, Sampling
from underlay.progress import Progress, silent
from underlay.text import Message, Tokenizer, render


@dataclass(frozen=True)
class FunctionSample:
    """A prompt, what the model made of it, and whether Python accepts the two."""

    prompt: str
    body: str
    valid: bool


def sample_functions(
    engine: Engine,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    instruct: bool,
    max_tokens: int,
    seed: int,
    progress: Progress = silent,
) -> list[FunctionSample]:
    """One body for each pair's prompt, at temperature 0.8, top-p 0.95; `instruct` asks in the instruction format."""
    requests = []
    for index, pair in enumerate(pairs):
        if instruct:
            prompt, _ = render(tokenizer, [Message("user", pair.prompt)], reply=True)
        else:
            prompt = tokenizer.prompt(pair.prompt)
        sampling = Sampling(temperature=0.8, top_p=0.95, seed=seed + index)
        requests.append(Request(prompt, max_tokens, sampling))
    answers = engine.generate(requests, progress)
    bodies = [cut_body(answer.text, whole=answer.finish == "stop") for answer in answers]
    return [
        FunctionSample(pair.prompt, body, bool(body.strip()) and parses(pair.prompt + body))
        for pair, body in zip(pairs, bodies, strict=True)
    ]


def cut_body(text: str, whole: bool) -> str:
    """The indented lines at the start of `text`; without its unfinished last line unless it is `whole`."""
    lines = text.split("\n")
    if not whole:
        lines = lines[:-1]
    body: list[str] = []
    for line in lines:
        if line.strip() and not line.startswith((" ", "\t")):
            break
        body.append(line)
    return "\n".join(body).rstrip() + "\n"
