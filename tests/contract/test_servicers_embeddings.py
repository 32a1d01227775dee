"""EmbeddingsService as a typed client sees it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import grpc
import msgspec
import pytest

from aistats.gateway.v1 import content_pb2, embeddings_pb2, embeddings_pb2_grpc
from server.domain.embedding import EmbeddingRequest, Embeddings
from server.domain.events import GenerationStream, Produced
from server.domain.identity import Call
from server.pipeline.embed import Embed
from server.rpc.embeddings import EmbeddingsServicer
from tests.fakes.rest import SETTLED, STARTED
from tests.fakes.rpc_host import Metadata
from tests.fakes.typed_client import details, refused

Stub = Any
Request = embeddings_pb2.CreateEmbeddingsRequest
WIDE = [n / 8 for n in range(300)]
"""So long that its length takes two bytes on the wire."""
asked: list[EmbeddingRequest] = []


async def generate(call: Call, request: Any) -> GenerationStream:
    asked.append(request)
    vectors = (struct.pack("<300f", *WIDE), msgspec.Raw(b"[1.5, -2]"))[: len(request.inputs)]
    yield (STARTED, Produced(Embeddings(vectors)))
    yield (SETTLED,)


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return embeddings_pb2_grpc.add_EmbeddingsServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer() -> EmbeddingsServicer:
    return EmbeddingsServicer(Embed(generate))


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return embeddings_pb2_grpc.EmbeddingsServiceStub


def test_vectors_are_packed_floats(grpc_stub: Stub, as_inference: Metadata) -> None:
    request = Request(
        model="a/b", texts=["x", "y"], dimensions=300, user="u", routing=content_pb2.RoutingOptions(only=["p"]),
        provider_options_json={"p": '{"k": 1}'},
    )  # fmt: skip
    reply = grpc_stub.CreateEmbeddings(request, metadata=as_inference)
    assert [one.index for one in reply.data] == [0, 1]
    assert [list(one.values) for one in reply.data] == [WIDE, [1.5, -2.0]]
    assert (reply.model, reply.usage.input_tokens, reply.meta.provider) == ("a/b", 9, "acme")
    made = asked[-1]
    assert (made.inputs, made.dimensions, made.form) == (("x", "y"), 300, "packed")
    assert made.parameters == {"dimensions": "dimensions", "user": "user"}
    assert (made.routing.only, bytes(made.provider_options["p"]["k"])) == (("p",), b"1")


def test_tokens(grpc_stub: Stub, as_inference: Metadata) -> None:
    tokens = [embeddings_pb2.TokenArray(ids=[1, 2]), embeddings_pb2.TokenArray(ids=[3])]
    grpc_stub.CreateEmbeddings(Request(model="a/b", tokens=tokens), metadata=as_inference)
    assert asked[-1].inputs == ((1, 2), (3,))


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (Request(texts=["x"]), "model"),
        (Request(model="a/b"), "texts"),
        (Request(model="a/b", texts=["x", ""]), "texts[1]"),
        (Request(model="a/b", texts=["x"] * 2049), "texts"),
        (Request(model="a/b", tokens=[embeddings_pb2.TokenArray()]), "tokens[0]"),
        (Request(model="a/b", tokens=[embeddings_pb2.TokenArray(ids=[2**31])]), "tokens[0].ids"),
        (Request(model="a/b", texts=["x"], tokens=[embeddings_pb2.TokenArray(ids=[1])]), "tokens"),
        (Request(model="a/b", texts=["x"], dimensions=0), "dimensions"),
        (Request(model="a/b", texts=["x"], user="u" * 513), "user"),
    ],
    ids=("no model", "nothing", "empty text", "too many", "no token", "no token id", "both", "dimensions", "user"),
)
def test_what_cannot_be_meant_is_named(grpc_stub: Stub, as_inference: Metadata, request_: Any, param: str) -> None:
    error = refused(grpc_stub.CreateEmbeddings, request_, as_inference)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)[1].metadata["param"] == param


def test_a_key_for_inference_is_needed(grpc_stub: Stub, as_management: Metadata) -> None:
    request = Request(model="a/b", texts=["x"])
    assert refused(grpc_stub.CreateEmbeddings, request, ()).code() is grpc.StatusCode.UNAUTHENTICATED
    assert refused(grpc_stub.CreateEmbeddings, request, as_management).code() is grpc.StatusCode.PERMISSION_DENIED
