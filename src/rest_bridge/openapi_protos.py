"""What the protos say of REST: routes in their annotations, words in their comments, and their messages as JSON.

A comment says more than words: `1 to 250; absent is 50.` are bounds and a default, `` `active` or `retired`. `` is all
that a string may be, and `` always `list`. `` the one thing that it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import msgspec
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from rest_bridge.envoy import descriptors_path
from rest_bridge.http_rule import VARIABLE, rules
from rest_bridge.openapi_types import Components, Schema, enumeration, nullable, ref

PACKAGE: Final = "aistats.gateway.v1"
BODY: Final = ".google.api.HttpBody"

_NAME: Final = re.compile(r"^`?\w+`?: ")
_ASIDES: Final = re.compile(r" \([^)]*\)")
_WORDS: Final = re.compile(r"((?:`[a-z0-9_.]+`(?:, or | or |, )?){2,})(?:[.;:].*| where .*)?", re.DOTALL)
_ALWAYS: Final = re.compile(r"always `([^`]+)`")
_SPAN: Final = re.compile(r"(-?\d+) to (-?\d+)\b")
_ABSENT: Final = re.compile(r"absent is (\d+)\b")

_NOT_REST: Final = "gRPC only"

_F: Final = FieldDescriptorProto
_INTEGERS: Final = frozenset({_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_UINT32, _F.TYPE_FIXED32, _F.TYPE_SFIXED32})
_UNSIGNED: Final = frozenset({_F.TYPE_UINT32, _F.TYPE_FIXED32})
_LONGS: Final = frozenset({_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_UINT64, _F.TYPE_FIXED64, _F.TYPE_SFIXED64})
_NUMBERS: Final = frozenset({_F.TYPE_DOUBLE, _F.TYPE_FLOAT})
_MAX_UINT32: Final = 2**32 - 1
_WELL_KNOWN: Final[Mapping[str, Schema]] = {
    ".google.protobuf.Value": {},
    ".google.protobuf.Struct": {"type": "object"},
    ".google.protobuf.ListValue": {"type": "array", "items": {}},
    ".google.protobuf.DoubleValue": {"type": ["number", "null"]},
    ".google.protobuf.UInt32Value": {"type": ["integer", "null"]},
    ".google.protobuf.StringValue": {"type": ["string", "null"]},
    ".google.protobuf.BoolValue": {"type": ["boolean", "null"]},
}


class Binding(msgspec.Struct, frozen=True):
    """One route of one method. `path` is a pattern of OpenAPI's, `/v1/models/{model_id}`.

    `is_face`: its replies are bytes that the bridge writes. `is_alias`: it is not the method's first route.
    """

    service: str
    rpc: str
    method: str
    path: str
    variables: tuple[str, ...]
    input: str
    output: str
    is_face: bool
    is_alias: bool

    @property
    def typed_service(self) -> str:
        """The service for gRPC clients that a REST face stands beside."""
        return self.service.replace("RestService", "Service")


class Protos:
    """The descriptors of every service, with their comments."""

    def __init__(self, descriptors: descriptor_pb2.FileDescriptorSet) -> None:
        self._messages: dict[str, DescriptorProto] = {}
        self._enums: dict[str, descriptor_pb2.EnumDescriptorProto] = {}
        self._comments: dict[str, str] = {}
        self._services: dict[str, descriptor_pb2.ServiceDescriptorProto] = {}
        for file in descriptors.file:
            if file.package == PACKAGE:
                self._read(file)

    def _read(self, file: FileDescriptorProto) -> None:
        said = {tuple(one.path): one.leading_comments for one in file.source_code_info.location}

        def keep(name: str, *path: int) -> None:
            self._comments[name] = " ".join(said.get(path, "").split())

        for index, service in enumerate(file.service):
            self._services[service.name] = service
            keep(service.name, 6, index)
            for number, method in enumerate(service.method):
                keep(f"{service.name}.{method.name}", 6, index, 2, number)
        for index, message in enumerate(file.message_type):
            self._messages[f".{PACKAGE}.{message.name}"] = message
            for nested in message.nested_type:
                self._messages[f".{PACKAGE}.{message.name}.{nested.name}"] = nested
            keep(message.name, 4, index)
            for number, field in enumerate(message.field):
                keep(f"{message.name}.{field.name}", 4, index, 2, number)
        for index, enum in enumerate(file.enum_type):
            self._enums[f".{PACKAGE}.{enum.name}"] = enum
            for number, value in enumerate(enum.value):
                keep(value.name, 5, index, 2, number)

    def bindings(self) -> Iterator[Binding]:
        """Every route that an annotation declares, in the order of the files."""
        for service in self._services.values():
            for method in service.method:
                for index, (verb, pattern, _) in enumerate(rules(method.options)):
                    yield Binding(
                        service=service.name,
                        rpc=method.name,
                        method=verb,
                        path=VARIABLE.sub(r"{\1}", pattern),
                        variables=tuple(match[1] for match in VARIABLE.finditer(pattern)),
                        input=method.input_type,
                        output=method.output_type,
                        is_face=method.output_type == BODY,
                        is_alias=index > 0,
                    )

    def said_of(self, name: str) -> str:
        """The comment on a service, a method (`Service.Method`), a message, or a value of an enum."""
        return self._comments.get(name, "")

    def query(self, binding: Binding) -> Iterator[tuple[str, bool, Schema]]:
        """The query parameters of a route: name, whether it is required, schema with its words."""
        message = self._messages.get(binding.input)
        for field in () if message is None or binding.input == BODY else message.field:
            if field.name in binding.variables or field.type_name == BODY:
                continue
            assert message is not None
            schema = self._field(message, field, Components())
            if _NOT_REST in schema.get("description", ""):
                continue
            name = field.name if field.json_name == _camel(field.name) else field.json_name
            yield name, "required." in schema.get("description", ""), schema

    def variable(self, binding: Binding, name: str) -> Schema:
        message = self._messages[binding.input]
        [field] = [one for one in message.field if one.name == name]
        return self._field(message, field, Components())

    def schema(self, name: str, components: Components) -> Schema:
        """A message as the transcoder prints it: every field that always has a value, and the others where they do."""
        if name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[name])
        message = self._messages[name]
        if components.claim(message.name, name):
            components.schemas[message.name] = {}
            components.schemas[message.name] = self._object(message, components)
        return ref(message.name)

    def _object(self, message: DescriptorProto, components: Components) -> Schema:
        fields = [field for field in message.field if not field.HasField("oneof_index") or field.proto3_optional]
        required = [field.name for field in fields if not _may_be_absent(field)]
        schema: Schema = {
            "type": "object",
            "description": self._comments.get(message.name, ""),
            "properties": {field.name: self._field(message, field, components) for field in message.field},
        }
        return {**schema, "required": required} if required else schema

    def _field(self, message: DescriptorProto, field: FieldDescriptorProto, components: Components) -> Schema:
        schema = self._value(field, components)
        text = _NAME.sub("", self._comments.get(f"{message.name}.{field.name}", ""))
        if schema.get("type") == "array":
            schema["items"] = {**schema["items"], **_constraints(text, schema["items"])}
        else:
            schema = {**schema, **_constraints(text, schema)}
        return {**schema, "description": sentence(text)} if text else schema

    def _value(self, field: FieldDescriptorProto, components: Components) -> Schema:
        if field.label == _F.LABEL_REPEATED:
            entry = self._messages.get(field.type_name)
            if entry is not None and entry.options.map_entry:
                return {"type": "object", "additionalProperties": self._one(entry.field[1], components)}
            return {"type": "array", "items": self._one(field, components)}
        return self._one(field, components)

    def _one(self, field: FieldDescriptorProto, components: Components) -> Schema:
        if field.type in _UNSIGNED:
            return {"type": "integer", "minimum": 0, "maximum": _MAX_UINT32}
        if field.type in _INTEGERS:
            return {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
        if field.type in _LONGS:
            return {"type": "string", "pattern": r"^-?\d+$"}
        if field.type in _NUMBERS:
            return {"type": "number"}
        if field.type == _F.TYPE_BOOL:
            return {"type": "boolean"}
        if field.type == _F.TYPE_ENUM:
            return enumeration([value.name for value in self._enums[field.type_name].value])
        if field.type == _F.TYPE_MESSAGE:
            return self.schema(field.type_name, components)
        return {"type": "string"}

    def words(self, message: str) -> Mapping[str, str]:
        """What the comments say of fields, by name, of a message and of those in it; none that differ."""
        found: dict[str, str] = dict(self._of_fields(message))
        inner: dict[str, set[str]] = {}
        for name in self._within(message):
            for field, text in self._of_fields(name).items():
                inner.setdefault(field, set()).add(text)
        for field, texts in inner.items():
            if len(texts) == 1:
                found.setdefault(field, next(iter(texts)))
        return found

    def own_words(self, name: str) -> Mapping[str, str]:
        """What the comments say of the fields of the message of this name; nothing where there is none."""
        message = f".{PACKAGE}.{name}"
        return self._of_fields(message) if message in self._messages else {}

    def _of_fields(self, message: str) -> Mapping[str, str]:
        described = self._messages[message]
        texts = {field.name: self._comments.get(f"{described.name}.{field.name}", "") for field in described.field}
        return {name: sentence(_NAME.sub("", text)) for name, text in texts.items() if text}

    def _within(self, message: str) -> list[str]:
        seen, queue = [], [message]
        while queue:
            name = queue.pop()
            if name in self._messages and name not in seen:
                seen.append(name)
                queue += [field.type_name for field in self._messages[name].field if field.type_name]
        return seen[1:]

    def typed(self, binding: Binding) -> tuple[str, str] | None:
        """The messages of the typed method beside a face, where there is one of the same name."""
        service = self._services.get(binding.typed_service)
        for method in () if service is None else service.method:
            if method.name == binding.rpc and method.output_type != BODY:
                return method.input_type, method.output_type
        return None


@cache
def protos() -> Protos:
    return Protos(descriptor_pb2.FileDescriptorSet.FromString(descriptors_path().read_bytes()))


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _may_be_absent(field: FieldDescriptorProto) -> bool:
    """Whether the transcoder leaves it out: messages and optional fields that are not set."""
    is_message = field.type == _F.TYPE_MESSAGE and field.label != _F.LABEL_REPEATED
    return is_message or field.proto3_optional or field.HasField("oneof_index")


def _constraints(text: str, schema: Schema) -> dict[str, Any]:
    plain = _ASIDES.sub("", text)
    found: dict[str, Any] = {}
    if schema.get("type") == "string":
        if (one := _ALWAYS.match(plain)) is not None:
            return {"const": one[1]}
        if (several := _WORDS.fullmatch(plain)) is not None:
            words = re.findall(r"`([^`]+)`", several[1])
            return {"enum": [*words, *([""] if "empty" in plain else [])]}
    if schema.get("type") in ("integer", "number"):
        if (span := _SPAN.match(plain)) is not None:
            found["minimum"], found["maximum"] = int(span[1]), int(span[2])
        if (absent := _ABSENT.search(plain)) is not None:
            found["default"] = int(absent[1])
    return found


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


__all__ = ["BODY", "PACKAGE", "Binding", "Protos", "nullable", "protos", "sentence"]
