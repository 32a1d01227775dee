"""Vectors keep every bit, whatever way they take."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.domain.catalog import EmbeddingFacts
from server.domain.embedding import EmbeddingRequest
from server.domain.request import Endpoint
from server.domain.vectors import numbers_json, packed, packed_json, read_vector
from server.providers.embeddings import BYTES_PER_TOKEN, calls

singles = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=64)


def float32(values: list[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def in_base64(data: bytes) -> msgspec.Raw:
    return msgspec.Raw(b'"' + base64.b64encode(data) + b'"')


@given(singles)
def test_float32_to_base64_to_numbers_and_back_is_exact_to_the_bit(values: list[float]) -> None:
    data = float32(values)
    vector, length = read_vector(in_base64(data), "numbers")
    assert length == len(values)
    assert packed(vector) == data
    numbers = json.loads(numbers_json(vector))
    assert float32(numbers) == data
    again, _ = read_vector(msgspec.Raw(numbers_json(vector)), "packed")
    assert again == data
    assert json.loads(packed_json(again)) == base64.b64encode(data).decode()


@given(st.lists(st.floats(-3e38, 3e38), min_size=1, max_size=64))
def test_numbers_pass_as_they_were_written_and_pack_as_float32(values: list[float]) -> None:
    text = json.dumps(values).encode()
    vector, length = read_vector(msgspec.Raw(text), "numbers")
    assert length == len(values)
    assert numbers_json(vector) == text
    assert packed(vector) == float32(values) == packed(read_vector(msgspec.Raw(text), "packed")[0])


@given(singles, st.integers(0, 63), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_one_number_that_is_none_spoils_a_vector(values: list[float], place: int, wild: float) -> None:
    values[place % len(values)] = wild
    with pytest.raises(ValueError, match="no vector"):
        read_vector(in_base64(float32(values)), "packed")


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"{}", b"[]", b'""', b"1", b'"AAA"', b'"AAAAAAAA"', b'"****"', b"[null]", b'["1"]', b"[[1]]",
     b"[true]", b"[1e39]", b"[-1e39]", b"[1e999]", b"[" + b"9" * 400 + b"]"],
)  # fmt: skip
@pytest.mark.parametrize("wanted", ["packed", "numbers"])
def test_what_is_no_vector(text: bytes, wanted: Any) -> None:
    with pytest.raises(ValueError, match="no vector"):
        read_vector(msgspec.Raw(text), wanted)


inputs = st.one_of(
    st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=60).map(tuple),
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9).map(tuple), min_size=1, max_size=60).map(tuple),
)


@settings(max_examples=200)
@given(inputs, st.none() | st.integers(1, 9), st.none() | st.integers(1, 30))
def test_any_splitting_keeps_the_order_and_the_limits(given: Any, most: int | None, tokens: int | None) -> None:
    request = EmbeddingRequest(endpoint=Endpoint.EMBEDDINGS, model="a/b", inputs=given)
    parts = list(calls(request, EmbeddingFacts(max_inputs=most, max_tokens=tokens, encoding="base64")))
    assert tuple(one for part in parts for one in part.inputs) == given
    for part in parts:
        assert 1 <= len(part.inputs) <= (most or len(given))
        sizes = [len(one.encode()) // BYTES_PER_TOKEN + 1 if isinstance(one, str) else len(one) for one in part.inputs]
        assert tokens is None or sum(sizes) <= tokens or len(part.inputs) == 1


def test_vectors_that_come_as_text_are_asked_for_in_answers_below_64_mib() -> None:
    request = EmbeddingRequest(endpoint=Endpoint.EMBEDDINGS, model="a/b", inputs=("a",) * 2048)
    assert [len(part.inputs) for part in calls(request, EmbeddingFacts())] == [512] * 4
    assert [len(part.inputs) for part in calls(request, EmbeddingFacts(encoding="base64"))] == [2048]
