"""What the embeddings APIs of OpenAI, Gemini and Cohere take and answer, wire-exact.

The vector of a text is known beforehand (`vector_of`), so that tests can tell whose vector came back where.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any, Literal

from tests.fakes.gemini_wire import refused, status
from tests.fakes.replies import compact, error, json_reply, whole
from tests.fakes.wire import Reply, Request

DIMENSIONS = 8
TOKENS_EACH = 3
"""What a stand-in counts for each input."""

Encoding = Literal["float", "base64"]


def vector_of(given: Any, dimensions: int = DIMENSIONS) -> list[float]:
    """Values that float32 holds exactly; another text has others."""
    seed = hashlib.shake_128(compact(given)).digest(dimensions * 2)
    return [n / 2**15 - 1.0 for n in struct.unpack(f"<{dimensions}H", seed)]


def in_base64(values: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def from_base64(text: str) -> list[float]:
    data = base64.b64decode(text, validate=True)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def openai_list(vectors: list[Any], *, used: int | None = None, **more: Any) -> dict[str, Any]:
    """OpenAI's list of these vectors, each an array or base64."""
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    counted = {} if used is None else {"usage": {"prompt_tokens": used, "total_tokens": used}}
    return {"object": "list", "data": data, "model": "embed-1-2026", **counted, **more}


def as_openai_embeddings(request: Request) -> Reply:
    """What OpenAI would say; what it refuses it refuses in its own words."""
    if not request.path.endswith("/embeddings"):
        return error(404, "Invalid URL.", type="invalid_request_error")
    body = json.loads(request.body)
    unknown = body.keys() - {"model", "input", "dimensions", "encoding_format", "user", "input_type"}
    if unknown:
        return error(400, f"Unrecognized request argument supplied: {min(unknown)}", type="invalid_request_error")
    given = body["input"]
    inputs = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    if len(inputs) > 2048:
        said = f"Invalid 'input': array too long. Expected an array with maximum length 2048, but got {len(inputs)}."
        return error(400, said, type="invalid_request_error", param="input", code="array_above_max_length")
    if any(not text for text in inputs):
        return error(400, "Invalid 'input': input cannot be an empty string.", type="invalid_request_error")
    vectors = [vector_of(text, body.get("dimensions", DIMENSIONS)) for text in inputs]
    written = list(map(in_base64, vectors)) if body.get("encoding_format") == "base64" else vectors
    return json_reply(openai_list(written, used=TOKENS_EACH * len(inputs)), headers={"x-request-id": "req_embed"})


def as_gemini_embeddings(request: Request) -> Reply:
    """What Google would say: no usage, one entry for each request."""
    if not request.path.endswith(":batchEmbedContents"):
        return refused(status(404, "NOT_FOUND", "Requested entity was not found."))
    body = json.loads(request.body)
    if body.keys() != {"requests"}:
        return refused(status(400, "INVALID_ARGUMENT", "Invalid JSON payload received. Unknown name."))
    asked = body["requests"]
    if len(asked) > 100:
        said = "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch\n"
        return refused(status(400, "INVALID_ARGUMENT", said))
    known = {"model", "content", "taskType", "title", "outputDimensionality"}
    for one in asked:
        if one.keys() - known or not one["model"].startswith("models/") or not one["content"]["parts"][0]["text"]:
            return refused(status(400, "INVALID_ARGUMENT", "Invalid JSON payload received. Unknown name."))
    vectors = [
        {"values": vector_of(one["content"]["parts"][0]["text"], one.get("outputDimensionality", DIMENSIONS))}
        for one in asked
    ]
    return json_reply({"embeddings": vectors})


def as_cohere(request: Request) -> Reply:
    """What Cohere would say, which wants to know what the texts are for."""
    if not request.path.endswith("/embed"):
        return json_reply({"id": "x", "message": "not found"}, status=404)
    body = json.loads(request.body)
    known = {"model", "texts", "input_type", "embedding_types", "truncate", "output_dimension"}
    if unknown := body.keys() - known:
        return json_reply({"id": "x", "message": f"unknown field: {min(unknown)}"}, status=400)
    if "input_type" not in body:
        return json_reply({"id": "x", "message": "input_type is required for this model"}, status=400)
    if len(body["texts"]) > 96:
        said = f"invalid request: total number of texts must be at most 96 - received {len(body['texts'])}"
        return json_reply({"id": "x", "message": said}, status=400)
    vectors = [vector_of(text, body.get("output_dimension", DIMENSIONS)) for text in body["texts"]]
    (kind,) = body["embedding_types"]
    written = {kind: list(map(in_base64, vectors)) if kind == "base64" else vectors}
    meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": TOKENS_EACH * len(vectors)}}
    return json_reply({"id": "co-1", "embeddings": written, "texts": body["texts"], "meta": meta,
                       "response_type": "embeddings_by_type"})  # fmt: skip


def with_text(vectors: str) -> Reply:
    """OpenAI's list around vectors that are no JSON of Python's."""
    items = ",".join(
        f'{{"object":"embedding","index":{n},"embedding":{text}}}' for n, text in enumerate(vectors.split("|"))
    )
    return whole(f'{{"object":"list","data":[{items}],"model":"m"}}'.encode())
