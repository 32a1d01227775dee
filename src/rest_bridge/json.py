"""Strict JSON: a body is decoded into exactly what a type allows, or the client learns which field is wrong and how.

Everything raises GatewayError: `malformed_json`, `missing_field`, `unknown_parameter` or `invalid_value`, with `param`
as the path of the field (`messages[0].content[1].type`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from server.domain.errors import GatewayError, Reason
from server.domain.limits import MAX_SHOWN_CHARS

T = TypeVar("T")

ABSENT: Final = msgspec.Raw(b"")
"""The default of a `Raw` field. Such a field takes any JSON value, `null` too: ask `is_set`."""

_BOM: Final = b"\xef\xbb\xbf"
_NULL: Final = msgspec.Raw(b"null")
_NO_NAME: Final = '""'
"""How a key is shown that is the empty text."""

# msgspec says what is wrong in English only. Each pattern is one of its sentences; tests hold a body for every one.
_WHERE: Final = re.compile(r"(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`)?\Z", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<name>.*)`\Z", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>.*)`\Z", re.DOTALL)
_BAD_TYPE: Final = re.compile(r"Expected `(?P<expected>[^`]*)`(?:, got `(?P<got>[^`]*)`)?\Z")
_BAD_CHOICE: Final = re.compile(r"Invalid (?:enum )?value (?P<value>.*)\Z", re.DOTALL)
_BAD_BOUND: Final = re.compile(r"Expected `(?P<type>[^`]*)` (?P<length>of length )?(?P<op>>=|<=|<|>) (?P<bound>\S+)\Z")
_BAD_PATTERN: Final = re.compile(r"Expected `str` matching regex (?P<pattern>.*)\Z", re.DOTALL)
_BYTE: Final = re.compile(r"JSON is malformed: (?P<what>.*) \(byte (?P<byte>\d+)\)\Z", re.DOTALL)

_BOUNDS: Final[Mapping[str, str]] = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_NOUNS: Final[Mapping[str, str]] = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "decimal": "a number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def is_set(raw: msgspec.Raw) -> bool:
    """Whether the client gave this `Raw` field a value other than null."""
    return raw not in (ABSENT, _NULL)


def check_json_headers(headers: Mapping[str, str]) -> None:
    """Raise unless the headers (lower-case names) let the body be plain JSON."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not is_json(media_type):
        raise GatewayError(
            Reason.MALFORMED_REQUEST,
            f'The content-type must be application/json, not "{media_type[:MAX_SHOWN_CHARS]}".',
            param="content-type",
        )
    check_not_coded(headers)


def is_json(media_type: str) -> bool:
    """Whether a body of this media type is read as JSON; one that declares none is."""
    return not media_type or media_type == "application/json" or media_type.endswith("+json")


def check_not_coded(headers: Mapping[str, str]) -> None:
    """Raise unless the body is sent as it is."""
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise GatewayError(
            Reason.MALFORMED_REQUEST, "Send the body without a content-encoding.", param="content-encoding"
        )


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The body as `decoder`'s type. `Raw` fields of the result keep `body` alive."""
    if not body.strip():
        raise GatewayError(Reason.MALFORMED_JSON, "The body is empty; it must be a JSON object.")
    if body.startswith(_BOM):
        raise GatewayError(Reason.MALFORMED_JSON, "The body must not begin with a byte order mark.")
    try:
        _ = body.isascii() or body.decode()  # the decoder does not look into what it only passes on
    except UnicodeDecodeError as invalid:
        raise GatewayError(
            Reason.MALFORMED_JSON, f"The body is not valid UTF-8: see its byte {invalid.start}."
        ) from None
    return _decode(decoder, body, "")


def decode_value(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw, param: str) -> T:
    """A part of a body that has been through `decode_body` already; `param` is its path."""
    return _decode(decoder, raw, param)


def check_object(raw: msgspec.Raw, param: str) -> msgspec.Raw:
    """`raw` itself, where it is a JSON object."""
    if memoryview(raw)[:1].tobytes() != b"{":
        raise GatewayError(Reason.INVALID_VALUE, f"`{param}` must be an object.", param=param)
    return raw


def encode_raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def unsupported(param: str, description: str) -> GatewayError:
    return GatewayError(Reason.UNSUPPORTED_PARAMETER, description, param=param)


def invalid(param: str, description: str) -> GatewayError:
    return GatewayError(Reason.INVALID_VALUE, description, param=param)


def _decode(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw, root: str) -> T:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as mistake:
        raise explain(str(mistake), decoder.type, root) from None
    except RecursionError:
        raise GatewayError(Reason.MALFORMED_JSON, "The body is nested too deeply.") from None
    except msgspec.DecodeError as mistake:
        raise GatewayError(Reason.MALFORMED_JSON, _syntax(str(mistake))) from None


def _syntax(text: str) -> str:
    found = _BYTE.match(text)
    if found is None:
        return "The body is not valid JSON: it ends too early."
    return f"The body is not valid JSON: {found['what']} at byte {found['byte']}."


def explain(text: str, type_: Any, root: str = "") -> GatewayError:
    """What the decoder says of a value that its type does not allow, as an error that names the field.

    `type_` is what was to be decoded, and `root` the path at which it stood in the body.
    """
    where = _WHERE.match(text)
    what, path = (text, "") if where is None else (where["what"], where["path"] or "")
    param = _join(root, path.replace("[...]", "").removeprefix("."))
    if (unknown := _UNKNOWN.match(what)) is not None:
        param = _join(param, unknown["name"][:MAX_SHOWN_CHARS] or _NO_NAME)
        return GatewayError(Reason.UNKNOWN_PARAMETER, f"`{param}` is not a known parameter.", param=param)
    if (missing := _MISSING.match(what)) is not None:
        param = _join(param, missing["name"])
        return GatewayError(Reason.MISSING_FIELD, f"`{param}` is required.", param=param)
    subject = f"`{param}`" if param else "The body"
    if where is not None and where["key"]:
        subject = f"Each key in {subject}"
    elif "[...]" in path:
        subject = f"Each value in {subject}"
    return GatewayError(Reason.INVALID_VALUE, f"{subject} {_rule(what, path, type_)}.", param=param or None)


def _join(path: str, more: str) -> str:
    return f"{path}.{more}" if path and more and not more.startswith("[") else f"{path}{more}"


def _rule(what: str, path: str, type_: Any) -> str:
    """What must hold of the value, completing a sentence that begins with its name."""
    if (bad := _BAD_TYPE.match(what)) is not None:
        expected = [_noun(name) for name in bad["expected"].split(" | ") if name != "null"]
        got = f", not {_noun(bad['got'])}" if bad["got"] else ""
        return f"must be {' or '.join(expected)}{got}"
    if (choice := _BAD_CHOICE.match(what)) is not None:
        allowed = ", ".join(f'"{value}"' for value in _choices(msgspec.inspect.type_info(type_), _steps(path)))
        value = choice["value"].strip("'")[:MAX_SHOWN_CHARS]
        return f'must be one of {allowed}, not "{value}"' if allowed else f'must not be "{value}"'
    if (bound := _BAD_BOUND.match(what)) is not None:
        amount = f"{_BOUNDS[bound['op']]} {bound['bound'].removesuffix('.0')}"
        if not bound["length"]:
            return f"must be {amount}"
        return f"must have {amount} {'characters' if bound['type'] == 'str' else 'entries'}"
    if (pattern := _BAD_PATTERN.match(what)) is not None:
        return f"must match {pattern['pattern']}"
    if what == "Number out of range":
        return "must be a number that fits 64 bits"
    if what == "Invalid decimal string":
        return 'must be a number, or one as text such as "0.50"'
    return "has a value that is not allowed"


def _noun(name: str) -> str:
    return _NOUNS.get(name, "a value of another type")


def _steps(path: str) -> list[str]:
    """`.messages[0].role` as `messages`, `[]`, `role`."""
    return [step if not step.startswith("[") else "[]" for step in re.findall(r"\[[^\]]*\]|[^.\[\]]+", path)]


def _choices(info: msgspec.inspect.Type, steps: list[str]) -> list[str]:
    """The values that the type at the end of `steps` allows: of a literal, or the tags of a union."""
    if isinstance(info, msgspec.inspect.UnionType):
        found = [value for member in info.types for value in _choices(member, steps)]
        return list(dict.fromkeys(found))
    if not steps:
        return [str(value) for value in info.values] if isinstance(info, msgspec.inspect.LiteralType) else []
    first, rest = steps[0], steps[1:]
    match info:
        case msgspec.inspect.StructType() if first == info.tag_field and not rest:
            return [str(info.tag)]
        case msgspec.inspect.StructType():
            return [
                value for field in info.fields if field.encode_name == first for value in _choices(field.type, rest)
            ]
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType() if first == "[]":
            return _choices(info.item_type, rest)
        case msgspec.inspect.DictType() if first == "[]":
            return _choices(info.value_type, rest)
        case _:
            return []
