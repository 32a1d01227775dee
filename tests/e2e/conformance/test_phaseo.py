"""`phaseo`, the product's own SDK."""

from __future__ import annotations

import base64
import time
import urllib.error
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from phaseo import Phaseo

from tests.e2e.conformance.cases import LOCAL_EMBEDDINGS, LOCAL_MODERATION, shows
from tests.e2e.conformance.methods import WRONG_KEY, methods_of, standing
from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.audio_wire import sent_form
from tests.fakes.bodies import LISTENER, WAV
from tests.fakes.chat_wire import tool_call
from tests.fakes.films import film
from tests.fakes.openai_upstream import chat_stream, chat_tool_calls, error

FREE = "acme/test-1:free"
HELLO: Any = [{"role": "user", "content": "Say hello."}]
CHAT: Any = {"model": FREE, "messages": HELLO}
RESPONSE: Any = {"model": FREE, "input": "Say hello."}
MESSAGE: Any = {"model": FREE, "messages": HELLO, "max_tokens": 16}


@pytest.fixture
def client(gateway: Gateway) -> Phaseo:
    return Phaseo(api_key=gateway.key, base_url=gateway.base_url, timeout=60)


def said(chunks: Iterator[Any]) -> str:
    """The text of the deltas; the SDK gives the whole once more with the event that ends it."""
    return "".join(chunk["text"] for chunk in chunks if not chunk.get("type", "").endswith(".done"))


@shows("phaseo", "generate_text")
def test_a_text_of_the_embedded_model(client: Phaseo) -> None:
    completion = client.generate_text({"model": LOCAL_MODEL, "messages": HELLO, "max_tokens": 8})
    assert completion["choices"][0]["message"]["content"]
    assert completion["usage"]["pricing"]["total_nanos"] == 0


@shows("phaseo", "generate_text", "chat.completions.create")
def test_a_tool_call(client: Phaseo, acme: UpstreamThread) -> None:
    called = chat_tool_calls(tool_call("weather", '{"city": "Oslo"}'))
    acme.script(called, called)
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    for create in (client.generate_text, client.chat.completions.create):
        (call,) = create({**CHAT, "tools": tools})["choices"][0]["message"]["tool_calls"]
        assert call["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}


@shows("phaseo", "stream_text", "stream_chat", "chat.completions.create")
def test_a_chat_streamed(client: Phaseo, acme: UpstreamThread) -> None:
    lines = list(client.stream_text(CHAT))
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    chunks = list(client.stream_chat({**CHAT, "stream_options": {"include_usage": True}}))
    assert said(iter(chunks)) == "Hello there!"
    assert [chunk["usage"]["total_tokens"] for chunk in chunks if chunk["usage"]] == [12]
    assert said(client.chat.completions.create({**CHAT, "stream": True})) == "Hello there!"


@shows("phaseo", "generate_response", "responses.create")
def test_a_response(client: Phaseo, acme: UpstreamThread) -> None:
    for create in (client.generate_response, client.responses.create):
        response = create(RESPONSE)
        assert (response["object"], response["status"]) == ("response", "completed")
        assert response["output"][0]["content"][0]["text"] == "Hello there!"


@shows("phaseo", "stream_response", "stream_responses", "responses.create")
def test_a_response_streamed(client: Phaseo, acme: UpstreamThread) -> None:
    lines = list(client.stream_response(RESPONSE))
    assert lines[0] == "event: response.created"
    assert lines[-1] == "data: [DONE]"
    assert said(client.stream_responses(RESPONSE)) == "Hello there!"
    assert said(client.responses.create({**RESPONSE, "stream": True})) == "Hello there!"


@shows("phaseo", "generate_message", "messages.create")
def test_a_message(client: Phaseo, acme: UpstreamThread) -> None:
    for create in (client.generate_message, client.messages.create):
        message = create(MESSAGE)
        assert (message["type"], message["stop_reason"]) == ("message", "end_turn")
        assert message["content"][0]["text"] == "Hello there!"


@shows("phaseo", "stream_messages", "stream_message", "messages.create")
def test_a_message_streamed(client: Phaseo, acme: UpstreamThread) -> None:
    assert "event: message_stop" in list(client.stream_messages(MESSAGE))
    assert said(client.stream_message(MESSAGE)) == "Hello there!"
    assert said(client.messages.create({**MESSAGE, "stream": True})) == "Hello there!"


@shows("phaseo", "generate_image", "images.generate", "generate_image_edit")
def test_pictures(client: Phaseo) -> None:
    asked: Any = {"model": "local/test-card-image:free", "prompt": "A boat.", "size": "64x64"}
    for create in (client.generate_image, client.images.generate):
        (made,) = create(asked)["data"]
        assert base64.b64decode(made["b64_json"]).startswith(b"\x89PNG")
    image = f"data:image/png;base64,{made['b64_json']}"
    edited: Any = client.generate_image_edit({**asked, "image": [image]})
    assert base64.b64decode(edited["data"][0]["b64_json"]).startswith(b"\x89PNG")


VIDEO: Any = {"model": "local/test-card-video:free", "prompt": "A boat.", "duration_seconds": 1, "size": "128x96"}


@shows("phaseo", "generate_video", "get_video", "get_video_content", "list_videos", "cancel_video", "delete_video")
def test_a_video(client: Phaseo) -> None:
    video = until_made(client, client.generate_video(VIDEO)["id"])
    assert film(client.get_video_content(video["id"]))[1:3] == (128, 96)
    assert video["id"] in [one["id"] for one in client.list_videos({"limit": 5})["data"]]
    assert client.cancel_video(video["id"]) == video
    assert client.delete_video(video["id"])["deleted"]


@shows("phaseo", "videos.create", "videos.retrieve", "videos.content", "videos.list", "videos.cancel", "videos.delete")
def test_a_video_by_its_resource(client: Phaseo) -> None:
    video = until_made(client, client.videos.create(VIDEO)["id"])
    assert client.videos.retrieve(video["id"]) == video
    assert client.videos.content(video["id"])[4:8] == b"ftyp"
    assert client.videos.list()["object"] == "list"
    assert client.videos.cancel(video["id"])["status"] == "completed"
    assert client.videos.delete(video["id"])["object"] == "video.deleted"


@shows("phaseo", "get_video_download_url", "videos.download_url")
def test_an_address_of_a_video(client: Phaseo) -> None:
    video = until_made(client, client.generate_video(VIDEO)["id"])
    for make in (client.get_video_download_url, client.videos.download_url):
        link = make(video["id"], {"ttl_seconds": 60, "disposition": "attachment"})
        assert httpx.get(link["download_url"]).content[4:8] == b"ftyp"
        assert link["expires_at"] > video["created_at"]
    client.delete_video(video["id"])
    assert httpx.get(link["download_url"]).status_code == 404


@shows("phaseo", "list_video_models", "videos.list_models")
def test_models_of_videos(client: Phaseo) -> None:
    for listed in (client.list_video_models(), client.videos.list_models()):
        assert VIDEO["model"] in [model["id"] for model in listed["data"]]


def until_made(client: Phaseo, video_id: str) -> Any:
    deadline = time.monotonic() + 60
    while (video := client.get_video(video_id))["status"] != "completed":
        assert time.monotonic() < deadline, video
        time.sleep(0.3)
    return video


@shows("phaseo", "generate_embedding")
def test_embeddings(client: Phaseo) -> None:
    one, other = client.generate_embedding({"model": LOCAL_EMBEDDINGS, "input": ["one", "another"]})["data"]
    assert (len(one["embedding"]), one["index"], other["index"]) == (576, 0, 1)


@shows("phaseo", "generate_moderation", "moderations.create")
def test_a_moderation(client: Phaseo) -> None:
    for judge in (client.generate_moderation, client.moderations.create):
        (result,) = judge({"model": LOCAL_MODERATION, "input": "You are a stupid idiot, I will kill you."})["results"]
        assert result["flagged"] is True
        assert result["categories"]["harassment"] is True


@shows("phaseo", "generate_speech", "audio.speech.create")
def test_speech_in_events(client: Phaseo) -> None:
    """It reads every reply as text, so that bytes of sound are nothing for it."""
    for speak in (client.generate_speech, client.audio.speech.create):
        told: Any = speak({"model": "local/espeak:free", "input": "Hello.", "voice": "alloy", "stream_format": "sse"})
        assert told.startswith('data: {"type":"speech.audio.delta"')
        assert told.endswith("data: [DONE]\n\n")


@shows(
    "phaseo",
    "generate_transcription",
    "audio.transcriptions.create",
    "generate_translation",
    "audio.translations.create",
)
def test_files_as_json(client: Phaseo, acme: UpstreamThread) -> None:
    for write_down in (
        client.generate_transcription, client.audio.transcriptions.create,
        client.generate_translation, client.audio.translations.create,
    ):  # fmt: skip
        assert write_down({"model": LISTENER, "audio_b64": base64.b64encode(WAV).decode()})["text"]
        assert sent_form(acme.requests[-1]).file == WAV


@shows("phaseo", "get_models", "models.list")
def test_models(client: Phaseo) -> None:
    for listed in (client.get_models, client.models.list):
        models = listed({"include_endpoints": "chat", "provider": "local"})
        assert LOCAL_MODEL in [model["model_id"] for model in models["models"]]
        assert LOCAL_MODEL in models["catalogues"]["chat"]


@shows("phaseo", "get_model_deprecation_info", "validate_model", "models.get_deprecation_info", "models.validate")
def test_a_model_whose_end_nobody_has_announced(client: Phaseo) -> None:
    assert client.get_model_deprecation_info(LOCAL_MODEL) is None
    assert client.models.get_deprecation_info(LOCAL_MODEL) is None
    assert client.validate_model(LOCAL_MODEL)["ok"] is True
    assert client.models.validate(LOCAL_MODEL)["ok"] is True


@shows("phaseo", "get_health")
def test_health(client: Phaseo) -> None:
    health = client.get_health()
    assert health["status"] in ("ok", "degraded"), "other tests make the other providers fail"
    assert {provider["id"]: provider["status"] for provider in health["providers"]}["local"] == "ok"


@shows("phaseo", "get_generation")
def test_the_record_of_a_generation(client: Phaseo, acme: UpstreamThread) -> None:
    made = client.generate_response(RESPONSE)
    record = client.get_generation(made["id"])
    assert record["id"].startswith("gen_")
    assert (record["model_id"], record["provider"], record["success"]) == (FREE, "acme", True)


@shows("phaseo", "get_credits", "get_activity", "get_analytics")
def test_credits_and_activity(client: Phaseo) -> None:
    assert "balance_nanos" in str(client.get_credits())
    assert client.get_activity()
    assert client.get_analytics()


@shows("phaseo", "list_pricing_models", "calculate_pricing")
def test_prices(client: Phaseo) -> None:
    assert "acme/test-1" in str(client.list_pricing_models({"limit": 250}))
    asked = {"provider": "acme", "model": "acme/test-1", "usage": {"input_tokens": 1_000_000}}
    assert client.calculate_pricing(asked)["pricing"]["total_usd"] == "0.15"


@shows(
    "phaseo",
    *(f"{verb}_{kind}" for kind in ("api_key", "provisioning_key") for verb in ("create", "get", "update", "delete")),
    *(f"list_{kind}" for kind in ("api_keys", "provisioning_keys")),
)
@pytest.mark.parametrize("kind", ["api_key", "provisioning_key"])
def test_the_life_of_a_key(gateway: Gateway, kind: str) -> None:
    manager = Phaseo(
        api_key=gateway.create_key(scopes=("inference", "management"), name=kind), base_url=gateway.base_url
    )
    create, read, update, delete = (
        getattr(manager, f"{verb}_{kind}") for verb in ("create", "get", "update", "delete")
    )
    made = create({"name": f"of {kind}", "scopes": ["inference"]})["data"]
    user = Phaseo(api_key=made["key"], base_url=gateway.base_url)
    assert user.get_current_api_key()["data"]["id"] == made["id"]
    assert update(made["id"], {"name": "renamed"})["data"]["name"] == "renamed"
    assert "key" not in read(made["id"])["data"]
    listed = getattr(manager, f"list_{kind}s")({"name": "renamed", "status": "active"})["data"]
    assert made["id"] in [key["id"] for key in listed]
    assert delete(made["id"])["deleted"] is True
    with pytest.raises(urllib.error.HTTPError) as gone:
        user.get_current_api_key()
    with gone.value:
        assert gone.value.code == 401


@shows("phaseo", "get_current_api_key")
def test_the_key_that_asks(client: Phaseo, gateway: Gateway) -> None:
    assert gateway.key.startswith(client.get_current_api_key()["data"]["prefix"].rstrip(".…*"))


@shows("phaseo", "request", "raw_client")
def test_routes_that_it_has_no_method_for(client: Phaseo) -> None:
    assert client.request("GET", f"/models/{LOCAL_MODEL}")["id"] == LOCAL_MODEL
    assert client.raw_client.request("GET", "/models", query={"limit": 1})["limit"] == 1


@shows("phaseo", "HTTPError")
def test_errors(client: Phaseo, gateway: Gateway, acme: UpstreamThread) -> None:
    stranger = Phaseo(api_key=WRONG_KEY, base_url=gateway.base_url)
    with pytest.raises(urllib.error.HTTPError) as refused:
        stranger.get_health()
    with refused.value:
        assert refused.value.code == 401
    with pytest.raises(httpx.HTTPStatusError) as streaming:
        list(stranger.stream_text(CHAT))
    assert streaming.value.response.status_code == 401
    acme.script(error(429))
    with pytest.raises(urllib.error.HTTPError) as limited:
        client.generate_text({**CHAT, "model": f"acme:{FREE}"})
    with limited.value:
        assert limited.value.code == 429


@shows("phaseo", "stream_text.close")
def test_a_stream_that_is_left_ends_upstream(client: Phaseo, acme: UpstreamThread) -> None:
    acme.script(chat_stream(*["word "] * 400, every_s=0.02))
    stream = client.stream_text(CHAT)
    next(stream)
    stream.close()
    acme.wait_disconnect()


@shows("phaseo", "list_team_models")
def test_the_models_of_a_team(client: Phaseo) -> None:
    models = client.list_team_models({"limit": 250})["models"]
    assert FREE in {model["model_id"] for model in models}


ASKS_NOBODY = {
    "async_jobs.websocket_url",
    "batches.websocket_url",
    "videos.websocket_url",
    "get_async_job_websocket_url",
}
"""Methods that only make an address."""


def test_every_method_that_leads_to_a_route_is_shown(gateway: Gateway, add_rows: Callable[..., None]) -> None:
    client = Phaseo(api_key=WRONG_KEY, base_url=gateway.base_url)
    placeholders = {name: {"model": "x"} for name in ("request", "params", "body", "payload")}
    found = standing("phaseo", methods_of(client, "phaseo"), placeholders, asks_nobody=ASKS_NOBODY)
    add_rows(found.elsewhere)
    assert not found.untested, found.untested
