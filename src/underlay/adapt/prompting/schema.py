"""Whether a value is what a JSON Schema asks for, and the few keywords of it that tasks may use.

Constrained decoding writes only what fits (`generate.grammar`); this tells of texts that were written freely, or by
people. A keyword that is not known here is refused where the schema is read: nothing of it is passed over.
"""

from collections.abc import Mapping
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
_KNOWN = {
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "enum",
    "title",
    "description",
}


def check_schema(schema: Any, where: str = "json_schema") -> None:
    """Raise ValueError, with the place, for what is no schema or uses a keyword that is not known here."""
    if not isinstance(schema, dict):
        raise ValueError(f"{where}: not a schema, which is a mapping")
    if unknown := sorted(map(str, schema.keys() - _KNOWN)):
        raise ValueError(f"{where}: the keyword {unknown[0]!r} is not supported; known: {', '.join(sorted(_KNOWN))}")
    if "type" in schema and schema["type"] not in _TYPES:
        raise ValueError(f"{where}: type {schema['type']!r} is none of {', '.join(_TYPES)}")
    if not isinstance(schema.get("properties", {}), dict):
        raise ValueError(f"{where}: properties are names and schemas")
    if not isinstance(schema.get("additionalProperties", False), bool):
        raise ValueError(f"{where}: additionalProperties is true or false")
    for name, child in schema.get("properties", {}).items():
        check_schema(child, f"{where}.properties.{name}")
    if "items" in schema:
        check_schema(schema["items"], f"{where}.items")


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value that `json.loads` gave fits a schema that `check_schema` has passed."""
    if "enum" in schema and not any(one == value and _alike(one, value) for one in schema["enum"]):
        return False
    if "type" in schema and not _is(value, schema["type"]):
        return False
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        closed = not schema.get("additionalProperties", True)
        if not set(schema.get("required", ())) <= value.keys() or (closed and value.keys() - properties.keys()):
            return False
        return all(fits(child, properties[name]) for name, child in value.items() if name in properties)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return False
        return all(fits(child, schema.get("items", {})) for child in value)
    if isinstance(value, str):
        return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)))
    return True


def _alike(one: Any, other: Any) -> bool:
    """To Python true is 1, to JSON it is not."""
    return isinstance(one, bool) == isinstance(other, bool)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])
