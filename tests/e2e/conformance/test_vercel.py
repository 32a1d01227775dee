"""The Vercel AI SDK: `ai`, with the models of `@ai-sdk/openai-compatible` and `@ai-sdk/openai`, under Node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.e2e.conformance import node
from tests.e2e.conformance.cases import Row
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.obedient import Obedient

Case = tuple[str, str]


@pytest.fixture(scope="module")
def outcomes(gateway: Gateway, acme_upstream: UpstreamThread) -> Iterator[Mapping[Case, Row]]:
    """One process runs them all."""
    acme_upstream.reset()
    before, acme_upstream.upstream.default = acme_upstream.upstream.default, Obedient()
    yield node.outcomes(gateway.base_url, gateway.key)
    acme_upstream.upstream.default = before


@pytest.mark.parametrize("case", node.cases(), ids=": ".join)
def test_case(outcomes: Mapping[Case, Row], case: Case, add_rows: Callable[[list[Row]], None]) -> None:
    row = outcomes[case]
    add_rows([row])
    assert row.result != "failed", row.reason
