"""JSON schemas as the API's constrained output takes them.

It wants every object closed, and knows no lists of types and no bounds. Closing an object that says nothing about other
properties, and writing a list of types as alternatives, leaves only answers that the schema allows; what would have to
be given up is named instead.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
_NESTED: Final = frozenset({"properties", "$defs", "definitions"})
_LISTS: Final = frozenset({"anyOf", "allOf"})
_PLAIN: Final = frozenset(
    {"type", "enum", "const", "description", "title", "required", "$ref", "default", "$schema", "$id"}
)
_NOTES: Final = frozenset({"examples", "$comment", "deprecated", "readOnly", "writeOnly"})
"""These say nothing of which answers are valid."""
_TYPED: Final[dict[str, frozenset[str]]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems"}),
    "string": frozenset({"format", "enum"}),
}


class Inexpressible(Exception):
    """The schema has a keyword that the API does not enforce; `str()` is that keyword."""


def constrained(schema: msgspec.Raw, *, strict: bool) -> Any:
    """`schema`, as it is where it fits; else the nearest one. Keys keep their order.

    Raises Inexpressible where `strict` and the output could break the schema. Otherwise what cannot be enforced is told
    to the model in the description, as the vendor's own library does.
    """
    found = msgspec.json.decode(schema)
    fitted = _fit(found, strict)
    return schema if fitted == found else fitted


def _fit(schema: Any, strict: bool) -> Any:
    if not isinstance(schema, dict):
        if strict:
            raise Inexpressible("true" if schema else "false")
        return schema
    kind = schema.get("type")
    if isinstance(kind, list):
        return _fit(_alternatives(schema, kind), strict)
    out: dict[str, Any] = {}
    given_up: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NESTED and isinstance(value, dict):
            out[key] = {name: _fit(inner, strict) for name, inner in value.items()}
        elif key in _LISTS and isinstance(value, list):
            out[key] = [_fit(inner, strict) for inner in value]
        elif key == "oneOf" and isinstance(value, list) and "anyOf" not in schema:
            out["anyOf"] = [_fit(inner, strict) for inner in value]
            if strict and not _are_apart(value):
                raise Inexpressible(key)
        elif key == "items" and isinstance(value, dict):
            out[key] = _fit(value, strict)
        elif key in _PLAIN or _is_enforced(key, value):
            out[key] = value
        elif key not in _NOTES:
            given_up[key] = value
    if given_up and strict:
        raise Inexpressible(next(iter(given_up)))
    if kind == "object" and "additionalProperties" not in out:
        out["additionalProperties"] = False
    if given_up:
        told = ", ".join(f"{key}: {msgspec.json.encode(value).decode()}" for key, value in given_up.items())
        out["description"] = "\n\n".join(filter(None, (out.get("description"), f"{{{told}}}")))
    return out


def _is_enforced(key: str, value: Any) -> bool:
    match key:
        case "additionalProperties":
            return value is False
        case "format":
            return value in _FORMATS
        case "minItems":
            return value in (0, 1)
        case _:
            return False


def _alternatives(schema: dict[str, Any], kinds: list[Any]) -> dict[str, Any]:
    """`{"type": ["string", "null"], …}` as `anyOf`, each with what concerns its type."""
    about = {key: value for key, value in schema.items() if key in ("description", "title", "default")}
    rest = {key: value for key, value in schema.items() if key != "type" and key not in about}
    everywhere = frozenset().union(*_TYPED.values())
    options: list[dict[str, Any]] = []
    for kind in kinds:
        own = _TYPED.get(kind, frozenset())
        option = {"type": kind} | {key: value for key, value in rest.items() if key in own or key not in everywhere}
        if isinstance(rest.get("enum"), list):
            option["enum"] = [value for value in rest["enum"] if _is_of(value, kind)]
            if not option["enum"]:
                continue
        options.append(option)
    return {**about, "anyOf": options}


def _is_of(value: Any, kind: Any) -> bool:
    match value:
        case None:
            return bool(kind == "null")
        case bool():
            return bool(kind == "boolean")
        case int() | float():
            return kind in ("integer", "number")
        case str():
            return bool(kind == "string")
        case _:
            return kind in ("object", "array")


def _are_apart(options: list[Any]) -> bool:
    """Whether no value can be of two of the alternatives, as far as their types tell."""
    kinds = [option.get("type") for option in options if isinstance(option, dict)]
    return len(kinds) == len(options) == len(set(map(str, kinds))) and None not in kinds
