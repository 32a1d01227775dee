"""pytest-grpc's fixtures over our own host: `grpc_stub` calls the real guard and servicers, on grpc.aio and uvloop.

A module names its service with the fixtures `grpc_add_to_server`, `grpc_servicer` and `grpc_stub_cls`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.rpc_host import HostThread, Metadata, bearer


@pytest.fixture(scope="module")
def grpc_addr(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Unix socket of the module's own: no port that another process could take in between."""
    return f"unix:{tmp_path_factory.mktemp('rpc')}/s"


@pytest.fixture(scope="module")
def _grpc_server(tmp_path_factory: pytest.TempPathFactory) -> HostThread:
    """In place of pytest-grpc's thread-pool server, which cannot run async servicers."""
    return HostThread(Path(tmp_path_factory.mktemp("data")))


@pytest.fixture
def as_inference(grpc_server: HostThread) -> Metadata:
    return bearer(grpc_server.keys.inference)


@pytest.fixture
def as_management(grpc_server: HostThread) -> Metadata:
    return bearer(grpc_server.keys.management)
