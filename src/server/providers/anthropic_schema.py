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
_KINDS: Final = frozenset({*_TYPED, "boolean", "integer", "null", "number"})
_OF_A_TYPE: Final = frozenset().union(*_TYPED.values())
_ABOUT: Final = frozenset({"description", "title", "default"})
_SHARED: Final = frozenset({"$defs", "definitions", "anyOf", "allOf", "oneOf"})
"""Schemas that belong to no one type."""

MAX_SCHEMAS: Final = 5_000
MAX_DEPTH: Final = 100
"""Of schemas within schemas: far more than the API compiles, and few enough to be walked at once."""


class Inexpressible(Exception):
    """The schema has a keyword that the API does not enforce, or is too large; `str()` is what."""


def constrained(schema: msgspec.Raw, *, strict: bool) -> Any:
    """`schema`, as it is where it fits; else the nearest one. Keys keep their order.

    Raises Inexpressible where `strict` and the output could break the schema. Otherwise what cannot be enforced is told
    to the model in the description, as the vendor's own library does. Raises it for any that no compiler would take.
    """
    try:
        found = msgspec.json.decode(schema)
        fitted = _Fitting(strict).fit(found)
        return schema if fitted == found else fitted
    except RecursionError:
        raise Inexpressible("depth") from None


class _Fitting:
    """One schema, of which every part is fitted once."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._left = MAX_SCHEMAS

    def fit(self, schema: Any, depth: int = 0) -> Any:
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise Inexpressible("depth" if depth > MAX_DEPTH else "size")
        if not isinstance(schema, dict):
            if self._strict:
                raise Inexpressible("true" if schema else "false")
            return schema
        kind = schema.get("type")
        if isinstance(kind, list):
            return self.fit(_alternatives(schema, kind), depth)
        out: dict[str, Any] = {}
        given_up: dict[str, Any] = {}
        for key, value in schema.items():
            if key in _NESTED and isinstance(value, dict):
                out[key] = {name: self.fit(inner, depth + 1) for name, inner in value.items()}
            elif key in _LISTS and isinstance(value, list):
                out[key] = [self.fit(inner, depth + 1) for inner in value]
            elif key == "oneOf" and isinstance(value, list) and "anyOf" not in schema:
                out["anyOf"] = [self.fit(inner, depth + 1) for inner in value]
                if self._strict and not _are_apart(value):
                    raise Inexpressible(key)
            elif key == "items" and isinstance(value, dict):
                out[key] = self.fit(value, depth + 1)
            elif key in _PLAIN or _is_enforced(key, value):
                out[key] = value
            elif key not in _NOTES:
                given_up[key] = value
        if given_up and self._strict:
            raise Inexpressible(next(iter(given_up)))
        if kind == "object" and "additionalProperties" not in out:
            out["additionalProperties"] = False
        if given_up:
            told = ", ".join(f"{key}: {msgspec.json.encode(value).decode()}" for key, value in given_up.items())
            said = out.get("description")
            out["description"] = f"{said}\n\n{{{told}}}" if said and isinstance(said, str) else f"{{{told}}}"
        return out


def _is_enforced(key: str, value: Any) -> bool:
    match key:
        case "additionalProperties":
            return value is False
        case "format":
            return isinstance(value, str) and value in _FORMATS
        case "minItems":
            return value in (0, 1)
        case _:
            return False


def _alternatives(schema: dict[str, Any], kinds: list[Any]) -> dict[str, Any]:
    """`{"type": ["string", "null"], …}` as `anyOf`, each with what concerns its type.

    Schemas that concern every type stand once beside them: repeated, they would double with each level.
    """
    if not all(isinstance(kind, str) and kind in _KINDS for kind in kinds):
        raise Inexpressible("type")
    kinds = list(dict.fromkeys(kinds))
    if len(kinds) == 1:
        return {**schema, "type": kinds[0]}
    about = {key: value for key, value in schema.items() if key in _ABOUT}
    rest = {key: value for key, value in schema.items() if key != "type" and key not in _ABOUT and key not in _SHARED}
    options: list[dict[str, Any]] = []
    for kind in kinds:
        own = _TYPED.get(kind, frozenset())
        option = {"type": kind} | {key: value for key, value in rest.items() if key in own or key not in _OF_A_TYPE}
        if isinstance(rest.get("enum"), list):
            option["enum"] = [value for value in rest["enum"] if _is_of(value, kind)]
            if not option["enum"]:
                continue
        options.append(option)
    shared = {key: value for key, value in schema.items() if key in _SHARED}
    choices = {key: shared.pop(key) for key in ("anyOf", "oneOf") if key in shared}
    if choices:
        others = shared.get("allOf", [])
        shared["allOf"] = [*others, choices] if isinstance(others, list) else [others, choices]
    return {**about, "anyOf": options, **shared}


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
