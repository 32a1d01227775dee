"""`langchain-openai`: its chat model on both of OpenAI's APIs, and its embeddings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel, Field

from tests.e2e.conformance.cases import LOCAL_EMBEDDINGS, shows
from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.chat_wire import chat_chunks, completion, delta_chunk, finish_chunk, role_chunk, tool_call, usage_chunk
from tests.fakes.openai_upstream import chat_stream, chat_tool_calls, chat_unary, error, json_reply

FREE = "acme/test-1:free"


class Weather(BaseModel):
    """The weather in a city."""

    city: str = Field(description="its name")


class Colour(BaseModel):
    name: str


class Models:
    """Chat models that share a client, and say where they go by `api`."""

    def __init__(self, gateway: Gateway, api: str, sync: Any, other: Any) -> None:
        self._options = {
            "base_url": gateway.base_url,
            "api_key": gateway.key,
            "max_retries": 0,
            "timeout": 60,
            "http_client": sync,
            "http_async_client": other,
            "use_responses_api": api == "responses",
        }

    def __call__(self, **options: Any) -> Any:
        from langchain_openai import ChatOpenAI  # importing it takes two seconds

        return ChatOpenAI(**{"model": FREE, "stream_usage": True, **self._options, **options})


@pytest.fixture(params=["chat", "responses"])
async def models(request: pytest.FixtureRequest, gateway: Gateway, acme: UpstreamThread) -> AsyncIterator[Models]:
    import openai

    with openai.DefaultHttpxClient() as sync:
        async with openai.DefaultAsyncHttpxClient() as other:
            yield Models(gateway, request.param, sync, other)


def used(message: Any) -> tuple[int, int, int]:
    counted = message.usage_metadata
    return counted["input_tokens"], counted["output_tokens"], counted["total_tokens"]


@shows("langchain", "ChatOpenAI.invoke")
def test_of_the_embedded_model(models: Models) -> None:
    said = models(model=LOCAL_MODEL, max_tokens=4, temperature=0).invoke("Say hello.")
    assert said.text
    assert used(said)[2] == used(said)[0] + used(said)[1] > 0


@shows("langchain", "ChatOpenAI.invoke", "ChatOpenAI.ainvoke")
async def test_a_text_and_its_usage(models: Models) -> None:
    model = models()
    for said in (model.invoke("Hi"), await model.ainvoke("Hi")):
        assert said.text == "Hello there!"
        assert used(said) == (9, 3, 12)
        assert said.response_metadata["model_name"] == FREE


@shows("langchain", "ChatOpenAI.stream", "ChatOpenAI.astream")
async def test_a_stream_and_its_usage_once(models: Models) -> None:
    model = models()
    for chunks in (list(model.stream("Hi")), [chunk async for chunk in model.astream("Hi")]):
        assert len([chunk for chunk in chunks if chunk.text]) == 2
        whole = sum(chunks[1:], chunks[0])
        assert whole.text == "Hello there!"
        assert used(whole) == (9, 3, 12)


@shows("langchain", "ChatOpenAI.invoke", "ChatOpenAI.stream")
def test_the_output_limit_is_an_end(models: Models, acme: UpstreamThread) -> None:
    acme.script(json_reply(completion("One,", finish_reason="length")), chat_stream("One,", finish_reason="length"))
    model = models(max_tokens=16)
    whole, chunks = model.invoke("Count."), list(model.stream("Count."))
    for said in (whole, sum(chunks[1:], chunks[0])):
        told = said.response_metadata
        assert said.text == "One,"
        assert told.get("finish_reason") == "length" or told["incomplete_details"]["reason"] == "max_output_tokens"
        assert used(said) == (9, 3, 12)


@shows("langchain", "ChatOpenAI.batch", "ChatOpenAI.abatch")
async def test_several_at_once(models: Models) -> None:
    model = models()
    for said in (model.batch(["one", "two", "three"]), await model.abatch(["one", "two", "three"])):
        assert [one.text for one in said] == ["Hello there!"] * 3


@shows("langchain", "ChatOpenAI.astream_events")
async def test_events(models: Models) -> None:
    kinds = [event["event"] async for event in models().astream_events("Hi", version="v2")]
    assert (kinds[0], kinds[-1]) == ("on_chat_model_start", "on_chat_model_end")
    assert "on_chat_model_stream" in kinds


@shows("langchain", "ChatOpenAI.bind_tools")
def test_two_tools_at_once_and_what_they_answered(models: Models, acme: UpstreamThread) -> None:
    acme.script(
        chat_tool_calls(
            tool_call("Weather", '{"city": "Oslo"}', id="call_1"), tool_call("Weather", '{"city": "Rome"}', id="call_2")
        ),
        chat_unary("Both wet."),
    )
    model = models().bind_tools([Weather])
    first = model.invoke("Weather?")
    assert [(call["id"], call["args"]) for call in first.tool_calls] == [
        ("call_1", {"city": "Oslo"}),
        ("call_2", {"city": "Rome"}),
    ]
    answers = [{"role": "tool", "tool_call_id": call["id"], "content": "rain"} for call in first.tool_calls]
    second = model.invoke([{"role": "user", "content": "Weather?"}, first, *answers])
    assert second.text == "Both wet."
    assert [one["role"] for one in acme.requests[-1].json["messages"]] == ["user", "assistant", "tool", "tool"]
    assert acme.requests[0].json["tools"][0]["function"]["parameters"]["properties"]["city"]["type"] == "string"


@shows("langchain", "ChatOpenAI.bind_tools")
async def test_a_tool_call_streamed(models: Models, acme: UpstreamThread) -> None:
    streamed = chat_chunks(
        [
            role_chunk(),
            delta_chunk({"tool_calls": [tool_call("Weather", "", index=0)]}),
            delta_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}),
            delta_chunk({"tool_calls": [{"index": 0, "function": {"arguments": ' "Oslo"}'}}]}),
            finish_chunk("tool_calls"),
            usage_chunk(),
        ]
    )
    acme.script(streamed, streamed)
    model = models().bind_tools([Weather], tool_choice="Weather")
    for chunks in (list(model.stream("Weather?")), [chunk async for chunk in model.astream("Weather?")]):
        (call,) = sum(chunks[1:], chunks[0]).tool_calls
        assert (call["name"], call["args"], call["id"]) == ("Weather", {"city": "Oslo"}, "call_1")
    assert acme.requests[0].json["tool_choice"] == {"type": "function", "function": {"name": "Weather"}}


@shows("langchain", "ChatOpenAI.with_structured_output")
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_a_model_of_pydantics(models: Models, acme: UpstreamThread, method: str) -> None:
    told = chat_unary('{"name": "teal"}')
    if method == "function_calling":
        told = chat_tool_calls(tool_call("Colour", '{"name": "teal"}'))
    acme.script(told, told)
    model = models().with_structured_output(Colour, method=method)
    assert model.invoke("A colour, as JSON.") == Colour(name="teal")
    assert await model.ainvoke("A colour, as JSON.") == Colour(name="teal")
    asked = {"json_schema": "json_schema", "json_mode": "json_object"}
    if method in asked:
        assert acme.requests[0].json["response_format"]["type"] == asked[method]


@shows("langchain", "ChatOpenAI.with_structured_output")
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_a_model_of_pydantics_streamed(models: Models, acme: UpstreamThread) -> None:
    acme.script(chat_stream('{"name": ', '"teal"}'))
    assert list(models().with_structured_output(Colour).stream("A colour."))[-1] == Colour(name="teal")


@shows("langchain", "ChatOpenAI.invoke")
def test_a_picture_reaches_the_provider(models: Models, acme: UpstreamThread) -> None:
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    models().invoke([{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}])
    system, user = acme.requests[0].json["messages"]
    assert (system["role"], system["content"]) == ("system", "Be brief.")
    assert user["content"][1]["image_url"]["url"] == "data:image/png;base64,iVBORw0KGgo="


@shows("langchain", "ChatOpenAI.invoke")
@pytest.mark.parametrize("models", ["responses"], indirect=True)
def test_a_conversation_that_the_gateway_keeps(models: Models, acme: UpstreamThread) -> None:
    model = models()
    first = model.invoke("One.")
    model.invoke("Two.", previous_response_id=first.response_metadata["id"])
    assert [one["role"] for one in acme.requests[1].json["messages"]] == ["user", "assistant", "user"]


@shows("langchain", "RateLimitError")
def test_errors_are_those_of_openai(models: Models, acme: UpstreamThread) -> None:
    import openai

    acme.script(error(429))
    with pytest.raises(openai.RateLimitError):
        models(model=f"acme:{FREE}").invoke("Hi")
    with pytest.raises(openai.AuthenticationError):
        models(api_key="wrong").invoke("Hi")


@shows("langchain", "max_retries")
def test_tries_again_when_told_to(models: Models, acme: UpstreamThread, pair: dict[str, Any]) -> None:
    acme.script(error(429, headers={"retry-after": "0"}), chat_unary("At last."))
    assert models(model=f"acme:{pair['model']}", max_retries=1).invoke("Hi").text == "At last."


@pytest.fixture
async def embeddings(gateway: Gateway) -> AsyncIterator[Callable[..., Any]]:
    import openai
    from langchain_openai import OpenAIEmbeddings

    with openai.DefaultHttpxClient() as sync:
        async with openai.DefaultAsyncHttpxClient() as other:
            yield partial(
                OpenAIEmbeddings,
                model=LOCAL_EMBEDDINGS,
                base_url=gateway.base_url,
                api_key=gateway.key,
                http_client=sync,
                http_async_client=other,
                check_embedding_ctx_length=False,  # else it cuts texts up with a vocabulary that it downloads
            )


@shows("langchain", "OpenAIEmbeddings.embed_query", "OpenAIEmbeddings.aembed_query")
async def test_a_question(embeddings: Callable[..., Any]) -> None:
    model = embeddings()
    assert len(model.embed_query("Where?")) == 576
    assert await model.aembed_query("Where?") == pytest.approx(model.embed_query("Where?"), abs=1e-4)


@shows("langchain", "OpenAIEmbeddings.embed_documents", "OpenAIEmbeddings.aembed_documents")
async def test_documents_some_at_a_time(embeddings: Callable[..., Any]) -> None:
    model = embeddings(chunk_size=2)
    texts = ["one", "two", "three"]
    made = model.embed_documents(texts)
    assert [len(one) for one in made] == [576] * 3
    assert made[2] == pytest.approx(model.embed_query("three"), abs=1e-4)
    assert [len(one) for one in await model.aembed_documents(texts)] == [576] * 3


@shows("langchain", "OpenAIEmbeddings.embed_documents")
def test_lists_of_tokens(embeddings: Callable[..., Any], acme: UpstreamThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it sends by default: texts as tokens, cut at the model's length, and their vectors put together again."""
    import tiktoken

    letters = tiktoken.Encoding(
        "letters", pat_str=".", mergeable_ranks={bytes([byte]): byte for byte in range(256)}, special_tokens={}
    )
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: letters)
    model = embeddings(model="acme/embeddings-only:free", check_embedding_ctx_length=True, embedding_ctx_length=4)
    assert len(model.embed_documents(["abcdef", "gh"])) == 2
    assert acme.requests[0].json["input"] == [[97, 98, 99, 100], [101, 102], [103, 104]]
