"""The description as tests read it: of every handler that there is, and strict about what it does not mention."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import httpx
import jsonschema_rs

import rest_bridge
from rest_bridge.http import Route
from rest_bridge.openapi import describe

VERSION = "0.1.0"
OPEN = {"OutputOther"}
"""Components that have fields which only a provider knows."""


def rest_routes() -> list[Route]:
    """Those of every face in the bridge: of a class with `routes`, without anything behind it."""
    found: list[Route] = []
    for module in pkgutil.iter_modules(rest_bridge.__path__, "rest_bridge."):
        faces: Iterable[Any] = vars(importlib.import_module(module.name)).values()
        for face in faces:
            is_own = inspect.isclass(face) and face.__module__ == module.name
            if is_own and inspect.isfunction(vars(face).get("routes")):
                found += face.__new__(face).routes()
    return found


@cache
def document() -> Mapping[str, Any]:
    """As a client reads it."""
    decoded: Mapping[str, Any] = json.loads(json.dumps(describe(rest_routes(), VERSION)))
    return decoded


def operations(described: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def resolved(described: Mapping[str, Any], value: Any) -> Any:
    """What a reference to a component leads to."""
    while isinstance(value, dict) and "$ref" in value:
        _, _, kind, name = value["$ref"].split("/")
        value = described["components"][kind][name]
    return value


class Checker:
    """Holds values to schemas of a description. `strict`: what a schema does not mention may not be there."""

    def __init__(self, described: Mapping[str, Any], *, strict: bool) -> None:
        schemas = described["components"]["schemas"]
        if strict:
            schemas = {name: _closed(schema) if name not in OPEN else schema for name, schema in schemas.items()}
        self.described = described
        self._root = {"components": {"schemas": schemas}}

    def problems(self, schema: Mapping[str, Any], value: Any) -> list[str]:
        validator = jsonschema_rs.Draft202012Validator({**self._root, **schema})
        return [f"{error.instance_path}: {error.message[:300]}" for error in validator.iter_errors(value)]

    def check_reply(self, method: str, path: str, reply: httpx.Response) -> None:
        """`path` is that of the description. Its status, media type, headers, and body or events are as described."""
        operation = self.described["paths"][path][method.lower()]
        where = f"{method} {path}: {reply.status_code}"
        assert str(reply.status_code) in operation["responses"], where
        response = resolved(self.described, operation["responses"][str(reply.status_code)])
        for name in ("x-generation-id", "x-request-id", *response["headers"]):
            assert name in reply.headers or name in _SOMETIMES, f"{where} has no {name}"
        if method == "HEAD" or reply.status_code == httpx.codes.NOT_MODIFIED:
            assert reply.content == b""
            return
        media = reply.headers["content-type"].partition(";")[0]
        assert media in response["content"], f"{where} is {media}"
        schema = response["content"][media]["schema"]
        if media == "text/event-stream":
            for event in events(reply.text):
                if event.keys() != {"error"}:
                    assert self.problems(schema["x-event-schema"], event) == [], (where, event)
        elif media == "application/json":
            assert self.problems(schema, reply.json()) == [], (where, reply.text[:500])


_SOMETIMES = {"idempotent-replayed", "retry-after"}


def events(text: str) -> list[Any]:
    """The data of each server-sent event but the last word."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _closed(value) for key, value in schema.items() if key not in ("example", "enum", "const")}
    kept = {key: schema[key] for key in ("enum", "const") if key in schema}
    if schema.get("type") == "object" and "properties" in schema and "additionalProperties" not in schema:
        kept["additionalProperties"] = False
    return {**inner, **kept}
