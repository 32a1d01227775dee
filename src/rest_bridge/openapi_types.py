"""JSON schemas (draft 2020-12) of msgspec types, as OpenAPI 3.1 has them: what a body may be, and what a reply is.

A struct becomes a component named after its surface and itself: `rest_bridge.chat_body._Function` is
`ChatRequestFunction`, `rest_bridge.chat_encode.ChatUsage` is `ChatUsage`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Final, TypeAlias, get_args

import msgspec
from msgspec import inspect

Schema: TypeAlias = dict[str, Any]
Describe: TypeAlias = Callable[[str, str, Schema], Mapping[str, Any]]
"""What is to be said of a field beyond its type, by the names of its component and its own, and its schema so far."""

_REQUEST_MODULES: Final = frozenset({"body", "decode", "input", "blocks"})
_OWN_NAMES: Final = frozenset({"errors", "extras", "openapi_errors", "responses_json", "stream_json"})
"""Modules whose types are named for the whole API."""
_PREFIXES: Final[Mapping[str, str]] = {"health_json": "Model"}
_MARKS: Final = frozenset({"object", "role", "type"})
"""Fields of a reply that always say the same."""
_ANY: Final[Schema] = {}
_NULL: Final[Schema] = {"type": "null"}
_DECIMAL: Final[Schema] = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^-?\d+(\.\d+)?$"}]}


class Components:
    """The named schemas of a description, collected as they are referred to."""

    def __init__(self) -> None:
        self.schemas: MutableMapping[str, Schema] = {}
        self._owners: dict[str, object] = {}

    def claim(self, name: str, owner: object) -> bool:
        """Whether `name` is new, and then `owner`'s. Raises ValueError where it is another's."""
        if name in self._owners and self._owners[name] != owner:
            raise ValueError(f"two types are to be called {name}: {self._owners[name]} and {owner}")
        is_new = name not in self._owners
        self._owners[name] = owner
        return is_new


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


class TypeSchemas:
    """Schemas of types that are read (`replies` False: a field with a default may be absent) or written.

    `fields` says what a type cannot: words, bounds, and the shape of what is only read later.
    """

    def __init__(self, components: Components, fields: Describe, *, replies: bool) -> None:
        self._components = components
        self._fields = fields
        self._replies = replies

    def of(self, type_: Any) -> Schema:
        """Of a type, or of several: one of them then."""
        if isinstance(type_, tuple):
            return any_of([self.of(one) for one in type_])
        return self._schema(inspect.type_info(type_))

    def _schema(self, info: inspect.Type) -> Schema:
        match info:
            case inspect.Metadata():
                return {**self._schema(info.type), **(info.extra_json_schema or {})}
            case inspect.AnyType() | inspect.RawType():
                return dict(_ANY)
            case inspect.NoneType():
                return dict(_NULL)
            case inspect.BoolType():
                return {"type": "boolean"}
            case inspect.IntType():
                return {"type": "integer", **_numeric(info)}
            case inspect.FloatType():
                return {"type": "number", **_numeric(info)}
            case inspect.DecimalType():
                return dict(_DECIMAL)
            case inspect.StrType():
                return {
                    "type": "string",
                    **_given(minLength=info.min_length, maxLength=info.max_length, pattern=info.pattern),
                }
            case inspect.LiteralType():
                return enumeration([value for value in info.values if isinstance(value, str | int)])
            case inspect.EnumType():
                return enumeration([member.value for member in info.cls])
            case (
                inspect.ListType()
                | inspect.VarTupleType()
                | inspect.SetType()
                | inspect.FrozenSetType()
                | inspect.CollectionType()
            ):
                bounds = _given(minItems=info.min_length, maxItems=info.max_length)
                return {"type": "array", "items": self._schema(info.item_type), **bounds}
            case inspect.DictType():
                values = self._schema(info.value_type)
                return {"type": "object", **({"additionalProperties": values} if values else {})}
            case inspect.UnionType():
                return self._union(info.types)
            case inspect.StructType():
                return self._struct(info)
            case _:
                raise TypeError(f"no schema for {info}")

    def _union(self, types: Sequence[inspect.Type]) -> Schema:
        tagged = [one for one in types if isinstance(one, inspect.StructType) and one.tag_field is not None]
        others = [self._schema(one) for one in types if one not in tagged]
        if len(tagged) > 1:
            field = str(tagged[0].tag_field)
            refs = {str(one.tag): self._struct(one, is_one_of_several=True) for one in tagged}
            mapping = {tag: schema["$ref"] for tag, schema in refs.items()}
            others.append({"oneOf": list(refs.values()), "discriminator": {"propertyName": field, "mapping": mapping}})
        else:
            others += [self._struct(one) for one in tagged]
        return any_of(others)

    def _struct(self, info: inspect.StructType, *, is_one_of_several: bool = False) -> Schema:
        name = component_name(info.cls)
        if self._components.claim(name, info.cls):
            self._components.schemas[name] = {}  # so that what refers to itself ends
            self._components.schemas[name] = self._object(name, info)
        if is_one_of_several and info.tag_field not in self._components.schemas[name].setdefault("required", []):
            self._components.schemas[name]["required"].insert(0, info.tag_field)
        return ref(name)

    def _object(self, name: str, info: inspect.StructType) -> Schema:
        config = info.cls.__struct_config__
        properties: Schema = {}
        required: list[str] = []
        if info.tag_field is not None:
            properties[info.tag_field] = {"type": "string", "const": info.tag}
            if self._replies:
                required.append(info.tag_field)
        unset = _may_be_unset(info.cls)
        for field in info.fields:
            schema = self._schema(field.type)
            if self._replies and isinstance(field.default, str) and field.name in _MARKS:
                schema = {"type": "string", "const": field.default}
            properties[field.encode_name] = {**schema, **self._fields(name, field.encode_name, schema)}
            if self._replies:
                is_always_there = field.name not in unset and (field.required or not config.omit_defaults)
            else:
                is_always_there = field.required
            if is_always_there:
                required.append(field.encode_name)
        described: Schema = {"type": "object", **_description(info.cls), "properties": properties}
        if required:
            described["required"] = required
        if config.forbid_unknown_fields:
            described["additionalProperties"] = False
        return described


def any_of(members: Sequence[Schema]) -> Schema:
    """One schema for several; a null beside one plain type is one more name in its `type`."""
    rest = [one for one in members if one != _NULL]
    if len(rest) == len(members):
        return rest[0] if len(rest) == 1 else {"anyOf": list(rest)}
    if len(rest) == 1 and isinstance(rest[0].get("type"), str):
        return nullable(rest[0])
    return {"anyOf": [*rest, dict(_NULL)]}


def nullable(schema: Schema) -> Schema:
    widened = {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        widened["enum"] = [*schema["enum"], None]
    return widened


def enumeration(values: Iterable[str | int]) -> Schema:
    listed = list(values)
    return {"type": "string" if isinstance(listed[0], str) else "integer", "enum": listed}


def component_name(cls: type) -> str:
    name = cls.__name__.lstrip("_").removesuffix("Body").removesuffix("Json")
    module = cls.__module__.rpartition(".")[2]
    if not cls.__module__.startswith("rest_bridge.") or module in _OWN_NAMES:
        return name
    surface, _, part = module.partition("_")
    if not part and cls.__name__.endswith("Body"):
        return f"{name}Request"
    prefix = _PREFIXES.get(module, surface.capitalize())
    if part in _REQUEST_MODULES or module == "chat_messages":
        return f"{prefix}Request{name.removeprefix(prefix)}"
    is_clear = not part and len(re.findall("[A-Z]", name)) > 1
    return name if is_clear or name.startswith(prefix.removesuffix("s")) else f"{prefix}{name}"


def _may_be_unset(cls: type) -> frozenset[str]:
    """The fields that are left out where they have no value."""
    return frozenset(field.name for field in msgspec.structs.fields(cls) if msgspec.UnsetType in get_args(field.type))


def _numeric(info: inspect.IntType | inspect.FloatType) -> Schema:
    return _given(minimum=info.ge, maximum=info.le, exclusiveMinimum=info.gt, exclusiveMaximum=info.lt)


def _given(**values: Any) -> Schema:
    return {name: value for name, value in values.items() if value is not None}


def _description(cls: type) -> Schema:
    text = vars(cls).get("__doc__") or ""
    return {"description": re.sub(r"\s*\n\s*", " ", text).strip()} if text else {}
