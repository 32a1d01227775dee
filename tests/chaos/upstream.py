"""The providers of a run, on one socket: they do what the plan of each request says, and keep their own books of it."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.plan import Plan, Script, index_in
from tests.chaos.prices import Tokens
from tests.fakes import chat_wire, embedding_wire, responses_wire
from tests.fakes.replies import END, chunk, compact, error, head, json_reply, sse_event, whole
from tests.fakes.wire import Cut, Pause, Reply, Request, Reset, Send, Step, Wire, WireServer

_SSE = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}


@dataclass
class Attempt:
    """One call of a provider, as the provider knows it.

    `sent` is the text that was handed to the socket, `told` the usage that was, `finished` whether the whole reply was:
    each is noted before the bytes leave, so that nobody can have read what does not stand here. Times are
    `time.monotonic()` seconds.
    """

    index: int
    provider: str
    id: str
    api: str
    arrived_at: float
    status: int
    sent: list[str] = field(default_factory=list)
    told: list[Tokens] = field(default_factory=list)
    finished: bool = False
    cut: bool = False
    ended_at: float | None = None

    @property
    def text(self) -> str:
        return "".join(self.sent)

    @property
    def served(self) -> bool:
        """Whether anything left that a provider would ask money for."""
        return bool(self.text or self.told)

    def say(self, text: str, told: Tokens | None = None) -> None:
        if text:
            self.sent.append(text)
        if told is not None:
            self.told.append(told)

    def finish(self) -> None:
        self.finished = True
        self.ended_at = time.monotonic()

    def break_off(self) -> None:
        self.cut = True
        self.ended_at = time.monotonic()


@dataclass(frozen=True)
class Noted:
    """Note, then do."""

    note: Callable[[], None]
    step: Step

    async def play(self, wire: Wire) -> None:
        self.note()
        await self.step.play(wire)


class Upstream:
    """Answers `/<provider>/v1/` and `chat/completions`, `responses` or `embeddings`; `attempts` is the log, by request.

    Connections that nobody has used for `keep_alive_s` are closed.
    """

    def __init__(self, plan: Callable[[int], Plan], keep_alive_s: float | None = None) -> None:
        self._plan = plan
        self._server = WireServer(default=self._reply, keep_alive_s=keep_alive_s)
        self.attempts: dict[int, list[Attempt]] = defaultdict(list)

    async def __aenter__(self) -> Upstream:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop()

    @property
    def origin(self) -> str:
        return self._server.origin

    @property
    def calls(self) -> int:
        return sum(map(len, self.attempts.values()))

    def _reply(self, request: Request) -> Reply:
        self._server.requests.clear()
        self._server.disconnects.clear()
        index = index_in(request.body)
        _, provider, _, api = request.path.split("/", 3)
        script = self._plan(index).scripts[provider]
        made = self.attempts[index]
        id_ = f"up-{index:06d}-{provider}-{len(made)}"
        attempt = Attempt(index, provider, id_, api, time.monotonic(), script.status)
        made.append(attempt)
        if script.status != 200:
            return [Pause(script.first_s), *_noted(error(script.status, "Scripted."), attempt.finish)]
        if script.garbage:
            return [Pause(script.first_s), *_noted(whole(b"<html>" * 100, content_type="text/html"), attempt.break_off)]
        if not request.json.get("stream"):
            return [Pause(script.first_s), *_whole(attempt, script)]
        events = _chat_events(attempt, script) if api == "chat/completions" else _responses_events(attempt, script)
        return _stream(attempt, script, list(events))


@dataclass(frozen=True)
class Event:
    """One event of a stream: its bytes, the text in it, and the usage that it tells."""

    data: bytes
    text: str = ""
    told: Tokens | None = None


def _noted(reply: Reply, *notes: Callable[[], None]) -> list[Step]:
    """The notes are made before the first byte."""

    def note() -> None:
        for one in notes:
            one()

    first, *others = reply
    return [Noted(note, first), *others]


def _whole(attempt: Attempt, script: Script) -> list[Step]:
    if attempt.api == "chat/completions":
        body = chat_wire.completion(script.text, id=attempt.id)
        body["usage"] = None if script.usage is None else _chat_usage(script.usage)
    elif attempt.api == "embeddings":
        used = None if script.usage is None else script.usage.input
        body = embedding_wire.openai_list([embedding_wire.vector_of(attempt.id)], used=used)
    else:
        told = None if script.usage is None else _responses_usage(script.usage)
        body = responses_wire.response_object([responses_wire.message_item(script.text)], usage=told, id=attempt.id)
    return _noted(json_reply(body), lambda: attempt.say(script.text, script.usage), attempt.finish)


def _stream(attempt: Attempt, script: Script, events: list[Event]) -> list[Step]:
    """Text comes at the script's pace, everything else with what stands before it."""
    steps: list[Step] = [Pause(script.first_s), head(200, _SSE)]
    said = 0
    for event in events:
        if said == script.cut_after:
            break
        if event.text:
            if said:
                steps.append(Pause(script.every_s))
            said += 1
        steps.append(Noted(lambda one=event: attempt.say(one.text, one.told), Send(chunk(event.data))))  # type: ignore[misc]
    if script.cut_after is not None:
        return [*steps, Pause(script.every_s), Noted(attempt.break_off, Reset() if script.rude else Cut())]
    return [*steps[:-1], Noted(attempt.finish, steps[-1]), END]


def _chat_events(attempt: Attempt, script: Script) -> Iterator[Event]:
    def framed(value: dict[str, Any]) -> bytes:
        return sse_event(compact(value | {"id": attempt.id}))

    yield Event(framed(chat_wire.role_chunk()))
    for number, piece in enumerate(script.pieces, 1):
        told = script.used_after(number)
        counted = {} if told is None else {"usage": _chat_usage(told)}
        yield Event(framed(chat_wire.text_chunk(piece, **counted)), piece, told)
    yield Event(framed(chat_wire.finish_chunk()))
    if script.usage is not None:
        yield Event(framed(chat_wire.usage_chunk(_chat_usage(script.usage))), told=script.usage)
    yield Event(chat_wire.DONE)


def _responses_events(attempt: Attempt, script: Script) -> Iterator[Event]:
    for event in responses_wire.text_events(*script.pieces):
        told = None
        if (response := event.get("response")) is not None:
            counted = None
            if event["type"] == "response.completed" and script.usage is not None:
                told, counted = script.usage, _responses_usage(script.usage)
            event = {**event, "response": {**response, "id": attempt.id, "usage": counted}}
        data = sse_event(compact(event), event=event["type"])
        text = event["delta"] if event["type"] == "response.output_text.delta" else ""
        yield Event(data, text, told)


def _chat_usage(used: Tokens) -> dict[str, Any]:
    return chat_wire.usage(used.input, used.output, cached=used.cached, reasoning=used.reasoning)


def _responses_usage(used: Tokens) -> dict[str, Any]:
    return {
        "input_tokens": used.input,
        "input_tokens_details": {"cached_tokens": used.cached},
        "output_tokens": used.output,
        "output_tokens_details": {"reasoning_tokens": used.reasoning},
        "total_tokens": used.input + used.output,
    }


async def settled(upstream: Upstream, *, within_s: float) -> None:
    """Until no provider has said anything for half a second. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            before = [(len(made), sum(len(one.sent) for one in made)) for made in upstream.attempts.values()]
            await asyncio.sleep(0.5)
            if before == [(len(made), sum(len(one.sent) for one in made)) for made in upstream.attempts.values()]:
                return
