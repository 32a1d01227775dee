"""The REST face of records: one of them by any id of its request, or a page of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from rest_bridge.chat_encode import ChatUsage, chat_usage
from rest_bridge.embeddings_encode import EmbeddingsUsage, embeddings_usage
from rest_bridge.http import ANY_KEY, Exchange, RestRequest, RestResponse, Route, json_response
from rest_bridge.json import invalid
from rest_bridge.messages_encode import MessagesUsage, messages_usage
from rest_bridge.moderations import ModerationUsage, moderation_usage
from rest_bridge.pricing_json import PricingLineJson, pricing_json
from rest_bridge.query import check_query, single, whole_number
from rest_bridge.responses_encode import response_usage
from rest_bridge.times import iso, read_time
from server.domain.guardrail import ModerationReport
from server.domain.limits import missing_field
from server.domain.money import CURRENCY
from server.domain.record import AttemptRecord, Disconnect
from server.domain.records import Found, RecordFilter
from server.domain.request import Endpoint
from server.domain.usage import Usage, UsageSource
from server.pipeline.generations import Generations, Page

__all__ = ["GenerationsRest", "encode_generation", "read_time"]

_FILTERS: Final = (
    "model", "provider", "endpoint", "key_id", "status_code", "success", "from", "to", "limit", "after",
)  # fmt: skip
_BOOLEANS: Final[Mapping[str, bool]] = {"true": True, "false": False}

_encode: Final = msgspec.json.Encoder().encode


class GenerationJson(msgspec.Struct, frozen=True, kw_only=True):
    """The contract's record of a request. `replay_request` is the body as the client sent it, null in a list.

    `reply` is there where it is kept, but not in a list. `usage` is that of the surface that the request came by.
    """

    id: str
    object: str = "generation"
    request_id: str
    created_at: str
    team_id: str
    key_id: str
    app_id: str | None
    endpoint: str
    model_id: str
    provider: str | None
    native_response_id: str | None
    stream: bool
    byok: bool
    status_code: int
    success: bool
    error_code: str | None
    error_message: str | None
    finish_reason: str | None
    latency_ms: float | None
    generation_ms: float | None
    gateway_ms: float | None
    throughput: float | None
    usage: Any
    usage_source: UsageSource | None
    cost_nanos: int
    currency: str
    pricing_lines: tuple[PricingLineJson, ...]
    attempts: tuple[AttemptRecord, ...]
    disconnect: Disconnect | None
    parent_id: str | None
    moderation: ModerationReport | None
    replay_supported: bool
    replay_request: msgspec.Raw | None
    reply: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class GenerationsJson(msgspec.Struct, frozen=True, kw_only=True):
    """A page; `next_cursor` is `after` of the next one."""

    object: str = "list"
    ok: bool = True
    data: tuple[GenerationJson, ...]
    limit: int
    has_more: bool
    next_cursor: str | None


class GenerationsRest:
    """Handlers of `/v1/generation` and `/v1/generations`. Any key of a team reads all of its records."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/v1/generation/{generation_id}", self.get, ANY_KEY),
            Route("GET", "/v1/generation", self.find, ANY_KEY),
            Route("GET", "/v1/generations", self.list, ANY_KEY),
        )

    async def get(self, exchange: Exchange) -> RestResponse:
        check_query(exchange.request, ())
        return await self._one(exchange, exchange.path_params["generation_id"])

    async def find(self, exchange: Exchange) -> RestResponse:
        check_query(exchange.request, ("id",))
        generation_id = single(exchange.request, "id")
        if generation_id is None:
            raise missing_field("id")
        return await self._one(exchange, generation_id)

    async def list(self, exchange: Exchange) -> RestResponse:
        """A page; with `id` that one record, as the product's SDK asks for it."""
        request = exchange.request
        check_query(request, ("id", *_FILTERS))
        generation_id = single(request, "id")
        if generation_id is not None:
            for name in request.query.keys() - {"id"}:
                raise invalid(name, f"`{name}` cannot be given together with `id`.")
            return await self._one(exchange, generation_id)
        after, limit = single(request, "after"), whole_number(request, "limit")
        page = await self._generations.list(exchange.call, _read_filter(request), after=after, limit=limit)
        return json_response(_encode_page(page))

    async def _one(self, exchange: Exchange, generation_id: str) -> RestResponse:
        return json_response(encode_generation(await self._generations.get(exchange.call, generation_id)))


def encode_generation(found: Found) -> bytes:
    return _encode(_generation(found))


def _encode_page(page: Page) -> bytes:
    return _encode(
        GenerationsJson(
            data=tuple(_generation(found) for found in page.data),
            limit=page.limit,
            has_more=page.next_cursor is not None,
            next_cursor=page.next_cursor,
        )
    )


def _generation(found: Found) -> GenerationJson:
    record, content = found.record, found.content
    usage = record.usage
    pricing = None if usage is None or usage.pricing is None else pricing_json(usage.pricing)
    request = None if content is None else content.request
    return GenerationJson(
        id=record.id,
        request_id=record.request_id,
        created_at=iso(record.created_at),
        team_id=record.team_id,
        key_id=record.key_id,
        app_id=record.app_id,
        endpoint=record.endpoint,
        model_id=record.model_id,
        provider=record.provider,
        native_response_id=record.native_response_id,
        stream=record.stream,
        byok=record.byok,
        status_code=record.status_code,
        success=record.success,
        error_code=record.error_code,
        error_message=record.error_message,
        finish_reason=record.finish_reason,
        latency_ms=record.latency_ms,
        generation_ms=record.generation_ms,
        gateway_ms=record.gateway_ms,
        throughput=record.throughput,
        usage=None if usage is None else _usage(usage, record.endpoint),
        usage_source=None if usage is None else usage.source,
        cost_nanos=record.cost_nanos,
        currency=CURRENCY,
        pricing_lines=() if pricing is None else pricing.lines,
        attempts=record.attempts,
        disconnect=record.disconnect,
        parent_id=record.parent_id,
        moderation=record.moderation,
        replay_supported=found.replayable,
        replay_request=None if request is None else msgspec.Raw(request),
        reply=msgspec.UNSET if content is None else msgspec.Raw(content.reply),
    )


def _usage(
    usage: Usage, endpoint: str
) -> ChatUsage | MessagesUsage | EmbeddingsUsage | ModerationUsage | Mapping[str, Any]:
    """In the words of the surface that the request came by."""
    match endpoint:
        case Endpoint.CHAT:
            return chat_usage(usage)
        case Endpoint.MESSAGES:
            return messages_usage(usage)
        case Endpoint.EMBEDDINGS:
            return embeddings_usage(usage)
        case Endpoint.MODERATIONS:
            return moderation_usage(usage)
        case _:
            return response_usage(usage)


def _read_filter(request: RestRequest) -> RecordFilter:
    return RecordFilter(
        model=single(request, "model"),
        provider=single(request, "provider"),
        endpoint=single(request, "endpoint"),
        key_id=single(request, "key_id"),
        status_code=whole_number(request, "status_code"),
        success=_boolean(request, "success"),
        since=_time(request, "from"),
        until=_time(request, "to"),
    )


def _boolean(request: RestRequest, name: str) -> bool | None:
    text = single(request, name)
    if text is not None and text not in _BOOLEANS:
        raise invalid(name, f"`{name}` must be true or false.")
    return None if text is None else _BOOLEANS[text]


def _time(request: RestRequest, name: str) -> int | None:
    text = single(request, name)
    seconds = None if text is None else read_time(text)
    if text is not None and seconds is None:
        raise invalid(name, f"`{name}` must be seconds since 1970, or a time such as 2026-01-31T12:00:00Z.")
    return seconds
