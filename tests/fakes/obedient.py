"""A model that does as it is told: what it is to say and to do stands in the last message of the user, as JSON.

    [{"calls": [["weather", {"city": "Oslo"}]]}, {"say": "It rains."}]

is a tool call when that is asked, and a text when the tool has answered: a step a turn. So a client in another
process, and in another language, writes its own script. A step may also have `finish`, the reason, `expect`, fields
that the request must have, and `fail` with `times`: a status, and how often before it does the rest. Instead of `say`
and `calls` it has `refuse`, a text; `echo`, names of fields of the request to say; `break`, a text after which a stream
stops dead; `slow`, how many words a stream takes its time over; or `hang`. A message that is no such JSON is greeted.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from tests.fakes.chat_wire import (
    chat_chunks,
    completion,
    delta_chunk,
    finish_chunk,
    role_chunk,
    text_chunk,
    text_chunks,
    tool_call,
    usage_chunk,
)
from tests.fakes.everything import as_all_of_openai
from tests.fakes.replies import error, json_reply, silent
from tests.fakes.wire import Reply, Request

SLOW_S = 0.02


class Obedient:
    """The default script of an `Upstream`."""

    def __init__(self) -> None:
        self._failed: Counter[bytes] = Counter()

    def __call__(self, request: Request) -> Reply:
        if not request.path.endswith("/chat/completions"):
            return as_all_of_openai(request)
        body = json.loads(request.body)
        if (step := _step(body["messages"])) is None:
            return as_all_of_openai(request)
        if any(body.get(name) != value for name, value in step.get("expect", {}).items()):
            return error(400, "That is not what was expected.", type="invalid_request_error")
        if "fail" in step:
            self._failed[request.body] += 1
            if self._failed[request.body] <= step.get("times", 1):
                return error(step["fail"], "As you wish.", headers={"retry-after": "0"})
        return _reply(step, body)


def _step(messages: list[dict[str, Any]]) -> dict[str, Any] | None:
    asked = max(index for index, message in enumerate(messages) if message["role"] == "user")
    try:
        steps = json.loads(_text(messages[asked]["content"]))
    except ValueError:
        return None
    turn = sum(message["role"] == "assistant" for message in messages[asked:])
    step: dict[str, Any] = steps[turn]
    return step


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def _reply(step: dict[str, Any], body: dict[str, Any]) -> Reply:
    if "hang" in step:
        return silent()
    calls = [
        tool_call(name, json.dumps(arguments), id=f"call_{number}_{len(body['messages'])}")
        for number, (name, arguments) in enumerate(step.get("calls", ()), start=1)
    ]
    text = step.get("say", "")
    if "echo" in step:
        text = json.dumps({name: body.get(name) for name in step["echo"]})
    reason = step.get("finish", "tool_calls" if calls else "stop")
    if not body.get("stream"):
        message = {"tool_calls": calls} if calls else {"refusal": step.get("refuse")}
        return json_reply(completion(text or None, finish_reason=reason, message=message))
    return _stream(step, body, text, calls, reason)


def _stream(step: dict[str, Any], body: dict[str, Any], text: str, calls: list[dict[str, Any]], reason: str) -> Reply:
    if "break" in step:
        return chat_chunks([role_chunk(), text_chunk(step["break"])], done=False)
    if "slow" in step:
        return chat_chunks(text_chunks(*["word "] * step["slow"]), every_s=SLOW_S)
    said = [text_chunk(piece) for piece in text.partition(" ") if piece]
    refused = [delta_chunk({"refusal": step["refuse"]})] if "refuse" in step else []
    called = [chunk for index, call in enumerate(calls) for chunk in _in_pieces(index, call)]
    asked_usage = (body.get("stream_options") or {}).get("include_usage")
    return chat_chunks(
        [role_chunk(), *said, *refused, *called, finish_chunk(reason), *([usage_chunk()] if asked_usage else [])]
    )


def _in_pieces(index: int, call: dict[str, Any]) -> list[dict[str, Any]]:
    """A tool call as it comes off a model: its name, then its arguments in two halves."""
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    half = len(arguments) // 2
    begun = tool_call(name, "", id=call["id"], index=index)
    rest = ({"index": index, "function": {"arguments": part}} for part in (arguments[:half], arguments[half:]))
    return [delta_chunk({"tool_calls": [one]}) for one in (begun, *rest)]
