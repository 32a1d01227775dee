"""What is charged, however a generation ends: the whole path from an upstream's bytes to the entries of the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from server.domain.catalog import Routing
from server.domain.errors import GatewayError, Reason
from server.domain.events import Settled
from server.domain.identity import TeamPolicy
from server.domain.pricing import PriceList
from server.domain.request import OutputFormat
from server.storage.database import Database
from tests.fakes.chat_wire import chat_chunks, chat_stream, delta_chunk, finish_chunk, role_chunk, text_chunk, usage
from tests.fakes.openai_upstream import Call as Do
from tests.fakes.openai_upstream import Pause, chat_unary, error, silent
from tests.integration.money import CREDIT, Till, till

WORDS = "word "
"""Five characters."""


@pytest.fixture
async def counter(database: Database) -> AsyncIterator[Till]:
    async with till(database) as counter:
        yield counter


def usage_chunk(prompt: int, completion: int) -> dict[str, Any]:
    return {**role_chunk(), "choices": [], "usage": usage(prompt, completion)}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_whole_answer_is_charged_what_its_provider_reports(counter: Till, stream: bool) -> None:
    call = counter.call()
    events = await counter.run(call, counter.request(stream=stream))
    account = events[-1]
    assert isinstance(account, Settled)
    pricing = account.usage.pricing
    assert pricing is not None
    assert [(line.dimension, line.quantity, line.line_nanos) for line in pricing.lines] == [
        ("input_text_tokens", 9, 1350),
        ("output_text_tokens", 3, 1800),
    ]
    assert pricing.total_nanos == 3150 == await counter.spent()
    assert await counter.kinds(call) == ["reserve", "settle"]
    record = await counter.settled(call)
    assert (record.success, record.status_code, record.finish_reason) == (True, 200, "stop")
    assert (record.usage, record.cost_nanos, record.disconnect) == (account.usage, 3150, None)
    assert [(attempt.provider, attempt.billed, attempt.cost_nanos) for attempt in record.attempts] == [
        ("first", True, 3150)
    ]


async def test_credit_is_held_before_a_provider_is_called(counter: Till) -> None:
    """B2: however large the balance."""
    held: list[tuple[int, int]] = []

    async def look(_: object) -> None:
        held.append(await counter.wallet())

    counter.first.script([Do(look), *chat_unary()])
    await counter.run(counter.call(), counter.request(stream=False))
    assert held[0][0] == CREDIT
    assert 100 * 600 <= held[0][1] < 110 * 600 + 100 * 150


@pytest.mark.parametrize("credit", [0, 999_999_999])
async def test_less_than_a_dollar_calls_no_provider(database: Database, credit: int) -> None:
    async with till(database) as counter:
        await counter.top_up(credit - CREDIT)
        with pytest.raises(GatewayError) as refused:
            await counter.run(counter.call(), counter.request())
        assert refused.value.reason is Reason.INSUFFICIENT_FUNDS
        assert counter.first.requests == []
        free = counter.call()
        await counter.run(free, counter.request(model="a/b:free"))
        record = await counter.settled(free)
        assert (record.cost_nanos, record.success) == (0, True)


@pytest.mark.parametrize("name", ["max_tokens", "n"])
async def test_an_option_that_takes_a_limit_away_calls_no_provider(counter: Till, name: str) -> None:
    asked = replace(counter.request(), provider_options={"first": {name: msgspec.Raw(b"null")}})
    with pytest.raises(GatewayError) as refused:
        await counter.run(counter.call(), asked)
    assert (refused.value.reason, refused.value.param) == (Reason.INVALID_VALUE, f"provider_options.first.{name}")
    assert await counter.wallet() == (CREDIT, 0)
    assert counter.first.requests == counter.second.requests == []


async def test_a_prompt_in_the_schema_of_an_output_needs_credit(counter: Till) -> None:
    counter.current = counter.catalog(PriceList({"input_text_tokens": 50 * 10**9, "output_text_tokens": 10**9}))
    schema = msgspec.Raw(msgspec.json.encode({"description": WORDS * 200_000}))
    with pytest.raises(GatewayError) as refused:
        await counter.run(
            counter.call(), replace(counter.request(), output_format=OutputFormat("json_schema", "x", schema))
        )
    assert refused.value.reason is Reason.INSUFFICIENT_FUNDS
    assert counter.first.requests == counter.second.requests == []


async def test_a_client_that_goes_before_the_first_token_pays_nothing(counter: Till) -> None:
    """S3: and no second provider is called for it."""
    counter.first.script(silent())
    call = counter.call()
    task = asyncio.create_task(counter.run(call, counter.request()))
    while not counter.first.requests:  # noqa: ASYNC110 - the stand-in tells no more
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    record = await counter.settled(call)
    assert await counter.spent() == 0
    assert await counter.kinds(call) == ["reserve", "void"]
    assert (record.success, record.status_code, record.error_code) == (False, 499, "client_disconnected")
    assert (record.disconnect, record.usage, record.cost_nanos) == ("cancelled", None, 0)
    assert [attempt.billed for attempt in record.attempts] == [False]
    assert counter.second.requests == []


def many(count: int, *, tail: list[dict[str, Any]] | None = None, pause_s: float = 0.0, done: bool = True) -> Any:
    """So many chunks of one word; then the tail."""
    reply = list(chat_chunks([role_chunk(), *(text_chunk(WORDS) for _ in range(count)), *(tail or [])], done=done))
    return [step for chunk in reply for step in ((chunk, Pause(pause_s)) if pause_s else (chunk,))]


async def test_a_client_that_goes_midway_pays_for_what_was_relayed(counter: Till) -> None:
    counter.first.script(many(20, tail=[finish_chunk(), usage_chunk(9, 20)], pause_s=0.02))
    call = counter.call()
    seen = await counter.run(call, counter.request(), leave_after=5)
    text = "".join(getattr(event, "text", "") for event in seen)
    record = await counter.settled(call)
    assert record.usage is not None
    assert record.usage.source == "counted"
    assert record.usage.output_tokens == -(-len(text) // 4)
    assert record.cost_nanos == record.usage.input_tokens * 150 + record.usage.output_tokens * 600
    assert await counter.spent() == record.cost_nanos > 0
    assert await counter.kinds(call) == ["reserve", "settle"]
    assert record.disconnect == "cancelled"


async def test_usage_that_was_read_before_the_client_went_is_what_is_charged(counter: Till) -> None:
    """S1."""
    chunks = [text_chunk(WORDS, usage=usage(9, index + 1)) for index in range(20)]
    counter.first.script([step for chunk in chat_chunks([role_chunk(), *chunks]) for step in (chunk, Pause(0.02))])
    call = counter.call()
    await counter.run(call, counter.request(), leave_after=5)
    record = await counter.settled(call)
    assert record.usage is not None
    assert record.usage.source == "provider"
    assert 0 < record.usage.output_tokens < 20
    assert await counter.spent() == 9 * 150 + record.usage.output_tokens * 600
    assert await counter.kinds(call) == ["reserve", "settle"]


async def test_a_client_that_goes_after_the_last_token_but_before_usage(counter: Till) -> None:
    reply, gate, read = many(4, tail=[finish_chunk()], done=False), asyncio.Event(), ""
    counter.first.script([*reply[:-1], Do(lambda _: gate.wait()), *chat_chunks([usage_chunk(9, 4)])[1:]])
    call = counter.call()

    async def reading() -> None:
        nonlocal read
        async for batch in counter.generate(call, counter.request()):
            read += "".join(getattr(event, "text", "") for event in batch)

    task = asyncio.create_task(reading())
    async with asyncio.timeout(30):
        while read != 4 * WORDS:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    record = await counter.settled(call)
    assert record.usage is not None
    assert (record.usage.source, record.usage.output_tokens) == ("counted", 5)
    assert await counter.spent() == record.cost_nanos > 0


async def test_a_cut_by_the_provider_is_charged_what_was_relayed(counter: Till) -> None:
    """S2."""
    counter.first.script(many(5, done=False))
    call = counter.call()
    with pytest.raises(GatewayError) as cut:
        await counter.run(call, counter.request())
    assert cut.value.reason is Reason.STREAM_INTERRUPTED
    record = await counter.settled(call)
    assert record.usage is not None
    assert (record.usage.source, record.usage.output_tokens) == ("counted", 7)
    assert (record.status_code, record.error_code, record.success) == (502, "stream_interrupted", False)
    assert await counter.spent() == record.cost_nanos == record.usage.input_tokens * 150 + 7 * 600


async def test_a_zero_that_is_reported_is_a_zero(counter: Till) -> None:
    """U1."""
    counter.first.script(many(5, tail=[finish_chunk(), usage_chunk(0, 0)]))
    call = counter.call()
    await counter.run(call, counter.request())
    record = await counter.settled(call)
    assert record.usage is not None
    assert (record.usage.source, record.cost_nanos) == ("provider", 0)
    assert await counter.spent() == 0
    assert await counter.kinds(call) == ["reserve", "settle"]


async def test_usage_that_never_comes_is_counted(counter: Till) -> None:
    counter.first.script(many(8, tail=[finish_chunk()]))
    call = counter.call()
    await counter.run(call, counter.request())
    record = await counter.settled(call)
    assert record.usage is not None
    assert (record.usage.source, record.usage.output_tokens) == ("counted", 10)
    assert await counter.spent() == record.cost_nanos > 0


async def test_reasoning_counts_as_output(counter: Till) -> None:
    """U13: 30 tokens of reasoning and 10 of text."""
    thinking = [delta_chunk({"reasoning_content": "x" * 40}) for _ in range(3)]
    counter.first.script(chat_chunks([role_chunk(), *thinking, text_chunk("y" * 40)], done=False))
    call = counter.call()
    with pytest.raises(GatewayError):
        await counter.run(call, counter.request())
    record = await counter.settled(call)
    assert record.usage is not None
    assert record.usage.output_tokens == 40


async def test_a_failure_without_output_costs_nothing(counter: Till) -> None:
    """U2."""
    counter.limit(first_byte_timeout_s=0.5)
    counter.first.script(silent())
    counter.second.script(silent())
    call = counter.call()
    with pytest.raises(GatewayError) as failed:
        await counter.run(call, counter.request())
    assert failed.value.reason is Reason.UPSTREAM_TIMEOUT
    record = await counter.settled(call)
    assert await counter.kinds(call) == ["reserve", "void"]
    assert (await counter.spent(), record.status_code, len(record.attempts)) == (0, 504, 2)
    assert [(one.status, one.error_code) for one in record.attempts] == [(None, "timeout"), (None, "timeout")]


async def test_every_attempt_that_is_billed_is_charged(counter: Till) -> None:
    """U4, U5: the first reports usage and fails, the second serves."""
    failing = {"error": {"message": "Busy.", "code": "server_is_overloaded"}}
    counter.first.script(chat_chunks([role_chunk(), usage_chunk(10, 5), failing]))
    counter.second.script(many(2, tail=[finish_chunk(), usage_chunk(10, 20)]))
    call = counter.call()
    events = await counter.run(call, counter.request())
    account = events[-1]
    assert isinstance(account, Settled)
    assert account.usage.pricing is not None
    assert [line.quantity for line in account.usage.pricing.lines] == [10, 5, 10, 20]
    record = await counter.settled(call)
    assert [attempt.billed for attempt in record.attempts] == [True, True]
    assert await counter.spent() == record.cost_nanos == (10 + 10) * 150 + (5 + 20) * 600


async def test_an_answer_that_came_after_its_client_went_is_settled_once_or_void(counter: Till) -> None:
    """U3."""
    gate = asyncio.Event()
    counter.first.script([Do(lambda _: gate.wait()), *chat_unary(usage_=usage(10, 20))])
    call = counter.call()
    task = asyncio.create_task(counter.run(call, counter.request(stream=False)))
    await counter.first.wait_request()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    gate.set()
    await counter.settled(call)
    assert await counter.kinds(call) == ["reserve", "void"]
    assert await counter.spent() == 0


@pytest.mark.parametrize("by", ["team", "provider"])
async def test_a_drained_stream_is_charged_what_its_provider_reports(counter: Till, by: str) -> None:
    if by == "team":
        counter.policy = TeamPolicy(on_disconnect="drain")
    else:
        counter.current = counter.catalog(on_disconnect="drain")
    counter.first.script(many(20, tail=[finish_chunk(), usage_chunk(9, 20)], pause_s=0.01))
    call = counter.call()
    await counter.run(call, counter.request(), leave_after=3)
    record = await counter.settled(call)
    assert record.usage is not None
    assert (record.usage.source, record.usage.output_tokens) == ("provider", 20)
    assert (record.disconnect, record.status_code, record.success) == ("drained", 499, False)
    assert await counter.spent() == 9 * 150 + 20 * 600


async def test_a_team_that_cancels_overrules_a_provider_that_drains(counter: Till) -> None:
    counter.current = counter.catalog(on_disconnect="drain")
    counter.policy = TeamPolicy(on_disconnect="cancel")
    counter.first.script(many(20, tail=[finish_chunk(), usage_chunk(9, 20)], pause_s=0.02))
    call = counter.call()
    await counter.run(call, counter.request(), leave_after=3)
    record = await counter.settled(call)
    assert (record.disconnect, record.usage and record.usage.source) == ("cancelled", "counted")


async def test_what_exceeds_the_hold_is_an_entry_of_its_own(counter: Till) -> None:
    counter.first.script(many(2, tail=[finish_chunk(), usage_chunk(9, 5000)]))
    call = counter.call()
    await counter.run(call, counter.request())
    assert await counter.kinds(call) == ["reserve", "settle", "adjust"]
    assert await counter.spent() == 9 * 150 + 5000 * 600


async def test_a_gateway_that_stops_charges_nothing(counter: Till) -> None:
    counter.first.script(many(200, pause_s=0.05))
    call = counter.call()
    task = asyncio.create_task(counter.run(call, counter.request()))
    await counter.first.wait_request()
    await asyncio.sleep(0.2)
    counter.shutdown.begin()
    with pytest.raises(GatewayError) as stopped:
        await task
    assert stopped.value.reason is Reason.SHUTTING_DOWN
    record = await counter.settled(call)
    assert (await counter.spent(), record.status_code, record.cost_nanos) == (0, 503, 0)


async def test_a_price_of_zero_is_a_price(counter: Till) -> None:
    """U9: it has its lines."""
    counter.current = counter.catalog(PriceList({"input_text_tokens": 0, "output_text_tokens": 0}))
    call = counter.call()
    await counter.run(call, counter.request())
    record = await counter.settled(call)
    assert record.usage is not None
    assert record.usage.pricing is not None
    assert [line.line_nanos for line in record.usage.pricing.lines] == [0, 0]
    assert await counter.spent() == 0


async def test_a_hundred_streams_that_are_left_at_once(counter: Till) -> None:
    """S6."""
    counter.current = msgspec.structs.replace(counter.current, routing=Routing())
    counter.first.script(*[many(2000, pause_s=0.02)] * 100)
    calls = [counter.call() for _ in range(100)]
    tasks = [asyncio.create_task(counter.run(call, counter.request())) for call in calls]
    async with asyncio.timeout(60):
        while len(counter.first.requests) < len(calls):  # noqa: ASYNC110 - the stand-in tells no more
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(60):
        while (await counter.wallet())[1]:  # noqa: ASYNC110 - the database tells no more
            await asyncio.sleep(0.02)
    records = [await counter.settled(call) for call in calls]
    assert all(record.disconnect == "cancelled" for record in records)
    assert await counter.spent() == sum(record.cost_nanos for record in records)


async def test_content_is_kept_only_where_the_team_says_so(counter: Till) -> None:
    counter.policy = msgspec.structs.replace(counter.policy, store_content=True)
    kept, plain = counter.call(), None
    kept.progress.path, kept.progress.body = "/v1/chat/completions", b'{"model":"a/b"}'
    await counter.run(kept, counter.request())
    counter.policy = TeamPolicy()
    plain = counter.call()
    await counter.run(plain, counter.request())
    contents = await counter.contents()
    assert set(contents) == {kept.suffix}
    path, request, reply = contents[kept.suffix]
    assert (path, request) == ("/v1/chat/completions", b'{"model":"a/b"}')
    assert b"Hello there!" in reply


@pytest.mark.parametrize("status", [429, 500])
async def test_a_fallback_is_charged_once(counter: Till, status: int) -> None:
    counter.first.script(error(status))
    counter.second.script(chat_stream("se", "cond"))
    call = counter.call()
    await counter.run(call, counter.request())
    record = await counter.settled(call)
    assert [(attempt.provider, attempt.status, attempt.billed) for attempt in record.attempts] == [
        ("first", status, False),
        ("second", 200, True),
    ]
    assert record.provider == "second"
    assert await counter.spent() == record.cost_nanos > 0


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_provider_s_own_words_are_on_record_only_with_content(counter: Till, keeps: bool) -> None:
    """They may quote the prompt."""
    counter.policy = TeamPolicy(store_content=keeps)
    counter.first.script(error(400, "Your prompt 'hi there, you' is not allowed."))
    call = counter.call()
    with pytest.raises(GatewayError, match="hi there"):
        await counter.run(call, counter.request())
    record = await counter.settled(call)
    assert record.error_message is not None
    assert ("hi there" in record.error_message) is keeps
