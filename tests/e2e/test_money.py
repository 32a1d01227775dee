"""Money through the whole gateway: what replies say, what the wallet shows and what the record keeps are one number."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import grpc
import httpx
import openai
import pytest
from google.api import annotations_pb2  # type: ignore[import-untyped]  # the package has no stubs
from google.protobuf import descriptor_pb2
from phaseo import Phaseo

import aistats.gateway.v1
from aistats.gateway.v1 import (
    audio_pb2,
    chat_pb2_grpc,
    content_pb2,
    embeddings_pb2,
    images_pb2,
    messages_pb2,
    moderation_pb2,
    responses_pb2,
    responses_pb2_grpc,
    videos_pb2,
)
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.purse import INPUT_NANOS, OUTPUT_NANOS, PAID, Purse
from tests.e2e.test_grpc_clients import chat_request, error_info
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.bodies import PIXEL, WAV, FormBody, request_of
from tests.fakes.chat_wire import chat_chunks, finish_chunk, role_chunk, text_chunk, usage
from tests.fakes.openai_upstream import Call as Do
from tests.fakes.openai_upstream import Pause, chat_unary, error

DESCRIPTORS = Path(aistats.gateway.v1.__path__[0]) / "descriptors.binpb"
FREE = f"{PAID}:free"
MESSAGES: Any = [{"role": "user", "content": "Say hello."}]
REPLY_NANOS = 9 * INPUT_NANOS + 3 * OUTPUT_NANOS
"""What the stand-in's ordinary reply of 9 and 3 tokens costs."""


@pytest.fixture
def purse(gateway: Gateway) -> Purse:
    return Purse(gateway)


@pytest.fixture
def sdk(purse: Purse) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=purse.key, base_url=purse.gateway.base_url, max_retries=0) as client:
        yield client


@pytest.fixture
def native(purse: Purse) -> Iterator[anthropic.Anthropic]:
    root = purse.gateway.base_url.removesuffix("/v1")
    with anthropic.Anthropic(api_key=purse.key, base_url=root, max_retries=0) as client:
        yield client


def check(purse: Purse, before: int, generation_id: str, pricing: Any) -> None:
    """Lines, wallet and record say the same."""
    assert sum(line["line_nanos"] for line in pricing["lines"]) == pricing["total_nanos"] == REPLY_NANOS
    assert (pricing["currency"], pricing["total_usd"]) == ("USD", "0.00000315")
    assert pricing["lines"][0] == {
        "dimension": "input_text_tokens",
        "quantity": 9,
        "unit_size": 1000000,
        "unit_price_usd": "0.15",
        "line_nanos": 1350,
        "line_usd": "0.00000135",
    }
    assert before - purse.balance() == REPLY_NANOS
    record = purse.record(generation_id)
    assert record["cost_nanos"] == REPLY_NANOS
    assert record["pricing_lines"] == pricing["lines"] == record["usage"]["pricing"]["lines"]
    assert (record["success"], record["status_code"], record["usage_source"]) == (True, 200, "provider")
    assert [(attempt["provider"], attempt["billed"]) for attempt in record["attempts"]] == [("acme", True)]


def test_openai_chat_says_what_it_cost(purse: Purse, sdk: openai.OpenAI, acme: UpstreamThread) -> None:
    before = purse.balance()
    raw = sdk.chat.completions.with_raw_response.create(model=PAID, messages=MESSAGES)
    completion = raw.parse()
    assert completion.usage is not None
    assert completion.usage.model_extra is not None
    check(purse, before, raw.headers["x-generation-id"], completion.usage.model_extra["pricing"])


def test_openai_chat_stream_says_what_it_cost(purse: Purse, sdk: openai.OpenAI, acme: UpstreamThread) -> None:
    before = purse.balance()
    chunks = list(
        sdk.chat.completions.create(model=PAID, messages=MESSAGES, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.model_extra is not None
    check(purse, before, chunks[0].id, chunks[-1].usage.model_extra["pricing"])


def test_openai_responses_say_what_they_cost(purse: Purse, sdk: openai.OpenAI, acme: UpstreamThread) -> None:
    before = purse.balance()
    response = sdk.responses.create(model=PAID, input="Say hello.")
    assert response.usage is not None
    assert response.usage.model_extra is not None
    check(purse, before, response.id, response.usage.model_extra["pricing"])
    kept = sdk.responses.retrieve(response.id)
    assert kept.usage == response.usage


def test_openai_responses_stream_says_what_it_cost(purse: Purse, sdk: openai.OpenAI, acme: UpstreamThread) -> None:
    before = purse.balance()
    last = list(sdk.responses.create(model=PAID, input="Say hello.", stream=True))[-1]
    assert last.type == "response.completed"
    assert last.response.usage is not None
    assert last.response.usage.model_extra is not None
    check(purse, before, last.response.id, last.response.usage.model_extra["pricing"])


def test_anthropic_messages_say_what_they_cost(purse: Purse, native: anthropic.Anthropic, acme: UpstreamThread) -> None:
    before = purse.balance()
    message = native.messages.create(model=PAID, max_tokens=100, messages=MESSAGES)
    assert message.usage.model_extra is not None
    check(purse, before, message.id, message.usage.model_extra["pricing"])


def test_an_anthropic_stream_says_what_it_cost(purse: Purse, native: anthropic.Anthropic, acme: UpstreamThread) -> None:
    before = purse.balance()
    events = list(native.messages.create(model=PAID, max_tokens=100, messages=MESSAGES, stream=True))
    opening, ending = events[0], events[-2]
    assert opening.type == "message_start"
    assert ending.type == "message_delta"
    assert ending.usage.model_extra is not None
    check(purse, before, opening.message.id, ending.usage.model_extra["pricing"])


def test_phaseo_reads_the_record_and_the_credit(purse: Purse, acme: UpstreamThread) -> None:
    before = purse.balance()
    client = Phaseo(api_key=purse.key, base_url=purse.gateway.base_url, timeout=60)
    response = client.generate_response({"model": PAID, "input": "Say hello."})
    check(purse, before, response["id"], response["usage"]["pricing"])
    assert client.get_generation(response["id"])["cost_nanos"] == REPLY_NANOS
    credits = client.get_credits()["credits"]
    assert (credits["available_nanos"], credits["reserved_nanos"]) == (before - REPLY_NANOS, 0)
    assert (credits["thirty_day_usage_nanos"], credits["thirty_day_requests"]) == (REPLY_NANOS, 1)


def test_typed_calls_say_what_they_cost(purse: Purse, acme: UpstreamThread, channel: grpc.Channel) -> None:
    before = purse.balance()
    metadata = tuple(purse.headers.items())
    whole = chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(chat_request(PAID), metadata=metadata)
    streamed = list(
        responses_pb2_grpc.ResponsesServiceStub(channel).StreamResponse(
            responses_pb2.CreateResponseRequest(model=PAID, input=chat_request(PAID).messages), metadata=metadata
        )
    )
    for pricing in (whole.usage.pricing, streamed[-1].completed.usage.pricing):
        assert (pricing.currency, pricing.total_nanos) == ("USD", REPLY_NANOS)
        assert sum(line.line_nanos for line in pricing.lines) == REPLY_NANOS
    assert before - purse.balance() == 2 * REPLY_NANOS
    assert purse.record(whole.id)["cost_nanos"] == REPLY_NANOS


@pytest.mark.parametrize("usd", [None, "0.99"])
def test_without_a_dollar_no_provider_is_called(gateway: Gateway, acme: UpstreamThread, usd: str | None) -> None:
    """B3 for the team without a wallet, whose requests race."""
    purse = Purse(gateway, usd)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: purse.post("/v1/responses", {"model": PAID, "input": "x"}), range(8)))
    for reply in replies:
        assert reply.status_code == 402
        refusal = reply.json()
        assert (refusal["error"], refusal["error_type"]) == ("insufficient_funds", "user")
        assert purse.record(refusal["generation_id"])["status_code"] == 402
    with grpc.insecure_channel(f"127.0.0.1:{gateway.rpc_port}") as direct, pytest.raises(grpc.RpcError) as failed:
        chat_pb2_grpc.ChatServiceStub(direct).CreateChatCompletion(
            chat_request(PAID), metadata=tuple(purse.headers.items())
        )
    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error_info(failed.value).reason == "INSUFFICIENT_FUNDS"
    assert acme.requests == []
    assert purse.post("/v1/responses", {"model": FREE, "input": "x"}).status_code == 200


def test_credit_for_three_lets_three_through(gateway: Gateway, acme: UpstreamThread) -> None:
    """B1: 50 at once, over all workers; the fourth would go below the dollar that must be there."""
    purse = Purse(gateway, "2.30")
    body = {"model": PAID, "messages": MESSAGES, "max_tokens": 1_000_000}  # holds 0.60 dollars
    all_refused = threading.Event()

    async def wait(_: object) -> None:
        await asyncio.to_thread(all_refused.wait, 30)

    acme.script(*[[Do(wait), *chat_unary()]] * 3)
    start = threading.Barrier(50)
    refused = itertools.count(1)

    def send(_: int) -> int:
        start.wait()
        status = purse.post("/v1/chat/completions", body).status_code
        if status != 200 and next(refused) == 47:
            all_refused.set()
        return status

    with ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(send, range(50)))
    assert sorted(statuses) == [200] * 3 + [402] * 47
    assert len(acme.requests) == 3
    assert 2_300_000_000 - purse.balance() == 3 * REPLY_NANOS


def test_a_client_that_leaves_pays_for_what_it_got(purse: Purse, acme: UpstreamThread) -> None:
    before = purse.balance()
    words = [text_chunk("word " * 4) for _ in range(50)]
    acme.script([step for chunk in chat_chunks([role_chunk(), *words]) for step in (chunk, Pause(0.05))])
    body = {"model": PAID, "messages": MESSAGES, "stream": True}
    url = f"{purse.gateway.base_url}/chat/completions"
    with httpx.stream("POST", url, json=body, headers=purse.headers, timeout=30) as reply:
        lines = reply.iter_lines()
        for _ in range(8):
            next(lines)
        generation_id = reply.headers["x-generation-id"]
    record = purse.record(generation_id)
    assert (record["usage_source"], record["disconnect"], record["status_code"]) == ("counted", "cancelled", 499)
    assert 0 < record["usage"]["completion_tokens"] < 100
    assert before - purse.balance() == record["cost_nanos"] > 0


def test_a_client_that_closes_on_the_last_event_is_no_disconnect(purse: Purse, acme: UpstreamThread) -> None:
    """S5."""
    body = {"model": PAID, "messages": MESSAGES, "stream": True}
    url = f"{purse.gateway.base_url}/chat/completions"

    def read(_: int) -> str:
        with httpx.stream("POST", url, json=body, headers=purse.headers, timeout=30) as reply:
            for line in reply.iter_lines():
                if line == "data: [DONE]":
                    return str(reply.headers["x-generation-id"])
        raise AssertionError("the stream ended without [DONE]")

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(read, range(200)))
    before = purse.balance()
    assert before == 10_000_000_000 - len(ids) * REPLY_NANOS
    for generation_id in ids[:: len(ids) // 20]:
        record = purse.record(generation_id)
        assert (record["success"], record["finish_reason"], record["disconnect"]) == (True, "stop", None)


def test_fifty_mixed_requests_add_up(purse: Purse, acme: UpstreamThread) -> None:
    """U16: the wallet's difference, computed again from what the upstream says that it used."""
    chance = random.Random(7)
    told: list[tuple[int, int]] = []
    before = purse.balance()
    for _ in range(50):
        prompt, completion = chance.randrange(1, 5000), chance.randrange(1, 5000)
        told.append((prompt, completion))
        if chance.random() < 0.5:
            acme.script(chat_unary(usage_=usage(prompt, completion)))
            reply = purse.post("/v1/chat/completions", {"model": PAID, "messages": MESSAGES})
        else:
            last = {**role_chunk(), "choices": [], "usage": usage(prompt, completion)}
            acme.script(chat_chunks([role_chunk(), text_chunk("Hi"), finish_chunk(), last]))
            reply = purse.post("/v1/responses", {"model": PAID, "input": "x", "stream": True})
        assert reply.status_code == 200
    expected = sum(prompt * INPUT_NANOS + completion * OUTPUT_NANOS for prompt, completion in told)
    assert before - purse.balance() == expected
    activity = purse.get("/v1/activity").json()["data"]
    assert sum(row["requests"] for row in activity) == 50
    assert sum(row["usage_nanos"] for row in activity) == expected


def test_a_failure_costs_nothing_and_is_on_record(purse: Purse, acme: UpstreamThread) -> None:
    before = purse.balance()
    acme.script(error(500))
    reply = purse.post("/v1/responses", {"model": PAID, "input": "x"})
    assert reply.status_code == 502
    record = purse.record(reply.json()["generation_id"])
    assert (record["success"], record["status_code"], record["cost_nanos"]) == (False, 502, 0)
    assert [(attempt["status"], attempt["billed"]) for attempt in record["attempts"]] == [(500, False)]
    assert purse.balance() == before


@pytest.fixture
def own_gateway(
    tmp_path: Path, acme_upstream: UpstreamThread, backup_upstream: UpstreamThread, acme: UpstreamThread
) -> Gateway:
    return Gateway(tmp_path, config(acme_upstream, backup_upstream), environ={"ACME_KEY": ACME_KEY})


def test_a_restart_changes_no_balance(own_gateway: Gateway, acme: UpstreamThread) -> None:
    """B8."""
    gateway = own_gateway.start()
    try:
        purse = Purse(gateway, "2.00")
        acme.script(chat_unary(usage_=usage(0, 400_000_000 // OUTPUT_NANOS)))
        assert purse.post("/v1/chat/completions", {"model": PAID, "messages": MESSAGES}).status_code == 200
        for worker in gateway.workers():
            worker.kill()
        gateway.kill()
        gateway.start()
        spent = 400_000_000 // OUTPUT_NANOS * OUTPUT_NANOS
        assert purse.get("/v1/credits").json()["credits"]["available_nanos"] == 2_000_000_000 - spent
        assert gateway.run("ledger", "verify").returncode == 0
    finally:
        assert gateway.stop() == 0


def test_while_the_database_is_stalled_nothing_paid_is_served_and_nothing_is_lost(
    own_gateway: Gateway, acme: UpstreamThread
) -> None:
    """B6: it can be read, and not written."""
    gateway = own_gateway.start()
    try:
        purse = Purse(gateway)
        acme.script([Pause(1.0), *chat_unary()])
        with ThreadPoolExecutor(9) as pool:
            under_way = pool.submit(purse.post, "/v1/chat/completions", {"model": PAID, "messages": MESSAGES})
            acme.wait_request()
            with sqlite3.connect(gateway.directory / "data" / "gateway.db", isolation_level=None) as other:
                other.execute("BEGIN IMMEDIATE")
                stalled_at = time.monotonic()
                refused = [
                    pool.submit(purse.post, "/v1/chat/completions", {"model": PAID, "messages": MESSAGES})
                    for _ in range(8)
                ]
                for reply in refused:
                    assert reply.result().status_code == 503
                    assert reply.result().json()["error"] == "unavailable_error"
                    assert "retry-after" in reply.result().headers
                assert len(acme.requests) == 1
                assert purse.post("/v1/chat/completions", {"model": FREE, "messages": MESSAGES}).status_code == 200
                time.sleep(max(0.0, 10.0 - (time.monotonic() - stalled_at)))
                assert not under_way.done()
                other.execute("ROLLBACK")
            assert under_way.result().status_code == 200
        assert 10_000_000_000 - purse.balance() == REPLY_NANOS
        assert json.loads(gateway.run("ledger", "verify", "--json").stdout) is not None
        assert gateway.run("ledger", "verify").returncode == 0
    finally:
        assert gateway.stop() == 0


BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": PAID, "messages": MESSAGES},
    "/v1/responses": {"model": PAID, "input": "x"},
    "/v1/messages": {"model": PAID, "max_tokens": 100, "messages": MESSAGES},
    "/v1/embeddings": {"model": "acme/embed-1", "input": "x"},
    "/v1/moderations": {"model": "acme/judge-1", "input": "x"},
    "/v1/audio": {"model": "acme/speak-1", "input": "x", "voice": "alloy"},
    "/v1/audio/speech": {"model": "acme/speak-1", "input": "x", "voice": "alloy"},
    "/v1/audio/transcriptions": FormBody({"model": "acme/listen-1"}),
    "/v1/audio/translations": FormBody({"model": "acme/listen-1"}),
    "/v1/images/generations": {"model": "acme/draw-1", "prompt": "x"},
    "/v1/images/edits": {"model": "acme/draw-1", "prompt": "x", "image": PIXEL},
    "/v1/videos": {"model": "acme/film-1", "prompt": "x"},
}
"""A body for every route that costs something; a new route without one fails the test below."""
COSTS_NOTHING = {
    "/v1/pricing/calculate",
    "/v1/messages/count_tokens",
    "/v1/api-keys",
    "/v1/api-keys/{key_id}/rotate",
    "/v1/videos/{video_id}/cancel",
    "/v1/videos/{video_id}/download_url",
    "/v1/webhooks",
    "/v1/webhooks/{webhook_id}/rotate_secret",
    "/v1/webhooks/{webhook_id}/test",
    "/v1/webhooks/{webhook_id}/replay",
    "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/replay",
}
NEED_ANOTHER = {"/v1/videos/{video_id}/remix"}
"""They cost something, and go on from what has been paid for."""
STREAMED = {
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/images/generations",
    "/v1/images/edits",
}
REQUESTS: dict[str, Any] = {
    "CreateChatCompletionRequest": chat_request(PAID),
    "CreateResponseRequest": responses_pb2.CreateResponseRequest(model=PAID, input=chat_request(PAID).messages),
    "CreateMessageRequest": messages_pb2.CreateMessageRequest(
        model=PAID, max_tokens=100, messages=chat_request(PAID).messages
    ),
    "CreateEmbeddingsRequest": embeddings_pb2.CreateEmbeddingsRequest(model="acme/embed-1", texts=["x"]),
    "CreateImagesRequest": images_pb2.CreateImagesRequest(model="acme/draw-1", prompt="x"),
    "EditImagesRequest": (
        images_pb2.EditImagesRequest(settings=images_pb2.CreateImagesRequest(model="acme/draw-1", prompt="x")),
        images_pb2.EditImagesRequest(file=images_pb2.ImageFile()),
        images_pb2.EditImagesRequest(chunk=base64.b64decode(PIXEL.partition(",")[2])),
    ),
    "CreateSpeechRequest": audio_pb2.CreateSpeechRequest(model="acme/speak-1", input="x", voice="alloy"),
    "CreateTranscriptionRequest": (
        audio_pb2.CreateTranscriptionRequest(model="acme/listen-1"),
        audio_pb2.CreateTranscriptionRequest(chunk=WAV),
    ),
    "CreateTranslationRequest": (
        audio_pb2.CreateTranslationRequest(model="acme/listen-1"),
        audio_pb2.CreateTranslationRequest(chunk=WAV),
    ),
    "CreateVideoRequest": videos_pb2.CreateVideoRequest(model="acme/film-1", prompt="x"),
    "CreateModerationRequest": moderation_pb2.CreateModerationRequest(
        model="acme/judge-1",
        inputs=[moderation_pb2.ModerationInput(parts=[content_pb2.ContentPart(text={"text": "x"})])],
    ),
}


def described() -> Iterator[tuple[str, descriptor_pb2.MethodDescriptorProto]]:
    """Every method of the gateway's services, by full name."""
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    for file in files.file:
        if file.package == "aistats.gateway.v1":
            for service in file.service:
                for method in service.method:
                    yield f"/{file.package}.{service.name}/{method.name}", method


def test_every_way_to_spend_is_closed_without_credit(gateway: Gateway, acme: UpstreamThread) -> None:
    """B9: the ways are those that the descriptors list."""
    purse = Purse(gateway, "0.99")
    posts, calls = 0, 0
    with grpc.insecure_channel(f"127.0.0.1:{gateway.rpc_port}") as channel:
        for name, method in described():
            path = method.options.Extensions[annotations_pb2.http].post
            if path and path not in COSTS_NOTHING | NEED_ANOTHER:
                posts += 1
                for extra in ({}, {"stream": True}) if path in STREAMED else ({},):
                    body = type(BODIES[path])({**BODIES[path], **extra})
                    assert purse.send("POST", path, **request_of(body)).status_code == 402, path
            request = REQUESTS.get(method.input_type.rpartition(".")[2])
            if not path and request is not None:
                calls += 1
                kind = channel.stream_stream if method.server_streaming else channel.stream_unary
                call: Any = kind(name, request_serializer=bytes)
                messages = request if isinstance(request, tuple) else (request,)
                sent = [message.SerializeToString() for message in messages]
                with pytest.raises(grpc.RpcError) as failed:
                    for _ in call(iter(sent), metadata=tuple(purse.headers.items())):
                        pass
                assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION, name
    # Of the typed streams, that of a transcription has a form for its REST route, and no line in STREAMED.
    assert (posts, calls) == (len(BODIES), len(REQUESTS) + len(STREAMED) + 1)
    assert acme.requests == []
