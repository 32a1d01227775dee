"""Event streams as a client reads them off the wire: every byte, and when it came. And the two surfaces that stream."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import Disconnect, Request

DONE = b"[DONE]"


@dataclass(frozen=True)
class Event:
    """`at` is when its last byte came, in `time.monotonic()` seconds."""

    at: float
    name: str | None
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclass
class EventReader:
    """Iterates the events of a reply; `raw` is every byte so far, `comments` those that are no events."""

    reply: httpx.Response
    raw: bytearray = field(default_factory=bytearray)
    comments: list[Event] = field(default_factory=list)

    def __iter__(self) -> Iterator[Event]:
        waiting = bytearray()
        for piece in self.reply.iter_raw():
            at = time.monotonic()
            self.raw += piece
            searched_from = max(0, len(waiting) - 1)
            waiting += piece
            if (end := waiting.rfind(b"\n\n", searched_from)) < 0:
                continue
            for block in bytes(waiting[:end]).split(b"\n\n"):
                if block.startswith(b":"):
                    self.comments.append(Event(at, None, block))
                else:
                    yield _event(block, at)
            del waiting[: end + 2]
        assert not waiting, "the stream ends in the middle of an event"


def _event(block: bytes, at: float) -> Event:
    name, data = None, []
    for line in block.split(b"\n"):
        key, _, value = line.partition(b": ")
        assert key in (b"event", b"data"), block
        if key == b"event":
            name = value.decode()
        else:
            data.append(value)
    return Event(at, name, b"\n".join(data))


@dataclass(frozen=True, eq=False)
class Surface:
    """One of the two ways of asking, and of reading what comes."""

    name: str
    path: str
    prompt: Mapping[str, Any]

    def __str__(self) -> str:
        return self.name

    def body(self, model: str = "acme/test-1:free", **more: Any) -> dict[str, Any]:
        return {"model": model, "stream": True, **self.prompt, **more}

    def text(self, events: list[Event]) -> str:
        """All visible text."""
        said = [event.json for event in events if event.data != DONE]
        if self is CHAT:
            choices = [choice for chunk in said for choice in chunk.get("choices", ())]
            return "".join(choice["delta"].get("content") or "" for choice in choices)
        return "".join(event["delta"] for event in said if event["type"] == "response.output_text.delta")

    def calls(self, events: list[Event]) -> list[tuple[str, str]]:
        """Name and arguments of each tool call, put together from its pieces."""
        said = [event.json for event in events if event.data != DONE]
        if self is RESPONSES:
            items = [event["item"] for event in said if event["type"] == "response.output_item.done"]
            return [(item["name"], item["arguments"]) for item in items if item["type"] == "function_call"]
        calls: dict[int, tuple[str, str]] = {}
        for chunk in said:
            for choice in chunk["choices"]:
                for piece in choice["delta"].get("tool_calls") or ():
                    name, arguments = calls.get(piece["index"], ("", ""))
                    told = piece["function"]
                    calls[piece["index"]] = (name + told.get("name", ""), arguments + told.get("arguments", ""))
        return list(calls.values())

    def failures(self, events: list[Event]) -> list[dict[str, Any]]:
        """The error events."""
        said = [event.json for event in events if event.data != DONE]
        return [value["error"] for value in said if (self is CHAT and "error" in value) or value.get("type") == "error"]


CHAT = Surface("chat", "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
RESPONSES = Surface("responses", "/v1/responses", {"input": "hi"})
SURFACES = (CHAT, RESPONSES)


@contextmanager
def streaming(
    gateway: Gateway,
    surface: Surface,
    model: str = "acme/test-1:free",
    *,
    http2: bool = False,
    url: str | None = None,
    **more: Any,
) -> Iterator[EventReader]:
    """An open stream whose status is 200."""
    with (
        httpx.Client(http1=not http2, http2=http2, timeout=60) as client,
        client.stream(
            "POST", f"{url or gateway.url}{surface.path}", json=surface.body(model, **more), headers=gateway.headers
        ) as reply,
    ):
        if reply.status_code != httpx.codes.OK:
            raise AssertionError(reply.read().decode())
        assert reply.headers["content-type"] == "text/event-stream"
        yield EventReader(reply)


def read_stream(gateway: Gateway, surface: Surface, model: str = "acme/test-1:free", **more: Any) -> list[Event]:
    """All events of one stream."""
    with streaming(gateway, surface, model, **more) as reader:
        return list(reader)


def whole(events: list[Event]) -> bool:
    """Whether the stream says that it came to its end."""
    return bool(events) and events[-1].data == DONE


def request_bytes(gateway: Gateway, surface: Surface, model: str = "acme/test-1:free", **more: Any) -> bytes:
    """One request as it stands on the wire."""
    body = json.dumps(surface.body(model, **more)).encode()
    lines = [
        f"POST {surface.path} HTTP/1.1",
        "host: gateway",
        f"authorization: Bearer {gateway.key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def open_raw(gateway: Gateway, request: bytes) -> socket.socket:
    """A connection of its own with the request on its way."""
    connection = socket.create_connection(("127.0.0.1", gateway.http_port), timeout=30)
    connection.sendall(request)
    return connection


def read_until(connection: socket.socket, mark: bytes, count: int = 1) -> bytes:
    """What comes until `mark` has stood in it `count` times."""
    received = b""
    while received.count(mark) < count:
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


def wait_left(upstream: UpstreamThread, request: Request, *, within_s: float = 30.0) -> Disconnect:
    """When the gateway hung up on this very request; connections that were idle hang up too, and don't count."""
    deadline = time.monotonic() + within_s
    while True:
        for one in list(upstream.upstream.disconnects):
            if one.request is request:
                return one
        assert time.monotonic() < deadline, "the upstream is still being read"
        time.sleep(0.005)
