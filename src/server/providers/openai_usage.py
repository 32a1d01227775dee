"""Token counts of OpenAI-compatible upstreams, in the gateway's one convention."""

from __future__ import annotations

from typing import Any

from server.domain.usage import Usage


def read_usage(counted: Any, *, reasoning_beside: bool = False) -> Usage | None:
    """The usage object of either API, None where it counts nothing. Zero counts are counts.

    `reasoning_beside`: its output count leaves reasoning out.
    """
    if not isinstance(counted, dict):
        return None
    given, made = (
        _first(counted, "prompt_tokens", "input_tokens"),
        _first(counted, "completion_tokens", "output_tokens"),
    )
    if given is None and made is None:
        return None
    inputs = _object(
        counted, "prompt_tokens_details", "input_tokens_details", "prompt_token_details", "input_token_details"
    )
    outputs = _object(counted, "completion_tokens_details", "output_tokens_details", "output_token_details")
    reasoning = _first(outputs, "reasoning_tokens") or _first(counted, "reasoning_tokens") or 0
    input_tokens, output_tokens = given or 0, made or 0
    if reasoning_beside:
        output_tokens += reasoning
    cached = _first(inputs, "cached_tokens", "cache_read_input_tokens")
    if cached is None:
        cached = _first(counted, "prompt_cache_hit_tokens", "cached_tokens", "num_cached_tokens")
    cached = min(cached or 0, input_tokens)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=min(
            _first(inputs, "cache_write_tokens", "cache_creation_input_tokens") or 0, input_tokens - cached
        ),
        reasoning_tokens=min(reasoning, output_tokens),
        input_audio_tokens=_first(inputs, "audio_tokens") or 0,
        output_audio_tokens=_first(outputs, "audio_tokens") or 0,
        accepted_prediction_tokens=_first(outputs, "accepted_prediction_tokens") or 0,
        rejected_prediction_tokens=_first(outputs, "rejected_prediction_tokens") or 0,
        units={"web_searches": searches} if (searches := _searches(counted)) else {},
    )


def _searches(counted: dict[str, Any]) -> int:
    """Of the web, where they are told: by Perplexity's Agent API, by OpenRouter, by Perplexity's chat."""
    tools = _object(counted, "tool_calls_details")
    called = _first(_object(tools, "search_web", "web_search"), "invocation")
    return (
        called
        or _first(_object(counted, "server_tool_use"), "web_search_requests")
        or _first(counted, "num_search_queries")
        or 0
    )


def _object(counted: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        if isinstance(value := counted.get(name), dict):
            return value
    return {}


def _first(counted: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = counted.get(name)
        if value is not None and (count := _count(value)) is not None:
            return count
    return None


def _count(value: Any) -> int | None:
    if type(value) is not int and type(value) is not float:
        return None
    return int(value) if 0 <= value < 2**53 else None
