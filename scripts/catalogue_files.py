"""The catalogue's files as text: how `import_catalogue.py` writes them, and what tells two of them apart."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Final

import yaml

WIDTH: Final = 120
MANY: Final = 4
"""So many parameters are written once, and referred to from then on."""

Entry = dict[str, Any]


class Price(str):
    """A decimal, in quotes lest YAML round it."""


class Writer:
    """YAML as it is written here: an entry's keys one a line, its offers flat, and each list of parameters once."""

    def __init__(self, about: str, source: str) -> None:
        self._lines = [f"# {line}" for line in about.strip().splitlines()]
        self._lines += ["#", f"# Written by `make catalogue` from {source}; not by hand."]
        self._anchors: dict[tuple[str, ...], str] = {}

    def key(self, name: str, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        self._lines += ([""] if name != "providers" else []) + [f"{name}:"]
        for number, entry in enumerate(entries):
            if name == "offers":
                self._lines += self._offer(entry, "  ")
                continue
            if number:
                self._lines.append("")
            for position, (key, value) in enumerate(entry.items()):
                start = "  - " if position == 0 else "    "
                if key == "offers":
                    self._lines.append(f"{start}offers:")
                    for offer in value:
                        self._lines += self._offer(offer, "      ")
                else:
                    self._lines.append(f"{start}{key}: {scalar(value)}")

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def _offer(self, offer: Entry, indent: str) -> Iterator[str]:
        """On one line, or one a key where it is the first with its parameters."""
        words = [f"{key}: {scalar(value)}" for key, value in offer.items() if key != "params"]
        params = tuple(offer.get("params", ()))
        known = self._anchors.get(params)
        if known is not None or len(params) < MANY:
            words.append(f"params: *{known}" if known is not None else f"params: [{', '.join(params)}]")
            yield f"{indent}- {{{', '.join(words)}}}"
            return
        self._anchors[params] = anchor = f"params_{len(self._anchors) + 1}"
        for number, word in enumerate(words):
            yield f"{indent}{'  ' if number else '- '}{word}"
        start = f"{indent}  params: &{anchor}"
        text = f"[{', '.join(params)}]"
        if len(start) + len(text) < WIDTH:
            yield f"{start} {text}"
            return
        yield start
        yield from textwrap.wrap(text, WIDTH, initial_indent=f"{indent}    ", subsequent_indent=f"{indent}     ")


def scalar(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case Price():
            return f'"{value}"'
        case list() | tuple():
            return f"[{', '.join(map(scalar, value))}]"
        case dict():
            return f"{{{', '.join(f'{key}: {scalar(one)}' for key, one in value.items())}}}"
        case str() if not is_plain(value):
            return json.dumps(value, ensure_ascii=False)
    return str(value)


def is_plain(text: str) -> bool:
    """Whether it means itself wherever it stands in a file, also within braces."""
    try:
        return bool(yaml.safe_load(f"[{text}]") == [text] and yaml.safe_load(f"a: {text}") == {"a": text})
    except yaml.YAMLError:
        return False


def differences(name: str, before: str, after: str) -> Iterator[str]:
    """What a new file changes, a line a model or an offer."""
    old, new = (flatten(yaml.safe_load(text) or {}) for text in (before, after))
    for key in sorted(old.keys() | new.keys()):
        what = f"{name}: {key}"
        if key not in old:
            yield f"+ {what}"
        elif key not in new:
            yield f"- {what}"
        elif changed := [part for part in (*old[key], *new[key]) if old[key].get(part) != new[key].get(part)]:
            shown = (f"{part} {old[key].get(part)!r} → {new[key].get(part)!r}" for part in dict.fromkeys(changed))
            yield f"~ {what}: {'; '.join(shown)}"


def flatten(file: Entry) -> dict[str, Entry]:
    entries: dict[str, Entry] = {f"provider {entry['id']}": entry for entry in file.get("providers") or ()}
    for model in file.get("models") or ():
        entries[model["id"]] = {key: value for key, value in model.items() if key != "offers"}
        entries |= {f"{model['id']} by {offer['provider']}": offer for offer in model.get("offers", ())}
    return entries | {f"{offer['model']} by {offer['provider']}": offer for offer in file.get("offers") or ()}
