"""`openai`: models, and what a client does whatever it asks for: errors, retries, limits of time."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.e2e.conformance.both import all_of, each, got
from tests.e2e.conformance.cases import shows
from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.chat_wire import chat_chunks, delta_chunk, role_chunk
from tests.fakes.openai_upstream import chat_stream, chat_unary, error, rate_limited, silent

FREE = "acme/test-1:free"
PINNED = "acme:acme/test-1:free"
HELLO: Any = [{"role": "user", "content": "Say hello."}]


@shows("openai", "models.list", "models.retrieve")
async def test_models(client: Any) -> None:
    ids = [model.id async for model in each(client.models.list(extra_query={"provider": "local"}))]
    assert LOCAL_MODEL in ids
    found = await got(client.models.retrieve(LOCAL_MODEL))
    assert (found.id, found.object) == (LOCAL_MODEL, "model")
    with pytest.raises(openai.NotFoundError):
        await got(client.models.retrieve("nobody/nothing"))


@shows("openai", "get", "post")
async def test_routes_that_the_sdk_has_no_method_for(client: Any, acme: UpstreamThread) -> None:
    health = await got(client.get("/health", cast_to=object))
    assert "providers" in health
    asked = {"model": FREE, "max_tokens": 4, "messages": HELLO}
    message = await got(client.post("/messages", body=asked, cast_to=object))
    assert message["type"] == "message"


@shows("openai", "AuthenticationError")
async def test_a_wrong_key(client: Any) -> None:
    stranger = client.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError) as refused:
        await got(stranger.responses.create(model=LOCAL_MODEL, input="x"))
    assert refused.value.request_id


@shows("openai", "BadRequestError")
async def test_a_malformed_request(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await got(client.chat.completions.create(model=FREE, messages="x"))
    assert refused.value.response.json()["param"] == "messages"


@shows("openai", "NotFoundError")
async def test_an_unknown_model(client: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        await got(client.chat.completions.create(model="nobody/nothing", messages=HELLO))


@shows("openai", "APIStatusError")
async def test_no_credit(client: Any, gateway: Any) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        await got(client.chat.completions.create(model="acme/test-1", messages=HELLO))
    assert refused.value.status_code == 402


@shows("openai", "ConflictError")
async def test_an_idempotency_key_for_another_body(client: Any, acme: UpstreamThread) -> None:
    key = {"Idempotency-Key": f"conformance-{type(client).__name__}"}
    await got(client.responses.create(model=FREE, input="one", extra_headers=key))
    with pytest.raises(openai.ConflictError):
        await got(client.responses.create(model=FREE, input="two", extra_headers=key))


@shows("openai", "RateLimitError")
async def test_a_providers_rate_limit(client: Any, acme: UpstreamThread) -> None:
    acme.script(rate_limited("7"))
    with pytest.raises(openai.RateLimitError) as limited:
        await got(client.responses.create(model=PINNED, input="x"))
    assert limited.value.response.headers["retry-after"] == "7"


@shows("openai", "InternalServerError")
async def test_a_provider_that_fails(client: Any, acme: UpstreamThread) -> None:
    acme.script(error(500))
    with pytest.raises(openai.InternalServerError) as failed:
        await got(client.responses.create(model=PINNED, input="x"))
    assert failed.value.response.json()["failed_providers"] == ["acme"]


@shows("openai", "APIError")
async def test_a_stream_that_breaks_off(client: Any, acme: UpstreamThread) -> None:
    broken = chat_chunks([role_chunk(), delta_chunk({"content": "Hel"})], done=False)
    acme.script(broken, broken)
    with pytest.raises(openai.APIError, match="before the output was complete"):
        await all_of(client.chat.completions.create(model=FREE, messages=HELLO, stream=True))
    with pytest.raises(openai.APIError, match="before the output was complete"):
        await all_of(client.responses.create(model=FREE, input="x", stream=True))


@shows("openai", "max_retries")
async def test_tries_again_when_told_to(client: Any, acme: UpstreamThread, pair: dict[str, Any]) -> None:
    acme.script(rate_limited("0"), chat_unary("At last."))
    model = f"acme:{pair['model']}"
    said = await got(client.with_options(max_retries=1).chat.completions.create(model=model, messages=HELLO))
    assert said.choices[0].message.content == "At last."
    assert len(acme.requests) == 2


@shows("openai", "timeout", "APITimeoutError")
async def test_gives_up_in_time_and_so_does_the_gateway(client: Any, acme: UpstreamThread) -> None:
    acme.script(silent())
    with pytest.raises(openai.APITimeoutError):
        await got(client.with_options(timeout=0.3).chat.completions.create(model=FREE, messages=HELLO))
    acme.wait_disconnect()


@shows("openai", "stream.close")
async def test_a_stream_that_is_left_ends_upstream(client: Any, acme: UpstreamThread) -> None:
    acme.script(chat_stream(*["word "] * 400, every_s=0.02))
    stream = await got(client.chat.completions.create(model=FREE, messages=HELLO, stream=True))
    async for _ in each(stream):
        break
    await got(stream.close())
    acme.wait_disconnect()
