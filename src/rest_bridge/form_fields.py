"""The text fields of a form as the body that they would be in JSON.

Numbers and booleans come as text (`n=2`, `stream=true`); what is an object or an array in JSON comes as its JSON text
(`provider={"only":["acme"]}`) or in brackets, as OpenAI's SDKs write it (`provider[only][]=acme`). What stands in
brackets below `provider_options` has no type here: it is a number, a boolean or null where it reads as one, else text.
Everything raises GatewayError as `rest_bridge.json` does, naming the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from rest_bridge.json import decode_value, explain, invalid
from server.domain.errors import GatewayError, Reason
from server.domain.limits import MAX_SHOWN_CHARS

T = TypeVar("T", bound=msgspec.Struct)

MAX_DEPTH: Final = 5

_OPTIONS: Final = "provider_options"
_NAME: Final = re.compile(r"(?P<first>[^\[\]]+)(?P<rest>(?:\[[^\[\]]*\])*)\Z")
_INNER: Final = re.compile(r"\[([^\[\]]*)\]")
_decode_plain: Final = msgspec.json.Decoder(int | float | bool | None).decode
_SCALARS: Final = (
    msgspec.inspect.StrType,
    msgspec.inspect.IntType,
    msgspec.inspect.FloatType,
    msgspec.inspect.BoolType,
    msgspec.inspect.LiteralType,
    msgspec.inspect.NoneType,
)


def decode_fields(type_: type[T], fields: Iterable[tuple[str, str]]) -> T:
    """The body of that type; a field that came as JSON text may not come otherwise as well."""
    compound = {field.name: field.type for field in msgspec.structs.fields(type_) if not _is_scalar(field.type)}
    given: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    for name, text in fields:
        if name in compound:
            if name in whole:
                raise _twice(name)
            whole[name] = _json_field(compound[name], name, text)
        else:
            _put(given, name, text)
    for name in whole.keys() & given.keys():
        raise _twice(name)
    if _OPTIONS in given and _OPTIONS in compound:
        text = msgspec.json.encode(_as_json(given.pop(_OPTIONS))).decode()
        whole[_OPTIONS] = _json_field(compound[_OPTIONS], _OPTIONS, text)
    try:
        body = msgspec.convert(given, type_, strict=False)
    except msgspec.ValidationError as mistake:
        raise explain(str(mistake), type_) from None
    return msgspec.structs.replace(body, **whole)


def _json_field(type_: Any, name: str, text: str) -> Any:
    try:
        return decode_value(msgspec.json.Decoder(type_), msgspec.Raw(text.encode()), name)
    except GatewayError as mistake:
        if mistake.reason is Reason.MALFORMED_JSON:
            raise invalid(name, f"`{name}` must be JSON text.") from None
        raise


def _as_json(given: Any) -> Any:
    """What came in brackets, with each text as the JSON that it may be."""
    match given:
        case dict():
            return {name: _as_json(value) for name, value in given.items()}
        case list():
            return [_as_json(text) for text in given]
    try:
        _decode_plain(given)
    except msgspec.DecodeError:
        return given
    return msgspec.Raw(given.encode())


def _is_scalar(type_: Any) -> bool:
    info = msgspec.inspect.type_info(type_)
    kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    return all(isinstance(kind, _SCALARS) for kind in kinds)


def _put(given: dict[str, Any], name: str, text: str) -> None:
    """Add `a[b][]=text` to what is at `a`, then `b`; a last empty bracket is one more entry of an array."""
    found = _NAME.match(name)
    if found is None:
        raise invalid(name[:MAX_SHOWN_CHARS], f"`{name[:MAX_SHOWN_CHARS]}` is no name of a field.")
    steps = [found["first"], *_INNER.findall(found["rest"])]
    is_entry = len(steps) > 1 and steps[-1] == ""
    path = steps[:-1] if is_entry else steps
    if "" in path or len(path) > MAX_DEPTH:
        raise invalid(name[:MAX_SHOWN_CHARS], f"`{name[:MAX_SHOWN_CHARS]}` is no name of a field.")
    at: Any = given
    for step in path[:-1]:
        at = at.setdefault(step, {})
        if not isinstance(at, dict):
            raise _twice(name)
    last = at.setdefault(path[-1], []) if is_entry else at
    if is_entry and isinstance(last, list):
        last.append(text)
    elif is_entry or path[-1] in at:
        raise _twice(name)
    else:
        at[path[-1]] = text


def _twice(name: str) -> GatewayError:
    shown = name[:MAX_SHOWN_CHARS]
    return invalid(shown, f"`{shown}` is given twice.")
