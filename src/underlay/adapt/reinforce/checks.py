"""Rewards that need no model: what can be seen of an answer's text alone.

No code that a model wrote is ever run; Python's own parser says whether it is code at all.
"""

import ast
import re
import warnings
from collections import Counter
from decimal import Decimal, InvalidOperation

from underlay.adapt.examples import Problem

_FENCED = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_HEADER = re.compile(r"def\s+\w+\s*\([^)]*\)(?:\s*->[^:\n]+)?")
_WORD = re.compile(r"\w+|[^\w\s]")
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_MARK = "####"
"""What stands before the final answer, in GSM8K (arXiv:2110.14168) and in what was taught by it."""


def parses(problem: Problem, answer: str) -> float:
    """1 where Python accepts the answer: behind the prompt where that is Python, else by itself; 0 otherwise.

    Where there are fences (```), what stands within the first is the answer, and may be whole by itself. An empty
    answer is worth nothing.
    """
    return float(_tree(problem, answer) is not None)


def signature(problem: Problem, answer: str) -> float | None:
    """1 where the answer parses and its only function is the one asked for, name and arguments; 0 otherwise.

    The function asked for is the last whose header stands in the prompt; None where there is none.
    """
    wanted = _asked(_prompt(problem))
    if wanted is None:
        return None
    tree = _tree(problem, answer)
    found = [] if tree is None else [node for node in tree.body if isinstance(node, _FUNCTIONS)]
    return float(len(found) == 1 and _header(found[0]) == _header(wanted))


def resembles(problem: Problem, answer: str) -> float | None:
    """How near the answer comes to the right one, where `signature` accepts it, 0 to 1; 0 where it does not.

    It is the F1 of their words and marks, each as often as it stands there (ROUGE-1, Lin 2004). `signature` alone is
    earned by `return None`, and a model soon writes nothing else; here that is worth as little as it says. None where
    `signature` says so, or the problem does not say what is right.
    """
    kept = signature(problem, answer)
    if kept is None or problem.answer is None:
        return None
    said, right = (Counter(_WORD.findall(text)) for text in (answer, problem.answer))
    return kept * 2 * (said & right).total() / max(1, said.total() + right.total())


def matches(problem: Problem, answer: str) -> float | None:
    """1 where the answer ends in what is right, 0 where not; None where the problem does not say what is.

    What is right is what `Problem.answer` has behind `####`, or all of it. A number is compared with the one behind
    `####`, or else with the last one; `1,200`, `$1200.00` and `1200` are the same. Other text is compared with what
    stands behind `####`, or else with the last line, without regard to case, spaces and the marks around it.
    """
    if problem.answer is None:
        return None
    right = problem.answer.rpartition(_MARK)[2].strip()
    said = answer.rpartition(_MARK)[2].strip() if _MARK in answer else answer.strip()
    number = _number(right)
    if number is not None:
        found = _NUMBER.findall(said)
        return float(bool(found) and _number(found[0 if _MARK in answer else -1]) == number)
    last = said.splitlines()[-1] if said else ""
    return float(_plain(right) in (_plain(last), _plain(said)))


def length(_: Problem, answer: str) -> float:
    """Characters of the answer: a reward whose maximum everybody knows, to try out a run."""
    return float(len(answer))


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _prompt(problem: Problem) -> str:
    return problem.prompt[-1].content if problem.prompt else ""


def _tree(problem: Problem, answer: str) -> ast.Module | None:
    fenced = _FENCED.search(answer)
    code = answer if fenced is None else fenced[1]
    if not code.strip():
        return None
    prompt = _prompt(problem)
    if not prompt.strip() or _begun(prompt) is None:
        return _parsed(code)
    return (None if fenced is None else _parsed(code)) or _parsed(prompt + code)


def _asked(prompt: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    whole = _begun(prompt)
    if whole is not None:
        found = [node for node in whole.body if isinstance(node, _FUNCTIONS)]
        return found[-1] if found else None
    for header in reversed(_HEADER.findall(prompt)):
        tree = _parsed(f"{header}: pass")
        if tree is not None and isinstance(tree.body[0], _FUNCTIONS):
            return tree.body[0]
    return None


def _header(function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, list[str | None]]:
    """Name and arguments; what is said of their types is free."""
    given = function.args
    plain = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    starred = [None if one is None else one.arg for one in (given.vararg, given.kwarg)]
    return function.name, [*plain, *starred, *(argument.arg for argument in given.kwonlyargs)]


def _begun(prompt: str) -> ast.Module | None:
    """A prompt that is Python, also where it ends with a header."""
    return _parsed(prompt) or _parsed(f"{prompt.rstrip()}\n    pass")


def _parsed(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes and the like, in code that is not ours
            tree = ast.parse(code)
            compile(tree, "answer", "exec", dont_inherit=True)  # a `return` outside of functions is found only here
            return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _number(text: str) -> Decimal | None:
    try:
        found = Decimal(text.strip().strip("$€£%").rstrip(".").replace(",", ""))
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .,:;!?\"'`*()")
