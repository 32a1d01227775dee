"""`make schemathesis`: a gateway of its own, and schemathesis' summary."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.schemathesis.run import run

EXAMPLES = 40
SECONDS = 50


def main() -> int:
    upstream = UpstreamThread()
    with tempfile.TemporaryDirectory() as directory:
        environ = {"ACME_KEY": ACME_KEY}
        gateway = Gateway(Path(directory), config(upstream, upstream), local_model=True, environ=environ)
        try:
            gateway.start()
            done = run(gateway, examples=EXAMPLES, seconds=SECONDS)
            print(done.stdout, done.stderr, sep="\n")
            stopped = gateway.stop()
        finally:
            upstream.close()
    return done.returncode or stopped


if __name__ == "__main__":
    sys.exit(main())
