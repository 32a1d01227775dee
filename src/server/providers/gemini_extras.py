"""What Gemini tells about its text: sources and probabilities, in the shapes that events carry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from server.providers.gemini_wire import counted, objects, words


def sources(citations: Any, grounding: Any, text: str) -> Iterator[msgspec.Raw]:
    """`citationMetadata` and `groundingMetadata` as url citations, each once. Their places are bytes of `text`."""
    seen: dict[bytes, None] = {}
    cited = citations if isinstance(citations, dict) else {}
    for source in (*objects(cited.get("citationSources")), *objects(cited.get("citations"))):
        if url := words(source.get("uri")):
            seen.setdefault(_citation(url, words(source.get("title")), source, text))
    for found in _grounded(grounding if isinstance(grounding, dict) else {}, text):
        seen.setdefault(found)
    yield from map(msgspec.Raw, seen)


def _grounded(grounding: dict[str, Any], text: str) -> Iterator[bytes]:
    chunks = grounding.get("groundingChunks")
    pages = [_page(chunk) for chunk in chunks] if isinstance(chunks, list) else []
    for support in objects(grounding.get("groundingSupports")):
        segment = support.get("segment")
        numbers = support.get("groundingChunkIndices")
        for number in numbers if isinstance(numbers, list) else ():
            if isinstance(number, int) and 0 <= number < len(pages) and pages[number] is not None:
                url, title = pages[number] or ("", "")
                yield _citation(url, title, segment if isinstance(segment, dict) else {}, text)


def _page(chunk: Any) -> tuple[str, str] | None:
    for kind in ("web", "retrievedContext", "maps"):
        page = chunk.get(kind) if isinstance(chunk, dict) else None
        if isinstance(page, dict) and words(page.get("uri")):
            return words(page.get("uri")), words(page.get("title"))
    return None


def _citation(url: str, title: str, place: dict[str, Any], text: str) -> bytes:
    data = text.encode()
    start, end = (_characters(data, counted(place.get(name))) for name in ("startIndex", "endIndex"))
    return msgspec.json.encode(
        {"type": "url_citation", "start_index": start, "end_index": max(start, end), "url": url, "title": title}
    )


def _characters(data: bytes, index: int | None) -> int:
    return len(data[: index or 0].decode("utf-8", "ignore"))


def token_objects(result: Any) -> msgspec.Raw | None:
    """`logprobsResult` as an array of OpenAI's token objects; None where it holds none."""
    if not isinstance(result, dict):
        return None
    chosen = objects(result.get("chosenCandidates"))
    if not chosen:
        return None
    tops = objects(result.get("topCandidates"))
    tokens = []
    for number, candidate in enumerate(chosen):
        others = objects(tops[number].get("candidates")) if number < len(tops) else []
        tokens.append({**_token(candidate), "top_logprobs": [_token(other) for other in others]})
    return msgspec.Raw(msgspec.json.encode(tokens))


def _token(candidate: dict[str, Any]) -> dict[str, Any]:
    token = words(candidate.get("token"))
    logprob = candidate.get("logProbability")
    is_number = isinstance(logprob, int | float) and not isinstance(logprob, bool)
    return {"token": token, "logprob": logprob if is_number else 0.0, "bytes": list(token.encode())}
