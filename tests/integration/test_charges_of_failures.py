"""What a provider says that a failed answer took is what it bills for it, whoever answers in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from server.domain.catalog import ProviderProfile
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import ProviderEvent, UsageReported
from server.domain.request import GenerationRequest, Sampling
from server.domain.usage import Usage
from server.providers.anthropic import AnthropicAdapter
from server.storage.database import Database
from server.transport import Transport
from tests.fakes.anthropic_upstream import AnthropicUpstream
from tests.fakes.anthropic_wire import block_delta, block_start, event_stream, message_start, text
from tests.fakes.anthropic_wire import usage as anthropic_usage
from tests.fakes.chat_wire import chat_chunks, completion, finish_chunk, role_chunk, text_chunk, usage, usage_chunk
from tests.fakes.openai_upstream import Cut, chat_stream, chat_unary, json_reply, responses_events
from tests.fakes.responses_wire import response_object, responses_stream, responses_unary
from tests.fakes.wire import Reply
from tests.integration.money import Till, till
from tests.unit.anthropic_cases import offer
from tests.unit.openai_cases import CountingIds, FixedClock, ask

NO = {"code": "server_error", "message": "No."}
COUNTED = {"input_tokens": 10, "output_tokens": 500}
RESPONSES = ProviderProfile(apis=frozenset({"responses"}))


@pytest.fixture
async def counter(database: Database) -> AsyncIterator[Till]:
    async with till(database) as counter:
        yield counter


def failed_response(*, stream: bool) -> Reply:
    failed = response_object([], status="failed", error=NO, usage=COUNTED)
    return responses_events([{"type": "response.failed", "response": failed}]) if stream else json_reply(failed)


FAILURES: dict[str, tuple[bool, ProviderProfile, Reply]] = {
    "chat, streamed": (True, ProviderProfile(), chat_chunks([finish_chunk("error", usage=usage(10, 500))])),
    "chat, whole": (
        False, ProviderProfile(), json_reply(completion("Hi", finish_reason="error", usage_=usage(10, 500))),
    ),
    "chat, a stream that nobody asked for and that is cut": (
        False,
        ProviderProfile(),
        chat_chunks([role_chunk(), text_chunk("Hi"), usage_chunk(usage(10, 500))], done=False, end=Cut()),
    ),
    "responses, streamed": (True, RESPONSES, failed_response(stream=True)),
    "responses, whole": (False, RESPONSES, failed_response(stream=False)),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
async def test_what_a_failed_attempt_used_is_billed_and_the_next_answers(counter: Till, case: str) -> None:
    stream, profile, failing = FAILURES[case]
    counter.current = counter.catalog(profile=profile)
    counter.first.script(failing)
    if profile is RESPONSES:
        counter.second.script(responses_stream("Hi") if stream else responses_unary("Hi"))
    else:
        counter.second.script(chat_stream("Hi") if stream else chat_unary("Hi"))
    call = counter.call()
    await counter.run(call, counter.request(stream=stream))
    record = await counter.settled(call)
    first, second = 10 * 150 + 500 * 600, 9 * 150 + 3 * 600
    assert [(one.provider, one.billed, one.cost_nanos) for one in record.attempts] == [
        ("first", True, first),
        ("second", True, second),
    ]
    assert (record.success, record.cost_nanos) == (True, first + second)
    assert await counter.spent() == first + second


async def test_a_long_answer_that_is_cut_before_anybody_saw_it_tells_its_prompt() -> None:
    """Anthropic's is streamed where it may be long, whatever the client asked for."""
    said = [message_start(anthropic_usage(100_000, 0)), block_start(0, text("")),
            block_delta(0, "text_delta", text="Hi")]  # fmt: skip
    async with AnthropicUpstream() as upstream, Transport() as transport:
        upstream.script(event_stream(said, end=Cut()))
        adapter = AnthropicAdapter(transport, FixedClock(), CountingIds())
        asked: GenerationRequest = ask(sampling=Sampling(max_output_tokens=50_000))
        found, failed = list[ProviderEvent](), None
        try:
            async with aclosing(adapter.stream(offer(base_url=upstream.base_url), asked)) as stream:
                async for batch in stream:
                    found += batch
        except ProviderFailure as failure:
            failed = failure
        sent: Any = upstream.requests[0].json
    assert sent["stream"] is True
    assert failed is not None
    assert failed.category is FailureCategory.CONNECTION
    assert found == [UsageReported(Usage(100_000, 0), "default")]
