"""The cross-dialect table once more through the whole gateway, Envoy included, by the SDKs of OpenAI and Anthropic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from tests.dialects.asked import Feature
from tests.dialects.cells import DIALECTS, SURFACES, Bench, cells, check_passes, check_refused, check_streams, model_of
from tests.e2e.gateway import Gateway
from tests.fakes.anthropic_upstream import AnthropicUpstream
from tests.fakes.dialects import DialectName
from tests.fakes.gemini_upstream import KEY, GeminiUpstream
from tests.fakes.openai_upstream import Upstream
from tests.fakes.surfaces import SurfaceName, surfaces

together = pytest.mark.asyncio(loop_scope="module")
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])

PROVIDER = """
  - {{id: {name}, dialect: {dialect}, base_url: "{url}", api_key_env: PROVIDER_KEY{more}}}"""
MODEL = """
  - id: {model}
    max_output_tokens: 8192
    offers: [{{provider: {name}, provider_model: {native}, endpoints: [chat, responses, messages]}}]"""
SPOKEN: dict[DialectName, tuple[str, str, str]] = {
    "openai": ("openai", "test-1", ""),
    "openai_responses": ("openai", "test-1", ", apis: [responses]"),
    "anthropic": ("anthropic", "claude-sonnet-5", ""),
    "gemini": ("gemini", "gemini-3-flash-preview", ""),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Bench, None]:
    async with AsyncExitStack() as stack:
        openai, native = Upstream(), Upstream()
        claude, google = AnthropicUpstream(), GeminiUpstream()
        for upstream in (openai, native, claude, google):
            await stack.enter_async_context(upstream)
        upstreams: dict[DialectName, Any] = {
            "openai": openai,
            "openai_responses": native,
            "anthropic": claude,
            "gemini": google,
        }
        providers = models = ""
        for name, (dialect, model, more) in SPOKEN.items():
            url = upstreams[name].base_url
            providers += PROVIDER.format(name=name, dialect=dialect, url=url, more=more)
            models += MODEL.format(model=model_of(name), name=name, native=model)
        config = f"providers:{providers}\nmodels:{models}\nreplace_catalog: true\n"
        gateway = Gateway(tmp_path_factory.mktemp("dialects"), config, environ={"PROVIDER_KEY": KEY})
        await asyncio.to_thread(gateway.start)
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=60))
        yield Bench(surfaces(gateway.url, gateway.key, http), upstreams)
        assert await asyncio.to_thread(gateway.stop) == 0, gateway.log[-4000:]
        assert KEY not in gateway.log


@pytest.fixture
def at(whole_bench: Bench) -> Bench:
    whole_bench.forget()
    return whole_bench


@together
@both_ways
@pytest.mark.parametrize(("surface", "dialect", "feature"), list(cells(refused=False)))
async def test_passes(at: Bench, surface: SurfaceName, dialect: DialectName, feature: Feature, stream: bool) -> None:
    await check_passes(at, surface, dialect, feature, stream=stream)


@together
@both_ways
@pytest.mark.parametrize(("surface", "dialect", "feature"), list(cells(refused=True)))
async def test_refused(at: Bench, surface: SurfaceName, dialect: DialectName, feature: Feature, stream: bool) -> None:
    await check_refused(at, surface, dialect, feature, stream=stream)


@together
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("surface", SURFACES)
async def test_streams(at: Bench, surface: SurfaceName, dialect: DialectName) -> None:
    await check_streams(at, surface, dialect)
