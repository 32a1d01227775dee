"""Strict JSON: what is wrong, and where, for every way in which a body can be."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from rest_bridge.json import (
    ABSENT,
    check_json_headers,
    check_object,
    decode_body,
    decode_value,
    encode_raw,
    is_set,
)
from server.domain.errors import GatewayError, Reason


class Word(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="word"):
    text: str


class Picture(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="picture"):
    url: Annotated[str, msgspec.Meta(min_length=3, max_length=5)]


class Line(msgspec.Struct, forbid_unknown_fields=True):
    parts: list[Word | Picture]


class Page(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    lines: list[Line]
    size: float | None = None
    count: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    mood: Literal["good", "bad"] | None = None
    labels: dict[Annotated[str, msgspec.Meta(max_length=3)], str] | None = None
    few: Annotated[list[int], msgspec.Meta(max_length=1)] | None = None
    name: Annotated[str, msgspec.Meta(pattern="^[a-z]+$")] | None = None
    on: bool = False
    either: str | list[str] | None = None
    schema: msgspec.Raw = ABSENT


DECODER = msgspec.json.Decoder(Page)


def failure(body: bytes) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        decode_body(DECODER, body)
    return caught.value


def page(**fields: Any) -> bytes:
    return msgspec.json.encode({"lines": [], **fields})


@pytest.mark.parametrize(
    ("body", "reason", "param", "description"),
    [
        (page(size="x"), Reason.INVALID_VALUE, "size", "`size` must be a number, not a string."),
        (page(size=True), Reason.INVALID_VALUE, "size", "`size` must be a number, not a boolean."),
        (page(count=1.5), Reason.INVALID_VALUE, "count", "`count` must be an integer, not a number."),
        (page(count=0), Reason.INVALID_VALUE, "count", "`count` must be at least 1."),
        (page(count=200), Reason.INVALID_VALUE, "count", "`count` must be at most 128."),
        (page(on=None), Reason.INVALID_VALUE, "on", "`on` must be a boolean, not null."),
        (page(on=[]), Reason.INVALID_VALUE, "on", "`on` must be a boolean, not an array."),
        (page(either=5), Reason.INVALID_VALUE, "either", "`either` must be a string or an array, not an integer."),
        (page(either=["a", {}]), Reason.INVALID_VALUE, "either[1]", "`either[1]` must be a string, not an object."),
        (page(mood="odd"), Reason.INVALID_VALUE, "mood", '`mood` must be one of "bad", "good", not "odd".'),
        (
            page(labels={"a": 1}),
            Reason.INVALID_VALUE,
            "labels",
            "Each value in `labels` must be a string, not an integer.",
        ),
        (
            page(labels={"long": "x"}),
            Reason.INVALID_VALUE,
            "labels",
            "Each key in `labels` must have at most 3 characters.",
        ),
        (page(few=[1, 2]), Reason.INVALID_VALUE, "few", "`few` must have at most 1 entries."),
        (page(name="A"), Reason.INVALID_VALUE, "name", "`name` must match '^[a-z]+$'."),
        (b"{}", Reason.MISSING_FIELD, "lines", "`lines` is required."),
        (b'{"lines":null}', Reason.INVALID_VALUE, "lines", "`lines` must be an array, not null."),
        (page(lines=[{}]), Reason.MISSING_FIELD, "lines[0].parts", "`lines[0].parts` is required."),
        (page(lines=[5]), Reason.INVALID_VALUE, "lines[0]", "`lines[0]` must be an object, not an integer."),
        (
            page(lines=[{"parts": [{"type": "word", "text": 1}]}]),
            Reason.INVALID_VALUE,
            "lines[0].parts[0].text",
            "`lines[0].parts[0].text` must be a string, not an integer.",
        ),
        (
            page(lines=[{"parts": [{"type": "word", "text": "a"}, {"type": "sound"}]}]),
            Reason.INVALID_VALUE,
            "lines[0].parts[1].type",
            '`lines[0].parts[1].type` must be one of "word", "picture", not "sound".',
        ),
        (
            page(lines=[{"parts": [{"type": 7}]}]),
            Reason.INVALID_VALUE,
            "lines[0].parts[0].type",
            "`lines[0].parts[0].type` must be a string.",
        ),
        (page(lines=[{"parts": [{}]}]), Reason.MISSING_FIELD, "lines[0].parts[0].type", None),
        (
            page(lines=[{"parts": [{"type": "picture", "url": "ab"}]}]),
            Reason.INVALID_VALUE,
            "lines[0].parts[0].url",
            "`lines[0].parts[0].url` must have at least 3 characters.",
        ),
        (page(colour=1), Reason.UNKNOWN_PARAMETER, "colour", "`colour` is not a known parameter."),
        (page(**{".": 1}), Reason.UNKNOWN_PARAMETER, ".", "`.` is not a known parameter."),
        (page(**{"": 1}), Reason.UNKNOWN_PARAMETER, '""', '`""` is not a known parameter.'),
        (
            page(lines=[{"parts": [{"type": "word", "text": "a", "": "b"}]}]),
            Reason.UNKNOWN_PARAMETER,
            'lines[0].parts[0].""',
            '`lines[0].parts[0].""` is not a known parameter.',
        ),
        (
            page(lines=[{"parts": [{"type": "word", "text": "a", "font": "b"}]}]),
            Reason.UNKNOWN_PARAMETER,
            "lines[0].parts[0].font",
            "`lines[0].parts[0].font` is not a known parameter.",
        ),
        (b'{"lines":[],"size":1e999}', Reason.INVALID_VALUE, "size", "`size` must be a number that fits 64 bits."),
        (b"[]", Reason.INVALID_VALUE, None, "The body must be an object, not an array."),
        (b'"text"', Reason.INVALID_VALUE, None, "The body must be an object, not a string."),
        (b"null", Reason.INVALID_VALUE, None, "The body must be an object, not null."),
    ],
)
def test_names_the_field_and_what_is_wrong_with_it(
    body: bytes, reason: Reason, param: str | None, description: str | None
) -> None:
    error = failure(body)
    assert (error.reason, error.param) == (reason, param)
    if description is not None:
        assert error.description == description


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n\t",
        b"{",
        b'{"lines":[]',
        b'{"lines":[],}',
        b"{'lines':[]}",
        b'{"lines":[]} x',
        b'{"lines":[]}\x00',
        b'{"lines":[],"name":"a\x00"}',
        b'{"lines":[],"name":"\xff"}',
        b'{"lines":[],"schema":{"a":"\xff"}}',
        b'{"lines":[],"schema":{"a":"\xed\xa0\x80"}}',
        b'{"lines":[],"\xff":1}',
        b'\xef\xbb\xbf{"lines":[]}',
        '{"lines":[]}'.encode("utf-16"),
        b'{"lines":[],"size":NaN}',
        b'{"lines":[],"size":Infinity}',
        b'{"lines":[],"size":01}',
        b'{"lines":[],"schema":{"a":01}}',
        b'{"lines":[],"schema":[1,]}',
        rb'{"lines":[],"name":"\ud800"}',
        rb'{"lines":[],"name":"\ud800 and more text"}',
        rb'{"lines":[],"name":"\udc00"}',
        rb'{"lines":[],"schema":{"a":"\ud800 and more text"}}',
        b'{"lines":[],"schema":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"lines":[],"schema":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"}",
        b"[" * 20_000,
    ],
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    if body.startswith(b"["):
        assert failure(body).reason in (Reason.MALFORMED_JSON, Reason.INVALID_VALUE)
    else:
        assert failure(body).reason is Reason.MALFORMED_JSON


def test_syntax_errors_say_where() -> None:
    assert failure(b'{"lines":[],}').description == "The body is not valid JSON: trailing comma in object at byte 12."
    assert failure(b'{"lines":[],"name":"\xff"}').description == "The body is not valid UTF-8: see its byte 20."


def test_a_shown_name_is_bounded_and_may_hold_anything() -> None:
    long = failure(msgspec.json.encode({"x" * 100_000: 1}))
    assert long.param is not None
    assert len(long.param) <= 60
    sly = failure(msgspec.json.encode({"a` - at `$.lines": 1, "lines": []}))
    assert sly.reason is Reason.UNKNOWN_PARAMETER


def test_raw_fields_keep_their_text_and_tell_null_from_absent() -> None:
    schema = b'{ "z": 1.50, "a": [1,  2] }'
    decoded = decode_body(DECODER, b'{"lines":[],"schema":' + schema + b"}")
    assert bytes(decoded.schema) == schema
    assert is_set(decoded.schema)
    assert not is_set(decode_body(DECODER, b'{"lines":[],"schema":null}').schema)
    assert not is_set(decode_body(DECODER, b'{"lines":[]}').schema)


def test_a_nested_value_is_named_from_the_root() -> None:
    decoder = msgspec.json.Decoder(Line)
    with pytest.raises(GatewayError) as caught:
        decode_value(decoder, encode_raw({"parts": [{"type": "word", "text": 5}]}), "pages[3]")
    assert caught.value.param == "pages[3].parts[0].text"
    with pytest.raises(GatewayError) as caught:
        decode_value(decoder, encode_raw({}), "pages[3]")
    assert caught.value.param == "pages[3].parts"


def test_an_object_is_asked_for_by_name() -> None:
    assert bytes(check_object(encode_raw({"a": 1}), "schema")) == b'{"a":1}'
    with pytest.raises(GatewayError) as caught:
        check_object(encode_raw([1]), "schema")
    assert caught.value.param == "schema"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        {"content-type": "Application/JSON; charset=utf-8"},
        {"content-type": "application/vnd.acme+json"},
        {"content-encoding": "identity"},
    ],
)
def test_json_headers_pass(headers: dict[str, str]) -> None:
    check_json_headers(headers)


@pytest.mark.parametrize(
    ("headers", "param"),
    [
        ({"content-type": "text/plain"}, "content-type"),
        ({"content-type": "multipart/form-data; boundary=x"}, "content-type"),
        ({"content-encoding": "gzip"}, "content-encoding"),
    ],
)
def test_other_headers_are_refused_by_name(headers: dict[str, str], param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        check_json_headers(headers)
    assert (caught.value.reason, caught.value.param) == (Reason.MALFORMED_REQUEST, param)
