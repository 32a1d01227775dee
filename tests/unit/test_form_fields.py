"""Forms say what JSON bodies say, in text."""

from __future__ import annotations

from typing import Literal

import pytest

from rest_bridge.extras import ExtrasBody
from rest_bridge.form_fields import decode_fields
from server.domain.errors import GatewayError, Reason
from server.domain.request import RawJson


class Body(ExtrasBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    prompt: str
    n: int | None = None
    stream: bool | None = None
    quality: Literal["low", "high"] | None = None
    granularities: tuple[Literal["word", "segment"], ...] | None = None


def test_numbers_and_booleans_are_text() -> None:
    body = decode_fields(Body, [("prompt", "7"), ("n", "2"), ("stream", "true"), ("meta", "false"), ("quality", "low")])
    assert (body.prompt, body.n, body.stream, body.meta, body.quality) == ("7", 2, True, False, "low")


@pytest.mark.parametrize(
    "fields",
    [
        [
            ("provider", '{"order":["a","b"],"max_price":{"prompt":1.5},"allow_fallbacks":false}'),
            ("models", '["q","r"]'),
        ],
        [
            ("provider[order][]", "a"),
            ("provider[order][]", "b"),
            ("models[]", "q"),
            ("provider[max_price][prompt]", "1.5"),
            ("provider[allow_fallbacks]", "false"),
            ("models[]", "r"),
        ],
    ],
    ids=("json", "brackets"),
)
def test_objects_and_arrays(fields: list[tuple[str, str]]) -> None:
    wishes = decode_fields(Body, [("prompt", "p"), *fields]).routing()
    assert (wishes.order, wishes.allow_fallbacks, wishes.fallback_models) == (("a", "b"), False, ("q", "r"))
    assert wishes.max_price is not None
    assert wishes.max_price.prompt == "1.5"


def test_options_of_a_provider_arrive_as_they_were_written() -> None:
    body = decode_fields(Body, [("prompt", "p"), ("provider_options", '{"acme":{"b":1.50,"a":[1, 2]}}')])
    assert body.options() == {"acme": {"b": RawJson(b"1.50"), "a": RawJson(b"[1, 2]")}}


def test_options_of_a_provider_in_brackets_are_json_where_they_can_be() -> None:
    """As OpenAI's SDKs write `extra_body`."""
    told = {
        "[acme][seed]": "7", "[acme][scale]": "1.50", "[acme][watermark]": "false", "[acme][mood]": "null",
        "[acme][style]": "calm", "[acme][zip]": "007", "[acme][far]": "1e999", "[acme][empty]": "",
        "[acme][object]": '{"a":1}', "[acme][nested][deeper][deepest]": "1", "[other][words][]": "a",
    }  # fmt: skip
    fields = [(f"provider_options{name}", text) for name, text in told.items()]
    body = decode_fields(Body, [("prompt", "p"), *fields, ("provider_options[other][words][]", "2")])
    options = {name: {key: bytes(value) for key, value in given.items()} for name, given in body.options().items()}
    assert options == {
        "acme": {
            "seed": b"7", "scale": b"1.50", "watermark": b"false", "mood": b"null", "style": b'"calm"',
            "zip": b'"007"', "far": b'"1e999"', "empty": b'""', "object": b'"{\\"a\\":1}"',
            "nested": b'{"deeper":{"deepest":1}}',
        },
        "other": {"words": b'["a",2]'},
    }  # fmt: skip


def test_one_entry_is_an_array_too() -> None:
    assert decode_fields(Body, [("prompt", "p"), ("granularities[]", "word")]).granularities == ("word",)


@pytest.mark.parametrize(
    ("fields", "reason", "param"),
    [
        ([("n", "two")], Reason.INVALID_VALUE, "n"),
        ([("n", "1.5")], Reason.INVALID_VALUE, "n"),
        ([("stream", "maybe")], Reason.INVALID_VALUE, "stream"),
        ([("quality", "best")], Reason.INVALID_VALUE, "quality"),
        ([("n", "1"), ("n", "2")], Reason.INVALID_VALUE, "n"),
        ([("prompt[a]", "x")], Reason.INVALID_VALUE, "prompt"),
        ([("colour", "x")], Reason.UNKNOWN_PARAMETER, "colour"),
        ([("provider[colour]", "x")], Reason.UNKNOWN_PARAMETER, "provider.colour"),
        ([("provider", '{"colour":1}')], Reason.UNKNOWN_PARAMETER, "provider.colour"),
        ([("provider", "{")], Reason.INVALID_VALUE, "provider"),
        ([("provider", "{}"), ("provider[sort]", "price")], Reason.INVALID_VALUE, "provider"),
        ([("provider", "{}"), ("provider", "{}")], Reason.INVALID_VALUE, "provider"),
        ([("provider[]", "x"), ("provider[sort]", "price")], Reason.INVALID_VALUE, "provider[sort]"),
        ([("provider[sort]", "price"), ("provider[]", "x")], Reason.INVALID_VALUE, "provider[]"),
        ([("provider[][]", "x")], Reason.INVALID_VALUE, "provider[][]"),
        ([("[x]", "x")], Reason.INVALID_VALUE, "[x]"),
        ([("a[b][c][d][e][f]", "x")], Reason.INVALID_VALUE, "a[b][c][d][e][f]"),
        ([("provider_options[acme]", "7")], Reason.INVALID_VALUE, "provider_options"),
        ([("provider_options[]", "7")], Reason.INVALID_VALUE, "provider_options"),
        ([("provider_options", "{}"), ("provider_options[acme][seed]", "7")], Reason.INVALID_VALUE, "provider_options"),
        ([], Reason.MISSING_FIELD, "prompt"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_is_wrong_is_named(fields: list[tuple[str, str]], reason: Reason, param: str | None) -> None:
    given = fields if not fields or fields[0][0].startswith("prompt") else [("prompt", "p"), *fields]
    with pytest.raises(GatewayError) as refused:
        decode_fields(Body, given)
    assert (refused.value.reason, refused.value.param) == (reason, param)
