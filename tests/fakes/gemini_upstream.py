"""A stand-in for the Gemini API, wire-exact and scriptable.

    async with GeminiUpstream() as upstream:
        upstream.script(refused(exhausted("39s")), stream("Hel", "lo"))
        ...                                     # call upstream.base_url
        assert upstream.requests[0].json["contents"]

Without a script it answers as Google does, in a few words: `generateContent` and `streamGenerateContent`, whole, as
events or as an array. What Google refuses it refuses in Google's own words, whatever its script says, so that no test
passes with a request that the real one would not take.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.fakes.gemini_wire import (
    BAD_KEY,
    candidate,
    refused,
    reply,
    status,
    stream,
    text_chunks,
    unary,
    whole_reply,
)
from tests.fakes.image_wire import gemini_pictures
from tests.fakes.wire import Reply, Request, Script, WireServer

__all__ = ["GeminiUpstream", "as_google", "candidate", "refused", "reply", "stream", "unary", "whole_reply"]

KEY = "AIzaSyCanary0123456789abcdefghijklmnopq"

_PATH = re.compile(r"/v1beta/(models|tunedModels)/([^/:]+):(generateContent|streamGenerateContent)")
_BODY = {
    "contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings", "cachedContent",
    "labels", "serviceTier", "store",
}  # fmt: skip
_CONFIG = {
    "temperature", "topP", "topK", "candidateCount", "maxOutputTokens", "stopSequences", "responseMimeType",
    "responseSchema", "responseJsonSchema", "responseModalities", "presencePenalty", "frequencyPenalty", "seed",
    "responseLogprobs", "logprobs", "thinkingConfig", "mediaResolution", "speechConfig", "imageConfig",
}  # fmt: skip
_PARTS = {"text", "inlineData", "fileData", "functionCall", "functionResponse"}


def as_google(request: Request) -> Reply:
    """What the real one would say, in a few words."""
    path, _, query = request.path.partition("?")
    if path.endswith(":generateContent"):
        asked = request.json
        if asked.get("generationConfig", {}).get("responseModalities") == ["IMAGE"]:
            shown = sum("inlineData" in part for content in asked["contents"] for part in content["parts"])
            return whole_reply(gemini_pictures([0], inputs=shown))
        return unary()
    return stream() if query == "alt=sse" else whole_reply(text_chunks("Hello", " there!"))


def refusal(request: Request) -> Reply | None:
    """The answer to a request that is not in order."""
    found = _PATH.fullmatch(request.path.partition("?")[0])
    if request.method != "POST" or found is None:
        return refused(status(404, "NOT_FOUND", "Requested entity was not found."))
    if request.header("x-goog-api-key") is None:
        message = "Method doesn't allow unregistered callers (callers without established identity)."
        return refused(status(403, "PERMISSION_DENIED", message))
    if request.header("x-goog-api-key") != KEY:
        return refused(BAD_KEY)
    try:
        body = json.loads(request.body)
    except ValueError:
        return _invalid("Invalid JSON payload received.")
    complaint = next(_complaints(body, found[2]), None)
    return None if complaint is None else _invalid(complaint)


def checked(script: Script) -> Callable[[Request], Reply]:
    def play(request: Request) -> Reply:
        return refusal(request) or (script(request) if callable(script) else script)

    return play


def _invalid(message: str) -> Reply:
    return refused(status(400, "INVALID_ARGUMENT", message))


def _complaints(body: dict[str, Any], model: str) -> Iterator[str]:
    config = body.get("generationConfig", {})
    for known, fields, where in ((_BODY, body, ""), (_CONFIG, config, " at 'generation_config'")):
        for name in fields.keys() - known:
            yield f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'
    if not body.get("contents"):
        yield "* GenerateContentRequest.contents: contents is not specified"
    for number, content in enumerate(body.get("contents", ())):
        if content.get("role") not in ("user", "model"):
            yield "Please use a valid role: user, model."
        if not content.get("parts"):
            yield f"* GenerateContentRequest.contents[{number}].parts: contents.parts must not be empty."
        for part in content.get("parts", ()):
            if len(_PARTS & part.keys()) != 1:
                yield f"* GenerateContentRequest.contents[{number}].parts: required oneof field 'data' must have one."
    declared = [tool for tool in body.get("tools", ()) if tool.get("functionDeclarations")]
    calling = body.get("toolConfig", {}).get("functionCallingConfig")
    if calling is not None and not declared:
        yield "Function calling config is set without function_declarations."
    if calling is not None and calling.get("allowedFunctionNames") and calling["mode"] not in ("ANY", "VALIDATED"):
        yield "allowed_function_names is set when the mode is not ANY or VALIDATED."
    yield from _turn_complaints(body.get("contents", ()), model)


def _turn_complaints(contents: list[dict[str, Any]], model: str) -> Iterator[str]:
    for number, content in enumerate(contents):
        calls = [part for part in content.get("parts", ()) if "functionCall" in part]
        if not calls or content.get("role") != "model":
            continue
        if model.startswith("gemini-3") and "thoughtSignature" not in calls[0]:
            name = calls[0]["functionCall"]["name"]
            yield f"Function call is missing a thought_signature in functionCall parts: {name}, position {number + 1}."
        following = contents[number + 1]["parts"] if number + 1 < len(contents) else []
        if len([part for part in following if "functionResponse" in part]) != len(calls):
            yield (
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn."
            )


class GeminiUpstream(WireServer):
    """The stand-in on a port of its own; see `WireServer` for scripts, records and what can be awaited."""

    def __init__(self, default: Script = as_google) -> None:
        super().__init__(default=checked(default))

    async def __aenter__(self) -> GeminiUpstream:
        await super().__aenter__()
        return self

    def script(self, *replies: Script) -> None:
        super().script(*map(checked, replies))

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1beta"
