"""Runs schemathesis against a gateway, within bounds of examples and time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.gateway import Gateway

ROOT = Path(__file__).parents[2]
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
)
SEED = 1
TEAM = "schemathesis"
ALIASES = r"^/v1/(video/|keys|moderation$)"
"""Other addresses of routes that are asked."""


def run(gateway: Gateway, *, examples: int, seconds: int) -> subprocess.CompletedProcess[str]:
    """`examples` of each operation at most, and none begun after `seconds`.

    It may end or change any key that it finds, so it has a team of its own.
    """
    gateway.create_team(TEAM)
    key = gateway.create_key(team=TEAM, scopes=("inference", "management"))
    command = [
        str(Path(sys.prefix) / "bin" / "schemathesis"),
        "run",
        f"{gateway.url}/openapi.json",
        f"--header=Authorization: Bearer {key}",
        f"--checks={','.join(CHECKS)}",
        "--phases=examples,coverage,fuzzing",
        f"--max-examples={examples}",
        f"--max-time={seconds}",
        f"--seed={SEED}",
        f"--exclude-path-regex={ALIASES}",
        "--continue-on-failure",
        "--generation-database=none",
        "--no-color",
        "--no-shrink",
        "--warnings=off",
    ]
    environ = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.schemathesis.hooks", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=seconds + 60)
