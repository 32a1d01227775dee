"""`Idempotency-Key`: a request that came with one is carried out once, and its outcome told as often as it is asked.

Who sends a key says that he will come back. So the work is done in a task of its own, which goes on when the client has
left, and everybody who asks, the first included, reads along. The whole story is `IdempotentRunner._work`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import deque
from collections.abc import Awaitable, Coroutine
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import msgspec
import structlog

from rest_bridge.errors import written
from rest_bridge.http import ByteStream, Exchange, Handler, RestResponse
from rest_bridge.tape import Tape
from server.domain.errors import GatewayError, Reason, internal_error
from server.domain.idempotency import Claim, Earlier, IdempotencyStore
from server.domain.identity import Call
from server.domain.ledger import Ledger, Outcome, Settlement
from server.domain.ports import Clock

__all__ = ["HEADER", "IdempotentRunner"]

HEADER: Final = "idempotency-key"
REPLAYED: Final = ("idempotent-replayed", "true")
PARAM: Final = "Idempotency-Key"
MAX_KEPT_BYTES: Final = 16 * 1024 * 1024
"""A body larger than this is told once and not again."""
MAX_RUNS: Final = 8192
"""Requests with a key that one worker carries out at a time."""
POLL_S: Final = 0.05
"""How often a worker looks whether another has finished."""
MAX_WAIT_S: Final = 60.0
"""How long a duplicate waits for the beginning of the first's answer."""
DEADLINE_MARGIN_S: Final = 0.25
"""How long before its caller's deadline it stops waiting, so that the answer still arrives."""
RETRY_AFTER_S: Final = 1.0
RECORD_WAIT_S: Final = 2.0
"""How long the end of an answer that charges nothing waits for a database that is away."""
REWRITE_PAUSE_S: Final = 1.0

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_FRESH_ATTEMPT: Final = frozenset({401, 402, 403, 409, 429})
"""What the same request may not be answered a second time, or another key's, so these outcomes are not kept."""

_log: Final = structlog.get_logger(__name__)

Place: TypeAlias = tuple[str, str, bytes]


class _Answer(msgspec.Struct, frozen=True):
    """What was answered to the request `suffix`. With a tape, that is the body and not the response's own."""

    suffix: str
    response: RestResponse
    tape: Tape | None = None
    is_replay: bool = False


class _Run:
    """One request with a key under way in this worker, and who waits for its answer."""

    def __init__(self, exchange: Exchange, claim: Claim) -> None:
        self.exchange = exchange
        self.claim = claim
        self.is_left = False
        """Whether the caller whose request this is has gone."""
        self.answered = asyncio.Event()
        self.answer: _Answer | GatewayError | None = None
        self.is_concluded = False
        """Whether its settlement is in the ledger's hands."""

    @property
    def place(self) -> Place:
        return self.claim.team_id, self.claim.key, self.claim.fingerprint

    @property
    def call(self) -> Call:
        return self.exchange.call

    def give(self, answer: _Answer | GatewayError) -> None:
        """Let those who wait have the answer; the first one given counts."""
        if self.answer is None:
            self.answer = answer
        self.answered.set()


class IdempotentRunner:
    """Carries out the requests with a key of one worker. `close` it before the ledger."""

    def __init__(
        self,
        store: IdempotencyStore,
        ledger: Ledger,
        clock: Clock,
        *,
        max_runs: int = MAX_RUNS,
        max_kept_bytes: int = MAX_KEPT_BYTES,
        max_wait_s: float = MAX_WAIT_S,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._max_runs = max_runs
        self._max_kept_bytes = max_kept_bytes
        self._max_wait_s = max_wait_s
        self._runs: dict[Place, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsure: deque[Claim] = deque()
        """Keys that were asked for while the database did not answer, and may be taken."""
        self._is_closed = False

    @property
    def under_way(self) -> int:
        """Requests with a key that this worker has begun and not ended."""
        return len(self._runs)

    async def run(self, key: str, exchange: Exchange, handler: Handler) -> RestResponse:
        """What `handler` answers, or what was answered to the same request before.

        Raises GatewayError: `invalid_value` for what is no key; `idempotency_key_reused` where another request had it,
        `idempotency_key_in_use` where the first takes too long, `outcome_not_kept` where its answer was too large, or
        was charged and broke off; `database_unavailable`, `overloaded`, `shutting_down`.
        """
        try:
            claim = _claim(key, exchange)
            run = self._runs.get((claim.team_id, claim.key, claim.fingerprint)) or self._start(exchange, claim, handler)
        except GatewayError:
            exchange.let_go()
            raise
        is_first = run.exchange is exchange
        if not is_first:
            exchange.let_go()
        try:
            async with asyncio.timeout(None if is_first else self._patience_s(exchange.call)):
                await run.answered.wait()
        except TimeoutError:
            raise _in_use() from None
        finally:
            run.is_left = run.is_left or is_first
        if isinstance(run.answer, GatewayError):
            raise run.answer
        assert run.answer, "a run ends with an answer"
        return _told(run.answer, is_replay=run.answer.is_replay or not is_first)

    async def close(self, grace_s: float) -> None:
        """Take no more requests; give those under way `grace_s` seconds, then end them. All are settled after this."""
        self._is_closed = True
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _patience_s(self, call: Call) -> float:
        deadline_s = call.arrival.deadline_s
        if deadline_s is None:
            return self._max_wait_s
        return max(0.0, min(self._max_wait_s, deadline_s - self._clock.monotonic() - DEADLINE_MARGIN_S))

    def _start(self, exchange: Exchange, claim: Claim, handler: Handler) -> _Run:
        if self._is_closed:
            raise _shutting_down()
        if self.under_way >= self._max_runs:
            raise GatewayError(
                Reason.OVERLOADED,
                "This gateway is handling as many requests as it can: retry shortly.",
                retry_after_s=RETRY_AFTER_S,
            )
        run = _Run(exchange, claim)
        self._runs[run.place] = run
        self._spawn(self._work(run, handler))
        return run

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, run: _Run, handler: Handler) -> None:
        """Take the key and carry the request out, or find out what became of the one that has it."""
        try:
            earlier = await self._earlier(run)
            if earlier is None:
                await self._carry_out(run, handler)
            else:
                run.give(_kept(earlier))
        except GatewayError as error:
            run.give(error)
        except Exception:
            _log.exception("idempotent_request_failed", generation_id=run.call.arrival.generation_id)
            run.give(internal_error())
        finally:
            # Whoever comes now finds in the database what became of it.
            del self._runs[run.place]
            run.exchange.let_go()
            run.give(_shutting_down())

    async def _earlier(self, run: _Run) -> Earlier | None:
        """The finished request that has the key; None where this one has it now. Raises GatewayError."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._patience_s(run.call)
        while (earlier := await self._begin(run.claim)) is not None:
            while earlier is not None:
                if earlier.fingerprint != run.claim.fingerprint:
                    raise _reused()
                if earlier.outcome is not None:
                    return earlier
                await asyncio.sleep(POLL_S)
                if run.is_left or loop.time() >= give_up_s:
                    raise _in_use()
                earlier = await self._store.look(run.claim)
        return None

    async def _begin(self, claim: Claim) -> Earlier | None:
        try:
            return await self._store.begin(claim)
        except GatewayError as error:
            # It may have been written for all that, and from a worker that lives nobody else takes a key.
            if error.reason is Reason.DATABASE_UNAVAILABLE:
                self._note_unsure(claim)
            raise

    def _note_unsure(self, claim: Claim) -> None:
        if not self._is_closed and len(self._unsure) < self._max_runs:
            self._unsure.append(claim)
            if len(self._unsure) == 1:
                self._spawn(self._forget_unsure())

    async def _forget_unsure(self) -> None:
        """One at a time: most were never written, and a database that has just come back has enough to do."""
        await asyncio.sleep(REWRITE_PAUSE_S)  # what was not answered may be on its way still
        while self._unsure:
            try:
                await self._store.forget(self._unsure[0])
            except GatewayError:
                if self._is_closed:
                    return
                await asyncio.sleep(REWRITE_PAUSE_S)
            else:
                self._unsure.popleft()

    async def _carry_out(self, run: _Run, handler: Handler) -> None:
        run.call.progress.defers = True
        run.call.progress.key = run.claim.key
        try:
            response = await _respond(run.exchange, handler)
            if isinstance(response.body, bytes):
                kept = response.body if response.repeated is None else response.repeated
                writing = await self._conclude(run, response, kept)
                run.give(_Answer(run.call.suffix, response))
            else:
                writing = await self._relay(run, response, response.body)
            await writing
        finally:
            if not run.is_concluded:
                self._give_up(run)

    async def _relay(self, run: _Run, response: RestResponse, body: ByteStream) -> asyncio.Future[None]:
        """Let everybody read along; but the end, from where it is settled, only when that is durable."""
        tape, failure = Tape(self._max_kept_bytes), None
        async with aclosing(body) as pieces:
            run.give(_Answer(run.call.suffix, response, tape))
            await asyncio.sleep(0)  # who waits begins to read before there is anything to miss
            try:
                async for piece in pieces:
                    if run.call.progress.settlement is not None:
                        tape.hold()
                    await tape.write(piece)
            except Exception as error:  # whoever reads gets it, and says it as without a key
                failure = error
            except asyncio.CancelledError:
                tape.end(_shutting_down())
                raise
        writing = await self._conclude(run, response, tape.content(), has_failed=failure is not None)
        tape.end(failure)
        return writing

    def _give_up(self, run: _Run) -> None:
        """Settle what was begun and will not be answered; where that charges, it is not to be begun once more."""
        settlement = run.call.progress.settlement
        if settlement is not None:
            outcome = _unanswered(run.claim, settlement)
            self._ledger.settle(msgspec.structs.replace(settlement, outcome=outcome))

    async def _conclude(
        self, run: _Run, response: RestResponse, body: bytes | None, *, has_failed: bool = False
    ) -> asyncio.Future[None]:
        """Settle what was done and keep what was answered. Durable when this returns; but what charges nothing is not
        waited for long, and ends with the future that is returned.
        """
        settlement, outcome = run.call.progress.settlement, None
        if has_failed:
            outcome = _unanswered(run.claim, settlement)
        elif _is_final(response.status, settlement):
            if body is not None and len(body) > self._max_kept_bytes:
                body = None
            outcome = Outcome(run.claim.key, response.status, response.headers, body)
        durable = None
        if settlement is not None:
            durable = self._ledger.settle(msgspec.structs.replace(settlement, outcome=outcome))
        run.is_concluded = True
        writing = asyncio.ensure_future(self._write(run.claim, outcome, durable))
        is_charged = settlement is not None and settlement.charge_nanos
        await asyncio.wait((writing,), timeout=None if is_charged else RECORD_WAIT_S)
        return writing

    async def _write(self, claim: Claim, outcome: Outcome | None, durable: Awaitable[None] | None) -> None:
        if durable is not None:
            try:
                await durable
            except Exception as error:  # the ledger has said what there is to say; the key is not left behind
                _log.error("idempotent_settlement_failed", suffix=claim.suffix, cause=type(error).__name__)
            else:
                if outcome is not None:
                    return
        while True:
            try:
                if outcome is None:
                    await self._store.forget(claim)
                else:
                    await self._store.finish(claim, outcome)
            except GatewayError as error:
                _log.warning("idempotency_key_not_written", reason=error.reason.value)
                if self._is_closed:
                    return
                await asyncio.sleep(REWRITE_PAUSE_S)
            else:
                return


def _claim(key: str, exchange: Exchange) -> Claim:
    if not _KEY.fullmatch(key):
        raise GatewayError(
            Reason.INVALID_VALUE, "An idempotency key has 1 to 255 visible ASCII characters.", param=PARAM
        )
    return Claim(exchange.call.principal.team_id, key, _fingerprint(exchange), exchange.call.suffix)


def _fingerprint(exchange: Exchange) -> bytes:
    """The same for the same request. A form is the same whatever its boundary is."""
    request = exchange.request
    hashed = hashlib.sha256(f"{request.method} {request.path}\n".encode())
    hashed.update(exchange.body if exchange.form is None else exchange.form.digest)
    return hashed.digest()


async def _respond(exchange: Exchange, handler: Handler) -> RestResponse:
    """What the handler answers, errors included."""
    arrival = exchange.call.arrival
    try:
        return await handler(exchange)
    except GatewayError as error:
        return written(error, arrival, exchange.errors)
    except Exception:
        _log.exception("request_failed", request_id=arrival.request_id, generation_id=arrival.generation_id)
        return written(internal_error(), arrival, exchange.errors)


def _is_final(status: int, settlement: Settlement | None) -> bool:
    """Whether the same request is to be answered the same again: what was charged, what succeeded, what can't."""
    if settlement is not None and settlement.charge_nanos:
        return True
    if status < 400:
        return settlement is None or settlement.record.success
    return status < 500 and status not in _FRESH_ATTEMPT


def _unanswered(claim: Claim, settlement: Settlement | None) -> Outcome | None:
    """What is kept where there is no whole answer: that there was a charge, so that nobody is charged once more."""
    return Outcome(claim.key, 500, (), None) if settlement is not None and settlement.charge_nanos else None


def _kept(earlier: Earlier) -> _Answer:
    outcome = earlier.outcome
    assert outcome is not None, "only what has an outcome is told again"
    if outcome.body is None:
        raise _not_kept()
    return _Answer(earlier.suffix, RestResponse(outcome.status, outcome.headers, outcome.body), is_replay=True)


def _told(answer: _Answer, *, is_replay: bool) -> RestResponse:
    response = answer.response
    if answer.tape is not None:
        if not answer.tape.is_whole:
            raise _not_kept()
        response = msgspec.structs.replace(response, body=answer.tape.reader())
    if is_replay:
        first = ("x-generation-id", f"gen_{answer.suffix}")
        response = msgspec.structs.replace(response, headers=(*response.headers, REPLAYED, first))
        if response.repeated is not None:
            response = msgspec.structs.replace(response, body=response.repeated)
    return response


def _reused() -> GatewayError:
    return GatewayError(
        Reason.IDEMPOTENCY_KEY_REUSED, "This idempotency key came before with another request.", param=PARAM
    )


def _in_use() -> GatewayError:
    return GatewayError(
        Reason.IDEMPOTENCY_KEY_IN_USE,
        "The first request with this idempotency key is still under way. Retry with the same key.",
        param=PARAM,
        retry_after_s=RETRY_AFTER_S,
    )


def _not_kept() -> GatewayError:
    return GatewayError(
        Reason.OUTCOME_NOT_KEPT,
        "The first request with this idempotency key was carried out, and its answer cannot be told again:"
        " it was too large, or broke off.",
        param=PARAM,
    )


def _shutting_down() -> GatewayError:
    return GatewayError(Reason.SHUTTING_DOWN, "This gateway is being stopped. Try again.", retry_after_s=RETRY_AFTER_S)
