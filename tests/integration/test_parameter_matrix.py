"""Every documented parameter of every surface before every dialect: in the upstream's body, or refused by name.

The parameters are those of the vendors' SDKs: a new SDK with a new parameter fails until there is a sample of it here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
import typing_extensions
from anthropic.types import message_create_params
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params

from tests.dialects.cells import DIALECTS, SURFACES, model_of
from tests.fakes.dialects import DialectName
from tests.fakes.surfaces import SurfaceName
from tests.integration.databases import migrated
from tests.integration.dialect_stage import Stage, stage

together = pytest.mark.asyncio(loop_scope="module")

SDK: Mapping[SurfaceName, Any] = {
    "chat": completion_create_params.CompletionCreateParamsBase,
    "responses": response_create_params.ResponseCreateParamsBase,
    "messages": message_create_params.MessageCreateParamsBase,
}
PATHS: Mapping[SurfaceName, str] = {"chat": "/chat/completions", "responses": "/responses", "messages": "/messages"}
LEAST: Mapping[SurfaceName, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Hi"}]},
    "responses": {"input": "Hi"},
    "messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4096},
}
GATEWAYS_OWN: Mapping[SurfaceName, set[str]] = {
    "chat": {"model", "messages", "stream_options"},
    "responses": {"model", "input", "metadata", "previous_response_id", "store", "stream_options"},
    "messages": {"model", "messages"},
}
"""What the gateway sees to itself, whatever the dialect."""

MARK = "zebra7"
"""A word that stands nowhere else."""
SCHEMA = {"type": "object", "properties": {MARK: {"type": "string"}}, "required": [MARK], "additionalProperties": False}
CHAT_TOOLS = [{"type": "function", "function": {"name": MARK, "parameters": SCHEMA}}]
FLAT_TOOLS = [{"type": "function", "name": MARK, "parameters": SCHEMA, "strict": False}]
BLOCK_TOOLS = [{"name": MARK, "input_schema": SCHEMA}]


class Sample:
    """A value of a parameter. One of `sent` must be found upstream; `beside` is what must stand beside it.

    Without `sent` it is the value itself; a pair is a field of that name with that value. With `hidden` the value must
    not be found: a pseudonym of it goes.
    """

    def __init__(self, value: Any, *sent: Any, beside: dict[str, Any] | None = None, hidden: bool = False) -> None:
        self.value = value
        self.sent = sent or (value,)
        self.beside = beside or {}
        self.hidden = hidden


ONE_BY_ONE = (("parallel_tool_calls", False), ("disable_parallel_tool_use", True))
EFFORTS = ("low", "LOW", 2048)
# A name after a dot tells one thing that a parameter may ask for from another.
SAMPLES: Mapping[SurfaceName, Mapping[str, Sample]] = {
    "chat": {
        "audio": Sample({"voice": MARK, "format": "wav"}),
        "frequency_penalty": Sample(0.375),
        "function_call": Sample({"name": MARK}, beside={"functions": [{"name": MARK}]}),
        "functions": Sample([{"name": MARK}]),
        "logit_bias": Sample({"77": 5}),
        "logprobs": Sample(True, ("logprobs", True), ("responseLogprobs", True), "message.output_text.logprobs"),
        "max_completion_tokens": Sample(7777),
        "max_tokens": Sample(7777),
        "metadata": Sample({"a": MARK}),
        "modalities": Sample(["text", "audio"]),
        "moderation": Sample({"model": MARK}),
        "n": Sample(3),
        "parallel_tool_calls": Sample(False, *ONE_BY_ONE, beside={"tools": CHAT_TOOLS}),
        "prediction": Sample({"type": "content", "content": MARK}),
        "presence_penalty": Sample(0.375),
        "prompt_cache_key": Sample(MARK, hidden=True),
        "prompt_cache_options": Sample({"mode": "explicit"}),
        "prompt_cache_retention": Sample("24h"),
        "reasoning_effort": Sample("low", *EFFORTS),
        "response_format": Sample(
            {"type": "json_schema", "json_schema": {"name": "o", "strict": True, "schema": SCHEMA}}, SCHEMA
        ),
        "safety_identifier": Sample(MARK, hidden=True),
        "seed": Sample(777777),
        "service_tier": Sample("flex"),
        "stop": Sample([MARK]),
        "store": Sample(True),
        "temperature": Sample(0.375),
        "tool_choice": Sample("required", "required", "any", "ANY", beside={"tools": CHAT_TOOLS}),
        "tools": Sample(CHAT_TOOLS, SCHEMA),
        "top_logprobs": Sample(7, beside={"logprobs": True}),
        "top_p": Sample(0.96875),
        "user": Sample(MARK, hidden=True),
        "verbosity": Sample("low"),
        "web_search_options": Sample({"search_context_size": "low"}),
    },
    "responses": {
        "access_programs": Sample({"cyber": "standard"}),
        "background": Sample(True),
        "background_options": Sample({"completion_window": "2h"}),
        "context_management": Sample([{"type": "compaction"}]),
        "conversation": Sample(f"conv_{MARK}"),
        "image": Sample({"context_compression": "auto"}),
        "include": Sample(["file_search_call.results"]),
        "instructions": Sample(MARK),
        "max_output_tokens": Sample(7777),
        "max_tool_calls": Sample(77),
        "moderation": Sample({"model": MARK}),
        "parallel_tool_calls": Sample(False, *ONE_BY_ONE, beside={"tools": FLAT_TOOLS}),
        "prompt": Sample({"id": MARK}),
        "prompt_cache_key": Sample(MARK, hidden=True),
        "prompt_cache_options": Sample({"mode": "explicit"}),
        "prompt_cache_retention": Sample("24h"),
        "reasoning": Sample({"effort": "low"}, *EFFORTS),
        "safety_identifier": Sample(MARK, hidden=True),
        "service_tier": Sample("flex"),
        "temperature": Sample(0.375),
        "text": Sample({"format": {"type": "json_schema", "name": "o", "strict": True, "schema": SCHEMA}}, SCHEMA),
        "tool_choice": Sample("required", "required", "any", "ANY", beside={"tools": FLAT_TOOLS}),
        "tools": Sample(FLAT_TOOLS, SCHEMA),
        "top_logprobs": Sample(7),
        "top_p": Sample(0.96875),
        "truncation": Sample("auto"),
        "user": Sample(MARK, hidden=True),
        "include.logprobs": Sample(
            ["message.output_text.logprobs"],
            ("logprobs", True),
            ("responseLogprobs", True),
            "message.output_text.logprobs",
        ),
        "include.encrypted": Sample(["reasoning.encrypted_content"]),
        "reasoning.summary": Sample({"summary": "auto"}, ("summary", "auto"), ("includeThoughts", True)),
        "text.verbosity": Sample({"verbosity": "low"}, ("verbosity", "low")),
    },
    "messages": {
        "cache_control": Sample({"type": "ephemeral"}),
        "container": Sample(MARK),
        "diagnostics": Sample({"previous_message_id": MARK}),
        "inference_geo": Sample("us"),
        "max_tokens": Sample(7777),
        "metadata": Sample({"user_id": MARK}, hidden=True),
        "output_config": Sample({"format": {"type": "json_schema", "schema": SCHEMA}}, SCHEMA),
        "service_tier": Sample("standard_only"),
        "speed": Sample("fast"),
        "stop_sequences": Sample([MARK]),
        "system": Sample(MARK),
        "temperature": Sample(0.375),
        "thinking": Sample({"type": "enabled", "budget_tokens": 2048}, *EFFORTS),
        "tool_choice": Sample({"type": "any"}, "required", "any", "ANY", beside={"tools": BLOCK_TOOLS}),
        "tools": Sample(BLOCK_TOOLS, SCHEMA),
        "top_k": Sample(7),
        "top_p": Sample(0.96875),
        "user_profile_id": Sample(MARK),
        "workspace_id": Sample(MARK),
        "output_config.effort": Sample({"effort": "low"}, *EFFORTS),
        "thinking.adaptive": Sample({"type": "adaptive"}, ("type", "enabled"), ("includeThoughts", True)),
        "tool_choice.auto": Sample(
            {"type": "auto", "disable_parallel_tool_use": True}, *ONE_BY_ONE, beside={"tools": BLOCK_TOOLS}
        ),
    },
}
OLDER: Mapping[SurfaceName, set[str]] = {
    "chat": set(),
    "responses": set(),
    "messages": {"temperature", "top_p", "top_k"},
}
"""What the SDK has no argument for any more, and its older versions send."""
HINTS: Mapping[SurfaceName, set[str]] = {
    "chat": set(),
    "responses": {"include.encrypted", "reasoning.summary"},
    "messages": {"cache_control", "metadata", "service_tier", "thinking.adaptive"},
}
"""What may be left out, for it asks for no other answer, or for what comes anyway: seals, summaries, a model that
decides by itself how long to think.
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stage, None]:
    """With a Claude that takes samplings and budgets."""
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('matrix') / 'gateway.db'}"
    async with migrated(url) as database, stage(database, {"anthropic": "claude-haiku-4-5"}) as made:
        yield made


@pytest.fixture
def at(whole_stage: Stage) -> Stage:
    whole_stage.forget()
    return whole_stage


async def post(at: Stage, surface: SurfaceName, dialect: DialectName, **fields: Any) -> httpx2.Response:
    body = {"model": model_of(dialect), **LEAST[surface], **fields}
    headers = {"authorization": "Bearer real"}
    return await at.http.post(f"http://gateway.test/v1{PATHS[surface]}", json=body, headers=headers)


async def outcome(at: Stage, surface: SurfaceName, dialect: DialectName, name: str) -> str:
    """`sent`, `refused` or `left out`; anything else fails."""
    sample, field = SAMPLES[surface][name], name.partition(".")[0]
    reply = await post(at, surface, dialect, **{field: sample.value}, **sample.beside)
    if reply.status_code == 400:
        told = reply.json()
        assert (told["reason"], at.upstreams[dialect].requests) == ("unsupported_parameter", [])
        assert told["param"].partition(".")[0].partition("[")[0] in (field, *sample.beside)
        return "refused"
    assert reply.status_code == 200, reply.text
    sent = at.sent(dialect)
    at.forget()
    assert (await post(at, surface, dialect, **sample.beside)).status_code == 200
    without = at.sent(dialect)
    if sample.hidden:
        assert MARK not in json.dumps(sent)
        return "left out" if sent == without else "sent"
    if any(holds(sent, value) and not holds(without, value) for value in sample.sent):
        return "sent"
    assert sent == without, "something else was sent"
    return "left out"


def holds(body: Any, wanted: Any) -> bool:
    """Whether `wanted` stands somewhere in a JSON value: itself, or a field with its name and value."""
    if isinstance(wanted, tuple) and isinstance(body, dict) and body.get(wanted[0]) == wanted[1]:
        return True
    if type(body) is type(wanted) and body == wanted:
        return True
    if isinstance(body, dict):
        return any(holds(value, wanted) for value in body.values())
    return isinstance(body, list) and any(holds(value, wanted) for value in body)


def matrix() -> Iterator[Any]:
    for surface in SURFACES:
        for dialect in DIALECTS:
            for name in SAMPLES[surface]:
                yield pytest.param(surface, dialect, name, id=f"{surface}-{dialect}-{name}")


def test_there_is_a_sample_of_every_parameter() -> None:
    for surface in SURFACES:
        known = set(typing_extensions.get_type_hints(SDK[surface])) | OLDER[surface]
        whole = {name for name in SAMPLES[surface] if "." not in name}
        assert whole == known - GATEWAYS_OWN[surface]
        assert all(name.partition(".")[0] in whole for name in SAMPLES[surface])


EVERY = DIALECTS
REFUSED: Mapping[SurfaceName, Mapping[tuple[DialectName, ...], tuple[str, ...]]] = {
    "chat": {
        EVERY: ("audio", "function_call", "functions", "modalities"),
        ("openai_responses",): ("stop",),
        ("openai_responses", "anthropic"): ("frequency_penalty", "n", "presence_penalty", "seed"),
        ("openai_responses", "anthropic", "gemini"): ("logit_bias", "prediction", "web_search_options"),
        ("anthropic",): ("logprobs", "top_logprobs"),
        ("anthropic", "gemini"): (
            "metadata",
            "moderation",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "service_tier",
            "store",
            "verbosity",
        ),
        ("gemini",): ("parallel_tool_calls", "safety_identifier", "user"),
    },
    "responses": {
        EVERY: ("background", "conversation", "prompt"),
        ("openai", "anthropic", "gemini"): (
            "access_programs",
            "background_options",
            "context_management",
            "image",
            "include",
            "max_tool_calls",
            "truncation",
        ),
        ("openai",): ("include.encrypted", "reasoning.summary"),
        ("anthropic",): ("top_logprobs", "include.logprobs"),
        ("anthropic", "gemini"): (
            "moderation",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "service_tier",
            "text.verbosity",
        ),
        ("gemini",): ("parallel_tool_calls", "safety_identifier", "user"),
    },
    "messages": {
        EVERY: ("container", "diagnostics", "inference_geo", "speed", "user_profile_id", "workspace_id"),
        ("openai", "openai_responses"): ("top_k",),
        ("openai_responses",): ("stop_sequences",),
        ("gemini",): ("tool_choice.auto",),
    },
}
"""With the values of `SAMPLES`: others of the same parameter may ask for nothing, as `n: 1` does."""


def is_refused(surface: SurfaceName, dialect: DialectName, name: str) -> bool:
    return any(dialect in dialects and name in names for dialects, names in REFUSED[surface].items())


IN_FULL = {
    "include.encrypted": "include: reasoning.encrypted_content",
    "include.logprobs": "include: message.output_text.logprobs",
    "tool_choice.auto": "tool_choice.disable_parallel_tool_use",
}


def table() -> str:
    """The matrix as `docs/dialects.md` shows it: what is refused; all else is sent."""
    rows = [["Surface", "Refused by", "Parameters"], ["---"] * 3]
    for surface, groups in REFUSED.items():
        for dialects, names in groups.items():
            by = "every dialect" if dialects == EVERY else ", ".join(f"`{dialect}`" for dialect in dialects)
            rows.append([f"`{surface}`", by, ", ".join(f"`{IN_FULL.get(name, name)}`" for name in names)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_the_documentation_shows_this_matrix() -> None:
    page = Path(__file__).parents[2] / "docs" / "dialects.md"
    assert table() in page.read_text(), table()


@together
@pytest.mark.parametrize(("surface", "dialect", "name"), list(matrix()))
async def test_p10_a_parameter_is_sent_or_refused(
    at: Stage, surface: SurfaceName, dialect: DialectName, name: str
) -> None:
    found = await outcome(at, surface, dialect, name)

    assert found in ("sent", "refused") or name in HINTS[surface]
    assert (found == "refused") == is_refused(surface, dialect, name)
