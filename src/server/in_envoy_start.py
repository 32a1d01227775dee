"""How the supervisor starts workers that are each inside an Envoy of its own, all of which listen on one port.

Envoy and pyvoy are pinned together: Envoy takes a module that was made for it or for the release before it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from server.processes import Command

__all__ = ["ENDS_FD", "ENDS_PATH", "VARIABLE", "Assignment", "in_envoy", "missing", "module_path"]

APP: Final = "server.in_envoy:app"
VARIABLE: Final = "GATEWAY_IN_ENVOY"
"""The variable that holds an `Assignment`, as JSON."""
ENDS_FD: Final = 198
"""Where a worker reads of requests that did not end well; Envoy writes to the descriptor after it."""
ENDS_PATH: Final = f"/dev/fd/{ENDS_FD + 1}"
FLUSH_MS: Final = 20
"""How long Envoy keeps such news, and its access log."""


class Assignment(msgspec.Struct, frozen=True):
    """Which worker it is. It takes calls past Envoy on `socket_path`, and its figures are told beside that."""

    index: int
    socket_path: str


def missing() -> str | None:
    """What this machine lacks for it; None where it lacks nothing."""
    if importlib.util.find_spec("pyvoy") is None:
        return "the package pyvoy is not installed"
    return None if _libpython() else "this Python has no shared library (libpython)"


def module_path() -> str:
    """The library that Envoy loads."""
    found = importlib.util.find_spec("pyvoy._pyvoy")
    assert found is not None
    assert found.origin is not None
    return found.origin


def in_envoy(envoy_argv: tuple[str, ...], assignment: Assignment, environ: Mapping[str, str]) -> Command:
    """The command of a worker whose Envoy is run so. `environ` is added to the supervisor's own."""
    inside = {
        # The library does not bring its interpreter along.
        "LD_PRELOAD": _libpython(),
        "PYTHONHOME": f"{sys.prefix}:{sys.exec_prefix}",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        VARIABLE: msgspec.json.encode(assignment).decode(),
    }
    piped = (sys.executable, "-IS", str(Path(__file__).with_name("piped.py")), str(ENDS_FD))
    variables = tuple(f"{name}={value}" for name, value in inside.items())
    return Command(f"worker-{assignment.index}", (*piped, *variables, "--", *envoy_argv), environ)


def _libpython() -> str | None:
    import find_libpython

    paths = (path for path in find_libpython.candidate_paths() if Path(path).name.startswith("libpython"))
    return next((path for path in paths if Path(path).exists()), None)
