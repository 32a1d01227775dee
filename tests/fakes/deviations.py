"""How servers that call themselves OpenAI-compatible differ from OpenAI on the wire, as replies to script.

Every reply of `STREAMS` says "Hello there!" and stops properly, every one of `TOOL_STREAMS` calls `get_weather` once,
with the arguments `{"city":"Paris"}`, whatever its manners; those of `FAILING_STREAMS` fail under a 200, and those of
`ERRORS` fail outright. `DEVIATIONS` has them all by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.fakes import responses_wire
from tests.fakes.chat_wire import (
    CREATED,
    DONE,
    ID,
    chat_chunks,
    chat_stream,
    completion,
    delta_chunk,
    finish_chunk,
    frame,
    role_chunk,
    text_chunk,
    text_chunks,
    usage,
    usage_chunk,
)
from tests.fakes.replies import chunked, compact, error_body, json_reply, sse, sse_event, until_close, whole
from tests.fakes.wire import Cut, Pause, Reply

Build = Callable[[], Reply]

HELLO = [text_chunk("Hello"), text_chunk(" there!")]


def _framed(newline: bytes, *, done: bool = True) -> Reply:
    events = [sse_event(compact(value), newline=newline) for value in text_chunks("Hello", " there!")]
    last = [sse_event(b"[DONE]", newline=newline)] if done else []
    return sse([*events, *last])


# Framing.


def crlf() -> Reply:
    """Gemini's compatible surface: CRLF line ends."""
    return _framed(b"\r\n")


def cr() -> Reply:
    """Nobody known, but the format allows it: CR line ends."""
    return _framed(b"\r")


def openrouter_comments() -> Reply:
    """OpenRouter: `: OPENROUTER PROCESSING` before and between chunks."""
    pieces = [b": OPENROUTER PROCESSING\n\n" + event for event in frame(text_chunks("Hello", " there!"))]
    return sse([b": OPENROUTER PROCESSING\n\n", *pieces])


def deepseek_keep_alive() -> Reply:
    """DeepSeek under load: `: keep-alive` while the request waits."""
    return chunked([b": keep-alive\n\n", Pause(0.02), b": keep-alive\n\n", *frame(text_chunks("Hello", " there!"))])


def multi_line_data() -> Reply:
    """Pretty-printing proxies: one JSON value over several data lines."""
    pretty = [compact(value).replace(b',"', b',\n"') for value in text_chunks("Hello", " there!")]
    return sse([*map(sse_event, pretty), DONE])


def no_space_after_colon() -> Reply:
    """Several small servers: `data:{...}`."""
    return sse([event.replace(b"data: ", b"data:") for event in frame(text_chunks("Hello", " there!"))])


def missing_done() -> Reply:
    """DeepSeek's /responses, some proxies: the stream just ends after the last chunk."""
    return chat_stream("Hello", " there!", done=False)


def missing_last_blank_line() -> Reply:
    """Small servers: `[DONE]` without the empty line after it."""
    return sse([*frame(text_chunks("Hello", " there!"), done=False), b"data: [DONE]"])


def named_events() -> Reply:
    """Proxies that name every event."""
    return sse([*(sse_event(compact(value), event="message") for value in text_chunks("Hello", " there!")), DONE])


def byte_order_mark() -> Reply:
    """Windows-born proxies: a byte order mark at the start."""
    return sse([b"\xef\xbb\xbf", *frame(text_chunks("Hello", " there!"))])


def id_and_retry_fields() -> Reply:
    """Generic SSE servers: `id:` and `retry:` fields around the data."""
    return sse([b"retry: 3000\n\n", *(b"id: 1\n" + event for event in frame(text_chunks("Hello", " there!")))])


def closed_connection() -> Reply:
    """HTTP/1.0 manners: no framing of the body but the connection's end."""
    return until_close(b"".join(frame(text_chunks("Hello", " there!"))), content_type="text/event-stream")


def single_bytes() -> Reply:
    """A network at its worst: every byte of the stream in a packet of its own."""
    stream = b"".join(frame([*HELLO, finish_chunk(), usage_chunk()]))
    return sse([stream[at : at + 1] for at in range(len(stream))])


# Chunks.


def azure_filter_chunk() -> Reply:
    """Azure: a first chunk without choices, id or model, with filter results only."""
    first = {
        "choices": [],
        "created": 0,
        "id": "",
        "model": "",
        "object": "",
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}],
    }
    return chat_chunks([first, *text_chunks("Hello", " there!")])


def null_choices() -> Reply:
    """Heartbeats of several servers: `choices` null, or not there."""
    heartbeat = {**delta_chunk({}), "choices": None}
    bare = {key: value for key, value in delta_chunk({}).items() if key != "choices"}
    return chat_chunks([heartbeat, bare, *text_chunks("Hello", " there!")])


def usage_with_choice_after_finish() -> Reply:
    """OpenRouter: the usage chunk keeps a choice, after the finishing chunk; the role stands in every delta."""
    texts = [delta_chunk({"role": "assistant", "content": text}) for text in ("Hello", " there!")]
    last = delta_chunk({"role": "assistant", "content": ""}, usage=usage(), provider="Acme")
    return chat_chunks([*texts, finish_chunk(native_finish_reason="stop"), last])


def finish_twice() -> Reply:
    """OpenRouter: the finish reason stands on two chunks."""
    return chat_chunks([role_chunk(), *HELLO, finish_chunk(), finish_chunk(), usage_chunk()])


def groq_usage() -> Reply:
    """Groq: usage in `x_groq` of the last chunk, which still has its choice."""
    first = {**role_chunk(), "x_groq": {"id": "req_groq", "seed": 7}}
    counted = {**usage(), "queue_time": 0.01, "prompt_time": 0.001, "completion_time": 0.02, "total_time": 0.021}
    return chat_chunks([first, *HELLO, finish_chunk(x_groq={"id": "req_groq", "usage": counted})])


def usage_on_finish() -> Reply:
    """Mistral, DeepSeek, Moonshot, z.ai: usage on the finishing chunk, and none after it."""
    return chat_chunks([role_chunk(), *HELLO, finish_chunk(usage=usage())])


def cumulative_usage() -> Reply:
    """Perplexity, vLLM with continuous usage: usage on every chunk, the last one counts."""
    counted = [usage(9, 1), usage(9, 2), usage(9, 3)]
    chunks = [text_chunk("Hello"), text_chunk(" there!"), finish_chunk()]
    return chat_chunks([{**value, "usage": count} for value, count in zip(chunks, counted, strict=True)])


def no_usage() -> Reply:
    """Small servers: no usage at all, asked or not."""
    return chat_chunks([role_chunk(), *HELLO, finish_chunk()])


def null_fields() -> Reply:
    """Azure-hosted DeepSeek: null for every absent field of a delta."""
    nothing: dict[str, Any] = {"role": None, "content": None, "tool_calls": None, "reasoning_content": None}
    texts = [delta_chunk({**nothing, "content": text}) for text in ("Hello", " there!")]
    return chat_chunks([delta_chunk({**nothing, "role": "assistant"}), *texts, finish_chunk(), usage_chunk()])


def together_extras() -> Reply:
    """Together: `text` beside the delta, `token_id`, a `retry-after` on a 200."""
    chunks = [delta_chunk({"content": text, "token_id": 5}) for text in ("Hello", " there!")]
    for value in chunks:
        value["choices"][0]["text"] = value["choices"][0]["delta"]["content"]
    finish = finish_chunk(usage={**usage(), "cached_tokens": 0})
    return sse(frame([*chunks, finish]), headers={"retry-after": "30"})


def obfuscation() -> Reply:
    """OpenAI itself: a padding string of random length in every delta."""
    return chat_chunks([{**value, "obfuscation": "x" * 7} for value in text_chunks("Hello", " there!")])


def moderation_chunk() -> Reply:
    """OpenAI with `moderation`: another chunk without choices after the usage."""
    return chat_chunks([*text_chunks("Hello", " there!"), {**usage_chunk(), "usage": None, "moderation": {}}])


def content_parts() -> Reply:
    """Mistral's reasoning models: `content` is now a string, now an array of parts."""
    parts = [{"type": "text", "text": " there!"}]
    return chat_chunks([text_chunk("Hello"), delta_chunk({"content": parts}), finish_chunk(usage=usage())])


# Tool calls.


def _call(
    index: int | None, *, id: str | None = None, name: str | None = None, arguments: Any = None
) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    call: dict[str, Any] = {"function": {key: value for key, value in function.items() if value is not None}}
    if index is not None:
        call["index"] = index
    if id is not None:
        call["id"] = id
    return delta_chunk({"tool_calls": [call]})


ARGUMENTS = '{"city":"Paris"}'


def tool_openai() -> Reply:
    """OpenAI: id, name and index first, then the arguments in pieces."""
    begin = _call(0, id="call_1", name="get_weather", arguments="")
    pieces = [_call(0, arguments=piece) for piece in ('{"ci', 'ty":"Pa', 'ris"}')]
    return chat_chunks([role_chunk(), begin, *pieces, finish_chunk("tool_calls"), usage_chunk()])


def tool_whole() -> Reply:
    """Groq, Mistral, xAI: the whole call in one chunk, Mistral with the finish reason in the same."""
    call = _call(0, id="call_1", name="get_weather", arguments=ARGUMENTS)
    call["choices"][0]["finish_reason"] = "tool_calls"
    return chat_chunks([{**call, "usage": usage()}])


def tool_without_index() -> Reply:
    """Gemini's compatible surface, older Ollama: no `index`."""
    call = _call(None, id="call_1", name="get_weather", arguments=ARGUMENTS)
    return chat_chunks([role_chunk(), call, finish_chunk("tool_calls"), usage_chunk()])


def tool_index_from_one() -> Reply:
    """Proxies that number from 1."""
    begin = _call(1, id="call_1", name="get_weather", arguments="")
    return chat_chunks([begin, _call(1, arguments=ARGUMENTS), finish_chunk("tool_calls"), usage_chunk()])


def tool_index_changes() -> Reply:
    """Proxies that begin a call on one index and go on with it on another."""
    begin = _call(0, id="call_1", name="get_weather", arguments="")
    rest = [_call(1, arguments=piece) for piece in ('{"city":', '"Paris"}')]
    return chat_chunks([begin, *rest, finish_chunk("tool_calls"), usage_chunk()])


def tool_empty_ids() -> Reply:
    """Alibaba: empty id and name on the pieces that follow."""
    begin = _call(0, id="call_1", name="get_weather", arguments="")
    rest = [_call(0, id="", name="", arguments=piece) for piece in ('{"city":', '"Paris"}')]
    return chat_chunks([begin, *rest, finish_chunk("tool_calls"), usage_chunk()])


def tool_without_id() -> Reply:
    """Ollama: no id at all."""
    return chat_chunks([_call(0, name="get_weather", arguments=ARGUMENTS), finish_chunk("tool_calls"), usage_chunk()])


def tool_late_name() -> Reply:
    """Resellers: the name arrives after the first bytes of the arguments."""
    pieces = [_call(0, id="call_1", arguments='{"city":'), _call(0, name="get_weather", arguments='"Paris"}')]
    return chat_chunks([*pieces, finish_chunk("tool_calls"), usage_chunk()])


def tool_object_arguments() -> Reply:
    """Mistral's type allows it: arguments as an object."""
    call = _call(0, id="call_1", name="get_weather", arguments={"city": "Paris"})
    return chat_chunks([call, finish_chunk("tool_calls"), usage_chunk()])


def tool_finish_stop() -> Reply:
    """Gemini's compatible surface: `stop` although a tool is called."""
    call = _call(0, id="call_1", name="get_weather", arguments=ARGUMENTS)
    return chat_chunks([role_chunk(), call, finish_chunk("stop"), usage_chunk()])


# Failures under a 200.


def error_first() -> Reply:
    """OpenAI and compatibles: an error as the first and only event."""
    return sse([sse_event(compact(error_body("The server had an error.", type="server_error")))])


def error_after_text() -> Reply:
    """The same after two deltas."""
    failed = sse_event(compact(error_body("The server had an error.", type="server_error", code="boom")))
    return sse([*frame([role_chunk(), *HELLO], done=False), failed])


def groq_error_event() -> Reply:
    """Groq: `event: error` with a status code inside, then no `[DONE]`."""
    body = error_body("Failed to call a function.", type="invalid_request_error", code="tool_use_failed")
    body["error"]["status_code"] = 400
    return sse([*frame([role_chunk()], done=False), sse_event(compact(body), event="error")])


def openrouter_error_chunk() -> Reply:
    """OpenRouter: a chunk like any other with `error` at its top, then `[DONE]`."""
    failed = {**finish_chunk("error"), "error": {"code": 502, "message": "Provider returned error"}, "usage": usage()}
    return sse(frame([role_chunk(), *HELLO, failed]))


def lm_studio_error() -> Reply:
    """LM Studio: an untyped error with the message twice."""
    body = {"error": {"message": "The model has crashed."}, "message": "The model has crashed."}
    return sse([sse_event(compact(body), event="error")])


def error_without_data_prefix() -> Reply:
    """Gemini: bare JSON between events, without `data:`; the stream then ends with no finish reason."""
    bare = b'{\n  "error": {\n    "code": 503,\n    "message": "Overloaded",\n    "status": "UNAVAILABLE"\n  }\n}\n'
    return sse([*frame([role_chunk(), text_chunk("Hello")], done=False), bare])


def no_finish_reason() -> Reply:
    """Many: the stream ends, properly framed, without a finish reason and without `[DONE]`."""
    return sse(frame([role_chunk(), *HELLO], done=False))


def cut_in_the_middle() -> Reply:
    """Anybody: the connection closes within the body."""
    return sse(frame([role_chunk(), *HELLO], done=False), end=Cut())


def broken_json() -> Reply:
    """Proxies that cut lines: an event whose JSON does not parse."""
    return sse([*frame([role_chunk(), text_chunk("Hello")], done=False), b'data: {"choices":[{"del\n\n', DONE])


def not_an_object() -> Reply:
    """Nobody in good health: JSON of another type."""
    return sse([b"data: [1, 2]\n\n", DONE])


def empty_stream() -> Reply:
    """LM Studio on an oversize prompt: `[DONE]` and nothing else."""
    return sse([DONE])


def responses_error_nested() -> Reply:
    """OpenAI Responses: an `error` event with the error nested, then `response.failed`."""
    begun = responses_wire.text_events("x")[:2]
    body = {"type": "insufficient_quota", "code": "insufficient_quota", "message": "You exceeded your quota."}
    failed = responses_wire.response_object([], status="failed", usage=None, error=body)
    events = [
        *begun,
        {"type": "error", "error": {**body, "param": None}},
        {"type": "response.failed", "response": failed},
    ]
    return responses_wire.responses_events(responses_wire.numbered(events))


def responses_error_flat() -> Reply:
    """OpenAI Responses as its SDK types it: a flat `error` event."""
    flat = {"type": "error", "code": "server_error", "message": "The server had an error.", "param": None}
    return responses_wire.responses_events(responses_wire.numbered([*responses_wire.text_events("x")[:2], flat]))


# Outright errors.


def html_error() -> Reply:
    """A CDN in front: an HTML page."""
    page = b"<html><head><title>502 Bad Gateway</title></head><body>nginx/1.25.3 upstream 10.0.0.7</body></html>"
    return whole(page, status=502, content_type="text/html")


def empty_error() -> Reply:
    """A proxy: a status and no body."""
    return whole(b"", status=503, content_type="text/plain")


def mistral_error() -> Reply:
    """Mistral: flat, with a number for a code."""
    body = {"object": "error", "message": "Service tier capacity exceeded.", "type": "capacity", "code": 3505}
    return json_reply({**body, "param": None}, status=429)


def mistral_validation() -> Reply:
    """Mistral: a 422 in FastAPI's shape."""
    detail = {"loc": ["body", "messages", 0, "role"], "msg": "Input should be 'user'", "type": "enum"}
    return json_reply({"object": "error", "message": {"detail": [detail]}, "type": "invalid"}, status=422)


def fastapi_validation() -> Reply:
    """Servers on FastAPI: `detail` alone."""
    return json_reply({"detail": [{"loc": ["body", "model"], "msg": "Field required", "type": "missing"}]}, status=422)


def cohere_error() -> Reply:
    """Cohere: a message and nothing else, under an odd status."""
    return json_reply({"message": "invalid api token"}, status=498)


def xai_flat_error() -> Reply:
    """xAI: two strings."""
    return json_reply({"code": "Client specified an invalid argument", "error": "Bad model"}, status=400)


def error_string() -> Reply:
    """Fireworks, xAI speech: the error is a string."""
    return json_reply({"error": "The model is overloaded."}, status=503)


def int_code() -> Reply:
    """vLLM, OpenRouter, Perplexity: a number for a code."""
    body = error_body("This model's maximum context length is 4096 tokens.", type="BadRequestError", code=400)
    return json_reply(body, status=400)


def error_in_array() -> Reply:
    """Gemini's compatible surface: the error in a list of one."""
    inner = {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT", "details": []}}
    return json_reply([inner], status=400)


def cloudflare_error() -> Reply:
    """Cloudflare: an envelope with lists."""
    body = {"success": False, "errors": [{"code": 7003, "message": "Could not route"}], "messages": [], "result": None}
    return json_reply(body, status=404)


def openrouter_metadata() -> Reply:
    """OpenRouter: the real provider's words as a string inside `metadata`."""
    raw = '{"error":{"message":"Rate limited upstream"}}'
    inner = {"code": 429, "message": "Provider returned error", "metadata": {"provider_name": "Acme", "raw": raw}}
    return json_reply({"error": inner, "user_id": "user_1"}, status=429)


def azure_content_filter() -> Reply:
    """Azure: a filtered prompt."""
    body = error_body("The response was filtered.", type="invalid_request_error", code="content_filter", param="prompt")
    body["error"]["status"] = 400
    body["error"]["innererror"] = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}}
    return json_reply(body, status=400)


def quota_exhausted() -> Reply:
    """OpenAI: no money, with the status of a rate limit."""
    body = error_body("You exceeded your current quota.", type="insufficient_quota", code="insufficient_quota")
    return json_reply(body, status=429)


def error_under_200() -> Reply:
    """OpenRouter, unary: status 200 and an error."""
    return json_reply({"error": {"code": 502, "message": "Provider returned error"}, "user_id": "user_1"})


def all_null() -> Reply:
    """OpenRouter, unary: status 200 and every field null."""
    return json_reply(dict.fromkeys(("id", "choices", "created", "model", "object", "usage")))


def blank_lines_before_json() -> Reply:
    """DeepSeek, unary, under load: empty lines before a proper completion (no error at all)."""
    body = compact(completion("Hello there!", id=ID, created=CREATED))
    return chunked([b"\n", b"\n", b"\n", body], content_type="application/json")


def _named(*builds: Build) -> dict[str, Build]:
    return {build.__name__: build for build in builds}


STREAMS = _named(
    crlf, cr, openrouter_comments, deepseek_keep_alive, multi_line_data, no_space_after_colon, missing_done,
    missing_last_blank_line, named_events, byte_order_mark, id_and_retry_fields, closed_connection, single_bytes,
    azure_filter_chunk, null_choices, usage_with_choice_after_finish, finish_twice, groq_usage, usage_on_finish,
    cumulative_usage, no_usage, null_fields, together_extras, obfuscation, moderation_chunk, content_parts,
)  # fmt: skip
TOOL_STREAMS = _named(
    tool_openai, tool_whole, tool_without_index, tool_index_from_one, tool_index_changes, tool_empty_ids,
    tool_without_id, tool_late_name, tool_object_arguments, tool_finish_stop,
)  # fmt: skip
FAILING_STREAMS = _named(
    error_first, error_after_text, groq_error_event, openrouter_error_chunk, lm_studio_error,
    error_without_data_prefix, no_finish_reason, cut_in_the_middle, broken_json, not_an_object, empty_stream,
)  # fmt: skip
FAILING_RESPONSES = _named(responses_error_nested, responses_error_flat)
ERRORS = _named(
    html_error, empty_error, mistral_error, mistral_validation, fastapi_validation, cohere_error, xai_flat_error,
    error_string, int_code, error_in_array, cloudflare_error, openrouter_metadata, azure_content_filter,
    quota_exhausted, error_under_200, all_null,
)  # fmt: skip
UNARY = _named(blank_lines_before_json)
DEVIATIONS: dict[str, Build] = {
    **STREAMS, **TOOL_STREAMS, **FAILING_STREAMS, **FAILING_RESPONSES, **ERRORS, **UNARY,
}  # fmt: skip
