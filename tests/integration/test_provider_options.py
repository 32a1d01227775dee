"""What no client may say to a provider through `provider_options`: refused by name, and nobody is called."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dialects.asked import ASKED
from tests.dialects.cells import SURFACES, model_of
from tests.fakes.dialects import DialectName
from tests.fakes.surfaces import SurfaceName
from tests.integration.dialect_stage import Stage, at, whole_stage

__all__ = ["at", "whole_stage"]

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATHS = {"chat": "/chat/completions", "responses": "/responses", "messages": "/messages"}
OPENAI: tuple[DialectName, ...] = ("openai", "openai_responses")


async def refused(at: Stage, surface: SurfaceName, dialect: DialectName, key: str, value: Any) -> None:
    options = {dialect: {key: value}}
    body = {"model": model_of(dialect), **ASKED[surface]["text"], "stream": True, "provider_options": options}
    url = f"http://gateway.test/v1{PATHS[surface]}"
    reply = await at.http.post(url, json=body, headers={"authorization": "Bearer real"})

    assert reply.status_code == 400, reply.text
    assert f"provider_options.{dialect}.{key}" in reply.text
    assert at.upstreams[dialect].requests == []


@pytest.mark.parametrize("dialect", OPENAI)
@pytest.mark.parametrize("surface", SURFACES)
async def test_nobody_switches_off_what_the_provider_counts(
    at: Stage, surface: SurfaceName, dialect: DialectName
) -> None:
    await refused(at, surface, dialect, "stream_options", {"include_usage": False})


@pytest.mark.parametrize("dialect", OPENAI)
async def test_nobody_names_other_models(at: Stage, dialect: DialectName) -> None:
    await refused(at, "chat", dialect, "models", ["acme/dearest"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
        ("prompt", {"id": "pmpt_1"}),
        ("tools", [{"type": "file_search", "vector_store_ids": ["vs_1"]}]),
        ("store", True),
        ("background", True),
        ("include", ["file_search_call.results"]),
        ("prompt_cache_key", "another-teams"),
    ],
)
@pytest.mark.parametrize("dialect", OPENAI)
@pytest.mark.parametrize("surface", SURFACES)
async def test_nobody_reaches_what_all_teams_share(
    at: Stage, surface: SurfaceName, dialect: DialectName, key: str, value: Any
) -> None:
    await refused(at, surface, dialect, key, value)


async def test_nobody_reaches_stores_of_files_at_google(at: Stage) -> None:
    tools = [{"fileSearch": {"fileSearchStoreNames": ["fileSearchStores/x"]}}]
    await refused(at, "chat", "gemini", "tools", tools)
