"""The ten most dangerous traps of upstream APIs, each played by the stand-ins, and each met on every surface."""

from __future__ import annotations

from typing import Any, get_args

import anthropic
import openai
import pytest

from server.domain.identity import TeamPolicy
from tests.dialects.asked import ASKED
from tests.dialects.cells import model_of
from tests.dialects.heard import ENDS
from tests.dialects.sent import TURNS
from tests.fakes import anthropic_wire, chat_wire, deviations, gemini_wire, responses_wire
from tests.fakes.dialects import REPLIES, Called, Counted, DialectName, Said
from tests.fakes.openai_upstream import rate_limited
from tests.fakes.replies import error
from tests.fakes.surfaces import Heard, SurfaceName
from tests.fakes.wire import Cut, Pause, Reply
from tests.integration.dialect_stage import BESIDE, Stage, at, whole_stage

__all__ = ["at", "whole_stage"]

together = pytest.mark.asyncio(loop_scope="module")
on_every_surface = pytest.mark.parametrize("surface", get_args(SurfaceName))
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])

REFUSALS = (openai.APIError, anthropic.APIError)
SAID = Said(("Hello", " there!"))


async def hear(at: Stage, surface: SurfaceName, dialect: DialectName, reply: Reply, *, stream: bool = True) -> Heard:
    """The answer to a plain question, where the provider replies like this."""
    at.upstreams[dialect].script(reply)
    return await at.surfaces[surface].ask(model_of(dialect), ASKED[surface]["stream"], stream=stream)


async def refused(at: Stage, surface: SurfaceName, dialect: DialectName, reply: Reply, *, stream: bool = True) -> Any:
    """The response of status 400 or above that the client got instead."""
    with pytest.raises(REFUSALS) as failed:
        await hear(at, surface, dialect, reply, stream=stream)
    assert isinstance(failed.value, openai.APIStatusError | anthropic.APIStatusError), "a stream had begun"
    return failed.value.response


UNAVAILABLE = gemini_wire.status(503, "UNAVAILABLE", "The model is overloaded.")
FAILS_AT_ONCE: dict[str, tuple[DialectName, Reply]] = {
    "openai": ("openai", deviations.error_first()),
    "groq": ("openai", deviations.groq_error_event()),
    "openai_responses quota": ("openai_responses", deviations.responses_error_nested()),
    "openai_responses flat": ("openai_responses", deviations.responses_error_flat()),
    "anthropic": ("anthropic", anthropic_wire.event_stream([anthropic_wire.error_event()])),
    "anthropic after its start": (
        "anthropic",
        anthropic_wire.event_stream([anthropic_wire.message_start(), anthropic_wire.error_event()]),
    ),
    "gemini": ("gemini", gemini_wire.stream(UNAVAILABLE)),
    "gemini whole": ("gemini", gemini_wire.whole_reply([UNAVAILABLE])),
}
FAILS_LATER: dict[str, tuple[DialectName, Reply]] = {
    "openai": ("openai", deviations.error_after_text()),
    "openrouter": ("openai", deviations.openrouter_error_chunk()),
    "anthropic": (
        "anthropic",
        anthropic_wire.event_stream(
            [*anthropic_wire.events_of(anthropic_wire.message(anthropic_wire.text()))[:5], anthropic_wire.error_event()]
        ),
    ),
    "gemini": ("gemini", gemini_wire.stream(*gemini_wire.text_chunks("Hel", "lo")[:1], UNAVAILABLE)),
}


@together
@on_every_surface
@pytest.mark.parametrize("case", FAILS_AT_ONCE)
async def test_trap_01_a_200_that_fails_before_its_first_word_is_no_200(
    at: Stage, surface: SurfaceName, case: str
) -> None:
    response = await refused(at, surface, *FAILS_AT_ONCE[case])

    assert response.status_code == 502
    assert response.json()["reason"] == "all_candidates_failed"


@together
@on_every_surface
@pytest.mark.parametrize("case", FAILS_LATER)
async def test_trap_01_a_200_that_fails_later_never_ends_well(at: Stage, surface: SurfaceName, case: str) -> None:
    with pytest.raises(REFUSALS):
        await hear(at, surface, *FAILS_LATER[case])


LIMITED: dict[DialectName, Reply] = {
    "openai": rate_limited("7"),
    "openai_responses": rate_limited("7"),
    "anthropic": anthropic_wire.error_reply(429, "rate_limit_error", headers={"retry-after": "7"}),
    "gemini": gemini_wire.refused(gemini_wire.exhausted("7s")),
}
BROKE: dict[DialectName, Reply] = {
    "openai": deviations.quota_exhausted(),
    "openai_responses": deviations.quota_exhausted(),
    "anthropic": anthropic_wire.error_reply(429, "rate_limit_error", code="enforced_spend_limit_reached"),
    "gemini": gemini_wire.refused(
        gemini_wire.exhausted("7s", quota_id="GenerateRequestsPerDayPerProjectPerModel-FreeTier")
    ),
}


@together
@on_every_surface
@pytest.mark.parametrize("dialect", get_args(DialectName))
async def test_trap_02_a_429_is_a_pace_or_an_empty_purse(at: Stage, surface: SurfaceName, dialect: DialectName) -> None:
    limited = await refused(at, surface, dialect, LIMITED[dialect])
    broke = await refused(at, surface, dialect, BROKE[dialect])

    assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
    assert (broke.status_code, "retry-after" in broke.headers) == (502, False)
    assert [failure["type"] for failure in broke.json()["failure_sample"]] == ["quota_exhausted"]


@together
@on_every_surface
async def test_trap_03_anthropics_usage_is_repeated_and_leaves_out_the_cache(at: Stage, surface: SurfaceName) -> None:
    def counted(made: int) -> dict[str, Any]:
        return anthropic_wire.usage(25, made, read=100)

    events = anthropic_wire.events_of(anthropic_wire.message(anthropic_wire.text(), usage_=counted(3)))
    repeated = [*events[:-1], anthropic_wire.message_delta(usage_=counted(7)), events[-1]]
    heard = await hear(at, surface, "anthropic", anthropic_wire.event_stream(repeated))

    assert heard.counted == Counted(125, 7, cached=100)


@together
@both_ways
@on_every_surface
@pytest.mark.parametrize("dialect", get_args(DialectName))
async def test_trap_04_reasoning_is_within_the_output_wherever_it_was_counted(
    at: Stage, surface: SurfaceName, dialect: DialectName, stream: bool
) -> None:
    said = Said(("42.",), thought="Hm.", counted=Counted(9, 12, reasoning=7))
    heard = await hear(at, surface, dialect, REPLIES[dialect](said, stream=stream), stream=stream)

    assert heard.counted == said.counted


@together
@both_ways
@on_every_surface
async def test_trap_04_xai_counts_it_beside(at: Stage, surface: SurfaceName, stream: bool) -> None:
    beside = Said(("42.",), thought="Hm.", counted=Counted(9, 5, reasoning=7))
    at.upstreams["openai"].script(REPLIES["openai"](beside, stream=stream))
    heard = await at.surfaces[surface].ask(BESIDE, ASKED[surface]["stream"], stream=stream)

    assert heard.counted == Counted(9, 12, reasoning=7)


@together
@both_ways
@on_every_surface
async def test_trap_05_what_anthropic_did_beside_the_answer_is_counted(
    at: Stage, surface: SurfaceName, stream: bool
) -> None:
    iterations = [
        {"type": "message", "input_tokens": 9, "output_tokens": 3},
        {"type": "compaction", "input_tokens": 1000, "output_tokens": 50},
        {"type": "advisor_message", "input_tokens": 200, "output_tokens": 20},
    ]
    counted = anthropic_wire.usage(9, 3, iterations=iterations)
    build = anthropic_wire.message_stream if stream else anthropic_wire.message_reply
    heard = await hear(at, surface, "anthropic", build(usage_=counted), stream=stream)

    assert heard.counted == Counted(1209, 73)


@together
@on_every_surface
async def test_trap_06_gemini_has_its_own_ways(at: Stage, surface: SurfaceName) -> None:
    """CRLF and no `[DONE]`, `STOP` for calls, calls without ids, counts that change at the end, and seals."""
    calls = [gemini_wire.call("f", {"n": 1}, signature=gemini_wire.SIGNATURE), gemini_wire.call("f", {"n": 2})]
    chunks = [
        gemini_wire.reply(gemini_wire.candidate(calls[0], finish=None), counted=gemini_wire.usage(169, None)),
        gemini_wire.reply(gemini_wire.candidate(calls[1]), counted=gemini_wire.usage(79, 5)),
    ]
    stream = gemini_wire.stream(*chunks)
    wire = b"".join(getattr(step, "data", b"") for step in stream)
    assert b"\r\n\r\n" in wire
    assert b"[DONE]" not in wire

    heard = await hear(at, surface, "gemini", stream)

    assert [call.arguments for call in heard.calls] == [{"n": 1}, {"n": 2}]
    assert len({call.id for call in heard.calls} - {""}) == 2
    assert heard.end == ENDS[surface]["tool_calls"]
    assert heard.counted == Counted(79, 5)
    face = at.surfaces[surface]
    turns = [*ASKED[surface]["stream"][face.turns], *heard.turn, *face.results(heard.calls, ["a", "b"])]
    await face.ask(model_of("gemini"), {**ASKED[surface]["stream"], face.turns: turns}, stream=True)
    assert at.sent("gemini")[TURNS["gemini"]][1]["parts"] == calls


@together
@on_every_surface
@pytest.mark.parametrize(
    ("dialect", "reply"),
    [
        ("gemini", gemini_wire.refused(gemini_wire.BAD_KEY)),
        ("anthropic", anthropic_wire.error_reply(401, "authentication_error", "invalid x-api-key")),
        ("openai", error(401, "Incorrect API key provided.", code="invalid_api_key")),
    ],
    ids=["gemini says 400", "anthropic", "openai"],
)
async def test_trap_06_a_key_of_ours_that_is_wrong_is_not_the_clients(
    at: Stage, surface: SurfaceName, dialect: DialectName, reply: Reply
) -> None:
    response = await refused(at, surface, dialect, reply)

    assert response.status_code == 502
    assert [failure["type"] for failure in response.json()["failure_sample"]] == ["credentials"]


@together
@on_every_surface
@pytest.mark.parametrize("manner", deviations.TOOL_STREAMS)
async def test_trap_07_pieces_of_calls_are_put_together(at: Stage, surface: SurfaceName, manner: str) -> None:
    heard = await hear(at, surface, "openai", deviations.TOOL_STREAMS[manner]())

    [call] = heard.calls
    assert call.id
    assert call == Called(call.id, "get_weather", {"city": "Paris"})


@together
@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21", None])
@pytest.mark.parametrize("key", [{"x-api-key": "real"}, {"authorization": "Bearer real"}], ids=["x-api-key", "bearer"])
async def test_trap_08_both_worlds_of_anthropic_come_in_and_one_leaves(
    at: Stage, version: str | None, key: dict[str, str]
) -> None:
    headers = key if version is None else {**key, "anthropic-version": version}
    body = {"model": model_of("anthropic"), **ASKED["messages"]["stream"]}
    reply = await at.http.post("http://gateway.test/v1/messages", json=body, headers=headers)

    assert reply.status_code == 200
    sent = at.upstreams["anthropic"].requests[-1]
    assert (sent.header("anthropic-version"), sent.header("authorization")) == ("2023-06-01", None)
    assert sent.header("x-api-key") != "real"


@together
@on_every_surface
async def test_trap_08_a_temperature_never_reaches_a_model_that_takes_none(at: Stage, surface: SurfaceName) -> None:
    asked = {**ASKED[surface]["stream"], "extra_body": {"temperature": 0.5}}
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError)) as told:
        await at.surfaces[surface].ask(model_of("anthropic"), asked, stream=False)
    await at.surfaces[surface].ask(model_of("openai"), asked, stream=False)

    assert told.value.response.json()["param"] == "temperature"  # type: ignore[attr-defined]
    assert at.upstreams["anthropic"].requests == []
    assert at.sent("openai")["temperature"] == 0.5


@together
@pytest.mark.parametrize("dialect", get_args(DialectName))
@pytest.mark.parametrize("policy", ["cancel", "drain"])
async def test_trap_09_who_leaves_still_owes(at: Stage, dialect: DialectName, policy: Any) -> None:
    """A stream that is let go is counted as far as it was told; one that is drained as the provider counts."""
    said = Said(tuple(["word "] * 20), counted=Counted(9, 20))
    steps = [[step, Pause(0.02)] for step in REPLIES[dialect](said, stream=True)]
    at.upstreams[dialect].script([step for pair in steps for step in pair])
    at.counter.policy = TeamPolicy(on_disconnect=policy)
    call = at.counter.call()
    await at.counter.run(call, at.counter.request(model=model_of(dialect)), leave_after=4)
    at.counter.policy = TeamPolicy()

    record = await at.counter.settled(call)
    assert record.usage is not None
    assert record.usage.source == ("provider" if policy == "drain" else "counted")
    if policy == "drain" or dialect == "gemini":  # which tells its count with every piece
        assert record.usage.output_tokens == 20
    else:
        assert 0 < record.usage.output_tokens < 20


CUT_SHORT: dict[DialectName, Reply] = {
    "openai": chat_wire.chat_stream("Hel", "lo", done=False, end=Cut())[:4],
    "openai_responses": responses_wire.responses_stream("Hel", "lo", end=Cut())[:7],
    "anthropic": anthropic_wire.event_stream(
        anthropic_wire.events_of(anthropic_wire.message(anthropic_wire.text()))[:4], end=Cut()
    ),
    "gemini": gemini_wire.stream(*gemini_wire.text_chunks("Hel", "lo")[:1]),
}
NOTHING = Said(counted=Counted(9, 0))


@together
@on_every_surface
@pytest.mark.parametrize("dialect", get_args(DialectName))
async def test_trap_10_a_stream_without_its_end_never_ends_well(
    at: Stage, surface: SurfaceName, dialect: DialectName
) -> None:
    with pytest.raises(REFUSALS):
        await hear(at, surface, dialect, [*CUT_SHORT[dialect], Cut()])


@together
@both_ways
@on_every_surface
@pytest.mark.parametrize("dialect", ["openai", "openai_responses", "gemini"])
async def test_trap_10_an_answer_of_nothing_is_a_failure(
    at: Stage, surface: SurfaceName, dialect: DialectName, stream: bool
) -> None:
    response = await refused(at, surface, dialect, REPLIES[dialect](NOTHING, stream=stream), stream=stream)

    assert response.status_code == 502
    assert [failure["type"] for failure in response.json()["failure_sample"]] == ["protocol"]
