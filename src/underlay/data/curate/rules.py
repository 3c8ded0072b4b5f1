"""Rules: conditions on attributes that a document has to meet to stay, written as people say them.

    gopher.words >= 50 and gopher.words <= 100_000
    language.code in ("en", "de") and language.score > 0.65

A rule is an expression over attributes and numbers, strings and lists of them, with comparisons, `in`, `and`, `or`,
`not` and arithmetic. It is read by Python's own parser and evaluated here, for whole columns at once; nothing else of
Python is allowed in it, and nothing in it is ever executed.
"""

import ast
import difflib
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from underlay.errors import UserError

Columns = Mapping[str, NDArray[Any]]
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda left, right: np.isin(left, list(right)),
    ast.NotIn: lambda left, right: ~np.isin(left, list(right)),
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LONGEST = 2_000


@dataclass(frozen=True)
class Rule:
    """A condition that documents have to meet."""

    name: str
    """The reason in the ledger where one does not."""
    text: str
    tree: ast.expr

    @classmethod
    def parse(cls, name: str, text: str) -> "Rule":
        """Read a rule. Raises UserError, with the place, where it is none."""
        if len(text) > _LONGEST:
            raise UserError(f"rule {name}: longer than {_LONGEST} characters")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else "too deep"
            raise UserError(f"rule {name}: {text!r} is no condition: {reason}") from error
        rule = cls(name, text.strip(), tree)
        rule._check(tree)
        if not rule.attributes:
            raise UserError(f"rule {name}: {text!r} looks at no attribute")
        return rule

    @cached_property
    def attributes(self) -> list[str]:
        """The attributes it looks at, in the order of their names."""
        return sorted({_name(node) for node in self._outer(self.tree)})

    def check(self, known: Collection[str]) -> None:
        """Raise UserError where the rule asks for an attribute that is not known."""
        for name in self.attributes:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
                raise UserError(f"rule {self.name}: no attribute {name!r}; {hint}")

    def met(self, columns: Columns) -> NDArray[np.bool_]:
        """Which documents meet it, (n,) bool; `columns` holds an (n,) array for each of its attributes.

        Raises UserError where it does not come to yes or no for every document.
        """
        try:
            with np.errstate(divide="ignore", invalid="ignore"):
                found = np.asarray(_value(self.tree, columns))
        except (TypeError, np.exceptions.DTypePromotionError) as error:
            raise UserError(f"rule {self.name}: {self.text!r} compares numbers with words") from error
        if found.dtype != np.bool_:
            raise UserError(f"rule {self.name}: {self.text!r} is no condition: compare it with something")
        length = len(next(iter(columns.values()), ()))
        return np.broadcast_to(found, (length,))

    def figures(self, columns: Columns, row: int) -> str:
        """What the rule saw of one document: `gopher.words = 12`."""
        return ", ".join(f"{name} = {_shown(columns[name][row])}" for name in self.attributes)

    def _outer(self, node: ast.AST) -> list[ast.Attribute | ast.Name]:
        if isinstance(node, ast.Attribute | ast.Name):
            return [node]
        return [found for child in ast.iter_child_nodes(node) for found in self._outer(child)]

    def _check(self, node: ast.expr) -> None:
        """Raise UserError for anything that a rule may not hold."""
        inner: list[ast.expr] = []
        match node:
            case ast.Compare(left, ops, comparators) if all(type(op) in _COMPARE for op in ops):
                inner = [left, *comparators]
            case ast.BoolOp(_, values):
                inner = values
            case ast.UnaryOp(ast.Not() | ast.USub(), operand):
                inner = [operand]
            case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC and not _words(left) and not _words(right):
                inner = [left, right]
            case ast.Constant(bool() | int() | float() | str()) | ast.Name():
                pass
            case ast.Attribute() if _dotted(node):
                pass
            case ast.Tuple(elements) | ast.List(elements) | ast.Set(elements) if all(
                isinstance(element, ast.Constant) for element in elements
            ):
                inner = elements
            case _:
                said = ast.unparse(node)
                raise UserError(f"rule {self.name}: {said!r} may not stand in a condition")
        for child in inner:
            self._check(child)


def _dotted(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and _dotted(node.value))


def _words(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _name(node: ast.expr) -> str:
    return ast.unparse(node)


def _value(node: ast.expr, columns: Columns) -> Any:
    match node:
        case ast.Constant(constant):
            return constant
        case ast.Name() | ast.Attribute():
            return columns[_name(node)]
        case ast.Tuple(elements) | ast.List(elements) | ast.Set(elements):
            return [_value(element, columns) for element in elements]
        case ast.UnaryOp(ast.Not(), operand):
            return np.logical_not(_value(operand, columns))
        case ast.UnaryOp(_, operand):
            return -_value(operand, columns)
        case ast.BinOp(left, op, right):
            return _ARITHMETIC[type(op)](_value(left, columns), _value(right, columns))
        case ast.BoolOp(op, values):
            together = np.logical_and if isinstance(op, ast.And) else np.logical_or
            found = _value(values[0], columns)
            for value in values[1:]:
                found = together(found, _value(value, columns))
            return found
        case ast.Compare(left, ops, comparators):
            sides = [_value(side, columns) for side in (left, *comparators)]
            pairs = zip(ops, sides, sides[1:], strict=False)
            return np.logical_and.reduce([_COMPARE[type(op)](one, other) for op, one, other in pairs])
    raise AssertionError(node)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
