"""Typed models, their YAML files, and errors a person can act on."""

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from underlay.errors import UserError


class Config(BaseModel):
    """Base of all configs: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


C = TypeVar("C", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: repeated keys are errors, and 3e-4 is a number."""


def _mapping_without_repeats(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.MarkedYAMLError(problem=f"key {key!r} is not text", problem_mark=key_node.start_mark)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"key {key!r} stands twice", problem_mark=key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_repeats)
# YAML 1.1 reads 3e-4 as text (no dot); nobody who writes it means text.
_SCIENTIFIC = r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"
_Loader.add_implicit_resolver("tag:underlay,2026:float", re.compile(_SCIENTIFIC), list("-+0123456789"))
_Loader.add_constructor("tag:underlay,2026:float", _number)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not YAML: {str(error).splitlines()[0]}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises UserError where the file is missing, is not UTF-8, is not YAML, or does not hold a mapping.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path}: not a YAML text file") from error
    value = _parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected keys and values, found {type(value).__name__}")
    return value


def override(values: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply `--set a.b=c` assignments; the right side is read as YAML. Missing levels are made.

    Raises UserError where an assignment has no `=`, or leads through something that holds no keys.
    """
    result = _copy(values)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise UserError(f"--set {assignment}: write it as key.subkey=value")
        *parents, last = path.strip().split(".")
        node = result
        for depth, key in enumerate(parents):
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                raise UserError(f"--set {assignment}: {'.'.join(parents[: depth + 1])} holds a value, not keys")
            node = child
        node[last] = _parse_yaml(text, f"--set {path}")
    return result


def quantity(text: str, where: str) -> float:
    """The number that `10M` or `1.5G` means. Raises UserError, which names `where`, for anything else."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kMGT]?)", text)
    if not found:
        raise UserError(f"{where} {text}: a number is expected, such as 350M, 7G or 1500000")
    return float(found[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[found[2]]


def _copy(value: Any) -> Any:
    return {key: _copy(child) for key, child in value.items()} if isinstance(value, Mapping) else value


def parse(model: type[C], values: Mapping[str, Any], where: str) -> C:
    """Validate `values` as a `model`; `where` names their origin in the error.

    Raises UserError, in one line, with the key, what is wrong with it, and the nearest valid key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        line = _describe(model, problems[0])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{where}: {line}{more}") from error


def _describe(model: type[BaseModel], problem: ErrorDetails) -> str:
    place, owner = _locate(model, problem["loc"])
    key = ".".join(place) or "the whole"
    if problem["type"] == "extra_forbidden":
        known = sorted(owner.model_fields) if owner else []
        near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known) or 'none'}"
        return f"unknown key {key!r}; {hint}"
    if problem["type"] == "missing":
        return f"key {key!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    found = problem.get("input")
    shown = f" (found {found!r:.60})" if isinstance(found, str | int | float | bool | None) else ""
    return f"key {key!r}: {message[0].lower()}{message[1:]}{shown}"


def _locate(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel] | None]:
    """Follow a pydantic location to the user's own key path and the model that owns the last key.

    Pydantic adds the tag of a discriminated union to its locations; the user never wrote it, so it is left out.
    """
    place: list[str] = []
    kinds: list[Any] = [model]
    owner: type[BaseModel] | None = None
    for step in loc:
        candidates = [option for kind in kinds for option in _options(kind)]
        models = [k for k in candidates if isinstance(k, type) and issubclass(k, BaseModel)]
        tagged = [m for m in models if step in _tags(m)]
        if len(models) > 1 and tagged:
            kinds = list(tagged)
            continue
        place.append(str(step))
        owner = models[0] if len(models) == 1 else None
        fields = [m.model_fields[str(step)].annotation for m in models if str(step) in m.model_fields]
        inner = [arg for kind in candidates for arg in typing.get_args(kind)]
        kinds = fields or inner
    return place, owner


def _options(kind: Any) -> list[Any]:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _options(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return [option for arg in typing.get_args(kind) for option in _options(arg)]
    return [kind]


def _tags(model: type[BaseModel]) -> set[Any]:
    return {
        value
        for field in model.model_fields.values()
        if typing.get_origin(field.annotation) is typing.Literal
        for value in typing.get_args(field.annotation)
    }
