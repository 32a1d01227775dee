"""How much a generation used, in one convention whatever the provider's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from server.domain.guardrail import ModerationReport
from server.domain.money import Pricing
from server.domain.trace import Trace

UsageSource = Literal["provider", "counted"]


class Usage(msgspec.Struct, frozen=True):
    """Token counts. `input_tokens` includes cached and written tokens, `output_tokens` includes reasoning.

    `units` is what is no token, by dimension (`server.domain.pricing`): pictures, seconds of sound, characters.
    `source` is `counted` where the provider reported nothing and the gateway counted what it relayed. `pricing` is set
    once the generation is settled, and counts every attempt that a provider bills.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    input_image_tokens: int = 0
    output_image_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0
    units: Mapping[str, int] = {}
    source: UsageSource = "provider"
    pricing: Pricing | None = None

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class RoutingRow(msgspec.Struct, frozen=True):
    """What became of one candidate: `chosen`, `failed` with its category, or why it was not considered."""

    provider: str
    outcome: str
    score: float
    breaker: str = "closed"


class Meta(msgspec.Struct, frozen=True):
    """Who served a generation and how long it took. Times are milliseconds.

    `latency_ms`: upstream dispatch to first byte (first token when streaming). `generation_ms`: dispatch to last
    byte. `throughput_tps`: output tokens per second of generation. `gateway_ms`: what the gateway itself added.
    `trace` is there where the client asked for it, `moderation` where a moderation model was asked.
    """

    provider: str
    provider_model: str
    native_response_id: str | None
    latency_ms: float
    generation_ms: float
    throughput_tps: float
    gateway_ms: float
    attempts: int
    routing: tuple[RoutingRow, ...] = ()
    trace: Trace | msgspec.UnsetType = msgspec.UNSET
    moderation: ModerationReport | msgspec.UnsetType = msgspec.UNSET
