"""Vectors as they come and go: packed float32, or JSON text. No loop of Python's ever goes over their numbers.

Providers and clients write vectors either as base64 of little-endian float32 or as JSON arrays of numbers. Packed is
the form between the two: from base64 and to it costs next to nothing. An array for a client that wants numbers is kept
as the text that it came in, and goes out digit for digit.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final, Literal, TypeAlias

import msgspec

__all__ = ["Form", "Vector", "numbers_json", "packed", "packed_json", "read_vector"]

Form: TypeAlias = Literal["packed", "numbers"]
Vector: TypeAlias = bytes | msgspec.Raw
"""Little-endian float32, or the JSON text of an array of numbers, as `read_vector` gives it."""

_FLOAT_BYTES: Final = 4
_HIGHEST: Final = (b"\x7f", b"\xff")
"""The highest byte of infinities and NaN, and of numbers from 1.7e38 on."""

_NONE: Final = "no vector of float32"

_floats: Final = msgspec.json.Decoder(list[float]).decode
_bytes: Final = msgspec.json.Decoder(bytes).decode
_encode: Final = msgspec.json.Encoder().encode


def read_vector(raw: msgspec.Raw, wanted: Form) -> tuple[Vector, int]:
    """A vector as a provider wrote it, in base64 or as an array, and its length. `raw` is one JSON value.

    What came as an array stays one where numbers are wanted. Raises ValueError where it is no vector: of nothing, or
    not of numbers that are finite as float32.
    """
    try:
        if memoryview(raw)[:1].tobytes() == b'"':
            data = _bytes(raw)
            if len(data) % _FLOAT_BYTES or not _is_finite(data):
                raise ValueError(_NONE)
        else:
            data = _pack(raw)
    except (msgspec.MsgspecError, OverflowError, struct.error) as error:
        raise ValueError(_NONE) from error
    if not data:
        raise ValueError(_NONE)
    kept = raw if wanted == "numbers" and memoryview(raw)[:1].tobytes() == b"[" else data
    return kept, len(data) // _FLOAT_BYTES


def packed(vector: Vector) -> bytes:
    """Little-endian float32."""
    return _pack(vector) if isinstance(vector, msgspec.Raw) else vector


def packed_json(vector: Vector) -> bytes:
    """A JSON string: base64 of little-endian float32."""
    return _encode(packed(vector))


def numbers_json(vector: Vector) -> bytes:
    """A JSON array of numbers: as the provider wrote them, or else each float32 exactly."""
    if isinstance(vector, msgspec.Raw):
        return bytes(vector)
    return _encode(_layout(len(vector) // _FLOAT_BYTES).unpack(vector))


def _pack(raw: msgspec.Raw) -> bytes:
    values = _floats(raw)
    return _layout(len(values)).pack(*values)


def _is_finite(data: bytes) -> bool:
    highest = data[_FLOAT_BYTES - 1 :: _FLOAT_BYTES]
    if not any(byte in highest for byte in _HIGHEST):
        return True
    total = float(sum(_layout(len(data) // _FLOAT_BYTES).unpack(data)))
    return total - total == 0.0  # which no sum with an infinity or a NaN in it is


@lru_cache(64)
def _layout(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}f")
