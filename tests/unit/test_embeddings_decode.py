"""What an embeddings request may hold, and how what it may not is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rest_bridge.embeddings_decode import decode_embeddings
from server.domain.errors import GatewayError


def decoded(**body: Any) -> Any:
    return decode_embeddings(json.dumps({"model": "a/b", **body}).encode())


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("a", ("a",)),
        (["a", " "], ("a", " ")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [0]], ((1, 2), (0,))),
        ([2**31 - 1], ((2**31 - 1,),)),
        (["\u00e9\U0001f600\x00"], ("\u00e9\U0001f600\x00",)),
        (["a"] * 2048, ("a",) * 2048),
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_four_kinds_of_input(given: Any, inputs: Any) -> None:
    assert decoded(input=given).request.inputs == inputs


def test_what_else_a_request_says() -> None:
    order = decoded(
        input="a", dimensions=4, encoding_format="base64", user="u", meta=True, usage=True, models=["c/d"],
        provider={"only": ["p"]}, provider_options={"p": {"x": 1}}, session_id="s", debug={"trace": True},
    )  # fmt: skip
    request = order.request
    assert order.wants_meta
    assert (request.model, request.dimensions, request.form, request.trace) == ("a/b", 4, "packed", True)
    assert request.parameters == {"dimensions": "dimensions", "user": "user"}
    assert bytes(request.passthrough["user"]) == b'"u"'
    assert (request.routing.only, request.routing.fallback_models, request.routing.session_id) == (
        ("p",),
        ("c/d",),
        "s",
    )
    plain = decoded(input="a", encoding_format=None, dimensions=None, user=None).request
    assert (plain.form, plain.parameters, plain.passthrough) == ("numbers", {}, {})


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"input": ""}, "input", "must not be empty"),
        ({"input": []}, "input", "at least one"),
        ({"input": ["a", ""]}, "input[1]", "must not be empty"),
        ({"input": [[1], []]}, "input[1]", "must not be empty"),
        ({"input": ["a", 5]}, "input[1]", "must be a string, not an integer"),
        ({"input": ["a", [5]]}, "input[1]", "must be a string"),
        ({"input": [5, "a"]}, "input[1]", "must be an integer, not a string"),
        ({"input": [[5], "a"]}, "input[1]", "must be an array, not a string"),
        ({"input": [[5], [6, "a"]]}, "input[1][1]", "must be an integer"),
        ({"input": [-1]}, "input[0]", "at least 0"),
        ({"input": [2**31]}, "input[0]", "at most"),
        ({"input": [1.5]}, "input[0]", "must be an integer"),
        ({"input": [None]}, "input[0]", "must be a string, an array"),
        ({"input": 5}, "input", "must be a string, an array"),
        ({"input": {"text": "a"}}, "input", "must be a string, an array"),
        ({"input": None}, "input", "required"),
        ({}, "input", "required"),
        ({"input": ["a"] * 2049}, "input", "at most 2048"),
        ({"input": "a", "dimensions": 0}, "dimensions", "from 1 to"),
        ({"input": "a", "dimensions": 2**40}, "dimensions", "from 1 to"),
        ({"input": "a", "dimensions": "8"}, "dimensions", "must be an integer"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", '"base64", "float"'),
        ({"input": "a", "user": "u" * 513}, "user", "at most 512"),
        ({"input": "a", "model": ""}, "model", "required"),
        ({"input": "a", "inputs": "b"}, "inputs", "not a known parameter"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_meant_is_named(body: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(GatewayError) as caught:
        decoded(**body)
    assert caught.value.param == param
    assert says in caught.value.description
