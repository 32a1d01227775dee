"""Moderation of what goes to a model and what comes from it, for teams and requests that ask for it.

It stands before the pipeline as another `Generate`, and asks the same pipeline for its verdicts: each of them is a
generation of its own, charged and recorded as one, that names the request that it was made for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, nullcontext
from typing import Final, NamedTuple

import structlog
from msgspec.structs import replace

from server.domain.errors import GatewayError, Reason
from server.domain.events import (
    Completed,
    GenerationEvent,
    GenerationStream,
    ReasoningDelta,
    Settled,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from server.domain.guardrail import Finding, Guardrail, Mode, ModerationReport, stricter
from server.domain.identity import Arrival, Call, Principal
from server.domain.moderation import Content, ModerationRequest
from server.domain.ports import Clock, Generate, IdSource
from server.domain.request import Endpoint, GenerationRequest, Text
from server.domain.restrictions import Restrictions
from server.domain.work import Work
from server.pipeline.hold import Hold
from server.pipeline.moderate import Judged, Moderate
from server.pipeline.newest import newest

__all__ = ["Guarded", "agreed"]

JUDGE_TIMEOUT_S: Final = 10.0
"""A verdict that takes longer counts as none."""
MAX_HELD_S: Final = 2.0
"""Text of a stream whose sentence does not end is judged unfinished after so long."""
FIELD: Final = "moderation"
"""What clients call it; and beside `content_filter` the reason of an end that was made here."""

_log: Final = structlog.get_logger(__name__)


class Guarded:
    """Implements `server.domain.ports.Generate`. Whoever asks for nothing gets the pipeline's own stream."""

    def __init__(self, generate: Generate, moderate: Moderate, clock: Clock, ids: IdSource) -> None:
        self._generate = generate
        self._moderate = moderate
        self._clock = clock
        self._ids = ids

    def __call__(self, call: Call, request: Work) -> GenerationStream:
        """As the port says. A request that no provider can serve is refused before anything is judged."""
        team = call.principal.policy.guardrail
        if not isinstance(request, GenerationRequest) or (team is None and request.guardrail is None):
            return self._generate(call, request)
        guard = _Guard(self, call, agreed(team, request.guardrail), is_teams=team is not None)
        return guard.stream(request, self._generate(call, request))

    async def judge(self, call: Call, judge: Principal, request: ModerationRequest) -> Judged:
        """Verdicts for the sake of `call`. Raises GatewayError."""
        return await self._moderate(self._own_call(call, judge), request)

    async def check(self, call: Call, judge: Principal, request: ModerationRequest) -> None:
        """Raise GatewayError where nobody could judge: before anything is generated that would have to be judged."""
        await self._moderate.check(self._own_call(call, judge), request)

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def _own_call(self, call: Call, judge: Principal) -> Call:
        now_s, until_s = self._clock.monotonic(), call.arrival.deadline_s
        latest_s = now_s + JUDGE_TIMEOUT_S
        arrival = Arrival(
            suffix=self._ids.new(),
            request_id=call.arrival.request_id,
            received_s=now_s,
            created_at=int(self._clock.now()),
            deadline_s=latest_s if until_s is None else min(until_s, latest_s),
        )
        return Call(arrival, judge, parent_id=call.arrival.generation_id)


def agreed(team: Guardrail | None, wanted: Guardrail | None) -> Guardrail:
    """What holds of both: in each direction the stricter. Where a team has chosen, so it has who judges.

    Raises GatewayError for a request that names another model.
    """
    if team is None or wanted is None:
        chosen = team or wanted
        assert chosen is not None, "somebody has asked"
        return chosen
    if wanted.model is not None and wanted.model != team.model:
        text = "Your team has chosen who judges: leave `moderation.model` out."
        raise GatewayError(Reason.INVALID_VALUE, text, param=f"{FIELD}.model")
    return Guardrail(stricter(team.input, wanted.input), stricter(team.output, wanted.output), team.model)


def _judge(principal: Principal, *, is_teams: bool) -> Principal:
    """Who pays for verdicts: the key that asks. What a team demands, a key need not be allowed to call by itself."""
    policy = replace(principal.policy, store_content=False, on_disconnect="cancel")
    return replace(principal, policy=policy, restrictions=Restrictions() if is_teams else principal.restrictions)


def _moderation(model: str | None, inputs: Sequence[Content]) -> ModerationRequest:
    return ModerationRequest(endpoint=Endpoint.MODERATIONS, model=model or "", inputs=tuple(inputs))


class _Guard:
    """One guarded request."""

    def __init__(self, guarded: Guarded, call: Call, rail: Guardrail, *, is_teams: bool) -> None:
        self._guarded = guarded
        self._call = call
        self._rail = rail
        self._judge = _judge(call.principal, is_teams=is_teams)
        self._report = ModerationReport(rail.model or "")

    async def stream(self, request: GenerationRequest, stream: GenerationStream) -> GenerationStream:
        """`stream` behind what the guardrail says; it is closed with this one."""
        async with aclosing(stream):
            if self._rail.input is not None:
                await self._judge_input(request, self._rail.input)
            else:
                await self._check_model()
            if self._rail.output == "block":
                batches = self._blocking(stream, request.sampling.n or 1)
            else:
                batches = self._flagging(stream) if self._rail.output == "flag" else stream
            async with aclosing(batches) if batches is not stream else nullcontext():
                async for batch in batches:
                    yield self._with_report(batch)

    def _with_report(self, batch: Sequence[GenerationEvent]) -> Sequence[GenerationEvent]:
        if not batch or not isinstance(settled := batch[-1], Settled):
            return batch
        return (*batch[:-1], replace(settled, meta=replace(settled.meta, moderation=self._report)))

    async def _check_model(self) -> None:
        try:
            await self._guarded.check(self._call, self._judge, _moderation(self._rail.model, [(Text(""),)]))
        except GatewayError as error:
            raise _of_the_moderation(error) from error

    async def _judge_input(self, request: GenerationRequest, mode: Mode) -> None:
        """Raises GatewayError where the request may not go on."""
        content, unchecked = newest(request)
        param = "input" if request.endpoint is Endpoint.RESPONSES else "messages"
        if mode == "block" and unchecked:
            text = f"Nobody can judge this input ({unchecked[0]}), and `moderation` lets nothing in that is not judged."
            raise GatewayError(Reason.UNSUPPORTED_PARAMETER, text, param=param)
        judged = await self._judged([content], mode) if content else _NOTHING
        if judged is None:  # there are pictures, and the model sees text only
            unchecked = (*unchecked, "image")
            texts: Content = tuple(part for part in content if isinstance(part, Text))
            judged = await self._judged([texts], mode) if texts else _NOTHING
            assert judged is not None, "text is what every such model sees"
        finding = judged.finding
        self._tell(replace(self._report, input=replace(finding, unchecked=unchecked)))
        if mode == "block" and finding.flagged:
            raise _refused(finding, param)

    async def _flagging(self, stream: GenerationStream) -> GenerationStream:
        """As it comes; all of its text is judged when it is there, before the generation is settled."""
        texts: dict[tuple[int, int], list[str]] = {}
        async for batch in stream:
            yield batch
            for event in batch:
                match event:
                    case TextDelta(choice, part, text) | ReasoningDelta(choice, part, text):
                        texts.setdefault((choice, part), []).append(text)
                    case ToolCallDelta(choice, part, arguments):
                        texts.setdefault((choice, part), []).append(arguments)
                    case Completed():
                        await self._judge_output([["".join(pieces)] for pieces in texts.values()], "flag")
                    case _:
                        pass

    async def _blocking(self, stream: GenerationStream, choices: int) -> GenerationStream:
        """What has been judged. A flagged choice ends as one that a content filter has cut.

        When all of them have, the provider's call ends as well.
        """
        held = _Held()
        async with aclosing(_with_pauses(stream, held, self._guarded)) as pulls:
            async for batch in pulls:
                if batch and isinstance(batch[-1], Settled):
                    yield batch
                    return
                shown = held.take_in(batch or (), self._guarded.monotonic())
                is_over = any(isinstance(event, Completed) for event in batch or ())
                shown += await self._let_go(held, unfinished=is_over or batch is None)
                if len(held.cut) >= choices:
                    self._call.progress.is_cut = True
                if is_over:
                    shown.append(Completed())
                if shown:
                    yield shown

    async def _let_go(self, held: _Held, *, unfinished: bool) -> list[GenerationEvent]:
        """What of the held events may be shown now."""
        shown: list[GenerationEvent] = []
        for choice, hold in held.choices.items():
            if choice in held.cut or hold.is_empty or not (unfinished or hold.has_whole or hold.is_full):
                continue
            pieces = hold.take(unfinished=unfinished or not hold.has_whole)
            flags = await self._judge_output([piece.texts for piece in pieces], "block")
            for piece, is_flagged in zip(pieces, flags, strict=True):
                if is_flagged:
                    held.cut.add(choice)
                    shown += hold.end(FIELD)
                    break
                hold.show(piece.events)
                shown += piece.events
            held.since_s = self._guarded.monotonic()
        return shown

    async def _judge_output(self, pieces: Sequence[Sequence[str]], mode: Mode) -> list[bool]:
        """Of each piece whether any of its texts is flagged. Raises GatewayError where it must be known and cannot."""
        owners, inputs = list[int](), list[Content]()
        for number, texts in enumerate(pieces):
            for text in texts:
                if text.strip():
                    owners.append(number)
                    inputs.append((Text(text),))
        flags = [False] * len(pieces)
        if not inputs:
            return flags
        try:
            judged = await self._judged(inputs, mode)
        except GatewayError as error:
            if mode == "block":
                self._call.progress.ending = error
                raise
            judged = _Judgement(Finding(None, error=error.reason.value))
        assert judged is not None, "text is what every such model sees"
        for owner, is_flagged in zip(owners, judged.flags, strict=False):
            flags[owner] = flags[owner] or is_flagged
        told, found = self._report.output or Finding(False), judged.finding
        categories = tuple(dict.fromkeys((*told.categories, *found.categories)))
        flagged = None if found.flagged is None else bool(told.flagged or found.flagged)
        self._tell(replace(self._report, output=Finding(flagged, categories, error=found.error)))
        return flags

    async def _judged(self, inputs: Sequence[Content], mode: Mode) -> _Judgement | None:
        """None where the model does not see all kinds of content, and what it cannot see may pass.

        Raises GatewayError: for what the caller can mend, and in `block` for whatever else goes wrong.
        """
        try:
            judged = await self._guarded.judge(self._call, self._judge, _moderation(self._rail.model, inputs))
        except GatewayError as error:
            if error.reason is Reason.UNSUPPORTED_PARAMETER and mode == "flag":
                return None
            if error.origin == "user":
                raise _of_the_moderation(error) from error
            _log.warning("moderation_failed", generation_id=self._call.arrival.generation_id, reason=error.reason.value)
            if mode == "block":
                raise _unjudged(error) from error
            return _Judgement(Finding(None, error=error.reason.value))
        self._report = replace(self._report, model=judged.model)
        found = dict.fromkeys(name for verdict in judged.verdicts for name in verdict.found)
        flags = tuple(verdict.flagged for verdict in judged.verdicts)
        return _Judgement(Finding(any(flags), tuple(found)), flags)

    def _tell(self, report: ModerationReport) -> None:
        """What the record and meta are going to say."""
        self._report = self._call.progress.moderation = report


class _Judgement(NamedTuple):
    """What was found in all of the inputs, and of each whether it is flagged; of none where nobody could judge."""

    finding: Finding
    flags: tuple[bool, ...] = ()


_NOTHING: Final = _Judgement(Finding(False))


class _Held:
    """What has come of a stream and may not be shown yet. `cut` are the choices that were ended here."""

    def __init__(self) -> None:
        self.choices: dict[int, Hold] = {}
        self.cut: set[int] = set()
        self.since_s = 0.0

    @property
    def is_empty(self) -> bool:
        return all(hold.is_empty for choice, hold in self.choices.items() if choice not in self.cut)

    def take_in(self, batch: Sequence[GenerationEvent], now_s: float) -> list[GenerationEvent]:
        """Hold the events of a batch; those that show nothing of the output go on at once."""
        if self.is_empty:
            self.since_s = now_s
        passing: list[GenerationEvent] = []
        for event in batch:
            if isinstance(event, Started | UsageReported):
                passing.append(event)
            elif not isinstance(event, Completed | Settled):
                choice: int = getattr(event, "choice", 0)
                if choice not in self.cut:
                    self.choices.setdefault(choice, Hold(choice)).add(event)
        return passing


async def _with_pauses(
    stream: GenerationStream, held: _Held, guarded: Guarded
) -> AsyncGenerator[Sequence[GenerationEvent] | None, None]:
    """The batches of `stream`, and None whenever something has been held for too long while none came."""
    pull: asyncio.Future[Sequence[GenerationEvent] | None] | None = None
    try:
        while True:
            pull = pull or asyncio.ensure_future(anext(stream, None))
            left_s = None if held.is_empty else max(0.0, held.since_s + MAX_HELD_S - guarded.monotonic())
            await asyncio.wait((pull,), timeout=left_s)
            if not pull.done():
                yield None
                continue
            batch, pull = pull.result(), None
            if batch is None:
                return
            yield batch
    finally:
        if pull is not None and not pull.done():
            pull.cancel()
            await asyncio.wait((pull,))


def _refused(finding: Finding, param: str) -> GatewayError:
    told = f" as {', '.join(finding.categories)}" if finding.categories else ""
    text = f"The input was flagged{told}, and is not passed on."
    return GatewayError(Reason.CONTENT_POLICY_VIOLATION, text, param=param, categories=finding.categories)


def _unjudged(error: GatewayError) -> GatewayError:
    text = "Nobody could judge this, and `moderation` lets nothing pass that is not judged: try again shortly."
    return GatewayError(Reason.PROVIDERS_UNAVAILABLE, text, failures=error.failures, retry_after_s=error.retry_after_s)


def _of_the_moderation(error: GatewayError) -> GatewayError:
    """The caller's own mistake, in the words of the field that it was made in."""
    param = f"{FIELD}.model" if error.param == "model" else FIELD
    return GatewayError(error.reason, f"Moderation: {error.description}", param=param)
