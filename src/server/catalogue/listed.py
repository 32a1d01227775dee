"""What providers say of their models where they list them (`GET <base_url>/models`), in whatever form they do.

Only an id is sure to be there. Everything else is read from the fields that one provider or another has for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from server.catalogue.files import MAX_TOKENS
from server.domain.parameters import CANONICAL

Kind = Literal["text", "embedding", "moderation", "other"]

MAX_LISTED: Final = 5000

_CONTEXT: Final = (
    "context_length",
    "context_window",
    "max_model_len",
    "max_context_length",
    "max_input_tokens",
    "inputTokenLimit",
)
_OUTPUT: Final = ("max_completion_tokens", "max_output_tokens", "outputTokenLimit")
_NAMES: Final = ("display_name", "displayName", "name")
_KINDS: Final[Mapping[str, Kind]] = {
    "chat": "text",
    "language": "text",
    "code": "text",
    "model": "text",
    "base": "text",
    "embedding": "embedding",
    "moderation": "moderation",
}
_BY_NAME: Final[Sequence[tuple[Kind, re.Pattern[str]]]] = (
    ("moderation", re.compile(r"moderation")),
    ("embedding", re.compile(r"embed|(^|[/-])bge-|(^|[/-])e5-")),
    (
        "other",
        re.compile(
            r"whisper|tts|transcri|realtime|audio|image|imagen|dall-e|sora|veo-|lyria|rerank|ocr|live|davinci|babbage"
        ),
    ),
)
_MODALITIES: Final = ("text", "image", "audio", "video", "file")
_EARLIEST: Final = datetime(2018, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2099, 1, 1, tzinfo=UTC)
_MAX_TEXT: Final = 200


class Listed(msgspec.Struct, frozen=True):
    """One model as its provider lists it. `params` are canonical names; None where nothing is said of them."""

    id: str
    kind: Kind = "text"
    name: str | None = None
    description: str | None = None
    release_date: str | None = None
    input_types: tuple[str, ...] = ()
    context_length: int | None = None
    max_output_tokens: int | None = None
    params: frozenset[str] | None = None


def read_list(body: bytes) -> list[Listed]:
    """The models of a reply, ascending by id, each once. Raises ValueError where it is no list of models."""
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError:
        raise ValueError("the reply is not JSON") from None
    if isinstance(said, dict):
        said = said.get("data", said.get("models"))
    if not isinstance(said, list) or len(said) > MAX_LISTED:
        raise ValueError("the reply is no list of models")
    found = (_listed(entry) for entry in said if isinstance(entry, dict))
    return [one for _, one in sorted({one.id: one for one in found if one is not None}.items())]


def _listed(entry: dict[str, Any]) -> Listed | None:
    id_ = _text(entry.get("id")) or (_text(entry.get("name")) or "").removeprefix("models/")
    if not id_ or entry.get("active") is False:
        return None
    name = next((text for key in _NAMES if (text := _text(entry.get(key))) is not None), None)
    description = _text(entry.get("description"))
    top = entry.get("top_provider")
    return Listed(
        id=id_,
        kind=_kind(entry, id_),
        name=None if name is None or name.removeprefix("models/") == id_ else name[:_MAX_TEXT],
        description=None if description is None else _first_sentence(description),
        release_date=_day(entry.get("created") or entry.get("created_at")),
        input_types=_input_types(entry),
        context_length=_number(entry, _CONTEXT),
        max_output_tokens=_number(entry, _OUTPUT) or (_number(top, _OUTPUT) if isinstance(top, dict) else None),
        params=_params(entry.get("supported_parameters")),
    )


def _kind(entry: dict[str, Any], id_: str) -> Kind:
    methods = entry.get("supportedGenerationMethods")
    if isinstance(methods, list):
        return "text" if "generateContent" in methods else "embedding" if "embedContent" in methods else "other"
    said = _text(entry.get("type"))
    if said is not None and said != "model":
        return _KINDS.get(said, "other")
    capabilities = entry.get("capabilities")
    if isinstance(capabilities, dict) and capabilities.get("completion_chat") is True:
        return "text"
    outputs = _modalities(entry, "output_modalities")
    if outputs and "text" not in outputs:
        return "embedding" if "embeddings" in outputs else "other"
    return next((kind for kind, pattern in _BY_NAME if pattern.search(id_.lower())), "text")


def _input_types(entry: dict[str, Any]) -> tuple[str, ...]:
    said = _modalities(entry, "input_modalities")
    if said:
        return tuple(kind for kind in _MODALITIES if kind in said)
    capabilities = entry.get("capabilities")
    sees = [capabilities.get("vision")] if isinstance(capabilities, dict) else []
    if True in (*sees, entry.get("supports_image_input")):
        return ("text", "image")
    return ("text",) if False in (*sees, entry.get("supports_image_input")) else ()


def _modalities(entry: dict[str, Any], key: str) -> frozenset[str]:
    architecture = entry.get("architecture")
    said = entry.get(key) or (architecture.get(key) if isinstance(architecture, dict) else None)
    return frozenset(one for one in said if isinstance(one, str)) if isinstance(said, list) else frozenset()


def _params(said: Any) -> frozenset[str] | None:
    if not isinstance(said, list):
        return None
    known = frozenset(CANONICAL[word] for word in said if isinstance(word, str) and word in CANONICAL)
    return known | {"reasoning_effort"} if "reasoning" in said else known


def _number(entry: dict[str, Any], keys: Sequence[str]) -> int | None:
    values = (entry.get(key) for key in keys)
    return next((value for value in values if type(value) is int and 0 < value <= MAX_TOKENS), None)


def _text(value: Any) -> str | None:
    return " ".join(value.split()) or None if isinstance(value, str) else None


def _first_sentence(text: str) -> str:
    sentence = re.split(r"(?<=[.!?]) ", text)[0]
    return sentence if len(sentence) <= _MAX_TEXT else f"{sentence[: _MAX_TEXT - 1].rstrip()}…"


def _day(value: Any) -> str | None:
    try:
        moment = datetime.fromtimestamp(value, UTC) if isinstance(value, int) else datetime.fromisoformat(value)
        return moment.date().isoformat() if _EARLIEST < moment.astimezone(UTC) < _LATEST else None
    except (TypeError, ValueError, OverflowError, OSError):
        return None
