"""What the commands that write a page do alike."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bench.machine import Cores
from bench.stack import Failed
from server.tuning import prefer_grpc_polling, raise_file_limit

__all__ = ["written"]

T = TypeVar("T")


def written(measure: Callable[[Cores], T], page: Callable[[T], str], output: Path) -> T | None:
    """What was measured, with its page in `output` and on stdout; None where something failed, which stderr tells.

    gRPC polls as in the gateway's workers, and so in a floor and a client as well.
    """
    raise_file_limit()
    prefer_grpc_polling()
    try:
        found = measure(Cores.choose())
    except Failed as failure:
        print(failure, file=sys.stderr)
        return None
    text = page(found)
    output.write_text(text, encoding="utf-8")
    print(text)
    return found
