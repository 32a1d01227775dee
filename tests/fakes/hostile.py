"""Bodies that nobody sends who means well: a corpus made of a valid body, and mutations of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from string import ascii_letters
from typing import Any, Final, TypeAlias

from hypothesis import strategies as st

DEEP: Final = 100_000
WIDE: Final = 1_000_000


class Written(str):
    """A value as it is to stand in the body, be it JSON or not."""

    __slots__ = ()


class Pairs(list[tuple[str, Any]]):
    """An object in which a key may come more than once."""


Place: TypeAlias = tuple[int, ...]
"""Which child of which child; of an object they are its pairs, in order."""


def parsed(value: Any) -> Any:
    """The value as lists and Pairs, as mutations want it."""
    return json.loads(json.dumps(value), object_pairs_hook=Pairs)


def written(value: Any) -> bytes:
    return _text(value).encode()


def _text(value: Any) -> str:
    match value:
        case Written():
            return value
        case Pairs():
            return "{" + ",".join(f"{json.dumps(name)}:{_text(inner)}" for name, inner in value) + "}"
        case list():
            return "[" + ",".join(map(_text, value)) + "]"
        case _:
            return json.dumps(value)


# Numbers and texts at the edges of what types hold.

SCALARS: Final = (
    *map(Written, ("null", "true", "0", "-0.0", "-1", "1.5", "1e400", "1e-400")),
    *(Written(str(number)) for number in (2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1)),
    Written("1" * 5000),
    *map(Written, ('""', '" "', '"\\u0000"', '"\\ud800"', '"1"')),
    "../../etc/passwd", "' OR 1=1 --", "%s%n{0}${x}{{x}}", "\u202e\ufeff", "é" * 300, "x" * 70_000,
    *map(Written, ("[]", "{}", '[null]', '{"":""}', '{"type":"text"}', '{"__proto__":{"a":1}}')),
    Written("[" * 2000 + "]" * 2000),
    Written('{"a":' * 5000 + "1" + "}" * 5000),
)  # fmt: skip


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Of every value inside, in the order of the text."""
    children = [inner for _, inner in value] if isinstance(value, Pairs) else value if isinstance(value, list) else []
    for index, inner in enumerate(children):
        yield (*at, index)
        yield from places(inner, (*at, index))


def replaced(value: Any, place: Place, new: Any) -> Any:
    """A copy with another value there."""

    def put(holder: Any, index: int) -> None:
        holder[index] = (holder[index][0], new) if isinstance(holder, Pairs) else new

    return _changed(value, place, put)


def dropped(value: Any, place: Place) -> Any:
    return _changed(value, place, lambda holder, index: holder.pop(index))


def doubled(value: Any, place: Place) -> Any:
    return _changed(value, place, lambda holder, index: holder.append(holder[index]))


def renamed(value: Any, place: Place, name: str) -> Any:
    """As it is where the place is not in an object."""

    def rename(holder: Any, index: int) -> None:
        if isinstance(holder, Pairs):
            holder[index] = (name, holder[index][1])

    return _changed(value, place, rename)


def nested(value: Any, place: Place, name: str | None) -> Any:
    """In an array, or in an object under a name."""
    inner = at(value, place)
    return replaced(value, place, [inner] if name is None else Pairs([(name, inner)]))


def at(value: Any, place: Place) -> Any:
    for index in place:
        value = value[index][1] if isinstance(value, Pairs) else value[index]
    return value


def _changed(value: Any, place: Place, change: Callable[[Any, int], object]) -> Any:
    copy = parsed_copy(value)
    change(at(copy, place[:-1]), place[-1])
    return copy


def parsed_copy(value: Any) -> Any:
    match value:
        case Pairs():
            return Pairs((name, parsed_copy(inner)) for name, inner in value)
        case list():
            return [parsed_copy(inner) for inner in value]
        case _:
            return value


def any_json() -> st.SearchStrategy[Any]:
    """Whatever JSON can say, lone surrogates and keys that come twice included."""
    text = st.text(LETTERS, max_size=20)
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | text | st.sampled_from(SCALARS)
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4) | st.lists(st.tuples(text | st.just("model"), inner), max_size=4).map(Pairs)
        ),
        max_leaves=12,
    )


@st.composite
def mutations(draw: st.DrawFn, valid: Any) -> bytes:
    """The valid body with one to three changes."""
    body = parsed(valid)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(body))
        if not found:
            break
        place = draw(st.sampled_from(found))
        match draw(st.sampled_from(("drop", "double", "retype", "swap", "rename", "nest"))):
            case "drop":
                body = dropped(body, place)
            case "double":
                body = doubled(body, place)
            case "retype":
                body = replaced(body, place, draw(any_json()))
            case "swap":
                other = draw(st.sampled_from(found))
                body = replaced(body, place, parsed_copy(at(body, other)))
            case "rename":
                body = renamed(body, place, draw(st.text(LETTERS, max_size=9) | st.sampled_from(NAMES)))
            case _:
                body = nested(body, place, draw(st.none() | st.sampled_from(NAMES)))
    return written(body)


LETTERS: Final = st.characters(exclude_characters=ascii_letters + ".")
"""Any but those of which words and addresses are made that no error may hold."""
UTF_8: Final = st.characters(codec="utf-8", exclude_characters=ascii_letters + ".")
NAMES: Final = (
    "",
    "Model",
    "model ",
    "type",
    "__proto__",
    "constructor",
    ".",
    "a.b",
    "messages[0]",
    "0",
    "null",
    "é",
    "\ud800",
    "k" * 70_000,
)


def corpus(valid: Mapping[str, Any]) -> Mapping[str, bytes]:
    """By name, bodies that no route takes for what they are, whatever it may make of `valid`."""
    body = json.dumps(valid).encode()
    inside = body[:-1]
    first = json.dumps(next(iter(valid), "x")).encode()
    return {
        "nothing": b"",
        "white space": b" \t\r\n" * 100,
        "null": b"null",
        "true": b"true",
        "a number": b"-0",
        "a text": b'"model"',
        "an array": b"[" + body + b"]",
        "half of it": body[: len(body) // 2],
        "all but the last byte": inside,
        "deep arrays": b"[" * DEEP + b"]" * DEEP,
        "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        "deep and unclosed": b"[" * DEEP,
        "deep in a field": b"{" + first + b":" + b"[" * DEEP + b"]" * DEEP + b"}",
        "deep in a field nobody knows": inside + b',"x":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
        "wide objects": inside + b"," + b",".join(b'"k%d":1' % number for number in range(WIDE)) + b"}",
        "wide arrays": b"{" + first + b":[" + b",".join([b"0"] * WIDE) + b"]}",
        "one long key": inside + b',"' + b"k" * WIDE + b'":1}',
        "one long number": inside + b',"x":' + b"9" * WIDE + b"}",
        "1e400": b"{" + first + b":1e400}",
        "an unknown field": inside + b',"nobody_knows_me":-0}',
        "a lone surrogate in a key": inside + b',"\\ud800":1}',
        "a lone surrogate": b"{" + first + b':"\\ud800"}',
        "surrogates in UTF-8": b"{" + first + b':"\xed\xa0\x80\xed\xb0\x80"}',
        "NUL in a key": inside + b',"\\u0000":1}',
        "NUL in a text": b"{" + first + b':"a\x00b"}',
        "NUL after it": body + b"\x00",
        "a byte order mark": b"\xef\xbb\xbf" + body,
        "UTF-16": json.dumps(valid).encode("utf-16"),
        "UTF-32": json.dumps(valid).encode("utf-32-le"),
        "no UTF-8": b"{" + first + b':"\xff\xfe"}',
        "overlong UTF-8": b"{" + first + b':"\xc0\xaf"}',
        "half a character": b"{" + first + b':"\xe2\x82"}',
        "a bare line feed": b"{" + first + b':"a\nb"}',
        "an escape nobody knows": b"{" + first + b':"\\x41"}',
        "trailing garbage": body + b"garbage",
        "a trailing brace": body + b"}",
        "two documents": body + body,
        "two lines": body + b"\n" + body,
        "a trailing comma": inside + b",}",
        "two commas": inside + b',,"x":1}',
        "a comment": b"/* hi */" + body,
        "a comment at the end": body + b" // hi",
        "single quotes": json.dumps(valid).replace('"', "'").encode(),
        "keys without quotes": b"{model: 1}",
        "NaN": inside + b',"x":NaN}',
        "Infinity": inside + b',"x":-Infinity}',
        "a hexadecimal number": inside + b',"x":0x10}',
        "a number that begins with 0": inside + b',"x":01}',
        "a number that begins with +": inside + b',"x":+1}',
        "a number that ends in a dot": inside + b',"x":1.}',
        "Python": repr(dict(valid)).encode(),
        "a form": b"model=x&messages=y",
        "XML": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        "a gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
    }


BOUNDARY: Final = "cut-here"
FORM: Final = f"multipart/form-data; boundary={BOUNDARY}"
DISPOSITION: Final = "content-disposition: form-data; "
MIB: Final = 1024 * 1024


def forms(fields: Mapping[str, str]) -> Mapping[str, tuple[str, bytes]]:
    """By name, content types and bodies that are no forms, or that no route takes, whatever it may make of `fields`."""
    told = [_part(f'{DISPOSITION}name="{name}"', value.encode()) for name, value in fields.items()]
    file = _part(f'{DISPOSITION}name="file"; filename="a"', b"x" * 5000)
    whole = _form(*told, file)
    strange = {
        "a name of brackets": _part(f'{DISPOSITION}name="[][][]"'),
        "a name that is open": _part(f'{DISPOSITION}name="model["'),
        "a deep name": _part(f'{DISPOSITION}name="a{"[b]" * 500}"'),
        "a name with NUL": _part(f'{DISPOSITION}name="mo\0del"'),
        "a prototype": _part(f'{DISPOSITION}name="__proto__[a]"'),
        "an array of millions": _part(f'{DISPOSITION}name="a[99999999]"'),
        "a field nobody knows": _part(f'{DISPOSITION}name="nobody_knows_me"'),
        "a model twice": told[0],
        "a file as the model": _part(f'{DISPOSITION}name="model"; filename="b"'),
        "deep JSON": _part(f'{DISPOSITION}name="provider"', b"[" * DEEP),
        "an empty file": _part(f'{DISPOSITION}name="file"; filename="b"', b""),
    }
    return {
        "nothing": (FORM, b""),
        "only its end": (FORM, b"--" + BOUNDARY.encode() + b"--\r\n"),
        "JSON": (FORM, b'{"model":"x"}'),
        "no boundary": ("multipart/form-data", whole),
        "an empty boundary": ("multipart/form-data; boundary=", whole),
        "a long boundary": (f"multipart/form-data; boundary={'b' * 5000}", whole),
        "another boundary": ("multipart/form-data; boundary=else", whole),
        "a quoted boundary that is open": ('multipart/form-data; boundary="cut', whole),
        "another kind of parts": (f"multipart/mixed; boundary={BOUNDARY}", whole),
        "a form in a query": ("application/x-www-form-urlencoded", b"model=x&file=y"),
        "words before it": (FORM, b"hello\r\n" + whole),
        "bare line feeds": (FORM, whole.replace(b"\r\n", b"\n")),
        "half of it": (FORM, whole[: len(whole) // 2]),
        "all but its last dash": (FORM, whole[:-3]),
        "no disposition": (FORM, _form(*told, _part("x-y: z"))),
        "no name": (FORM, _form(*told, _part(f'{DISPOSITION}filename="a"'))),
        "an attachment": (FORM, _form(*told, _part('content-disposition: attachment; name="file"; filename="a"'))),
        "a name that is no UTF-8": (FORM, _form(*told, file).replace(b'name="file"', b'name="\xff\xfe"')),
        "a text that is no UTF-8": (FORM, _form(_part(f'{DISPOSITION}name="model"', b"\xff\xfe"), file)),
        "base64": (FORM, _form(*told, _part(f'{DISPOSITION}name="file"\r\ncontent-transfer-encoding: base64'))),
        "a header without end": (FORM, _form(*told, _part(DISPOSITION + "x" * 100_000))),
        "a thousand headers": (FORM, _form(*told, _part("\r\n".join(f"x-{number}: y" for number in range(1000))))),
        "a thousand parts": (FORM, _form(*told * 1000, file)),
        "a large field": (FORM, _form(_part(f'{DISPOSITION}name="prompt"', b"x" * 2 * MIB))),
        "a large epilogue": (FORM, whole + b"x" * 3 * MIB),
        "beginnings of boundaries": (FORM, (b"\r\n--" + BOUNDARY[:-1].encode()) * 50_000),
        "carriage returns": (FORM, _part(DISPOSITION + 'name="file"; filename="a"', b"\r" * MIB)[:-2]),
        **{name: (FORM, _form(*told, odd)) for name, odd in strange.items()},
    }


def _part(headers: str, data: bytes = b"x") -> bytes:
    return f"--{BOUNDARY}\r\n{headers}\r\n\r\n".encode() + data + b"\r\n"


def _form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
