"""Usage to be priced, under any of the names that it has: those of chat, of responses, or of the dimensions."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from rest_bridge.json import decode_body, invalid
from server.domain.limits import MAX_SHOWN_CHARS, missing_field
from server.domain.pricing import DIMENSIONS
from server.domain.usage import Usage
from server.pipeline.pricing import MAX_QUANTITY, Quantities, Question

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_QUANTITY)]


class _Details(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parts of the input."""

    cached_tokens: Count | None = None
    audio_tokens: Count | None = None
    cache_write_tokens: Count | None = None


class _OutputDetails(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parts of the output; what became of a prediction is in the output's price."""

    reasoning_tokens: Count | None = None
    audio_tokens: Count | None = None
    accepted_prediction_tokens: Count | None = None
    rejected_prediction_tokens: Count | None = None


class _Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _OutputDetails | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _OutputDetails | None = None
    total_tokens: Count | None = None
    dimensions: dict[str, Count] | None = None


_CHAT: Final = ("prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details")
_RESPONSES: Final = ("input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details")

if TYPE_CHECKING:
    _AnyUsage = _Usage
else:  # the dimensions may stand at the top of usage too: a family of names that a struct has only as fields of its own
    _AnyUsage = msgspec.defstruct(
        "_AnyUsage",
        [(dimension, Count | None, None) for dimension in sorted(DIMENSIONS)],
        bases=(_Usage,),
        frozen=True,
        forbid_unknown_fields=True,
    )


class PricingBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    usage: _AnyUsage
    provider: str | None = None
    service_tier: str | None = None


_decoder: Final = msgspec.json.Decoder(PricingBody)


def decode_question(body: bytes) -> Question:
    """Raises GatewayError naming what is wrong: an unknown field, two families of names, a total that is no sum."""
    decoded = decode_body(_decoder, body)
    path = "usage" if decoded.usage.dimensions is None else "usage.dimensions"
    return Question(decoded.model, _used(decoded.usage), decoded.provider or None, decoded.service_tier or None, path)


def _used(usage: _Usage) -> Usage | Quantities:
    chat, responses = _given(usage, _CHAT), _given(usage, _RESPONSES)
    at_the_top = _given(usage, sorted(DIMENSIONS))
    within = ["dimensions"] if usage.dimensions is not None else []
    families = [names for names in (chat, responses, at_the_top, within) if names]
    if not families:
        raise missing_field("usage.prompt_tokens")
    if len(families) > 1:
        other = families[1][0]
        raise invalid(f"usage.{other}", f"`usage.{other}` cannot stand beside `usage.{families[0][0]}`.")
    if chat:
        return _tokens(usage, _CHAT)
    if responses:
        return _tokens(usage, _RESPONSES)
    if usage.total_tokens is not None:
        raise invalid("usage.total_tokens", "`usage.total_tokens` cannot stand beside dimensions.")
    return _quantities(usage, at_the_top)


def _given(usage: _Usage, names: Collection[str]) -> list[str]:
    return [name for name in names if getattr(usage, name) is not None]


def _tokens(usage: _Usage, names: tuple[str, str, str, str]) -> Usage:
    input_tokens, output_tokens = (getattr(usage, name) or 0 for name in names[:2])
    total = usage.total_tokens
    if total is not None and total != input_tokens + output_tokens:
        raise invalid("usage.total_tokens", f"`usage.total_tokens` must be {input_tokens + output_tokens}, or absent.")
    of_input = getattr(usage, names[2]) or _Details()
    of_output = getattr(usage, names[3]) or _OutputDetails()
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=of_input.cached_tokens or 0,
        cache_write_tokens=of_input.cache_write_tokens or 0,
        reasoning_tokens=of_output.reasoning_tokens or 0,
        input_audio_tokens=of_input.audio_tokens or 0,
        output_audio_tokens=of_output.audio_tokens or 0,
    )


def _quantities(usage: _Usage, at_the_top: list[str]) -> Quantities:
    if usage.dimensions is None:
        return {name: getattr(usage, name) for name in at_the_top}
    for name in usage.dimensions:
        if name not in DIMENSIONS:
            param = f"usage.dimensions.{name[:MAX_SHOWN_CHARS]}"
            raise invalid(param, f"`{param}` is not a dimension; they are {', '.join(sorted(DIMENSIONS))}.")
    return usage.dimensions
