"""What SDKs take for granted and gateways have got wrong: on the bytes, and with OpenAI's SDK reading them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import openai
import pytest

from aistats.gateway.v1 import responses_pb2, responses_pb2_grpc
from tests.e2e.gateway import Gateway
from tests.e2e.sse_client import CHAT, DONE, RESPONSES, SURFACES, Event, Surface, read_stream, streaming, whole
from tests.e2e.upstreams import UpstreamThread
from tests.fakes import deviations
from tests.fakes.chat_wire import (
    chat_chunks,
    chat_stream,
    delta_chunk,
    finish_chunk,
    frame,
    role_chunk,
    text_chunk,
    text_chunks,
    tool_call,
    usage,
    usage_chunk,
)
from tests.fakes.openai_upstream import Reply, sse
from tests.fakes.replies import compact, error_body, sse_event
from tests.fakes.response_grammar import check_events
from tests.fakes.responses_wire import numbered, response_object, responses_events, text_events

FREE = "acme/test-1:free"
NATIVE = "acme/native:free"

surfaces = pytest.mark.parametrize("surface", SURFACES, ids=str)


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=0, timeout=30) as client:
        yield client


def sdk_stream(client: openai.OpenAI, surface: Surface) -> Iterator[Any]:
    """The events of a stream as the SDK gives them to its user."""
    if surface is CHAT:
        return iter(
            client.chat.completions.create(model=FREE, messages=[{"role": "user", "content": "hi"}], stream=True)
        )
    return iter(client.responses.create(model=FREE, input="hi", stream=True))


def said(surface: Surface, events: list[Any]) -> str:
    if surface is CHAT:
        return "".join(chunk.choices[0].delta.content or "" for chunk in events if chunk.choices)
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


# Only what SDKs can read.


def chatty() -> Reply:
    """Every field and comment that the format allows, and events without data."""
    noise = b": ping\n\nretry: 3000\n\nid: 7\n\ndata:\n\ndata: \n\nevent: ping\ndata: \n\n"
    return sse([noise + b"id: 8\n" + event for event in frame(text_chunks("Hel", "lo"))])


@surfaces
def test_no_field_passes_that_sdks_stumble_over(
    gateway: Gateway, client: openai.OpenAI, acme: UpstreamThread, surface: Surface
) -> None:
    acme.script(chatty(), chatty())
    with streaming(gateway, surface) as reader:
        events = list(reader)
    assert surface.text(events) == "Hello"
    assert whole(events)
    lines = bytes(reader.raw).splitlines()
    fields = {b"", b"data"} if surface is CHAT else {b"", b"data", b"event"}
    assert {line.partition(b":")[0] for line in lines} == fields
    assert not [line for line in lines if re.fullmatch(rb"data: *", line)]
    assert said(surface, list(sdk_stream(client, surface))) == "Hello"


# Failures in mid-stream.


@surfaces
def test_a_failure_in_mid_stream_is_raised_with_its_description(
    gateway: Gateway, client: openai.OpenAI, acme: UpstreamThread, surface: Surface
) -> None:
    failed = sse_event(compact(error_body("The GPU is on fire.", type="server_error", code="gpu_on_fire")))
    broken = sse([*frame([role_chunk(), *map(text_chunk, "abc")], done=False), failed])
    acme.script(broken, broken)
    events: list[Any] = []
    with pytest.raises(openai.APIError) as raised:
        events.extend(sdk_stream(client, surface))
    assert said(surface, events) == "abc"
    assert "The GPU is on fire." in raised.value.message

    told = read_stream(gateway, surface)
    (failure,) = surface.failures(told)
    assert failure["message"] == failure["description"] == raised.value.message
    if surface is RESPONSES:
        response = told[-1].json["response"]
        assert (told[-1].name, response["status"]) == ("response.failed", "failed")
        assert response["error"]["message"] == raised.value.message
        assert response["error"]["code"]


# Usage once, and last.


@pytest.mark.parametrize(
    "upstream",
    [
        chat_stream, deviations.usage_on_finish, deviations.groq_usage, deviations.cumulative_usage,
        deviations.usage_with_choice_after_finish, deviations.no_usage,
    ],
)  # fmt: skip
def test_usage_is_told_once_and_last(gateway: Gateway, acme: UpstreamThread, upstream: Callable[[], Reply]) -> None:
    acme.script(upstream())
    events = read_stream(gateway, CHAT, stream_options={"include_usage": True})
    assert events[-1].data == DONE
    chunks = [event.json for event in events[:-1]]
    assert [chunk["choices"] == [] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    counted = [chunk["usage"] for chunk in chunks]
    assert counted[:-1] == [None] * (len(chunks) - 1)
    told = counted[-1]
    assert told["total_tokens"] == told["prompt_tokens"] + told["completion_tokens"]
    if upstream is deviations.no_usage:
        assert told["completion_tokens"] >= 1
    else:
        assert (told["prompt_tokens"], told["completion_tokens"]) == (9, 3)


def test_usage_is_not_told_where_nobody_asked(gateway: Gateway, acme: UpstreamThread) -> None:
    events = read_stream(gateway, CHAT)
    assert all(event.json["choices"] and "usage" not in event.json for event in events[:-1])


# The grammar of response streams.


def calls() -> Reply:
    """Reasoning, text and two calls whose pieces mix, as a chat upstream streams them."""
    deltas: list[dict[str, Any]] = [
        {"reasoning_content": "Let me "},
        {"reasoning_content": "see."},
        {"content": "I will "},
        {"content": "look."},
        {"tool_calls": [tool_call("weather", "", id="call_1", index=0)]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [tool_call("time", "", id="call_2", index=1)]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
    ]
    return chat_chunks([role_chunk(), *map(delta_chunk, deltas), finish_chunk("tool_calls"), usage_chunk()])


def native_calls() -> Reply:
    """The same of an upstream that has the Responses API."""
    begun = text_events("x")[:2]
    summary = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
    part = {"type": "summary_text", "text": "Let me see."}
    reasoning = {"id": "rs_1", "type": "reasoning", "summary": [part]}
    call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "weather", "status": "completed"}
    place = {"item_id": "fc_1", "output_index": 1}
    arguments = '{"city":"Oslo"}'
    done = {**call, "arguments": arguments}
    events = [
        *begun,
        {"type": "response.output_item.added", "output_index": 0, "item": {**reasoning, "summary": []}},
        {"type": "response.reasoning_summary_part.added", **summary, "part": {**part, "text": ""}},
        {"type": "response.reasoning_summary_text.delta", **summary, "delta": "Let me "},
        {"type": "response.reasoning_summary_text.delta", **summary, "delta": "see."},
        {"type": "response.reasoning_summary_text.done", **summary, "text": "Let me see."},
        {"type": "response.reasoning_summary_part.done", **summary, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": reasoning},
        {
            "type": "response.output_item.added",
            "output_index": 1,
            "item": {**call, "arguments": "", "status": "in_progress"},
        },
        {"type": "response.function_call_arguments.delta", **place, "delta": '{"city":'},
        {"type": "response.function_call_arguments.delta", **place, "delta": '"Oslo"}'},
        {"type": "response.function_call_arguments.done", **place, "arguments": arguments},
        {"type": "response.output_item.done", "output_index": 1, "item": done},
        {"type": "response.completed", "response": response_object([reasoning, done])},
    ]
    return responses_events(numbered(events))


def grammatical(events: list[Event]) -> dict[str, Any]:
    """The response that the stream ends with."""
    assert whole(events)
    lifecycle = [event.json for event in events[:-1]]
    assert [event.name for event in events[:-1]] == [event["type"] for event in lifecycle]
    response: dict[str, Any] = check_events(lifecycle)["response"]
    return response


def test_response_streams_keep_to_the_grammar(gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread) -> None:
    acme.script(chat_stream("Hel", "lo"), calls())
    backup.script(native_calls())
    text = grammatical(read_stream(gateway, RESPONSES))
    assert [item["type"] for item in text["output"]] == ["message"]
    assert text["output"][0]["content"][0]["text"] == "Hello"
    mixed = grammatical(read_stream(gateway, RESPONSES))
    assert [item["type"] for item in mixed["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert [item["arguments"] for item in mixed["output"][2:]] == ['{"city":"Oslo"}', "{}"]
    assert len({item["id"] for item in mixed["output"]}) == 4
    native = grammatical(read_stream(gateway, RESPONSES, NATIVE))
    assert [item["type"] for item in native["output"]] == ["reasoning", "function_call"]
    assert native["output"][1]["arguments"] == '{"city":"Oslo"}'


def test_the_output_limit_makes_a_terminal_event_of_its_own(
    gateway: Gateway, client: openai.OpenAI, acme: UpstreamThread
) -> None:
    cut = chat_stream("Hel", finish_reason="length", usage_=usage(9, 1))
    acme.script(cut, cut)
    events = read_stream(gateway, RESPONSES, max_output_tokens=16)
    response = grammatical(events)
    assert events[-2].name == "response.incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["usage"]["output_tokens"] == 1
    assert response["output"][0]["status"] == "incomplete"
    last = list(client.responses.create(model=FREE, input="hi", max_output_tokens=16, stream=True))[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == "Hel"


# An id is good everywhere.


def worker_addresses(gateway: Gateway) -> list[str]:
    """The Unix socket of each worker."""
    run_dir = gateway.directory / "data" / "run"
    return [f"unix:{run_dir}/worker-{index}.sock" for index in range(len(gateway.workers()))]


@pytest.mark.parametrize("stream", [False, True])
def test_an_id_is_read_back_on_every_worker(
    gateway: Gateway, client: openai.OpenAI, metadata: list[tuple[str, str]], stream: bool
) -> None:
    if stream:
        with client.responses.stream(model=FREE, input="hi") as events:
            response_id = events.get_final_response().id
    else:
        response_id = client.responses.create(model=FREE, input="hi").id
    addresses = worker_addresses(gateway)
    assert len(addresses) == 2
    for address in addresses:
        with grpc.insecure_channel(address) as channel:
            service = responses_pb2_grpc.ResponsesServiceStub(channel)
            for _ in range(3):
                request = responses_pb2.GetResponseRequest(response_id=response_id)
                assert service.GetResponse(request, metadata=tuple(metadata)).response.id == response_id
    for _ in range(3):
        again = client.responses.retrieve(response_id)
        assert (again.id, again.output_text) == (response_id, "Hello there!")
