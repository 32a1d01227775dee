"""The OpenAPI 3.1 description of every REST route.

Nothing of it is written by hand: routes, parameters and words come from the protos, bodies from the types that they are
decoded into, replies from the types that they are encoded from (`rest_bridge.openapi_surfaces` says which), examples of
replies from those, errors from the domain's table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rest_bridge.http import EVENT_STREAM, JSON, Route
from rest_bridge.idempotency import MAX_KEPT_BYTES
from rest_bridge.messages import VERSION_HEADER, VERSIONS
from rest_bridge.openapi_errors import (
    ALWAYS,
    ARRIVAL,
    GENERATING,
    WITH_IDEMPOTENCY,
    WITH_KEY,
    error_responses,
    error_schemas,
    response_name,
)
from rest_bridge.openapi_protos import PACKAGE, Binding, Protos, protos, sentence
from rest_bridge.openapi_samples import sample
from rest_bridge.openapi_surface import Surface, Type
from rest_bridge.openapi_surfaces import SURFACES, VARIABLES, WORDS, read_later
from rest_bridge.openapi_types import Components, Schema, TypeSchemas, component_name
from rest_bridge.openapi_webhooks import EVENTS
from rest_bridge.uploads import FORM
from server.domain.identity import Scope
from server.domain.image_limits import SIZE_PATTERN
from server.domain.limits import (
    MAX_METADATA_PAIRS,
    MAX_NAME_CHARS,
    MAX_SESSION_ID_CHARS,
    MAX_STOP_SEQUENCES,
    MAX_TOOLS,
    RANGES,
)
from server.domain.parameters import CANONICAL
from server.rpc.registry import scopes_of

PLAIN: Final = "text/plain"
_BYTES: Final[Schema] = {"type": "string", "format": "binary"}
_FILES: Final[Schema] = {"anyOf": [_BYTES, {"type": "array", "items": _BYTES, "minItems": 1}]}

WITHOUT_KEY: Final = "DescriptionRestService"
"""Its routes are answered by `rest_bridge.documents`, by which this description is as well."""
OF_A_FILE: Final = frozenset({409, 429, 502})
"""What a file that another has is answered with beside: it may not be there yet, or its keeper may fail."""
OPENAPI: Final = "3.1.0"
DIALECT: Final = "https://spec.openapis.org/oas/3.1/dialect/base"

_ABOUT: Final = """\
One key, one API, one bill for every model, over REST and gRPC: what is described here is the REST half.

Every reply has the headers `x-generation-id`, under which `GET /v1/generation/{id}` finds its record, and
`x-request-id`. Every error has one shape, `Error`; the routes under `/v1/messages` have Anthropic's, with the same
fields beside. What is unknown in a body or a query is refused by its name; nothing is dropped in silence. Money is
whole nano-dollars (1 USD = 1,000,000,000).
"""
_BEARER: Final = (
    "An API key: `Authorization: Bearer aistats_v1_sk_…`. The first start writes one to `data/bootstrap-key`."
)
_KEY_HEADER: Final = "The same key as Anthropic's SDKs send it; it counts before `authorization`."

_ABSENT: Final = re.compile(r"\b(absent|empty)\b")
_BOUNDS: Final[Mapping[str, Schema]] = {
    "messages": {"minItems": 1},
    "tools": {"maxItems": MAX_TOOLS},
    "stop": {"maxItems": MAX_STOP_SEQUENCES},
    "stop_sequences": {"maxItems": MAX_STOP_SEQUENCES},
    "session_id": {"maxLength": MAX_SESSION_ID_CHARS},
    "metadata": {"maxProperties": MAX_METADATA_PAIRS},
    "model": {"minLength": 1},
    "name": {"maxLength": MAX_NAME_CHARS},
    "ImagesRequest.size": {"pattern": f"^({SIZE_PATTERN})$"},
    "ImagesRequestEdits.size": {"pattern": f"^({SIZE_PATTERN})$"},
    "ImagesRequestEditForm.size": {"pattern": f"^({SIZE_PATTERN})$"},
}
"""Of fields of a request, what the decoders check beyond types and `RANGES`."""

Headers = Mapping[str, Schema]

_HEADERS: Final[Headers] = {
    "GenerationId": {
        "description": "`gen_<x>`: the request's record. An answer told again names the request that came first.",
        "schema": {"type": "string"},
        "example": ARRIVAL.generation_id,
    },
    "RequestId": {
        "description": "The request's id in the gateway's logs.",
        "schema": {"type": "string"},
        "example": ARRIVAL.request_id,
    },
    "AnthropicRequestId": {
        "description": "The same as `x-request-id`, where Anthropic's SDKs look for it.",
        "schema": {"type": "string"},
        "example": ARRIVAL.request_id,
    },
    "RetryAfter": {
        "description": "Seconds after which to try again.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 2,
    },
    "Allow": {"description": "The methods that the route takes.", "schema": {"type": "string"}, "example": "POST"},
    "WwwAuthenticate": {"description": "Always `Bearer`.", "schema": {"type": "string"}, "example": "Bearer"},
    "IdempotentReplayed": {
        "description": "There, and `true`, where an earlier request with the same `Idempotency-Key` is told again.",
        "schema": {"type": "string", "enum": ["true"]},
        "example": "true",
    },
    "Etag": {
        "description": "A name of this content, for `If-None-Match`.",
        "schema": {"type": "string"},
        "example": 'W/"5f2c9a0b7d1e4c3a8b6f0d2e"',
    },
    "CacheControl": {
        "description": "Who may keep it, and for how long.",
        "schema": {"type": "string"},
        "example": "private, no-cache",
    },
}
_PARAMETERS: Final[Mapping[str, Schema]] = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": (
            "Any text of the client's: within 24 hours the same key and body are told the first outcome again, streams "
            f"included, and charged once. An outcome over {MAX_KEPT_BYTES // 2**20} MiB is not kept."
        ),
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e]+$"},
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "Etags of what the client has: where one still holds, the answer is 304 without a body.",
        "schema": {"type": "string"},
    },
    "AnthropicVersion": {
        "name": VERSION_HEADER,
        "in": "header",
        "description": "The version of Anthropic's API that the client speaks; all of these are answered alike.",
        "schema": {"type": "string", "enum": list(VERSIONS)},
    },
    "AnthropicBeta": {
        "name": "anthropic-beta",
        "in": "header",
        "description": "Taken and not read: what a body asks for is in the body.",
        "schema": {"type": "string"},
    },
}


def describe(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """The description of the protos' routes, with what `routes` says of keys and errors of each.

    Raises LookupError for a route without types, and for a handler without a route.
    """
    return _Description(protos(), routes).document(version)


class _Description:
    def __init__(self, protos: Protos, routes: Iterable[Route]) -> None:
        self._protos = protos
        self._routes = {(route.method, _pattern(route.path)): route for route in routes}
        self._components = Components()
        self._described: set[tuple[str, str]] = set()

    def document(self, version: str) -> dict[str, Any]:
        error_schemas(self._components, self._protos)
        paths: dict[str, dict[str, Any]] = {}
        tags: dict[str, Schema] = {}
        for binding in self._protos.bindings():
            verb, tag = binding.method.lower(), binding.typed_service.removesuffix("Service")
            if verb in paths.get(binding.path, {}):
                continue  # the same route, of a variable with another number of segments
            if not self._is_served(binding):
                continue
            paths.setdefault(binding.path, {})[verb] = self._operation(binding, tag)
            tags.setdefault(tag, {"name": tag, "description": self._about(binding)})
        if missing := self._routes.keys() - self._described:
            raise LookupError(f"handlers without a route in the protos: {sorted(missing)}")
        return {
            "openapi": OPENAPI,
            "jsonSchemaDialect": DIALECT,
            "info": {
                "title": "AI Stats Gateway",
                "version": version,
                "summary": "A self-hosted AI gateway.",
                "description": _ABOUT,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/", "description": "This gateway."}],
            "security": [{"bearer": []}],
            "tags": list(tags.values()),
            "paths": dict(sorted(paths.items())),
            "webhooks": {name: self._told(name, body) for name, body in EVENTS.items()},
            "components": {
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer", "description": _BEARER},
                    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": _KEY_HEADER},
                },
                "headers": dict(_HEADERS),
                "parameters": dict(_PARAMETERS),
                "responses": error_responses(),
                "schemas": dict(sorted(self._components.schemas.items())),
            },
        }

    def _told(self, name: str, body: Type) -> Schema:
        """What the gateway itself asks of whom a team has named."""
        schema = self._types(component_name(body), {}, replies=True).of(body)
        return {
            "post": {
                "operationId": f"tell_{name}",
                "summary": f"Sent to the webhooks of a team, signed as Standard Webhooks says: {name}.",
                "security": [],
                "requestBody": {
                    "required": True,
                    "content": {JSON: {"schema": schema, "example": sample(schema, self._components.schemas)}},
                },
                "responses": {"2XX": {"description": "Taken. Anything else is sent again, for a day."}},
            }
        }

    def _about(self, binding: Binding) -> str:
        typed, face = (self._protos.said_of(name) for name in (binding.typed_service, binding.service))
        return typed or face

    def _operation(self, binding: Binding, tag: str) -> Schema:
        """One route. Raises LookupError where it has no types."""
        surface, route = self._surface(binding), self._route(binding)
        scopes = self._scopes(binding, route)
        operation: Schema = {
            "operationId": _operation_id(binding),
            "tags": [tag],
            **self._words(binding, scopes),
            "parameters": self._parameters(binding, route, surface),
        }
        if not scopes:
            operation["security"] = []
        elif route is not None and route.key_header is not None:
            operation["security"] = [{"bearer": []}, {route.key_header: []}]
        if surface is not None and (surface.body is not None or surface.form is not None):
            operation["requestBody"] = self._body(binding, surface)
        operation["responses"] = self._responses(binding, route, surface, scopes)
        if self._protos.typed(binding) is not None or not binding.is_face:
            operation["x-grpc-method"] = f"aistats.gateway.v1.{binding.typed_service}/{binding.rpc}"
        return operation

    def _surface(self, binding: Binding) -> Surface | None:
        surface = SURFACES.get(f"{binding.service}.{binding.rpc}")
        if surface is None and binding.is_face:
            raise LookupError(f"{binding.service}.{binding.rpc} has no line in the table of surfaces")
        return surface

    def _is_served(self, binding: Binding) -> bool:
        """Whether it has a handler, or needs none: what is transcoded as it is, and the description itself."""
        has_handler = (binding.method, _pattern(binding.path)) in self._routes
        return has_handler or not binding.is_face or binding.service == WITHOUT_KEY

    def _route(self, binding: Binding) -> Route | None:
        place = binding.method, _pattern(binding.path)
        self._described.add(place)
        return self._routes.get(place)

    def _scopes(self, binding: Binding, route: Route | None) -> Sequence[Scope]:
        return scopes_of(f"{PACKAGE}.{binding.service}", binding.rpc) if route is None else route.scopes

    def _words(self, binding: Binding, scopes: Sequence[Scope]) -> Schema:
        face = self._protos.said_of(f"{binding.service}.{binding.rpc}").removeprefix(f"{binding.rpc} ")
        typed = self._protos.said_of(f"{binding.typed_service}.{binding.rpc}").removeprefix(f"{binding.rpc} ")
        paragraphs = [sentence(text) for text in dict.fromkeys((typed, face)) if text]
        if binding.is_alias:
            paragraphs.insert(0, "Another address of the same.")
        if scopes:
            paragraphs.append(f"Needs a key with the scope {' or '.join(f'`{scope}`' for scope in scopes)}.")
        summary = _summary(binding.rpc) + (" (alias)" if binding.is_alias else "")
        return {"summary": summary, "description": "\n\n".join(paragraphs)}

    def _parameters(self, binding: Binding, route: Route | None, surface: Surface | None) -> list[Schema]:
        found = [
            _parameter("path", name, {**self._protos.variable(binding, name), "minLength": 1}, is_required=True)
            for name in binding.variables
        ]
        found += [
            _parameter("query", name, schema, is_required=is_required)
            for name, is_required, schema in self._protos.query(binding)
        ]
        named = []
        if route is not None and binding.method == "POST":
            named.append("IdempotencyKey")
        if route is not None and route.key_header is not None:
            named += ["AnthropicVersion", "AnthropicBeta"]
        if surface is not None and surface.kept:
            named.append("IfNoneMatch")
        return found + [{"$ref": f"#/components/parameters/{name}"} for name in named]

    def _body(self, binding: Binding, surface: Surface) -> Schema:
        typed = self._protos.typed(binding)
        words = {} if typed is None else self._protos.words(typed[0])
        content: Schema = {}
        if surface.body is not None:
            top = component_name(surface.body)
            schema = self._types(top, words, replies=False).of(surface.body)
            required = self._components.schemas[top].setdefault("required", [])
            required += [field for field in surface.required if field not in required]
            content[JSON] = {"schema": schema, "examples": _examples(surface.examples)}
        if surface.form is not None:
            schema = self._form(surface, words)
            content[FORM] = {"schema": schema, "examples": _examples(surface.form_examples)}
        return {"required": surface.needs_body, "content": content}

    def _form(self, surface: Surface, words: Mapping[str, str]) -> Schema:
        """A form has files beside its fields, and its lists come entry by entry, as `name[]`."""
        top = component_name(surface.form)
        schema = self._types(top, words, replies=False).of(surface.form)
        described = self._components.schemas[top]
        if surface.files and surface.files[0] not in described["properties"]:
            named = {
                name: {"description": WORDS[f"{top}.{name}"], **(_FILES if name in surface.many_files else _BYTES)}
                for name in surface.files
            }
            fields = {f"{name}[]" if _is_list(one) else name: one for name, one in described["properties"].items()}
            described["properties"] = {**named, **fields}
            needed = [name for name in surface.files if name not in surface.optional_files]
            described["required"] = [*needed, *described.get("required", ())]
        return schema

    def _types(self, top: str, words: Mapping[str, str], *, replies: bool) -> TypeSchemas:
        """`words` are those of the typed message's fields; of one that has another name here, under that one too."""

        def describe(component: str, field: str, schema: Schema) -> Schema:
            canonical = CANONICAL.get(field, field)
            own = words if component == top else self._protos.own_words(component)
            text = WORDS.get(f"{component}.{field}") or own.get(field) or own.get(canonical) or WORDS.get(field, "")
            if replies and "null" in str(schema):
                text = _ABSENT.sub("null", text)
            said: Schema = {"description": text} if text else {}
            said |= read_later(component, field, types.of) or {}
            if component == top and not replies:
                said |= _bounds(field, canonical) | _BOUNDS.get(f"{component}.{field}", {})
            return said

        types = TypeSchemas(self._components, describe, replies=replies)
        return types

    def _responses(
        self, binding: Binding, route: Route | None, surface: Surface | None, scopes: Sequence[Scope]
    ) -> Schema:
        status = 200 if surface is None else surface.status
        is_messages = route is not None and route.errors is not None
        headers = _headers("GenerationId", "RequestId")
        if is_messages:
            headers |= _headers("AnthropicRequestId")
        if surface is not None and surface.kept:
            headers |= _headers("Etag", "CacheControl")
        if route is not None and binding.method == "POST":
            headers |= _headers("IdempotentReplayed")
        content = self._content(binding, surface)
        responses: dict[str, Schema] = {
            str(status): {"description": "It succeeded.", "headers": headers, "content": content}
        }
        if surface is not None and surface.kept:
            responses["304"] = {"description": "What the client has still holds.", "headers": headers}
        errors = set(self._errors(binding, route, scopes))
        if surface is not None and surface.is_file:
            responses["206"] = {"description": "The part that `range` names.", "headers": headers, "content": content}
            responses["416"] = {"description": "There is nothing in the part that `range` names.", "headers": headers}
            errors |= OF_A_FILE
        for error in sorted(errors):
            name = response_name(error, is_messages=is_messages)
            responses[str(error)] = {"$ref": f"#/components/responses/{name}"}
        return responses

    def _errors(self, binding: Binding, route: Route | None, scopes: Sequence[Scope]) -> Iterable[int]:
        yield from ALWAYS
        if scopes:
            yield from WITH_KEY
        if route is not None and binding.method == "POST":
            yield from WITH_IDEMPOTENCY
        if route is not None and route.endpoint is not None:
            yield from GENERATING

    def _content(self, binding: Binding, surface: Surface | None) -> Schema:
        if surface is None:
            schema = self._protos.schema(binding.output, self._components)
        elif surface.reply is not None:
            typed = self._protos.typed(binding)
            words = {} if typed is None else self._protos.words(typed[1])
            reply = surface.reply[0] if isinstance(surface.reply, tuple) else surface.reply
            schema = self._types(component_name(reply), words, replies=True).of(surface.reply)
        else:
            schema = {}
        media = JSON if surface is None else surface.media
        content: Schema = {}
        if schema:
            content[media] = {"schema": schema, "example": sample(schema, self._components.schemas)}
        if surface is not None:
            content |= {kind: {"schema": dict(_BYTES), "example": ""} for kind in surface.sounds}
            if surface.text_example:
                content[PLAIN] = {"schema": {"type": "string"}, "example": surface.text_example}
        if surface is not None and surface.events is not None:
            events = self._types("", {}, replies=True).of(surface.events)
            content[EVENT_STREAM] = {
                "schema": {"description": surface.stream, "x-event-schema": events},
                "example": surface.stream_example,
            }
        return content


def _examples(examples: Mapping[str, Mapping[str, Any]]) -> Schema:
    return {name: {"value": value} for name, value in examples.items()}


def _is_list(schema: Schema) -> bool:
    kind = schema.get("type")
    return kind == "array" or (isinstance(kind, list) and "array" in kind)


def _bounds(field: str, canonical: str) -> Schema:
    bounds = dict(_BOUNDS.get(field, {}))
    limits = RANGES.get(canonical)
    if limits is None or field == "logit_bias":
        return bounds
    bounds["exclusiveMinimum" if limits.above else "minimum"] = limits.low
    if limits.high is not None:
        bounds["maximum"] = limits.high
    return bounds


def _parameter(where: str, name: str, schema: Schema, *, is_required: bool) -> Schema:
    plain = {key: value for key, value in schema.items() if key != "description"}
    parameter: Schema = {"name": name, "in": where, "description": schema.get("description", ""), "schema": plain}
    if is_required:
        parameter["required"] = True
    if name in VARIABLES:
        parameter["example"] = VARIABLES[name]
    return parameter


def _headers(*names: str) -> Schema:
    shown: Mapping[str, str] = {
        "GenerationId": "x-generation-id",
        "RequestId": "x-request-id",
        "AnthropicRequestId": "request-id",
        "IdempotentReplayed": "idempotent-replayed",
        "Etag": "etag",
        "CacheControl": "cache-control",
    }
    return {shown[name]: {"$ref": f"#/components/headers/{name}"} for name in names}


def _operation_id(binding: Binding) -> str:
    name = binding.rpc[:1].lower() + binding.rpc[1:]
    if not binding.is_alias:
        return name
    return name + "At" + "".join(part.capitalize() for part in _plain(binding.path))


def _plain(path: str) -> list[str]:
    return [part for piece in path.split("/") for part in piece.strip("{}").replace("-", "_").split("_") if part]


def _summary(rpc: str) -> str:
    """`CreateChatCompletion` as `Create chat completion`."""
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in rpc).strip()
    return sentence(words)


def _pattern(path: str) -> str:
    """A route's path without the names of its variables."""
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))
