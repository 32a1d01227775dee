"""`POST /v1/moderations` (`/v1/moderation` is the same): OpenAI's JSON in and out."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from rest_bridge.chat_messages import ImagePart, TextPart
from rest_bridge.content import decode_image_url
from rest_bridge.extras import ExtrasBody
from rest_bridge.http import Exchange, RestResponse, Route, json_response
from rest_bridge.json import ABSENT, check_json_headers, decode_body, decode_value, invalid, is_set
from rest_bridge.pricing_json import PricingJson, usage_pricing
from server.domain.identity import Arrival
from server.domain.limits import check_count, missing_field
from server.domain.moderation import CATEGORIES, MAX_INPUTS, MAX_PARTS, Content, ModerationRequest, Verdict
from server.domain.request import Endpoint, Image, Text
from server.domain.usage import Meta, Usage
from server.pipeline.moderate import Judged, Moderate

_Part: TypeAlias = TextPart | ImagePart
_TEXT: Final = msgspec.json.Decoder(str)
_ITEMS: Final = msgspec.json.Decoder(tuple[msgspec.Raw, ...])
_TEXTS: Final = msgspec.json.Decoder(tuple[str, ...])
_PARTS: Final[msgspec.json.Decoder[tuple[_Part, ...]]] = msgspec.json.Decoder(tuple[_Part, ...])


class ModerationBody(ExtrasBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/moderations`. `input` is a string, an array of strings, or an array of parts."""

    input: msgspec.Raw = ABSENT
    model: str | None = None


class ModerationUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int
    pricing: PricingJson


def moderation_usage(usage: Usage) -> ModerationUsage:
    return ModerationUsage(usage.input_tokens, usage.total_tokens, usage_pricing(usage))


class ModerationResult(msgspec.Struct, frozen=True):
    """OpenAI's thirteen categories are always there. One that was not looked for is false, 0 and of no input type."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, tuple[str, ...]]


class ModerationReply(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    model: str
    results: tuple[ModerationResult, ...]
    usage: ModerationUsage
    meta: Meta | msgspec.UnsetType = msgspec.UNSET


_BODY: Final = msgspec.json.Decoder(ModerationBody)


class ModerationsRest:
    """Handlers of `/v1/moderations` and its alias."""

    def __init__(self, moderate: Moderate) -> None:
        self._moderate = moderate

    def routes(self) -> tuple[Route, ...]:
        return tuple(
            Route("POST", path, self.create, endpoint=Endpoint.MODERATIONS)
            for path in ("/v1/moderations", "/v1/moderation")
        )

    async def create(self, exchange: Exchange) -> RestResponse:
        check_json_headers(exchange.request.headers)
        body = decode_body(_BODY, exchange.body)
        judged = await self._moderate(exchange.call, _request(body))
        return json_response(encode_moderation(judged, exchange.call.arrival, wants_meta=bool(body.meta)))


def _request(body: ModerationBody) -> ModerationRequest:
    if body.model == "":
        raise missing_field("model")
    return ModerationRequest(
        endpoint=Endpoint.MODERATIONS,
        model=body.model or "",
        inputs=_inputs(body.input),
        provider_options=body.options(),
        routing=body.routing(),
        trace=body.wants_trace(),
    )


def _inputs(raw: msgspec.Raw) -> tuple[Content, ...]:
    """A string is one input, and so is an array of parts; an array of strings is as many as it has."""
    if not is_set(raw):
        raise missing_field("input")
    if _begins(raw, b'"'):
        return ((Text(decode_value(_TEXT, raw, "input")),),)
    if not _begins(raw, b"["):
        raise invalid("input", "`input` must be a string, an array of strings, or an array of parts.")
    items = decode_value(_ITEMS, raw, "input")
    if not items:
        raise invalid("input", "`input` must not be empty.")
    if _begins(items[0], b"{"):
        check_count(len(items), MAX_PARTS, "input")
        parts = decode_value(_PARTS, raw, "input")
        return (tuple(_part(part, f"input[{number}]") for number, part in enumerate(parts)),)
    check_count(len(items), MAX_INPUTS, "input")
    return tuple((Text(text),) for text in decode_value(_TEXTS, raw, "input"))


def _begins(raw: msgspec.Raw, sign: bytes) -> bool:
    return memoryview(raw)[:1].tobytes() == sign


def _part(part: TextPart | ImagePart, param: str) -> Text | Image:
    if isinstance(part, TextPart):
        return Text(part.text)
    return decode_image_url(part.image_url.url, None, f"{param}.image_url.url")


def encode_moderation(judged: Judged, arrival: Arrival, *, wants_meta: bool) -> bytes:
    usage = judged.settled.usage
    return msgspec.json.encode(
        ModerationReply(
            id=f"modr-{arrival.suffix}",
            model=judged.model,
            results=tuple(map(moderation_result, judged.verdicts)),
            usage=moderation_usage(usage),
            meta=judged.settled.meta if wants_meta else msgspec.UNSET,
        )
    )


def moderation_result(verdict: Verdict) -> ModerationResult:
    names = dict.fromkeys((*CATEGORIES, *verdict.categories))
    return ModerationResult(
        flagged=verdict.flagged,
        categories={name: verdict.categories.get(name, False) for name in names},
        category_scores={name: verdict.scores.get(name, 0.0) for name in names},
        category_applied_input_types={name: verdict.applied.get(name, ()) for name in names},
    )
