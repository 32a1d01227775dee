"""Whatever the SDKs can send, before every dialect: it is answered, or refused by name; never does it break anything.

The requests are those of the walks through the SDKs' types, a field at every depth each.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from tests.contract import test_anthropic_parameters as of_anthropic
from tests.contract import test_openai_parameters as of_openai
from tests.dialects.cells import DIALECTS, model_of
from tests.fakes.dialects import DialectName
from tests.integration.databases import migrated
from tests.integration.dialect_stage import Stage, stage

FEW = 7
"""Of conversations, which differ little from each other, one of so many."""


def understood(refusal: Callable[[Any], str | None], walk: list[tuple[str, Any]]) -> list[Any]:
    conversations = [body for name, body in walk if name == "messages"][::FEW]
    bodies = [body for name, body in walk if name != "messages"] + conversations
    return [body for body in bodies if refusal(body) is None]


REQUESTS: dict[str, list[Any]] = {
    "/chat/completions": understood(of_openai.refusal, of_openai.ALL),
    "/messages": understood(partial(of_anthropic.refusal, of_anthropic.created), of_anthropic.CREATE),
}
DANGLING = ("`tool_use` ids were found", "number of function response parts", "contents is not specified")
"""What a provider says of a call without its result, of a result without its call, of thoughts alone."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stage, None]:
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('requests') / 'gateway.db'}"
    async with migrated(url) as database, stage(database) as made:
        yield made


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("path", REQUESTS)
async def test_every_request_is_answered_or_refused_by_name(at: Stage, path: str, dialect: DialectName) -> None:
    answered = 0
    for asked in REQUESTS[path]:
        body = {**asked, "model": model_of(dialect), "stream": False, "stream_options": None}
        if path == "/messages":
            del body["stream_options"]
        reply = await at.http.post(f"http://gateway.test/v1{path}", json=body, headers={"authorization": "Bearer real"})
        told = reply.json()
        if reply.status_code == 200:
            answered += 1
        elif told["reason"] == "upstream_rejected_request":
            assert any(words in told["description"] for words in DANGLING), (told, asked)
        else:
            assert (reply.status_code, told["reason"]) == (400, "unsupported_parameter"), (told, asked)
            assert told["param"], asked
    at.forget()
    assert answered > 40
