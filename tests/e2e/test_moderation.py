"""Moderation through the front door: the `openai` SDK, typed gRPC, and guardrails on every surface that generates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import grpc
import httpx
import openai
import pytest

from aistats.gateway.v1 import (
    chat_pb2,
    chat_pb2_grpc,
    content_pb2,
    moderation_pb2,
    moderation_pb2_grpc,
)
from server.domain.moderation import CATEGORIES
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.moderation_wire import saying
from tests.fakes.openai_upstream import chat_stream, chat_unary

EMBEDDED = "local/toxic-comments:free"
SEEING = "acme/omni:free"
MODEL = "acme/test-1:free"
RUDE, KIND = "You are so dumb and stupid!", "Have a nice day."
GUARD = {"input": "block", "output": "block", "model": EMBEDDED}


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=0, timeout=60) as client:
        yield client


def record(gateway: Gateway, reply: Any) -> dict[str, Any]:
    told = gateway.get(f"/v1/generation/{reply.headers['x-generation-id']}")
    assert told.status_code == 200
    return dict(told.json())


def test_a_string_and_a_list_by_the_embedded_classifier(client: openai.OpenAI) -> None:
    one = client.moderations.create(model=EMBEDDED, input=RUDE)
    assert (one.id[:5], one.model, len(one.results)) == ("modr-", EMBEDDED, 1)
    result = one.results[0]
    assert (result.flagged, result.categories.harassment, result.category_scores.harassment > 0.5) == (True,) * 3
    assert result.category_applied_input_types.harassment == ["text"]
    assert result.category_applied_input_types.sexual == [], "nobody looked"
    assert list(result.model_dump(by_alias=True)["categories"])[: len(CATEGORIES)] == list(CATEGORIES)
    several = client.moderations.create(model=EMBEDDED, input=[KIND, RUDE, KIND])
    assert [result.flagged for result in several.results] == [False, True, False]


@pytest.mark.parametrize("path", ["/v1/moderations", "/v1/moderation"])
def test_both_spellings_tell_usage_meta_and_leave_a_record(gateway: Gateway, path: str) -> None:
    reply = gateway.post(path, {"model": EMBEDDED, "input": KIND, "meta": True})
    assert reply.status_code == 200, reply.text
    told = reply.json()
    assert list(told) == ["id", "model", "results", "usage", "meta"]
    assert told["usage"]["pricing"]["total_nanos"] == 0
    assert (told["meta"]["provider"], told["meta"]["attempts"]) == ("local-moderation", 1)
    kept = gateway.get(f"/v1/generation/{told['id']}").json()
    assert (kept["endpoint"], kept["success"], kept["parent_id"]) == ("moderations", True, None)
    assert gateway.get(path).status_code == 405


def test_a_model_is_chosen_where_none_is_named(client: openai.OpenAI, acme: UpstreamThread) -> None:
    acme.script(saying("never"))
    assert client.moderations.create(input=KIND).model == SEEING


def test_pictures_go_to_who_sees_them_and_nowhere_else(client: openai.OpenAI, acme: UpstreamThread) -> None:
    parts: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://a.example/1.png"}},
    ]
    acme.script(saying("What"))
    seen = client.moderations.create(model=SEEING, input=parts)
    assert [result.flagged for result in seen.results] == [True]
    assert seen.results[0].category_applied_input_types.violence == ["text", "image"]
    assert acme.requests[0].json["input"] == parts
    with pytest.raises(openai.BadRequestError) as refused:
        client.moderations.create(model=EMBEDDED, input=parts)
    told = refused.value.response.json()
    assert (told["param"], told["reason"]) == ("input", "unsupported_parameter")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": EMBEDDED}, "input"),
        ({"model": EMBEDDED, "input": []}, "input"),
        ({"model": EMBEDDED, "input": [1]}, "input[0]"),
        ({"model": EMBEDDED, "input": ["a", {"type": "text", "text": "b"}]}, "input[1]"),
        ({"model": EMBEDDED, "input": [{"type": "audio"}]}, "input[0].type"),
        (
            {"model": EMBEDDED, "input": [{"type": "image_url", "image_url": {"url": "ftp://x"}}]},
            "input[0].image_url.url",
        ),
        ({"model": EMBEDDED, "input": 7}, "input"),
        ({"model": "", "input": "x"}, "model"),
        ({"model": EMBEDDED, "input": "x", "colour": 1}, "colour"),
        ({"model": MODEL, "input": "x"}, "model"),
    ],
)
def test_what_is_wrong_is_named(gateway: Gateway, body: dict[str, Any], param: str) -> None:
    reply = gateway.post("/v1/moderations", body)
    assert (reply.status_code, reply.json()["param"]) == (400, param), reply.text


def test_typed_moderation(gateway: Gateway) -> None:
    def content(*texts: str) -> moderation_pb2.ModerationInput:
        return moderation_pb2.ModerationInput(
            parts=[content_pb2.ContentPart(text=content_pb2.TextPart(text=text)) for text in texts]
        )

    metadata = (("authorization", f"Bearer {gateway.key}"),)
    with grpc.insecure_channel(gateway.url.removeprefix("http://")) as channel:
        stub = moderation_pb2_grpc.ModerationServiceStub(channel)
        request = moderation_pb2.CreateModerationRequest(model=EMBEDDED, inputs=[content(KIND), content(KIND, RUDE)])
        reply = stub.CreateModeration(request, metadata=metadata)
        assert [result.flagged for result in reply.results] == [False, True]
        found = {one.name: (one.flagged, list(one.applied_input_types)) for one in reply.results[1].categories}
        assert found["harassment"] == (True, ["text"])
        assert "sexual" not in found, "what was not looked for is not there"
        assert reply.meta.provider == "local-moderation"
        with pytest.raises(grpc.RpcError) as refused:
            stub.CreateModeration(moderation_pb2.CreateModerationRequest(model=EMBEDDED), metadata=metadata)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": RUDE}]},
    "/v1/responses": {"input": RUDE},
    "/v1/messages": {"messages": [{"role": "user", "content": RUDE}], "max_tokens": 50},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", list(BODIES))
def test_a_flagged_prompt_is_refused(gateway: Gateway, acme: UpstreamThread, path: str, stream: bool) -> None:
    reply = gateway.post(path, {"model": MODEL, "moderation": GUARD, "stream": stream, **BODIES[path]})
    told = reply.json()
    assert (reply.status_code, told["reason"]) == (400, "content_policy_violation")
    assert "harassment" in [detail["category"] for detail in told["details"]]
    assert acme.requests == []
    kept = record(gateway, reply)
    assert (kept["status_code"], kept["cost_nanos"]) == (400, 0)
    assert (kept["moderation"]["input"]["flagged"], kept["moderation"]["model"]) == (True, EMBEDDED)


ANSWERED = {path: json.loads(json.dumps(body).replace(RUDE, KIND)) for path, body in BODIES.items()}


def test_a_flagged_chat_answer_is_cut(client: openai.OpenAI, acme: UpstreamThread) -> None:
    asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": KIND}], "extra_body": {"moderation": GUARD}}
    acme.script(chat_unary(f"Well. {RUDE}"), chat_stream("Well. You are", " so dumb and stupid! ", "More."))
    whole = client.chat.completions.create(**asked)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("Well. ", "content_filter")
    chunks = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Well. "
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "content_filter"
    assert chunks[-1].usage is not None


def test_a_flagged_response_is_incomplete(client: openai.OpenAI, acme: UpstreamThread) -> None:
    asked: Any = {"model": MODEL, "input": KIND, "extra_body": {"moderation": GUARD}}
    acme.script(chat_unary(f"Well. {RUDE}"), chat_stream("Well. You are", " so dumb and stupid! ", "More."))
    whole = client.responses.create(**asked)
    assert (whole.status, whole.output_text) == ("incomplete", "Well. ")
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "content_filter"
    with client.responses.create(stream=True, **asked) as events:
        last = list(events)[-1]
    assert last.type == "response.incomplete"
    assert (last.response.output_text, last.response.status) == ("Well. ", "incomplete")


def test_a_flagged_message_is_a_refusal(gateway: Gateway, acme: UpstreamThread) -> None:
    asked: Any = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": KIND}]}
    acme.script(chat_unary(f"Well. {RUDE}"), chat_stream("Well. You are", " so dumb and stupid! ", "More."))
    url = gateway.base_url.removesuffix("/v1")
    with anthropic.Anthropic(api_key=gateway.key, base_url=url, max_retries=0, timeout=60) as client:
        whole = client.messages.create(**asked, extra_body={"moderation": GUARD})
        assert (whole.stop_reason, [block.text for block in whole.content]) == ("refusal", ["Well. "])
        with client.messages.stream(**asked, extra_body={"moderation": GUARD}) as stream:
            final = stream.get_final_message()
        assert (final.stop_reason, [block.text for block in final.content]) == ("refusal", ["Well. "])  # type: ignore[union-attr]


@pytest.mark.parametrize("stream", [False, True])
def test_a_flag_is_told_in_meta(gateway: Gateway, acme: UpstreamThread, stream: bool) -> None:
    acme.script(chat_stream(RUDE) if stream else chat_unary(RUDE))
    guard = {"input": "flag", "output": "flag", "model": EMBEDDED}
    body = {"model": MODEL, "moderation": guard, "meta": True, "usage": True, "stream": stream}
    reply = gateway.post("/v1/chat/completions", {**body, **ANSWERED["/v1/chat/completions"]})
    assert reply.status_code == 200
    told = json.loads(reply.text.split("data: ")[-2]) if stream else reply.json()
    report = told["meta"]["moderation"]
    assert (report["input"], report["output"]["flagged"]) == ({"flagged": False}, True)
    assert record(gateway, reply)["moderation"] == report
    assert RUDE in reply.text


def test_typed_guardrail(gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(chat_stream("Well. You are", " so dumb and stupid! ", "More."))
    part = content_pb2.ContentPart(text=content_pb2.TextPart(text=KIND))
    guard = content_pb2.ModerationOptions(
        input=content_pb2.MODERATION_MODE_FLAG, output=content_pb2.MODERATION_MODE_BLOCK, model=EMBEDDED
    )
    request = chat_pb2.CreateChatCompletionRequest(
        model=MODEL, messages=[content_pb2.Message(role=content_pb2.ROLE_USER, parts=[part])], moderation=guard
    )
    metadata = (("authorization", f"Bearer {gateway.key}"),)
    with grpc.insecure_channel(gateway.url.removeprefix("http://")) as channel:
        events = list(chat_pb2_grpc.ChatServiceStub(channel).StreamChatCompletion(request, metadata=metadata))
    assert "".join(event.text_delta.text for event in events) == "Well. "
    assert [event.choice_ended.finish_reason for event in events if event.HasField("choice_ended")] == [
        content_pb2.FINISH_REASON_CONTENT_FILTER
    ]
    report = events[-1].completed.meta.moderation
    assert (report.input.flagged, report.output.flagged, list(report.output.categories)[:1]) == (False, True, ["toxic"])


def test_a_teams_guardrail_holds_for_all_of_its_requests(gateway: Gateway, acme: UpstreamThread) -> None:
    gateway.create_team("guarded")
    key = gateway.create_key(team="guarded")
    told = gateway.run("teams", "set", "guarded", "--moderation-input", "block", "--moderation-model", EMBEDDED)
    assert told.returncode == 0, told.stderr
    headers = {"authorization": f"Bearer {key}"}
    body = {"model": MODEL, **BODIES["/v1/chat/completions"]}
    reply = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert (reply.status_code, reply.json()["reason"]) == (400, "content_policy_violation")
    laxer = {**body, "moderation": {"input": "flag"}}
    reply = httpx.post(f"{gateway.url}/v1/chat/completions", json=laxer, headers=headers, timeout=60)
    assert reply.status_code == 400
    assert acme.requests == []


@pytest.mark.parametrize("stream", [False, True])
def test_block_is_a_503_where_nobody_can_judge(gateway: Gateway, stream: bool) -> None:
    guard = {"input": "block", "model": "acme/dead-judge:free"}
    body = {"model": MODEL, "moderation": guard, "stream": stream, **ANSWERED["/v1/chat/completions"]}
    reply = gateway.post("/v1/chat/completions", body)
    assert (reply.status_code, reply.json()["reason"]) == (503, "providers_unavailable"), reply.text
    assert "moderation" in reply.json()["description"]


OPENAIS = {"model": "omni-moderation-latest", "policy": {"input": {"mode": "block"}}}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_openais_own_parameter_still_goes_to_the_provider(gateway: Gateway, acme: UpstreamThread, path: str) -> None:
    body = {"model": MODEL, "moderation": OPENAIS, **ANSWERED[path]}
    assert gateway.post(path, body).status_code == 200
    assert acme.requests[0].json["moderation"] == OPENAIS


@pytest.mark.parametrize(
    ("path", "moderation", "param"),
    [
        ("/v1/chat/completions", {**OPENAIS, "input": "block"}, "moderation.input"),
        ("/v1/responses", {**OPENAIS, "output": "flag"}, "moderation.output"),
        ("/v1/chat/completions", {}, "moderation.model"),
        ("/v1/chat/completions", {"input": "stop"}, "moderation.input"),
        ("/v1/responses", {"input": "stop"}, "moderation.input"),
        ("/v1/messages", {"model": EMBEDDED}, "moderation.input"),
        ("/v1/messages", OPENAIS, "moderation.policy"),
        ("/v1/chat/completions", {"input": "block", "model": "nobody/none"}, "moderation.model"),
        ("/v1/chat/completions", {"output": "block", "model": MODEL}, "moderation.model"),
    ],
)
def test_half_of_each_and_neither_are_refused_by_name(
    gateway: Gateway, path: str, moderation: dict[str, Any], param: str
) -> None:
    reply = gateway.post(path, {"model": MODEL, "moderation": moderation, **ANSWERED[path]})
    told = reply.json()
    assert (reply.status_code in (400, 404), told["param"]) == (True, param), reply.text
