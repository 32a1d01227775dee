"""The parameters of generation, by one canonical name each, and how each surface and the catalogue spell them.

A parameter listed here is one that a provider must honour: a request that sets it is only routed to an offer whose
catalogue entry and dialect both carry it. What the gateway handles by itself (`stream`, `store` on the Responses
surface, `meta`, …) is not listed.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Parameter(msgspec.Struct, frozen=True):
    """`chat`, `responses` and `messages` are the spellings on those surfaces; empty where a surface does not have it.

    Parameters without any spelling are those of embeddings, pictures, sound and videos.

    `passthrough`: the gateway gives it no meaning of its own and carries its JSON as it is.
    """

    name: str
    chat: tuple[str, ...] = ()
    responses: tuple[str, ...] = ()
    passthrough: bool = False
    messages: tuple[str, ...] = ()


def _all(name: str, *, passthrough: bool = False) -> Parameter:
    return Parameter(name, (name,), (name,), passthrough, (name,))


def _both(name: str, *, passthrough: bool = False, messages: tuple[str, ...] = ()) -> Parameter:
    """Of OpenAI's two surfaces."""
    return Parameter(name, (name,), (name,), passthrough, messages)


def _chat(name: str, *, passthrough: bool = False) -> Parameter:
    return Parameter(name, chat=(name,), passthrough=passthrough)


def _responses(name: str, *, passthrough: bool = False) -> Parameter:
    return Parameter(name, responses=(name,), passthrough=passthrough)


_ALL: Final = (
    _all("temperature"),
    _all("top_p"),
    Parameter("top_k", passthrough=True, messages=("top_k",)),
    _chat("frequency_penalty"),
    _chat("presence_penalty"),
    _chat("seed"),
    Parameter("stop", ("stop",), messages=("stop_sequences",)),
    Parameter(
        "max_output_tokens",
        ("max_completion_tokens", "max_tokens"),
        ("max_output_tokens",),
        messages=("max_tokens",),
    ),
    _chat("n"),
    Parameter("logprobs", ("logprobs",), ("include",)),
    _both("top_logprobs"),
    _chat("logit_bias"),
    _all("tools"),
    _all("tool_choice"),
    _both("parallel_tool_calls", messages=("tool_choice.disable_parallel_tool_use",)),
    Parameter(
        "response_format",
        ("response_format",),
        ("text.format",),
        messages=("output_config.format", "output_format"),
    ),
    Parameter("verbosity", ("verbosity",), ("text.verbosity",), passthrough=True),
    Parameter(
        "reasoning_effort",
        ("reasoning_effort",),
        ("reasoning.effort",),
        messages=("output_config.effort", "thinking"),
    ),
    Parameter("reasoning_summary", (), ("reasoning.summary",)),
    Parameter("reasoning_encrypted_content", (), ("include",)),
    _all("service_tier", passthrough=True),
    _both("prompt_cache_key", passthrough=True),
    _both("prompt_cache_options", passthrough=True),
    _both("prompt_cache_retention", passthrough=True),
    _both("safety_identifier", passthrough=True),
    _both("user", passthrough=True, messages=("metadata.user_id",)),
    _both("moderation", passthrough=True),
    Parameter("dimensions"),
    Parameter("size"),
    Parameter("quality"),
    Parameter("style", passthrough=True),
    Parameter("output_format"),
    Parameter("output_compression", passthrough=True),
    Parameter("input_fidelity", passthrough=True),
    Parameter("partial_images"),
    Parameter("speed"),
    Parameter("instructions"),
    Parameter("stream_format"),
    Parameter("language"),
    Parameter("timestamp_granularities"),
    Parameter("chunking_strategy", passthrough=True),
    Parameter("seconds"),
    Parameter("resolution"),
    Parameter("aspect_ratio"),
    Parameter("negative_prompt"),
    Parameter("input_reference"),
    _chat("metadata", passthrough=True),
    _chat("store", passthrough=True),
    _chat("audio", passthrough=True),
    _chat("modalities", passthrough=True),
    _chat("prediction", passthrough=True),
    _chat("web_search_options", passthrough=True),
    _chat("function_call", passthrough=True),
    _chat("functions", passthrough=True),
    _responses("access_programs", passthrough=True),
    _responses("background", passthrough=True),
    _responses("background_options", passthrough=True),
    _responses("context_management", passthrough=True),
    _responses("conversation", passthrough=True),
    _responses("image", passthrough=True),
    _responses("include", passthrough=True),
    _responses("max_tool_calls", passthrough=True),
    _responses("prompt", passthrough=True),
    _responses("truncation", passthrough=True),
)

PARAMETERS: Final[dict[str, Parameter]] = {parameter.name: parameter for parameter in _ALL}

CANONICAL: Final[dict[str, str]] = {
    spelling: parameter.name
    for parameter in _ALL
    for spelling in (parameter.name, *parameter.chat, *parameter.responses, *parameter.messages)
    if spelling != "include" or parameter.name == "include"
}
"""Every spelling, on any surface or in the catalogue, to its canonical name."""

PSEUDONYMISED: Final = frozenset({"prompt_cache_key", "safety_identifier", "user"})
"""Identifiers that leave only as a value derived from team and text: no team can probe another's cache or users."""
