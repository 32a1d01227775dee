"""What tests of typed clients share: reading a failure as a client would, and waiting without guessing how long."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # the package has no stubs

from tests.fakes.rpc_host import Metadata


def refused(method: Any, request: Any, metadata: Metadata, **options: Any) -> Any:
    """The error that a call must end with."""
    with pytest.raises(grpc.RpcError) as caught:
        finish(method(request, metadata=metadata, **{"timeout": 30, **options}))
    return caught.value


def finish(reply: Any) -> None:
    """Read a stream to its end."""
    if isinstance(reply, Iterator):
        deque(reply, maxlen=0)


def trailers(error: Any) -> dict[str, Any]:
    return {item.key: item.value for item in error.trailing_metadata()}


def details(error: Any) -> tuple[status_pb2.Status, error_details_pb2.ErrorInfo]:
    """The rich status, and the ErrorInfo in it."""
    status = status_pb2.Status.FromString(trailers(error)["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return status, info


def eventually(holds: Callable[[], bool], within_s: float = 30.0) -> bool:
    until = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True
