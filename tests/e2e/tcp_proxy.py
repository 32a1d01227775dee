"""A TCP proxy as a load balancer has it: who says nothing for too long is cut."""

from __future__ import annotations

import select
import socket
import threading
import time
from types import TracebackType
from typing import Self


class TcpProxy:
    """Forwards connections to a port of this machine, both ways; `cuts` counts those that were silent for too long."""

    def __init__(self, port: int, *, idle_cut_s: float) -> None:
        self.cuts = 0
        self._target = port
        self._idle_cut_s = idle_cut_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in list(self._threads):
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._forward, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as target:
            other = {client: target, target: client}
            heard_at = time.monotonic()
            while not self._stopped.is_set():
                readable, _, _ = select.select([client, target], [], [], 0.05)
                for source in readable:
                    data = source.recv(65536)
                    if not data:
                        return
                    other[source].sendall(data)
                    heard_at = time.monotonic()
                if time.monotonic() - heard_at > self._idle_cut_s:
                    self.cuts += 1
                    return
