"""One YAML file as plain data, with the line of everything in it.

Only what the catalogue needs: mappings with text keys, lists and scalars; no tags, no merge keys. A key that occurs
twice is a problem, because one of its values would vanish.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import yaml

from server.catalogue.problems import Problem

MAX_FILE_BYTES: Final = 1 << 20
MAX_NODES: Final = 100_000
"""Anchors let a small file describe a huge one."""

YamlPath: TypeAlias = tuple[str | int, ...]

_FAST: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it, as its wheels are: a tenth of the time. A file that is nested very deeply
ends the process, so it is for the files that ship."""

_STRING: Final = "tag:yaml.org,2002:str"
_SCALARS: Final = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}
_INT: Final = "tag:yaml.org,2002:int"
_PLAIN_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
"""010 is eight in YAML 1.1, and 1:30 ninety."""
_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"
_MERGE: Final = "tag:yaml.org,2002:merge"


class Source(msgspec.Struct, frozen=True):
    """A file that could be parsed. `name` is how messages call it; an empty file is an empty mapping."""

    name: str
    data: Any
    lines: dict[YamlPath, int]

    def problem(self, path: YamlPath, text: str) -> Problem:
        """A problem at `path`, on the line of the nearest thing that exists."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        return Problem(self.name, self.lines.get(known, 1), show_path(path), text)


def show_path(path: YamlPath) -> str:
    """`("models", 0, "id")` as `models[0].id`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def read_source(path: Path, name: str, *, trusted: bool = False) -> tuple[Source | None, list[Problem]]:
    """Read and parse a file; what is None could not be parsed at all. `trusted`: it came with the gateway."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None, [Problem(name, 0, "", "there is no such file; correct AISTATS_CONFIG or create it")]
    except OSError as error:
        return None, [Problem(name, 0, "", f"cannot be read: {error.strerror}")]
    if len(raw) > MAX_FILE_BYTES:
        return None, [Problem(name, 0, "", f"is larger than {MAX_FILE_BYTES} bytes")]
    try:
        return parse(raw.decode("utf-8-sig"), name, trusted=trusted)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return None, [Problem(name, line, "", "is not UTF-8 text")]


def parse(text: str, name: str, *, trusted: bool = False) -> tuple[Source | None, list[Problem]]:
    """Parse YAML text; what is None could not be parsed at all."""
    try:
        root = yaml.compose(text, Loader=_FAST if trusted else yaml.SafeLoader)
        walk = _Walk(name)
        data = {} if root is None else walk.value(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = error.problem or error.context or "cannot be parsed"
        return None, [Problem(name, mark.line + 1 if mark else 0, "", f"not valid YAML: {what}")]
    except (ValueError, OverflowError, yaml.YAMLError):  # an escape can stand for no character at all
        return None, [Problem(name, 0, "", "not valid YAML: it holds a character that YAML does not allow")]
    except RecursionError:
        return None, [Problem(name, 0, "", "is nested too deeply")]
    return Source(name, {} if data is None else data, walk.lines), walk.problems


class _Walk:
    """Turns YAML nodes into plain data and notes the line of every path."""

    def __init__(self, name: str) -> None:
        self.lines: dict[YamlPath, int] = {}
        self.problems: list[Problem] = []
        self._name = name
        self._nodes = 0
        self._constructor = yaml.SafeLoader("")

    def value(self, node: yaml.Node, path: YamlPath) -> Any:
        self._nodes += 1
        self.lines.setdefault(path, node.start_mark.line + 1)
        if self._nodes > MAX_NODES:
            if self._nodes == MAX_NODES + 1:
                self._report(node, path, f"the file describes more than {MAX_NODES} values")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if node.tag in (_STRING, _TIMESTAMP):
            return self._text(node, path)  # dates are text here
        if node.tag in _SCALARS:
            return self._scalar(node, path)
        self._report(node, path, "YAML tags are not supported here")
        return None

    def _text(self, node: yaml.Node, path: YamlPath) -> str:
        """Escapes can spell halves of characters, which no answer could carry."""
        text = str(node.value)
        try:
            text.encode()
        except UnicodeEncodeError:
            self._report(node, path, "an escape in it stands for no character")
            return ""
        return text

    def _scalar(self, node: yaml.Node, path: YamlPath) -> Any:
        if node.tag == _INT and not _PLAIN_INT.fullmatch(node.value):
            self._report(node, path, "YAML reads another number here; write it in plain digits, or put text in quotes")
            return None
        try:
            return self._constructor.construct_object(node)
        except (ValueError, OverflowError, LookupError, yaml.YAMLError):
            self._report(node, path, "this value cannot be read; put it in quotes")
            return None

    def _mapping(self, node: yaml.MappingNode, path: YamlPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                self._report(key_node, path, "merge keys (<<) are not supported; write the keys out")
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._report(key_node, path, "a key must be plain text")
                continue
            key = self._text(key_node, path)
            if key in result:
                first = self.lines[(*path, key)]
                text = f"this key is here twice, first on line {first}; remove one of them"
                self._report(key_node, (*path, key), text)
                continue
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = self.value(value_node, (*path, key))
        return result

    def _report(self, node: yaml.Node, path: YamlPath, text: str) -> None:
        self.problems.append(Problem(self._name, node.start_mark.line + 1, show_path(path), text))
