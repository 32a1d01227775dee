"""Content codings of replies, undone piece by piece: what a piece may become is bounded, whatever it claims."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import brotli

from server.transport.faults import Fault, failure

ACCEPTED: Final = "gzip, deflate, br"
"""What we tell upstreams that they may send."""
MAX_PIECE_BYTES: Final = 256 * 1024
"""What one step may inflate to, however little it read."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_ZLIB: Final = zlib.MAX_WBITS
_BARE: Final = -zlib.MAX_WBITS


class Decoder(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """The content that `data` completes, in bounded pieces. Raises ProviderFailure (protocol)."""
        ...

    def finish(self) -> None:
        """Raise ProviderFailure where the coding says that something is missing."""
        ...


class Inflater:
    """gzip (of one member or several) and deflate (with its header, or, as some send it, without)."""

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._inflate = zlib.decompressobj(wbits)
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._inflate.eof:
                self._inflate, self._begun = zlib.decompressobj(self._wbits), False
            piece = self._step(data)
            if piece:
                yield piece
            data = self._inflate.unused_data or self._inflate.unconsumed_tail

    def _step(self, data: bytes) -> bytes:
        try:
            piece = self._inflate.decompress(data, MAX_PIECE_BYTES)
        except zlib.error:
            if self._begun or self._wbits != _ZLIB:
                raise failure(Fault.MALFORMED) from None
            self._wbits = _BARE
            self._inflate = zlib.decompressobj(_BARE)
            return self._step(data)
        self._begun = True
        return piece

    def finish(self) -> None:
        if self._begun and not self._inflate.eof:
            raise failure(Fault.CUT)


class Unbrotli:
    """br."""

    def __init__(self) -> None:
        self._brotli = brotli.Decompressor()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._begun = self._begun or bool(data)
        while piece := self._step(data):
            yield piece
            data = b""

    def _step(self, data: bytes) -> bytes:
        try:
            # It stops after the block of output that reaches the limit, and doubles its blocks.
            piece: bytes = self._brotli.process(data, output_buffer_limit=MAX_PIECE_BYTES // 2)
        except brotli.error:
            raise failure(Fault.MALFORMED) from None
        return piece

    def finish(self) -> None:
        if self._begun and not self._brotli.is_finished():
            raise failure(Fault.CUT)


_CODINGS: Final[dict[str, Callable[[], Decoder]]] = {
    "gzip": lambda: Inflater(_GZIP),
    "x-gzip": lambda: Inflater(_GZIP),
    "deflate": lambda: Inflater(_ZLIB),
    "br": Unbrotli,
}


def decoder_of(coding: str | None) -> Decoder | None:
    """What undoes the value of a `content-encoding` header; None where there is nothing to undo."""
    name = (coding or "identity").strip().lower()
    if name == "identity":
        return None
    if name not in _CODINGS:
        raise failure(Fault.UNKNOWN_CODING)
    return _CODINGS[name]()
