"""Examples of what schemas allow, made of the schemas: whatever a reply comes to hold, its example does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from rest_bridge.openapi_errors import ARRIVAL
from rest_bridge.openapi_types import Schema

MAX_DEPTH: Final = 12
_MODEL: Final = "local/smollm2-135m:free"
_KEY_ID: Final = "key_0199a1b2c3d47e6f"

_ID: Final = re.compile(r"`(\w+[-_])<x>`")

_VALUES: Final[Mapping[str, Any]] = {
    "id": ARRIVAL.generation_id,
    "generation_id": ARRIVAL.generation_id,
    "request_id": ARRIVAL.request_id,
    "team_id": "default",
    "key_id": _KEY_ID,
    "model": _MODEL,
    "model_id": _MODEL,
    "model_permaslug": _MODEL,
    "ids": _MODEL,
    "name": "SmolLM2 135M Instruct",
    "description": "A small model that runs inside the gateway.",
    "organisation_id": "local",
    "owned_by": "local",
    "provider": "local",
    "provider_name": "local",
    "provider_id": "local",
    "api_provider_id": "local",
    "provider_model": "smollm2-135m",
    "endpoint": "chat",
    "endpoint_id": "chat",
    "endpoints": "chat",
    "input_types": "text",
    "output_types": "text",
    "params": "temperature",
    "supported_parameters": "temperature",
    "currency": "USD",
    "dimension": "input_text_tokens",
    "created": 1_790_000_000,
    "created_at": 1_790_000_000,
    "completed_at": 1_790_000_002,
    "timestamp": "2026-11-22T00:00:00Z",
    "date": "2026-11-22",
    "from": "2026-10-24",
    "to": "2026-11-22",
    "object": "model",
    "role": "assistant",
    "content": "Hello! How can I help you today?",
    "text": "Hello! How can I help you today?",
    "finish_reason": "stop",
    "stop_reason": "end_turn",
    "native_finish_reason": "stop",
    "native_response_id": "chatcmpl-8c1f",
    "status_code": 200,
    "status": "active",
    "success": True,
    "reason": "",
    "outcome": "chosen",
    "breaker": "closed",
    "version": "0.1.0",
    "prompt_tokens": 9,
    "input_tokens": 9,
    "completion_tokens": 8,
    "output_tokens": 8,
    "total_tokens": 17,
    "quantity": 9,
    "unit_size": 1_000_000,
    "unit_price_usd": "0.00",
    "line_usd": "0",
    "total_usd": "0",
    "limit": 50,
    "total": 1,
    "attempts": 1,
    "requests": 1,
    "score": 1.0,
    "success_rate": 1.0,
    "latency_ms": 41.5,
    "generation_ms": 96.2,
    "gateway_ms": 1.7,
    "throughput_tps": 61.2,
    "throughput": 61.2,
    "uptime_s": 3600.5,
    "p50": 41.5,
    "p95": 88.0,
    "ttft_ms": 41.5,
    "context_length": 8192,
    "max_output_tokens": 8192,
    "pricing": "0.15",
    "usage_source": "provider",
}
"""By the name of a field, a value for it and for what it lists, where the schema lets it be that."""

_PLAIN: Final[Mapping[str, Any]] = {"string": "", "integer": 0, "number": 0, "boolean": True, "null": None}


def sample(schema: Schema, schemas: Mapping[str, Schema]) -> Any:
    return _sample(schema, schemas, "", MAX_DEPTH)


def _sample(schema: Schema, schemas: Mapping[str, Schema], name: str, depth: int) -> Any:
    if "$ref" in schema:
        return _sample(schemas[schema["$ref"].rpartition("/")[2]], schemas, name, depth)
    if "const" in schema:
        return schema["const"]
    if (told := _ID.match(schema.get("description", ""))) is not None and name == "id":
        return f"{told[1]}{ARRIVAL.suffix}"
    if schema.get("description", "").startswith("`author/slug`"):
        return _MODEL
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return _sample(_preferred(schema[several], name), schemas, name, depth)
    kind = schema.get("type", "object")
    kinds = kind if isinstance(kind, list) else [kind]
    if "enum" in schema:
        value = _VALUES.get(name)
        return value if value in schema["enum"] else schema["enum"][0]
    if kinds[0] == "object":
        return _object(schema, schemas, name, depth)
    if kinds[0] == "array":
        return [] if depth <= 0 or _is_open(schema["items"]) else [_sample(schema["items"], schemas, name, depth - 1)]
    value = _VALUES.get(name)
    if _is(value, kinds):
        return value
    if "null" in kinds:
        return None
    return max(_PLAIN[kinds[0]], schema["minimum"]) if "minimum" in schema else _PLAIN[kinds[0]]


def _preferred(members: list[Schema], name: str) -> Schema:
    """The first that a value is known for, or else the first."""
    value = _VALUES.get(name)
    known = next((one for one in members if _is(value, [one.get("type")])), None)
    is_told = known is not None or name in ("usage", "") or {"type": "null"} not in members
    return (known or members[0]) if is_told else {"type": "null"}


def _is_open(schema: Schema) -> bool:
    """Whether it says nothing of what it may hold."""
    return (
        not schema.keys() & {"$ref", "anyOf", "oneOf", "const", "enum", "properties"}
        and schema.get("type", "object") == "object"
    )


def _object(schema: Schema, schemas: Mapping[str, Schema], name: str, depth: int) -> dict[str, Any]:
    """Its fields that are always there; of a mapping, one entry where its values are known."""
    if depth <= 0:
        return {}
    properties: Mapping[str, Schema] = schema.get("properties", {})
    required = schema.get("required", ())
    values = schema.get("additionalProperties")
    if not properties and isinstance(values, dict) and name == "pricing":
        return {"input_text_tokens": _VALUES["pricing"]}
    return {one: _sample(properties[one], schemas, one, depth - 1) for one in required if one in properties}


def _is(value: Any, kinds: list[Any]) -> bool:
    types = {str: "string", bool: "boolean", int: "integer", float: "number"}
    kind = types.get(type(value))
    return kind in kinds or (kind == "integer" and "number" in kinds)
