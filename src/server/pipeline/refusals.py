"""The record of a request that failed before the pipeline took it over: no route, no credit, not even valid JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

import structlog

from server.domain.errors import HTTP_STATUS, GatewayError, Reason
from server.domain.identity import Call
from server.domain.ledger import Ledger, Settlement
from server.domain.record import GenerationRecord, bounded
from server.domain.request import Endpoint

__all__ = ["RecordRefusals", "refusal"]

MAX_MODEL_CHARS: Final = 256
PATIENCE_S: Final = 1.0
"""How long an error waits for its record."""

_log: Final = structlog.get_logger(__name__)


class RecordRefusals:
    """Implements `server.domain.ports.Refusals` by a ledger.

    Where somebody else hands the settlement on (`Progress.defers`), it is only left to them.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._pending: set[asyncio.Future[None]] = set()

    async def __call__(
        self, call: Call, endpoint: Endpoint, error: GatewayError, *, model: str = "", stream: bool = False
    ) -> None:
        progress = call.progress
        if progress.settlement is not None:
            return
        settlement = Settlement(refusal(call, endpoint, error, model=model, stream=stream), held=False)
        progress.settlement = settlement
        if progress.defers:
            return
        written = asyncio.ensure_future(_settled(self._ledger.settle(settlement), settlement.record))
        self._pending.add(written)
        written.add_done_callback(self._pending.discard)
        if error.reason is not Reason.DATABASE_UNAVAILABLE:
            await asyncio.wait((written,), timeout=PATIENCE_S)


async def _settled(outcome: Awaitable[None], record: GenerationRecord) -> None:
    try:
        await outcome
    except GatewayError as error:  # the client is told of its own error, whatever becomes of the record
        _log.warning("refusal_not_recorded", generation_id=record.id, reason=error.reason.value)
    except Exception:
        _log.exception("refusal_not_recorded", generation_id=record.id)


def refusal(
    call: Call, endpoint: Endpoint, error: GatewayError, *, model: str = "", stream: bool = False
) -> GenerationRecord:
    """A record that tells of `error`, bounded whatever the client sent."""
    return GenerationRecord(
        suffix=call.suffix,
        request_id=call.arrival.request_id,
        created_at=call.arrival.created_at,
        team_id=call.principal.team_id,
        key_id=call.principal.key_id,
        endpoint=endpoint.value,
        model_id=_model_id(model),
        stream=stream,
        status_code=HTTP_STATUS[error.code],
        success=False,
        error_code=error.reason.value,
        error_message=bounded(error.description),
        moderation=call.progress.moderation,
    )


def _model_id(text: str) -> str:
    """What may be the id of a model, else nothing: a database does not take every character."""
    return text if len(text) <= MAX_MODEL_CHARS and text.isprintable() else ""
