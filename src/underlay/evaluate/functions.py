"""Is it code? The share of sampled functions that Python accepts.

Held-out signatures with docstrings are the prompts: the base model continues them as text, an adapted model is asked in
the instruction format. A sample is cut where the function ends (the first line that is not indented), or, where the
model runs out of tokens, after its last whole line. It is valid if `ast.parse` takes signature and body, and the body
is more than nothing. `pass` is valid, too, and the easiest way to be: so how many also do something is told beside it.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from underlay.adapt import Pair
from underlay.adapt.pairs import parses
from underlay.generate import Engine, Request, Sampling
from underlay.progress import Progress, silent
from underlay.text import Message, Tokenizer, render


@dataclass(frozen=True)
class FunctionSample:
    """A prompt, what the model made of it, and what it is worth."""

    prompt: str
    body: str
    valid: bool
    """Whether Python accepts the two."""
    doing: bool
    """Whether it is valid and does something (see `does_something`)."""


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
    samples = []
    for pair, body in zip(pairs, bodies, strict=True):
        valid = bool(body.strip()) and parses(pair.prompt + body)
        samples.append(FunctionSample(pair.prompt, body, valid, valid and does_something(pair.prompt + body)))
    return samples


def does_something(code: str) -> bool:
    """Whether the first function of valid code has a statement that is no stub.

    Stubs are `pass`, constants such as `...` and docstrings, the return of nothing or of a constant, and
    `raise NotImplementedError`.
    """
    functions = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return any(not _is_stub(statement) for function in islice(functions, 1) for statement in function.body)


def _is_stub(statement: ast.stmt) -> bool:
    match statement:
        case ast.Pass() | ast.Expr(ast.Constant()) | ast.Return(None | ast.Constant()):
            return True
        case ast.Raise(ast.Name("NotImplementedError") | ast.Call(ast.Name("NotImplementedError"))):
            return True
    return False


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
