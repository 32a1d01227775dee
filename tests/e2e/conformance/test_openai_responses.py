"""`openai`: responses, by the synchronous and the asynchronous client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from websockets.exceptions import InvalidStatus

from tests.e2e.conformance.both import all_of, each, entered, got
from tests.e2e.conformance.cases import Row, shows
from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.chat_wire import chat_chunks, delta_chunk, finish_chunk, role_chunk, tool_call
from tests.fakes.openai_upstream import chat_stream, chat_tool_calls, chat_unary, responses_stream

FREE, NATIVE = "acme/test-1:free", "acme/native:free"
CREATE, STREAM, PARSE = "responses.create", "responses.stream", "responses.parse"
TOOL: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}


class Colour(BaseModel):
    name: str


@shows("openai", CREATE, "responses.retrieve", "responses.delete")
async def test_made_read_back_and_deleted(client: Any) -> None:
    made = await got(client.responses.create(model=LOCAL_MODEL, input="Say hello.", max_output_tokens=8))
    assert made.id.startswith("resp_")
    assert made.output_text
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens
    read = await got(client.responses.retrieve(made.id))
    assert (read.id, read.output_text) == (made.id, made.output_text)
    await got(client.responses.delete(made.id))
    with pytest.raises(openai.NotFoundError):
        await got(client.responses.retrieve(made.id))


@shows("openai", CREATE)
async def test_streamed(client: Any, acme: UpstreamThread) -> None:
    events = await all_of(client.responses.create(model=FREE, input="Hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert events[-1].response.output_text == "Hello there!"
    assert events[-1].response.usage.total_tokens > 0


@shows("openai", CREATE)
async def test_the_output_limit_ends_it_as_incomplete(client: Any, acme: UpstreamThread) -> None:
    acme.script(chat_unary("One,", finish_reason="length"), chat_stream("One,", finish_reason="length"))
    asked: Any = {"model": FREE, "input": "Count to one hundred.", "max_output_tokens": 16}
    whole = await got(client.responses.create(**asked))
    last = (await all_of(client.responses.create(**asked, stream=True)))[-1]
    assert last.type == "response.incomplete"
    for response in (whole, last.response):
        assert response.status == "incomplete"
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.usage.output_tokens == 3


@shows("openai", STREAM)
async def test_a_text_put_together(client: Any, acme: UpstreamThread) -> None:
    async with entered(client.responses.stream(model=FREE, input="Say hello.")) as stream:
        text = "".join([event.delta async for event in each(stream) if event.type == "response.output_text.delta"])
        final = await got(stream.get_final_response())
    assert final.output_text == text != ""


@shows("openai", STREAM)
async def test_of_a_provider_that_speaks_responses_itself(client: Any, backup: UpstreamThread) -> None:
    backup.script(responses_stream("Na", "tive"))
    async with entered(client.responses.stream(model=NATIVE, input="Hi")) as stream:
        text = "".join([event.delta async for event in each(stream) if event.type == "response.output_text.delta"])
        final = await got(stream.get_final_response())
    assert text == final.output_text == "Native"
    assert backup.requests[0].path == "/v1/responses"


@shows("openai", PARSE, STREAM)
async def test_into_a_model(client: Any, acme: UpstreamThread) -> None:
    acme.script(chat_unary('{"name": "teal"}'), chat_stream('{"name": ', '"teal"}'))
    whole = await got(client.responses.parse(model=FREE, input="Name a colour.", text_format=Colour))
    async with entered(client.responses.stream(model=FREE, input="Name a colour.", text_format=Colour)) as stream:
        final = await got(stream.get_final_response())
    assert whole.output_parsed == final.output_parsed == Colour(name="teal")
    asked = acme.requests[0].json["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["strict"] is True


@shows("openai", PARSE)
async def test_tools_arguments_into_a_model(client: Any, acme: UpstreamThread) -> None:
    acme.script(chat_tool_calls(tool_call("Colour", '{"name": "teal"}')))
    tool = openai.pydantic_function_tool(Colour)
    parsed = await got(client.responses.parse(model=FREE, input="Hi", tools=[tool]))
    assert parsed.output[0].parsed_arguments == Colour(name="teal")


@shows("openai", CREATE)
async def test_a_tool_called_and_the_conversation_gone_on_with(client: Any, acme: UpstreamThread) -> None:
    acme.script(chat_tool_calls(tool_call("weather", '{"city": "Oslo"}', id="call_9")), chat_unary("It rains."))
    first = await got(client.responses.create(model=FREE, input="Weather?", tools=[TOOL]))
    (call,) = first.output
    assert (call.type, call.call_id, call.arguments) == ("function_call", "call_9", '{"city": "Oslo"}')
    answer = {"type": "function_call_output", "call_id": "call_9", "output": "rain"}
    second = await got(client.responses.create(model=FREE, previous_response_id=first.id, input=[answer]))
    assert second.output_text == "It rains."
    assert [one["role"] for one in acme.requests[-1].json["messages"]] == ["user", "assistant", "tool"]


@shows("openai", STREAM)
async def test_two_tools_called_at_once(client: Any, acme: UpstreamThread) -> None:
    acme.script(
        chat_chunks(
            [
                role_chunk(),
                delta_chunk({"tool_calls": [tool_call("weather", "", id="call_1", index=0)]}),
                delta_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "Oslo"}'}}]}),
                delta_chunk({"tool_calls": [tool_call("weather", '{"city": "Rome"}', id="call_2", index=1)]}),
                finish_chunk("tool_calls"),
            ]
        )
    )
    async with entered(client.responses.stream(model=FREE, input="Weather?", tools=[TOOL])) as stream:
        done = [
            event.arguments async for event in each(stream) if event.type == "response.function_call_arguments.done"
        ]
        final = await got(stream.get_final_response())
    assert done == [call.arguments for call in final.output] == ['{"city": "Oslo"}', '{"city": "Rome"}']
    assert [call.call_id for call in final.output] == ["call_1", "call_2"]


@shows("openai", "with_raw_response", "with_streaming_response")
async def test_of_responses(client: Any, acme: UpstreamThread) -> None:
    raw = await got(client.responses.with_raw_response.create(model=FREE, input="Hi"))
    assert raw.headers["x-generation-id"].startswith("gen_")
    assert (await got(raw.parse())).output_text == "Hello there!"
    streaming = client.responses.with_streaming_response.create(model=FREE, input="Hi", stream=True)
    async with entered(streaming) as response:
        lines = await all_of(response.iter_lines())
    assert lines[0] == "event: response.created"
    assert [line for line in lines if line][-1] == "data: [DONE]"


@shows("openai", CREATE, refused=True)
@pytest.mark.parametrize(
    ("param", "asked"),
    [
        ("background", {"background": True}),
        ("conversation", {"conversation": "conv_1"}),
        ("prompt", {"prompt": {"id": "pmpt_1"}}),
        ("tools[0]", {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}),
    ],
    ids=["work in the background", "a stored conversation", "a stored prompt", "a tool that the provider hosts"],
)
async def test_what_is_not_supported(client: Any, param: str, asked: Any, record_property: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await got(client.responses.create(model=FREE, input="Hi", **asked))
    said = refused.value.response.json()
    record_property("refusal", said["description"])
    assert said["param"] == param


@shows("openai", "responses.retrieve", refused=True)
async def test_a_response_streamed_again(client: Any, acme: UpstreamThread, record_property: Any) -> None:
    made = await got(client.responses.create(model=FREE, input="Hi"))
    with pytest.raises(openai.BadRequestError) as refused:
        await all_of(client.responses.retrieve(made.id, stream=True))
    said = refused.value.response.json()
    record_property("refusal", said["description"])
    assert said["param"] == "stream"


@shows("openai", "beta.responses.create", "beta.responses.retrieve", "beta.responses.delete", refused=True)
async def test_what_openai_calls_beta(client: Any, record_property: Any) -> None:
    """It is another API, at the same addresses with `?beta=true`."""
    beta = client.beta.responses
    for asked in (
        lambda: beta.create(model=FREE, input="Hi"),
        lambda: beta.retrieve("resp_1"),
        lambda: beta.delete("resp_1"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await got(asked())
        said = refused.value.response.json()
        assert said["param"] == "beta"
    record_property("refusal", said["description"])


@pytest.mark.parametrize("client", ["sync"], indirect=True)
async def test_there_is_no_socket(client: Any, add_rows: Callable[..., None]) -> None:
    for connect in (client.responses.connect, client.beta.responses.connect):
        with pytest.raises(InvalidStatus) as refused:
            connect().enter()
        assert refused.value.response.status_code in (400, 404, 405)
    add_rows(
        [Row("openai", f"{api}.connect", "", "not offered", "no WebSockets") for api in ("responses", "beta.responses")]
    )
