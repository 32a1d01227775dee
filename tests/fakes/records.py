"""Records in memory, for what reads them, and one of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from server.domain.money import Pricing, PricingLine
from server.domain.record import AttemptRecord, GenerationRecord, StoredContent
from server.domain.records import Found, RecordFilter
from server.domain.usage import Usage

BODY = b'{"model": "acme/test-1",  "messages": [{"role": "user", "content": "\\u4f60 \xf0\x9f\x99\x82"}]}'
REPLY = b'{"text": "hi"}'

PRICING = Pricing(
    (
        PricingLine("input_text_tokens", 9, 200_000_000, 1800),
        PricingLine("output_text_tokens", 3, 800_000_000, 2400),
    ),
    4200,
)


def suffix_of(number: int) -> str:
    return f"{number:032x}"


def record(number: int, team_id: str, **fields: Any) -> GenerationRecord:
    """A success whose every field is told."""
    made = GenerationRecord(
        suffix=suffix_of(number),
        request_id=f"request-{number}",
        created_at=1_790_000_000 + number,
        team_id=team_id,
        key_id="key-1",
        endpoint="chat",
        model_id="acme/test-1",
        provider="acme",
        native_response_id="native-1",
        finish_reason="stop",
        latency_ms=212.4,
        generation_ms=1840.0,
        gateway_ms=1.7,
        throughput=61.2,
        usage=Usage(9, 3, cached_input_tokens=2, reasoning_tokens=1, pricing=PRICING),
        cost_nanos=4200,
        attempts=(
            AttemptRecord("dead", "gone", None, "connection", 0.5, False),
            AttemptRecord("acme", "test-1", 200, None, 212.4, True, 4200),
        ),
    )
    return msgspec.structs.replace(made, **fields)


def refused(number: int, team_id: str) -> GenerationRecord:
    """A failure of which hardly anything is known."""
    return GenerationRecord(
        suffix=suffix_of(number),
        request_id=f"request-{number}",
        created_at=1_790_000_000 + number,
        team_id=team_id,
        key_id="key-2",
        endpoint="responses",
        model_id="",
        status_code=400,
        success=False,
        error_code="malformed_json",
        error_message="The body is empty; it must be a JSON object.",
    )


class MemoryRecords:
    """Implements `server.domain.records.Records`; `asked` are the pages that were asked for."""

    def __init__(self) -> None:
        self.kept: dict[str, Found] = {}
        self.asked: list[tuple[str, RecordFilter, str | None, int]] = []

    def put(self, *records: GenerationRecord, content: StoredContent | None = None) -> None:
        replayable = content is not None and content.request is not None
        self.kept |= {one.suffix: Found(one, content, replayable) for one in records}

    async def get(self, team_id: str, suffix: str) -> Found | None:
        found = self.kept.get(suffix)
        return found if found is not None and found.record.team_id == team_id else None

    async def page(self, team_id: str, wanted: RecordFilter, *, after: str | None, limit: int) -> Sequence[Found]:
        self.asked.append((team_id, wanted, after, limit))
        rows = [
            msgspec.structs.replace(found, content=None)
            for suffix, found in sorted(self.kept.items(), reverse=True)
            if found.record.team_id == team_id and (after is None or suffix < after)
        ]
        return rows[:limit]
