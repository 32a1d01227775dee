"""Responses: generations that can be read back, and that continue one another. The store is the whole memory."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

import msgspec
import structlog
from msgspec.structs import replace

from server.domain.errors import GatewayError, Reason, internal_error
from server.domain.identity import Call
from server.domain.ports import Clock, Generate, ResponseStore
from server.domain.request import (
    Opaque,
    Part,
    RawJson,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    Turn,
)
from server.domain.response import (
    MessageItem,
    OpaqueOutput,
    OutputItem,
    OutputText,
    ReasoningItem,
    Response,
    ResponseEvent,
    ResponseRequest,
    ResponseStatus,
    ToolCallItem,
)
from server.domain.response_echo import echo
from server.domain.response_stream import ResponseAssembler
from server.domain.stored import StoredResponse

__all__ = ["Respond"]

_PREVIOUS: Final = "previous_response_id"
_SUFFIX: Final = re.compile(r"(?:resp_)?([0-9a-f]{32})")

_log: Final = structlog.get_logger(__name__)


class _Typed(msgspec.Struct):
    type: str = ""


_typed: Final = msgspec.json.Decoder(_Typed)


class Respond:
    """Makes responses, and keeps them for the team that made them. Another team's do not exist."""

    def __init__(self, generate: Generate, store: ResponseStore, clock: Clock) -> None:
        self._generate = generate
        self._store = store
        self._clock = clock

    async def stream(self, call: Call, request: ResponseRequest) -> AsyncGenerator[Sequence[ResponseEvent], None]:
        """Batches of events; the last event is `completed` or `incomplete`, and what it tells is kept by then.

        Where it could not be kept, it is told all the same, for it is paid for, and says `store: false`.

        Raises GatewayError before the first batch where nothing was generated. What fails later ends the stream with
        the events that say so, and is then raised all the same. Empty batches only tell that the upstream is alive.
        """
        history = await self._history(call, request)
        generation = replace(request.generation, turns=(*_instructions(request), *history, *request.generation.turns))
        assembler = ResponseAssembler(_opening(call, request))
        try:
            async with aclosing(self._generate(call, generation)) as batches:
                async for batch in batches:
                    yield assembler.feed(batch, self._clock.now())
            assert assembler.settled, "a generation ends settled"
            if request.store and not await self._keep(call, (*history, *request.generation.turns), assembler.response):
                unkept = {**assembler.response.echo, "store": RawJson(b"false")}
                assembler.response = replace(assembler.response, echo=unkept)
            yield (assembler.end(),)
        except Exception as error:
            if assembler.begun:
                yield assembler.fail(error if isinstance(error, GatewayError) else internal_error())
            raise

    async def create(self, call: Call, request: ResponseRequest) -> Response:
        """The finished response. Raises GatewayError."""
        response: Response | None = None
        async with aclosing(self.stream(call, request)) as batches:
            async for batch in batches:
                for event in batch:
                    response = getattr(event, "response", response)
        assert response is not None, "a stream ends with its response"
        return response

    async def get(self, call: Call, response_id: str) -> Response:
        """A kept response of the caller's team. Raises GatewayError (`resource_not_found`)."""
        return (await self._find(call, response_id)).response

    async def delete(self, call: Call, response_id: str) -> str:
        """Forget a kept response of the caller's team; its id. Raises GatewayError (`resource_not_found`)."""
        suffix = _suffix(response_id)
        if suffix is None or not await self._store.delete(call.principal.team_id, suffix):
            raise _not_found(None)
        return f"resp_{suffix}"

    async def _history(self, call: Call, request: ResponseRequest) -> tuple[Turn, ...]:
        if request.previous_response_id is None:
            return ()
        return (await self._find(call, request.previous_response_id, _PREVIOUS)).turns

    async def _find(self, call: Call, response_id: str, param: str | None = None) -> StoredResponse:
        suffix = _suffix(response_id)
        found = None if suffix is None else await self._store.get(call.principal.team_id, suffix)
        if found is None:
            raise _not_found(param)
        return found

    async def _keep(self, call: Call, turns: tuple[Turn, ...], response: Response) -> bool:
        """Whether it is kept."""
        stored = StoredResponse(
            suffix=call.suffix,
            team_id=call.principal.team_id,
            created_at=response.created_at,
            turns=tuple(_kept(turn) for turn in (*turns, *_reply(response.output))),
            response=response,
        )
        try:
            await self._store.put(stored)
        except GatewayError as error:
            _log.warning("response_not_kept", generation_id=call.arrival.generation_id, reason=error.reason.value)
            return False
        return True


def _suffix(response_id: str) -> str | None:
    """The suffix of `resp_<x>` or `<x>`; None for anything that the gateway has never issued."""
    match = _SUFFIX.fullmatch(response_id)
    return match and match[1]


def _not_found(param: str | None) -> GatewayError:
    return GatewayError(Reason.RESOURCE_NOT_FOUND, "There is no such response.", param=param)


def _instructions(request: ResponseRequest) -> tuple[Turn, ...]:
    return () if request.instructions is None else (Turn(Role.SYSTEM, (Text(request.instructions),)),)


def _opening(call: Call, request: ResponseRequest) -> Response:
    generation = request.generation
    previous = request.previous_response_id
    return Response(
        suffix=call.suffix,
        created_at=call.arrival.created_at,
        status=ResponseStatus.IN_PROGRESS,
        model=generation.model,
        previous_response_id=None if previous is None else f"resp_{_suffix(previous)}",
        metadata=request.metadata,
        echo=echo(request),
        wants_meta=request.meta,
        wants_logprobs=bool(generation.sampling.logprobs),
    )


def _reply(output: tuple[OutputItem, ...]) -> tuple[Turn, ...]:
    """The output as turns of a conversation, one an item."""
    return tuple(
        Turn(Role.ASSISTANT, parts, phase=item.phase if isinstance(item, MessageItem) else None)
        for item in output
        if (parts := _parts(item))
    )


def _parts(item: OutputItem) -> tuple[Part, ...]:
    match item:
        case MessageItem():
            return tuple(
                Text(part.text) if isinstance(part, OutputText) else Refusal(part.refusal) for part in item.content
            )
        case ReasoningItem():
            seal = item.encrypted_content or ""
            return (Reasoning("\n\n".join(item.content), item.summary, signature=seal, item_id=item.id),)
        case ToolCallItem():
            return (ToolCall(item.call_id, item.name, item.arguments, item.custom, item.id),)
        case OpaqueOutput():
            return (Opaque(_typed.decode(item.item).type, item.item, _PREVIOUS),)


def _kept(turn: Turn) -> Turn:
    """As part of a history: where it once stood in a request means nothing in the next one."""
    if not any(isinstance(part, Opaque) for part in turn.parts):
        return turn
    parts = tuple(replace(part, param=_PREVIOUS) if isinstance(part, Opaque) else part for part in turn.parts)
    return replace(turn, parts=parts)
