"""A stand-in for Anthropic's Messages API, wire-exact and scriptable.

    async with AnthropicUpstream() as upstream:
        upstream.script(error_reply(529, "overloaded_error"), message_stream(text("Hi")))
        ...                                     # call upstream.base_url

Without a script it answers as Anthropic does, whole or streamed as the body asks. What Anthropic refuses it refuses,
whatever its script says, so that no test passes with a request that the real one would not take.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.fakes.anthropic_wire import VERSIONS, error_reply, message_reply, message_stream, problem_of
from tests.fakes.wire import Reply, Request, Script, WireServer


def as_anthropic(request: Request) -> Reply:
    """What the real one would say, in a few words."""
    return message_stream() if request.json.get("stream") is True else message_reply()


def refusal(request: Request) -> Reply | None:
    """The answer to a request that is not in order."""
    if request.method != "POST" or request.path.partition("?")[0] != "/v1/messages":
        return error_reply(404, "not_found_error", "Not found")
    if not (request.header("x-api-key") or (request.header("authorization") or "").startswith("Bearer ")):
        return error_reply(401, "authentication_error", "x-api-key header is required")
    version = request.header("anthropic-version")
    if version not in VERSIONS:
        return error_reply(400, "invalid_request_error", "anthropic-version: header is required")
    try:
        body = json.loads(request.body)
    except ValueError:
        body = None
    problem = problem_of(body, version)
    return None if problem is None else error_reply(400, "invalid_request_error", problem)


def checked(script: Script) -> Callable[[Request], Reply]:
    def play(request: Request) -> Reply:
        return refusal(request) or (script(request) if callable(script) else script)

    return play


class AnthropicUpstream(WireServer):
    """The stand-in on a port of its own; see `WireServer` for scripts, records and what can be awaited."""

    def __init__(self, default: Script = as_anthropic, *, port: int = 0) -> None:
        super().__init__(default=checked(default), port=port)

    async def __aenter__(self) -> AnthropicUpstream:
        await super().__aenter__()
        return self

    def script(self, *replies: Script) -> None:
        super().script(*map(checked, replies))

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"
