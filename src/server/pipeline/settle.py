"""What a generation comes to in the end: who served it, what it used, what it costs, how long it took.

Charged is what providers bill: the usage that they report, or else what was relayed, counted. An attempt that reported
nothing and of which nothing was relayed costs nothing, and neither does a request that the gateway itself failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import structlog
from msgspec.structs import replace

from server.domain.audio import SpeechRequest, TranscriptionRequest
from server.domain.errors import HINTS, HTTP_STATUS, GatewayError, Origin, Reason
from server.domain.events import FinishReason, Settled
from server.domain.fold import Fold
from server.domain.identity import Call
from server.domain.ledger import Settlement
from server.domain.money import Pricing
from server.domain.pricing import STANDARD_TIERS
from server.domain.record import (
    CLIENT_GONE,
    CLIENT_GONE_STATUS,
    MAX_ID_BYTES,
    AttemptRecord,
    GenerationRecord,
    StoredContent,
    bounded,
)
from server.domain.routing import Assessment, Route
from server.domain.trace import Trace, TracedAttempt
from server.domain.usage import Meta, RoutingRow, Usage
from server.domain.work import Work
from server.pipeline.admit import estimate_prompt, opening
from server.pipeline.attempt import Attempt
from server.pipeline.charge import charge
from server.pipeline.counting import count_prompt, count_sound
from server.pipeline.units import sent_units, spoken_seconds

_MS = 1000.0
_DIGITS = 3
_SCORE_DIGITS = 4
OUTRUN: Final = "outrun"
"""What the record and the routing say of an attempt that was cancelled because another showed output first."""
TOKENS_PER_MADE_SECOND: Final = 20
"""What OpenAI counts for a second that it speaks; the hold takes more."""
_SPOKEN: Final = frozenset({"output_audio_tokens", "output_text_tokens"})
_UNASSESSED: Final = Assessment(1.0, "closed", "")

_log: Final = structlog.get_logger(__name__)


class Bill(msgspec.Struct, frozen=True):
    """One attempt that a provider bills, priced."""

    usage: Usage
    pricing: Pricing


class Account:
    """The whole account of one request, however it ended: `ending` is None where all of it was relayed.

    `waited_s` is the time spent waiting for providers, `idle_s` for the client to take what was relayed; the rest of
    the time since arrival is the gateway's own.
    """

    def __init__(
        self,
        call: Call,
        request: Work,
        route: Route,
        attempts: Sequence[Attempt],
        ending: BaseException | None,
        *,
        waited_s: float,
        idle_s: float,
    ) -> None:
        ending = call.progress.ending or ending
        self._call = call
        self._ending = ending
        self._request = request
        self._route = route
        self._attempts = attempts
        own_fault = isinstance(ending, Exception) and _origin(ending) == "gateway"
        self._bills = [None if own_fault else _bill(call, request, attempt) for attempt in attempts]
        self._pricing = _summed([bill.pricing for bill in self._bills if bill is not None])
        last = self._bills[-1] if self._bills else None
        self._usage = replace(Usage(source="counted") if last is None else last.usage, pricing=self._pricing)
        self._served = served = attempts[-1] if attempts else None
        ended_s = received_s = call.arrival.received_s
        if served is not None:
            ended_s = _ended(served)
            generation_s = ended_s - served.dispatched_s
            self._latency_ms, self._generation_ms = _latency(served), _ms(generation_s)
            self._throughput = round(self._usage.output_tokens / generation_s, _DIGITS) if generation_s > 0 else 0.0
        self._gateway_ms = _ms(max(0.0, ended_s - received_s - waited_s - idle_s))

    def settled(self) -> Settled:
        """The account of a generation whose last attempt succeeded, for the client."""
        served = self._served
        assert served is not None, "something was generated"
        meta = Meta(
            provider=served.candidate.offer.provider.id,
            provider_model=served.started.provider_model or served.candidate.offer.provider_model,
            native_response_id=served.started.native_response_id,
            latency_ms=self._latency_ms,
            generation_ms=self._generation_ms,
            throughput_tps=self._throughput,
            gateway_ms=self._gateway_ms,
            attempts=len(self._attempts),
            routing=(*_rows(self._route, self._attempts), *self._route.rejected),
            trace=self._trace(),
        )
        return Settled(self._usage, meta, served.service_tier)

    def _trace(self) -> Trace | msgspec.UnsetType:
        choice, received_s = self._route.choice, self._call.arrival.received_s
        if choice is None:
            return msgspec.UNSET
        attempts = tuple(_traced(attempt, received_s) for attempt in self._attempts)
        return Trace(choice.mode, choice.affinity, choice.candidates, attempts)

    def settlement(self, held: bool, transcript: Fold | None) -> Settlement:
        """How the request ends in the ledger and on the record."""
        is_billed = self._ending is None or any(self._bills)
        charge = self._pricing.total_nanos if held and is_billed else None
        return Settlement(self._record(), held, charge, self._content(transcript))

    def _record(self) -> GenerationRecord:
        record, ending = self._outcome(self._ending), self._ending
        served = self._served
        if served is None:
            return record
        native_id = served.started.native_response_id
        usage = self._usage if ending is None or any(self._bills) else None
        return replace(
            record,
            provider=served.candidate.offer.provider.id,
            native_response_id=None if native_id is None else bounded(native_id, MAX_ID_BYTES),
            finish_reason=self._finish_reason(served),
            latency_ms=self._latency_ms,
            generation_ms=self._generation_ms,
            gateway_ms=self._gateway_ms,
            throughput=None if usage is None else self._throughput,
            usage=usage,
            cost_nanos=self._pricing.total_nanos,
            attempts=tuple(
                _attempt_record(attempt, bill, ending)
                for attempt, bill in zip(self._attempts, self._bills, strict=True)
            ),
        )

    def _finish_reason(self, served: Attempt) -> str | None:
        reason = FinishReason.CONTENT_FILTER if self._call.progress.is_cut else served.finish_reason
        return None if reason is None else reason.value

    def _outcome(self, ending: BaseException | None) -> GenerationRecord:
        record = opening(self._call, self._request)
        if isinstance(ending, GatewayError):
            return replace(
                record,
                success=False,
                status_code=HTTP_STATUS[ending.code],
                error_code=ending.reason.value,
                error_message=bounded(self._told(ending)),
            )
        if isinstance(ending, Exception):
            return replace(record, success=False, status_code=500, error_code=Reason.INTERNAL.value)
        if ending is None and not self._call.progress.client_gone:
            return record
        return replace(
            record,
            success=False,
            status_code=CLIENT_GONE_STATUS,
            error_code=CLIENT_GONE,
            error_message="The client went before the end of the answer.",
            disconnect="drained" if ending is None else "cancelled",
        )

    def _told(self, error: GatewayError) -> str:
        """What the record says of a failure: a provider's own words may quote the prompt, so they are content."""
        quoted = [failure.upstream.message for failure in error.failures if failure.upstream.message]
        if self._call.principal.policy.store_content or not any(words in error.description for words in quoted):
            return error.description
        return HINTS[error.failures[-1].category]

    def _content(self, transcript: Fold | None) -> StoredContent | None:
        if transcript is None:
            return None
        progress = self._call.progress
        reply = msgspec.json.encode(transcript.choices())
        return StoredContent(progress.path, progress.body, reply, self._call.principal.policy.content_days)


def _summed(bills: Sequence[Pricing]) -> Pricing:
    """What all attempts cost that a provider bills."""
    if len(bills) == 1:
        return bills[0]
    return Pricing(
        tuple(line for pricing in bills for line in pricing.lines), sum(pricing.total_nanos for pricing in bills)
    )


def _bill(call: Call, request: Work, attempt: Attempt) -> Bill | None:
    usage = _billed_usage(request, attempt)
    if usage is None:
        return None
    if units := {**_units(request, attempt), **usage.units}:
        usage = replace(usage, units=units)
    provider, prices, tier = attempt.candidate.offer.provider.id, attempt.candidate.offer.prices, attempt.service_tier
    if prices.rates and tier is not None and tier not in STANDARD_TIERS and tier not in prices.service_tiers:
        _log.warning("service_tier_without_price", provider=provider, service_tier=tier)
    return Bill(usage, charge(usage, prices, tier, generation=call.arrival.generation_id, by=provider))


def _billed_usage(request: Work, attempt: Attempt) -> Usage | None:
    """What the provider bills for an attempt, as far as can be known; None where that is nothing."""
    reported, relayed = attempt.usage, attempt.relayed.tokens
    if attempt.is_complete and reported is not None:
        return reported
    if reported is not None and (attempt.usage_is_current or not relayed):
        return reported if reported.total_tokens or reported.units else None
    if not (relayed or attempt.has_produced):
        return None
    if reported is not None:  # an early report, of the prompt above all
        return replace(reported, output_tokens=max(reported.output_tokens, relayed), source="counted")
    return _counted(request, attempt)


def _counted(request: Work, attempt: Attempt) -> Usage:
    """What was sent and relayed, where nobody tells what it comes to."""
    units, relayed = _units(request, attempt), attempt.relayed.tokens
    if isinstance(request, TranscriptionRequest):
        heard = count_sound(units["input_audio_seconds"])
        return Usage(count_prompt(request) + heard, relayed, input_audio_tokens=heard, source="counted")
    if isinstance(request, SpeechRequest) and _SPOKEN & attempt.candidate.offer.prices.rates.keys():
        spoken = TOKENS_PER_MADE_SECOND * units.get("output_audio_seconds", 0)
        return Usage(estimate_prompt(request), spoken, output_audio_tokens=spoken, source="counted")
    return Usage(estimate_prompt(request), relayed, source="counted")


def _units(request: Work, attempt: Attempt) -> Mapping[str, int]:
    """What was sent and relayed beside tokens."""
    units = {**sent_units(request), **attempt.units}
    if isinstance(request, SpeechRequest) and attempt.sound_bytes:
        units["output_audio_seconds"] = spoken_seconds(request, attempt.sound_bytes)
    return units


def _attempt_record(attempt: Attempt, bill: Bill | None, ending: BaseException | None) -> AttemptRecord:
    status, error_code = _end(attempt)
    if error_code is None and not attempt.is_complete:
        cut_code = FinishReason.CONTENT_FILTER.value if ending is None else CLIENT_GONE
        error_code = ending.reason.value if isinstance(ending, GatewayError) else cut_code
    return AttemptRecord(
        provider=attempt.candidate.offer.provider.id,
        provider_model=attempt.candidate.offer.provider_model,
        status=status or None,
        error_code=error_code,
        latency_ms=_latency(attempt),
        billed=bill is not None,
        cost_nanos=0 if bill is None else bill.pricing.total_nanos,
        provider_request_id=attempt.provider_request_id,
    )


def _end(attempt: Attempt) -> tuple[int, str | None]:
    """The provider's HTTP status, 0 where there was none, and what went wrong; what was cut short has neither."""
    if attempt.failure is not None:
        return attempt.failure.status, attempt.failure.category.value
    if attempt.is_outrun:
        return 0, OUTRUN
    return 200 if attempt.is_complete else 0, None


def _origin(error: Exception) -> Origin:
    return error.origin if isinstance(error, GatewayError) else "gateway"


def _rows(route: Route, attempts: Sequence[Attempt]) -> list[RoutingRow]:
    made = {id(attempt.candidate): attempt for attempt in attempts}
    assessments = route.assessments or (_UNASSESSED,) * len(route.candidates)
    rows = []
    for place, (candidate, assessment) in enumerate(zip(route.candidates, assessments, strict=True)):
        attempt = made.get(id(candidate))
        if attempt is None:
            outcome = "not_needed" if place < route.resorts_from else "avoided"
            outcome += f": {assessment.reason}" if assessment.reason else ""
        else:
            _, error = _end(attempt)
            outcome = f"failed: {error}" if attempt.failure else error or "chosen"
        rows.append(RoutingRow(candidate.offer.provider.id, outcome, _score(assessment), assessment.breaker))
    return rows


def _traced(attempt: Attempt, received_s: float) -> TracedAttempt:
    status, error = _end(attempt)
    return TracedAttempt(
        provider=attempt.candidate.offer.provider.id,
        model=attempt.candidate.model.id,
        provider_model=attempt.candidate.offer.provider_model,
        status=status,
        error=error,
        began_ms=_ms(attempt.dispatched_s - received_s),
        latency_ms=None if attempt.first_s is None else _ms(attempt.first_s - attempt.dispatched_s),
        took_ms=_ms(_ended(attempt) - attempt.dispatched_s),
    )


def _score(assessment: Assessment) -> float:
    return round(assessment.score, _SCORE_DIGITS)


def _ended(attempt: Attempt) -> float:
    return attempt.ended_s or attempt.dispatched_s


def _latency(attempt: Attempt) -> float:
    return _ms((attempt.first_s or _ended(attempt)) - attempt.dispatched_s)


def _ms(seconds: float) -> float:
    return round(seconds * _MS, _DIGITS)
