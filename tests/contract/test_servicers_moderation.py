"""ModerationService as a typed client sees it, and the guardrail of typed requests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import grpc
import pytest

from aistats.gateway.v1 import chat_pb2, content_pb2, moderation_pb2, moderation_pb2_grpc
from server.domain.catalog import Catalog, Model, Offer, Provider
from server.domain.errors import GatewayError
from server.domain.events import Completed, Produced, ProviderEvent, Settled, Started
from server.domain.guardrail import Guardrail
from server.domain.identity import Call
from server.domain.moderation import ModerationRequest, Moderations, Verdict
from server.domain.request import Endpoint
from server.domain.usage import Meta, Usage
from server.domain.work import Work
from server.pipeline.moderate import Moderate
from server.rpc.chat import decode_request
from server.rpc.moderation import ModerationServicer
from tests.fakes.rpc_host import Metadata
from tests.fakes.typed_client import details, refused

Stub = Any
EMBEDDED, HOSTED = "local/words:free", "acme/omni:free"


class Judge:
    """A pipeline that flags the word `bad`, and a catalogue with the models that it may be asked by."""

    def __init__(self) -> None:
        offers = {
            name: (Offer(Provider(name, "openai", "http://a.example"), "m", frozenset({Endpoint.MODERATIONS})),)
            for name in ("local", "acme")
        }
        models: Mapping[str, Model] = {
            EMBEDDED: Model(EMBEDDED, offers["local"]),
            HOSTED: Model(HOSTED, offers["acme"]),
        }
        self.current = Catalog({}, models)
        self.asked: list[ModerationRequest] = []

    async def __call__(self, call: Call, request: Work) -> AsyncGenerator[list[ProviderEvent | Settled], None]:
        assert isinstance(request, ModerationRequest)
        self.asked.append(request)
        verdicts = tuple(self._verdict(str(content)) for content in request.inputs)
        meta = Meta("acme", "omni-1", None, 1.0, 1.0, 0.0, 0.1, 1)
        yield [Started(), Produced(Moderations(verdicts)), Completed()]
        yield [Settled(Usage(input_tokens=3), meta)]

    def _verdict(self, content: str) -> Verdict:
        bad = "bad" in content
        return Verdict(bad, {"hate": bad, "law": False}, {"hate": 0.9 if bad else 0.1, "law": 0.2}, {"hate": ("text",)})


JUDGE = Judge()


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return moderation_pb2_grpc.add_ModerationServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer() -> ModerationServicer:
    return ModerationServicer(Moderate(JUDGE, JUDGE))


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return moderation_pb2_grpc.ModerationServiceStub


def text(words: str) -> content_pb2.ContentPart:
    return content_pb2.ContentPart(text=content_pb2.TextPart(text=words))


def request(*inputs: list[content_pb2.ContentPart], **fields: Any) -> moderation_pb2.CreateModerationRequest:
    given = [moderation_pb2.ModerationInput(parts=parts) for parts in inputs]
    return moderation_pb2.CreateModerationRequest(inputs=given, **fields)


def test_each_input_has_its_result(grpc_stub: Stub, as_inference: Metadata) -> None:
    reply = grpc_stub.CreateModeration(request([text("good")], [text("so"), text("bad")]), metadata=as_inference)
    assert (reply.id[:5], reply.model) == ("modr-", HOSTED), "what is embedded counts after all others"
    assert [result.flagged for result in reply.results] == [False, True]
    hate, law = reply.results[1].categories
    assert (hate.name, hate.flagged, hate.score, list(hate.applied_input_types)) == ("hate", True, 0.9, ["text"])
    assert (law.name, law.flagged, law.score, list(law.applied_input_types)) == ("law", False, 0.2, [])
    assert (reply.usage.input_tokens, reply.meta.provider) == (3, "acme")


PICTURE = content_pb2.ContentPart(image=content_pb2.ImagePart(url="https://a.example/1.png"))
FILE_ID = content_pb2.ContentPart(image=content_pb2.ImagePart(file_id="file_1"))
CALL = content_pb2.ContentPart(tool_call=content_pb2.ToolCallPart(call_id="1", name="f"))


def test_pictures_and_the_model_reach_the_pipeline(grpc_stub: Stub, as_inference: Metadata) -> None:
    reply = grpc_stub.CreateModeration(request([PICTURE], model=EMBEDDED), metadata=as_inference)
    assert (reply.model, JUDGE.asked[-1].model) == (EMBEDDED, EMBEDDED)
    assert getattr(JUDGE.asked[-1].inputs[0][0], "url", None) == "https://a.example/1.png"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        pytest.param(request(), "inputs", id="no input"),
        pytest.param(request([text("x")], []), "inputs[1].parts", id="an empty one"),
        pytest.param(request([FILE_ID]), "inputs[0].parts[0].image.file_id", id="a file id"),
        pytest.param(request([text("x"), CALL]), "inputs[0].parts[1]", id="a tool call"),
        pytest.param(request(*[[text("x")]] * 1025), "inputs", id="too many inputs"),
        pytest.param(request([text("x")] * 65), "inputs[0].parts", id="too many parts"),
    ],
)
def test_what_is_wrong_is_named(
    grpc_stub: Stub, as_inference: Metadata, asked: moderation_pb2.CreateModerationRequest, param: str
) -> None:
    error = refused(grpc_stub.CreateModeration, asked, as_inference)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)[1].metadata["param"] == param


def test_a_key_without_inference_is_refused(grpc_stub: Stub, as_management: Metadata) -> None:
    error = refused(grpc_stub.CreateModeration, request([text("x")]), as_management)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


FLAG, BLOCK = content_pb2.MODERATION_MODE_FLAG, content_pb2.MODERATION_MODE_BLOCK


@pytest.mark.parametrize(
    ("options", "rail"),
    [
        (None, None),
        ({}, None),
        ({"input": BLOCK}, Guardrail("block")),
        ({"input": FLAG, "output": BLOCK, "model": "a/b"}, Guardrail("flag", "block", "a/b")),
    ],
)
def test_the_guardrail_of_a_typed_request(options: dict[str, Any] | None, rail: Guardrail | None) -> None:
    assert decode_request(chat(options), stream=False).guardrail == rail


def test_a_judge_without_anything_to_judge_is_refused() -> None:
    with pytest.raises(GatewayError) as wrong:
        decode_request(chat({"model": "a/b"}), stream=False)
    assert wrong.value.param == "moderation.input"


def chat(options: dict[str, Any] | None) -> chat_pb2.CreateChatCompletionRequest:
    message = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[text("hi")])
    made = chat_pb2.CreateChatCompletionRequest(model="a/b", messages=[message])
    if options is not None:
        made.moderation.CopyFrom(content_pb2.ModerationOptions(**options))
    return made
