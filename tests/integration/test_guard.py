"""Guarded generations over the real pipeline, ledger and adapter: what is refused, cut, told, recorded and charged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from server.domain.errors import GatewayError, Reason
from server.domain.events import ChoiceEnded, FinishReason, Settled
from server.domain.guardrail import Finding, Guardrail, ModerationReport
from server.domain.identity import Principal, TeamPolicy
from server.domain.request import Audio, Image, Role, Text, ToolCall, ToolResult, Turn
from server.domain.restrictions import Restrictions
from server.pipeline.guard import MAX_HELD_S
from tests.fakes.chat_wire import chat_chunks, chat_stream, delta_chunk, finish_chunk, role_chunk, text_chunk, usage
from tests.fakes.openai_upstream import Hang, Reply, chat_unary, error
from tests.integration.databases import migrated
from tests.integration.guarded import BAD, JUDGE, PAID_JUDGE, SEEING_JUDGE, Guardhouse, guardhouse, said

PROMPT = "hi there, you"


@pytest.fixture
async def house(sqlite_url: str) -> AsyncIterator[Guardhouse]:
    async with migrated(sqlite_url) as database, guardhouse(database) as house:
        yield house


def usage_chunk(prompt: int, completion: int) -> dict[str, Any]:
    return {**role_chunk(), "choices": [], "usage": usage(prompt, completion)}


def still_talking(text: str) -> Reply:
    """A stream that has said so much, and says no more for now."""
    return chat_chunks([role_chunk(), text_chunk(text)], done=False, end=Hang())


def settled(events: list[Any]) -> Settled:
    assert isinstance(events[-1], Settled)
    return events[-1]


async def test_who_asks_for_nothing_gets_the_pipelines_own_stream(house: Guardhouse) -> None:
    call = house.till.call()
    plain = house.guarded._generate(call, house.request())
    stream = house.guarded(call, house.request())
    assert stream.ag_code is plain.ag_code  # type: ignore[attr-defined]
    await plain.aclose()
    await stream.aclose()
    events = await house.till.run(house.till.call(), house.request())
    assert settled(events).meta.moderation is msgspec.UNSET
    assert house.judge.requests == []


async def test_a_flagged_prompt_is_refused_before_the_model_is_called_and_costs_nothing(house: Guardhouse) -> None:
    house.flag("there")
    call = house.till.call()
    with pytest.raises(GatewayError) as refused:
        await house.till.run(call, house.request(input="block"))
    assert (refused.value.reason, refused.value.param) == (Reason.CONTENT_POLICY_VIOLATION, "messages")
    assert refused.value.categories == ("harassment",)
    assert (house.model.requests, await house.till.spent()) == ([], 0)
    assert call.progress.moderation == ModerationReport(JUDGE, input=Finding(True, ("harassment",)))
    [verdict] = await house.records()
    assert (verdict.parent_id, verdict.endpoint, verdict.cost_nanos) == (call.arrival.generation_id, "moderations", 0)


async def test_a_paid_verdict_is_what_a_refused_prompt_costs(house: Guardhouse) -> None:
    house.flag("there")
    with pytest.raises(GatewayError):
        await house.till.run(house.till.call(), house.request(input="block", judge=PAID_JUDGE))
    [verdict] = await house.records()
    assert verdict.cost_nanos == await house.till.spent() == 4 * 100, "13 characters make 4 tokens"
    assert (house.model.requests, verdict.success) == ([], True)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_flag_is_told_in_meta_and_on_the_record_and_nothing_else(house: Guardhouse, stream: bool) -> None:
    house.flag("here")  # of both: "hi there, you" and "Hello there!"
    house.model.script(chat_stream("Hello", " there!") if stream else chat_unary())
    call = house.till.call()
    events = await house.till.run(call, house.request(input="flag", output="flag", stream=stream))
    report = ModerationReport(JUDGE, Finding(True, ("harassment",)), Finding(True, ("harassment",)))
    assert (said(events), settled(events).meta.moderation) == ("Hello there!", report)
    record = await house.till.settled(call)
    assert (record.moderation, record.success, record.finish_reason) == (report, True, "stop")
    assert len(await house.records(of=call.arrival.generation_id)) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_not_flagged_goes_on_as_it_is(house: Guardhouse, stream: bool) -> None:
    house.model.script(chat_stream("Hello", " there!") if stream else chat_unary())
    call = house.till.call()
    events = await house.till.run(call, house.request(input="block", output="block", stream=stream))
    assert said(events) == "Hello there!"
    assert settled(events).meta.moderation == ModerationReport(JUDGE, Finding(False), Finding(False))
    assert await house.till.spent() == 3150
    assert (await house.till.settled(call)).finish_reason == "stop"


async def test_a_stream_is_cut_before_a_flagged_sentence(house: Guardhouse) -> None:
    words = ["It is", " fine. And", " so", f" it is. You {BAD[:4]}", f"{BAD[4:]}, ", "you. And", " more."]
    house.model.script(chat_chunks([role_chunk(), *map(text_chunk, words), finish_chunk("stop"), usage_chunk(9, 30)]))
    call = house.till.call()
    events = await house.till.run(call, house.request(output="block"))
    assert said(events) == "It is fine. And so it is. "
    [end] = [event for event in events if isinstance(event, ChoiceEnded)]
    assert (end.reason, end.native_reason) == (FinishReason.CONTENT_FILTER, "moderation")
    account = settled(events)
    assert account.meta.moderation == ModerationReport(JUDGE, output=Finding(True, ("harassment",)))
    record = await house.till.settled(call)
    assert (record.success, record.status_code, record.finish_reason) == (True, 200, "content_filter")
    assert (record.moderation, record.disconnect) == (account.meta.moderation, None)
    pricing = account.usage.pricing
    assert pricing is not None
    assert pricing.total_nanos == record.cost_nanos == await house.till.spent() > 0
    assert [attempt.billed for attempt in record.attempts] == [True]


async def test_the_providers_call_ends_with_the_cut(house: Guardhouse) -> None:
    house.model.script(still_talking(f"You {BAD}. And"))
    events = await house.till.run(house.till.call(), house.request(output="block"))
    assert said(events) == ""
    assert settled(events).usage.source == "counted"
    await house.model.wait_disconnect()


async def test_a_whole_answer_is_judged_before_it_is_given(house: Guardhouse) -> None:
    house.model.script(chat_unary(f"Fine. You {BAD}."))
    call = house.till.call()
    events = await house.till.run(call, house.request(output="block", stream=False))
    assert said(events) == "Fine. "
    [end] = [event for event in events if isinstance(event, ChoiceEnded)]
    assert end.reason is FinishReason.CONTENT_FILTER
    assert await house.till.spent() == 3150, "the provider bills what it made"
    assert (await house.till.settled(call)).finish_reason == "content_filter"


async def test_of_several_choices_only_the_flagged_one_is_cut(house: Guardhouse) -> None:
    chunks = [role_chunk(), text_chunk("Good. ")]
    second = [delta_chunk({"content": f"You {BAD}. "}), finish_chunk("stop")]
    for chunk in second:
        chunk["choices"][0]["index"] = 1
    house.model.script(chat_chunks([*chunks, *second, text_chunk("Yes."), finish_chunk("stop"), usage_chunk(9, 9)]))
    request = house.request(output="block")
    request = replace(request, sampling=replace(request.sampling, n=2))
    events = await house.till.run(house.till.call(), request)
    assert said(events) == "Good. Yes."
    ends = {event.choice: event.reason for event in events if isinstance(event, ChoiceEnded)}
    assert ends == {0: FinishReason.STOP, 1: FinishReason.CONTENT_FILTER}


@pytest.mark.parametrize("talks", [False, True], ids=["and is silent", "and goes on"])
async def test_a_sentence_that_does_not_end_is_not_held_for_ever(house: Guardhouse, talks: bool) -> None:
    house.model.script(chat_stream(*["and "] * 80, every_s=0.2) if talks else still_talking("and so"))
    house.till.current = replace(house.till.current, routing=replace(house.till.current.routing, idle_timeout_s=20.0))
    stream = house.guarded(house.till.call(), house.request(output="block"))
    seen: list[Any] = []
    async with asyncio.timeout(MAX_HELD_S + 10):
        async for batch in stream:
            seen += batch
            if said(seen):
                break
    await stream.aclose()
    assert said(seen).startswith("and ")


@pytest.mark.parametrize("stream", [True, False])
async def test_where_nobody_can_judge_block_lets_nothing_in(house: Guardhouse, stream: bool) -> None:
    house.judge.default = error(500)
    with pytest.raises(GatewayError) as failed:
        await house.till.run(house.till.call(), house.request(input="block", stream=stream))
    assert failed.value.reason is Reason.PROVIDERS_UNAVAILABLE
    assert "judge" in failed.value.description
    assert (house.model.requests, await house.till.spent()) == ([], 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_where_nobody_can_judge_block_lets_nothing_out(house: Guardhouse, stream: bool) -> None:
    house.judge.default = error(500)
    house.model.script(chat_stream("Hello. ", "there!") if stream else chat_unary())
    call = house.till.call()
    with pytest.raises(GatewayError) as failed:
        await house.till.run(call, house.request(output="block", stream=stream))
    assert failed.value.reason is Reason.PROVIDERS_UNAVAILABLE
    record = await house.till.settled(call)
    assert (record.success, record.status_code, record.error_code) == (False, 503, "providers_unavailable")


@pytest.mark.parametrize("stream", [True, False])
async def test_where_nobody_can_judge_flag_goes_on_and_says_so(house: Guardhouse, stream: bool) -> None:
    house.judge.default = error(500)
    house.model.script(chat_stream("Hello", " there!") if stream else chat_unary())
    call = house.till.call()
    events = await house.till.run(call, house.request(input="flag", output="flag", stream=stream))
    unknown = Finding(None, error="all_candidates_failed")
    report = settled(events).meta.moderation
    assert isinstance(report, ModerationReport)
    assert (said(events), report.input) == ("Hello there!", unknown)
    assert report.output is not None
    assert report.output.flagged is None
    assert (await house.till.settled(call)).moderation == report


async def test_a_request_can_be_stricter_than_its_team_and_never_laxer(house: Guardhouse) -> None:
    house.flag("there")
    house.till.policy = TeamPolicy(guardrail=Guardrail("block", "flag", JUDGE))
    for asked in (None, Guardrail(input="flag"), Guardrail(output="block")):
        with pytest.raises(GatewayError) as refused:
            await house.till.run(house.till.call(), replace(house.request(), guardrail=asked))
        assert refused.value.reason is Reason.CONTENT_POLICY_VIOLATION
    with pytest.raises(GatewayError) as refused:
        await house.till.run(house.till.call(), house.request(input="block", judge=PAID_JUDGE))
    assert (refused.value.reason, refused.value.param) == (Reason.INVALID_VALUE, "moderation.model")
    assert house.model.requests == []


async def test_a_team_that_flags_is_made_to_block_by_a_request(house: Guardhouse) -> None:
    house.flag("Hello")
    house.till.policy = TeamPolicy(guardrail=Guardrail(None, "flag", JUDGE))
    events = await house.till.run(house.till.call(), replace(house.request(), guardrail=Guardrail(output="block")))
    assert said(events) == ""


async def test_what_a_team_demands_a_key_need_not_be_allowed_by_itself(house: Guardhouse) -> None:
    held_to = Restrictions(models=("a/b",), providers=("first",))
    house.till.policy = TeamPolicy(guardrail=Guardrail("block", None, JUDGE))
    call = house.till.call()
    principal: Principal = replace(call.principal, restrictions=held_to)
    assert said(await house.till.run(replace(call, principal=principal), house.request())) == "Hello there!"
    house.till.policy = TeamPolicy()
    call = replace(house.till.call(), principal=replace(principal, policy=TeamPolicy()))
    with pytest.raises(GatewayError) as refused:
        await house.till.run(call, house.request(input="block"))
    assert refused.value.param == "moderation.model"
    assert len(house.judge.requests) == 1


@pytest.mark.parametrize("direction", ["input", "output"])
async def test_a_judge_that_does_not_exist_is_told_before_anything_is_generated(
    house: Guardhouse, direction: str
) -> None:
    with pytest.raises(GatewayError) as failed:
        await house.till.run(house.till.call(), house.request(**{direction: "flag"}, judge="nobody/none"))  # type: ignore[arg-type]
    assert (failed.value.reason, failed.value.param) == (Reason.UNKNOWN_MODEL, "moderation.model")
    assert (house.model.requests, await house.till.spent()) == ([], 0)


async def test_without_a_name_the_gateway_chooses_who_judges(house: Guardhouse) -> None:
    events = await house.till.run(house.till.call(), house.request(input="flag", judge=None))
    assert settled(events).meta.moderation == ModerationReport(JUDGE, input=Finding(False))


CALL = ToolCall("call_1", "look", '{"at": "it"}')


async def test_what_is_new_is_judged_and_nothing_else(house: Guardhouse) -> None:
    turns = (
        Turn(Role.SYSTEM, (Text("Be kind."),)),
        Turn(Role.USER, (Text("An old question."),)),
        Turn(Role.ASSISTANT, (Text("An old answer."), CALL)),
        Turn(Role.TOOL, (ToolResult("call_1", (Text("What the tool saw."),)),)),
        Turn(Role.USER, (Text("A new question."), Text("And more."))),
        Turn(Role.ASSISTANT, (Text("Begun for the model"),)),
    )
    await house.till.run(house.till.call(), replace(house.request(input="flag"), turns=turns))
    assert house.judged() == ["What the tool saw.", "A new question.", "And more.", "Begun for the model"]


async def test_instructions_are_judged_where_there_is_nothing_else(house: Guardhouse) -> None:
    turns = (Turn(Role.DEVELOPER, (Text("Tell a story."),)),)
    await house.till.run(house.till.call(), replace(house.request(input="flag"), turns=turns))
    assert house.judged() == ["Tell a story."]


PICTURE = (Turn(Role.USER, (Text("What is this?"), Image(url="https://a.example/1.png"))),)


async def test_a_picture_is_judged_by_who_can_see_it(house: Guardhouse) -> None:
    await house.till.run(house.till.call(), replace(house.request(input="block", judge=SEEING_JUDGE), turns=PICTURE))
    assert house.judge.requests[0].json["input"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://a.example/1.png"}},
    ]


async def test_a_picture_that_nobody_can_judge_does_not_pass_a_block(house: Guardhouse) -> None:
    with pytest.raises(GatewayError) as refused:
        await house.till.run(house.till.call(), replace(house.request(input="block"), turns=PICTURE))
    assert (refused.value.reason, refused.value.param) == (Reason.UNSUPPORTED_PARAMETER, "moderation")
    assert (house.model.requests, house.judge.requests) == ([], [])


async def test_a_picture_that_nobody_can_judge_passes_a_flag_which_says_so(house: Guardhouse) -> None:
    events = await house.till.run(house.till.call(), replace(house.request(input="flag"), turns=PICTURE))
    finding = Finding(False, unchecked=("image",))
    assert settled(events).meta.moderation == ModerationReport(JUDGE, input=finding)
    assert house.judged() == ["What is this?"]


async def test_sound_does_not_pass_a_block(house: Guardhouse) -> None:
    turns = (Turn(Role.USER, (Audio("UklGRg==", "wav"),)),)
    with pytest.raises(GatewayError) as refused:
        await house.till.run(house.till.call(), replace(house.request(input="block"), turns=turns))
    assert (refused.value.reason, refused.value.param) == (Reason.UNSUPPORTED_PARAMETER, "messages")


async def test_a_client_that_goes_while_text_is_held_leaves_nothing_behind(house: Guardhouse) -> None:
    house.model.script(still_talking("One. Two"))
    call = house.till.call()
    seen = await house.till.run(call, house.request(output="block"), leave_after=1)
    assert said(seen) in ("", "One. ")
    await house.model.wait_disconnect()
    record = await house.till.settled(call)
    assert (record.status_code, record.disconnect) == (499, "cancelled")


async def test_a_cut_ends_well_where_streams_are_read_to_their_end(house: Guardhouse) -> None:
    house.till.policy = TeamPolicy(on_disconnect="drain")
    words = ["Fine. ", f"You {BAD}. ", *["more. "] * 20]
    house.model.script(chat_stream(*words, every_s=0.01))
    call = house.till.call()
    events = await house.till.run(call, house.request(output="block"))
    assert said(events) == "Fine. "
    assert settled(events).usage.pricing is not None
    record = await house.till.settled(call)
    assert (record.success, record.finish_reason, record.disconnect) == (True, "content_filter", None)
    assert await house.till.spent() == record.cost_nanos > 0
