"""Every surface that generates, by REST and typed, and the smallest request to each."""

from __future__ import annotations

from typing import Any, Final

import grpc

from aistats.gateway.v1 import (
    chat_pb2,
    chat_pb2_grpc,
    content_pb2,
    messages_pb2,
    messages_pb2_grpc,
    responses_pb2,
    responses_pb2_grpc,
)

SURFACES: Final = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
TYPED: Final = ("chat", "responses", "messages")


def body(path: str, name: str, *, stream: bool) -> dict[str, Any]:
    model = {"model": f"acme/{name}:free", "stream": stream}
    if path == "/v1/responses":
        return {**model, "input": "hi"}
    return {**model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}


def typed(surface: str, channel: grpc.Channel, model: str) -> tuple[Any, Any]:
    """A method and a request of a typed surface."""
    part = content_pb2.ContentPart(text=content_pb2.TextPart(text="hi"))
    user = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[part])
    if surface == "chat":
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        return chat.CreateChatCompletion, chat_pb2.CreateChatCompletionRequest(model=model, messages=[user])
    if surface == "responses":
        responses = responses_pb2_grpc.ResponsesServiceStub(channel)
        return responses.CreateResponse, responses_pb2.CreateResponseRequest(model=model, input=[user])
    messages = messages_pb2_grpc.MessagesServiceStub(channel)
    return messages.CreateMessage, messages_pb2.CreateMessageRequest(model=model, messages=[user], max_tokens=9)
