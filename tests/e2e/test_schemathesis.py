"""What schemathesis makes of the description, sent to a whole gateway: no 5xx, and no reply but as described."""

from __future__ import annotations

import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.schemathesis.run import run

EXAMPLES = 8
SECONDS = 35


@pytest.mark.slow
def test_no_reply_is_other_than_described(gateway: Gateway, acme: UpstreamThread) -> None:
    done = run(gateway, examples=EXAMPLES, seconds=SECONDS)
    assert done.returncode == 0, done.stdout[-6000:]
