"""The record of a generation: what is kept of every request, and read back at `/v1/generation/{id}`."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from server.domain.guardrail import ModerationReport
from server.domain.usage import Usage

Disconnect = Literal["cancelled", "drained"]

CLIENT_GONE: Final = "client_disconnected"
CLIENT_GONE_STATUS: Final = 499
"""What records, logs and figures say of a request whose client has gone; nobody is left to be told."""
MAX_TEXT_BYTES: Final = 8 * 1024
"""Of an error's description; whoever it came from."""
MAX_ID_BYTES: Final = 256
"""Of an id that a provider gave."""


def bounded(text: str, at_most: int = MAX_TEXT_BYTES) -> str:
    """`text` within `at_most` bytes of UTF-8, cut between code points; what UTF-8 cannot say becomes `?`."""
    return text.encode(errors="replace")[:at_most].decode(errors="ignore")


class AttemptRecord(msgspec.Struct, frozen=True):
    """One call of one provider. `status` is the HTTP status where it answered with one; times are milliseconds.

    `billed`: whether the provider bills it, so that it was charged; `cost_nanos` is what for. `provider_request_id` is
    what its support asks for.
    """

    provider: str
    provider_model: str
    status: int | None
    error_code: str | None
    latency_ms: float
    billed: bool
    cost_nanos: int = 0
    provider_request_id: str | None = None


class GenerationRecord(msgspec.Struct, frozen=True):
    """One request and all that became of it. `usage` holds the pricing.

    `created_at` is in seconds since 1970, times are milliseconds, `throughput` is output tokens a second. `status_code`
    is what REST clients were answered, 499 where the client had gone; `error_code` and `error_message` are the error's
    reason and description. `disconnect` says, where the client had gone, what became of the upstream call.
    `parent_id` is the generation for whose sake the gateway itself made it.
    """

    suffix: str
    request_id: str
    created_at: int
    team_id: str
    key_id: str
    endpoint: str
    model_id: str
    stream: bool = False
    provider: str | None = None
    native_response_id: str | None = None
    status_code: int = 200
    success: bool = True
    error_code: str | None = None
    error_message: str | None = None
    finish_reason: str | None = None
    latency_ms: float | None = None
    generation_ms: float | None = None
    gateway_ms: float | None = None
    throughput: float | None = None
    usage: Usage | None = None
    cost_nanos: int = 0
    attempts: tuple[AttemptRecord, ...] = ()
    disconnect: Disconnect | None = None
    app_id: str | None = None
    byok: bool = False
    parent_id: str | None = None
    moderation: ModerationReport | None = None

    @property
    def id(self) -> str:
        return f"gen_{self.suffix}"


class StoredContent(msgspec.Struct, frozen=True):
    """What a team that turned it on has kept of a generation, as JSON.

    `request`: the body as the client sent it to the route `path`, None for a typed call; `reply`: the output. It is
    forgotten `days` days after the request came.
    """

    path: str
    request: bytes | None
    reply: bytes
    days: int = 30
