"""What Anthropic's Messages API looks like on the wire: messages, events, errors, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.fakes.replies import END, compact, json_reply, sse
from tests.fakes.wire import Reply, Step

MODEL = "claude-test-1-20261001"
ID = "msg_01UpstreamMessage"
REQUEST_ID = "req_011UpstreamRequest"
VERSIONS = ("2023-06-01", "2026-10-21")
FIELDS = frozenset(
    {"model", "max_tokens", "messages", "system", "stream", "temperature", "top_p", "top_k", "stop_sequences", "tools"}
    | {"tool_choice", "thinking", "metadata", "service_tier", "output_config", "cache_control", "speed"}
)
HEADERS = {
    "request-id": REQUEST_ID,
    "anthropic-organization-id": "0b1f4c3e-0000-4000-8000-000000000000",
    "anthropic-ratelimit-requests-limit": "1000",
    "anthropic-ratelimit-requests-remaining": "999",
    "anthropic-ratelimit-requests-reset": "2026-10-01T12:00:01Z",
}

Block = dict[str, Any]
Event = dict[str, Any]


def usage(given: int = 9, made: int = 3, *, read: int = 0, written: int = 0, **extra: Any) -> dict[str, Any]:
    """`given` counts neither what was read from the cache nor what was written to it."""
    return {
        "input_tokens": given,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": made,
        "service_tier": "standard",
        **extra,
    }


def text(said: str = "Hello there!", **extra: Any) -> Block:
    return {"type": "text", "text": said, **extra}


def thinking(thought: str, signature: str = "EqQBCkYIBxgCKkDnOYH9") -> Block:
    return {"type": "thinking", "thinking": thought, "signature": signature}


def redacted(data: str = "EmwKAhgBEgy3va3pzix/LafPsn4a") -> Block:
    return {"type": "redacted_thinking", "data": data}


def tool_use(name: str, arguments: Any, *, id: str = "toolu_01") -> Block:
    return {"type": "tool_use", "id": id, "name": name, "input": arguments}


def message(
    *content: Block, stop_reason: str | None = "end_turn", usage_: dict[str, Any] | None = None, **extra: Any
) -> dict[str, Any]:
    return {
        "id": ID,
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": list(content),
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage() if usage_ is None else usage_,
        **extra,
    }


# Events.


def message_start(usage_: dict[str, Any] | None = None, **extra: Any) -> Event:
    """The count of output is a placeholder there."""
    counted = {**(usage() if usage_ is None else usage_), "output_tokens": 1}
    return {"type": "message_start", "message": message(stop_reason=None, usage_=counted, **extra)}


def block_start(index: int, block: Block) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": block}


def block_delta(index: int, kind: str, **fields: Any) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def block_stop(index: int) -> Event:
    return {"type": "content_block_stop", "index": index}


def message_delta(stop_reason: str | None = "end_turn", usage_: Any = None, **delta: Any) -> Event:
    counted = usage() if usage_ is None else usage_
    cumulative = {key: value for key, value in counted.items() if key not in ("cache_creation", "service_tier")}
    return {
        "type": "message_delta",
        "delta": {"stop_reason": stop_reason, "stop_sequence": None, **delta},
        "usage": cumulative,
    }


def message_stop() -> Event:
    return {"type": "message_stop"}


def ping() -> Event:
    return {"type": "ping"}


def error_event(kind: str = "overloaded_error", said: str = "Overloaded") -> Event:
    return {"type": "error", "error": {"type": kind, "message": said}, "request_id": REQUEST_ID}


def block_events(index: int, block: Block, *, pieces: int = 3) -> list[Event]:
    """A block as it is streamed: begun empty, then in so many pieces."""
    head: Block
    match block["type"]:
        case "text":
            head = {"type": "text", "text": "", **({"citations": []} if block.get("citations") else {})}
            deltas = [block_delta(index, "text_delta", text=piece) for piece in cut(block["text"], pieces)]
            deltas += [block_delta(index, "citations_delta", citation=cited) for cited in block.get("citations") or ()]
        case "thinking":
            head = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [block_delta(index, "thinking_delta", thinking=piece) for piece in cut(block["thinking"], pieces)]
            deltas.append(block_delta(index, "signature_delta", signature=block["signature"]))
        case "tool_use" | "server_tool_use":
            head = {**block, "input": {}}
            whole = compact(block["input"]).decode() if block["input"] else ""
            deltas = [block_delta(index, "input_json_delta", partial_json=piece) for piece in ("", *cut(whole, pieces))]
        case _:
            head, deltas = block, []
    return [block_start(index, head), *deltas, block_stop(index)]


def cut(whole: str, pieces: int) -> list[str]:
    size = max(1, -(-len(whole) // pieces))
    return [whole[at : at + size] for at in range(0, len(whole), size)]


def events_of(whole: dict[str, Any], *, pieces: int = 3) -> list[Event]:
    """The stream that says what a whole message says."""
    counted = whole["usage"]
    events = [message_start(counted, **{key: whole[key] for key in ("id", "model")})]
    for index, block in enumerate(whole["content"]):
        events += block_events(index, block, pieces=pieces)
        if index == 0:
            events.insert(2, ping())
    delta = {key: whole[key] for key in ("stop_sequence", "stop_details") if whole.get(key) is not None}
    return [*events, message_delta(whole["stop_reason"], counted, **delta), message_stop()]


def frame(events: Iterable[Event]) -> list[bytes]:
    """Each as the vendor frames it: its name twice, and now and then spaces before the last brace."""
    framed = []
    for number, event in enumerate(events):
        data = compact(event)
        spaced = data[:-1] + b" " * (number * 7 % 11) + b"}"
        framed.append(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), spaced))
    return framed


# Replies.


def message_reply(*content: Block, **fields: Any) -> Reply:
    return json_reply(message(*(content or (text(),)), **fields), headers=HEADERS)


def message_stream(*content: Block, every_s: float = 0.0, pieces: int = 3, end: Step = END, **fields: Any) -> Reply:
    whole = message(*(content or (text(),)), **fields)
    return event_stream(events_of(whole, pieces=pieces), every_s=every_s, end=end)


def event_stream(events: Iterable[Event], *, every_s: float = 0.0, end: Step = END) -> Reply:
    """A stream of exactly these events."""
    return sse(frame(events), every_s=every_s, end=end, headers=HEADERS)


def error_reply(
    status: int,
    kind: str = "api_error",
    said: str = "Internal server error",
    *,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    error: dict[str, Any] = {"type": kind, "message": said}
    if code is not None:
        error["details"] = {"error_code": code}
    body = {"type": "error", "error": error, "request_id": REQUEST_ID}
    return json_reply(body, status=status, headers={"request-id": REQUEST_ID, **(headers or {})})


# What the vendor refuses with a 400.


def problem_of(body: Any, version: str) -> str | None:
    """The message of the refusal; None for a request that is in order."""
    if not isinstance(body, dict):
        return "The request body is not valid JSON."
    if unknown := sorted(body.keys() - FIELDS):
        return f"{unknown[0]}: Extra inputs are not permitted"
    for name in ("model", "max_tokens", "messages"):
        if name not in body:
            return f"{name}: Field required"
    if not isinstance(body["max_tokens"], int) or body["max_tokens"] < 1:
        return "max_tokens: Input should be greater than or equal to 1"
    if version == "2026-10-21" and (sampled := {"temperature", "top_p", "top_k"} & body.keys()):
        return f"{min(sampled)}: Extra inputs are not permitted"
    if not 0 <= body.get("temperature", 1) <= 1:
        return "temperature: range: 0..1"
    return (
        _tool_problem(body)
        or _thinking_problem(body)
        or _format_problem(body)
        or _turn_problem(body["messages"], body.get("system"))
    )


def _tool_problem(body: dict[str, Any]) -> str | None:
    names = []
    for number, tool in enumerate(body.get("tools", ())):
        if extra := tool.keys() - {"name", "description", "input_schema", "strict", "cache_control", "type"}:
            return f"tools.{number}.custom.{min(extra)}: Extra inputs are not permitted"
        if tool["input_schema"].get("type") != "object":
            return f"tools.{number}.custom.input_schema.type: Field required"
        names.append(tool["name"])
    choice = body.get("tool_choice")
    if choice is None:
        return None
    if not names:
        return "tool_choice may only be specified while providing tools"
    if choice["type"] not in ("auto", "any", "tool", "none"):
        return "tool_choice: Input tag does not match any of the expected tags"
    if choice["type"] == "none" and choice.keys() != {"type"}:
        return "tool_choice.none.disable_parallel_tool_use: Extra inputs are not permitted"
    if choice["type"] == "tool" and choice["name"] not in names:
        return f"Tool '{choice['name']}' not found in provided tools"
    if choice["type"] in ("any", "tool") and body.get("thinking", {}).get("type") == "enabled":
        return "Thinking may not be enabled when tool_choice forces tool use."
    return None


def _thinking_problem(body: dict[str, Any]) -> str | None:
    wanted = body.get("thinking")
    if wanted is None or wanted["type"] != "enabled":
        return None
    if wanted["budget_tokens"] < 1024:
        return "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
    if wanted["budget_tokens"] >= body["max_tokens"]:
        return "`max_tokens` must be greater than `thinking.budget_tokens`."
    if body.get("temperature", 1) != 1:
        return "`temperature` may only be set to 1 when thinking is enabled."
    return None


def _format_problem(body: dict[str, Any]) -> str | None:
    wanted = (body.get("output_config") or {}).get("format")
    return None if wanted is None else _schema_problem(wanted["schema"])


def _schema_problem(schema: Any) -> str | None:
    if isinstance(schema, list):
        return next(filter(None, map(_schema_problem, schema)), None)
    if not isinstance(schema, dict):
        return None
    where = "output_config.format.schema"
    if isinstance(schema.get("type"), list):
        return f"{where}: type arrays are not supported"
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        return f"{where}: For 'object' type, 'additionalProperties' must be explicitly set to false"
    for word in ("minimum", "maximum", "minLength", "maxLength", "maxItems", "pattern", "oneOf"):
        if word in schema and not isinstance(schema[word], dict):
            return f"{where}: For '{schema.get('type')}' type, property '{word}' is not supported"
    nested = [schema.get(key) for key in ("items", "anyOf", "allOf")]
    named = [*(schema.get("properties") or {}).values(), *(schema.get("$defs") or {}).values()]
    return _schema_problem([*nested, *named])


def _turn_problem(messages: Sequence[dict[str, Any]], system: Any) -> str | None:
    if not messages:
        return "messages: at least one message is required"
    if not all(block["text"].strip() for block in system or () if isinstance(block, dict)):
        return "system: text content blocks must be non-empty"
    open_calls: list[str] = []
    for number, turn in enumerate(messages):
        blocks = turn["content"] if isinstance(turn["content"], list) else [text(turn["content"])]
        where = f"messages.{number}"
        if turn["role"] == "system" and number == 0:
            return "messages.0: use the top-level 'system' parameter"
        if turn["role"] not in ("user", "assistant", "system"):
            return f"{where}.role: Input should be 'user' or 'assistant'"
        if not blocks:
            return f"{where}: all messages must have non-empty content"
        if any(block["type"] == "text" and not block["text"].strip() for block in blocks):
            return f"{where}: text content blocks must be non-empty"
        if turn["role"] == "assistant":
            open_calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
            if any(not isinstance(block["input"], dict) for block in blocks if block["type"] == "tool_use"):
                return f"{where}: tool_use.input: Input should be a valid dictionary"
            if any(block["type"] in ("image", "document") for block in blocks):
                return f"{where}: document blocks are not allowed in assistant turns"
            continue
        answers = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if sorted(answers) != sorted(open_calls):
            return f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after"
        if any(block["type"] == "tool_result" for block in blocks[len(answers) :]):
            return f"{where}: tool_result blocks must come first"
        open_calls = []
    return None
