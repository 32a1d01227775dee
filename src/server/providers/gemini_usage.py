"""Token counts of Gemini, in the gateway's one convention."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from server.domain.usage import Usage
from server.providers.gemini_wire import counted, objects


def image_usage(metadata: Any) -> Usage | None:
    """Of an answer that is pictures: its output is, but for thoughts and what is said to be something else."""
    usage = UsageCount().add(metadata)
    if usage is None:
        return None
    made = metadata.get("candidatesTokensDetails")
    pictures = _of("IMAGE", made) if objects(made) else usage.output_tokens - usage.reasoning_tokens
    return replace(
        usage,
        input_image_tokens=min(_of("IMAGE", metadata.get("promptTokensDetails")), usage.input_tokens),
        output_image_tokens=min(pictures, usage.output_tokens),
    )


class UsageCount:
    """Collects `usageMetadata` over a stream: each is a snapshot of the whole, and may leave out what another told."""

    __slots__ = ("_fields", "_thoughts_inside")

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._thoughts_inside = False

    def add(self, metadata: Any) -> Usage | None:
        """The usage so far; None where this tells nothing. The last value of a field holds."""
        if not isinstance(metadata, dict):
            return None
        told = {name: value for name, value in metadata.items() if name.endswith(("Count", "Details"))}
        if not told:
            return None
        self._fields.update(told)
        if counted(told.get("thoughtsTokenCount")):
            self._thoughts_inside = _thoughts_inside(told)
        return self._usage()

    def _usage(self) -> Usage | None:
        prompt, made = self._count("promptTokenCount"), self._count("candidatesTokenCount")
        tools, thoughts = self._count("toolUsePromptTokenCount") or 0, self._count("thoughtsTokenCount") or 0
        if prompt is None and made is None and not thoughts:
            return None
        input_tokens = (prompt or 0) + tools
        output_tokens = made or 0
        if not self._thoughts_inside:
            output_tokens += thoughts
        return Usage(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_input_tokens=min(self._count("cachedContentTokenCount") or 0, input_tokens),
            reasoning_tokens=min(thoughts, output_tokens),
            input_audio_tokens=min(
                self._audio("promptTokensDetails") + self._audio("toolUsePromptTokensDetails"), input_tokens
            ),
            output_audio_tokens=min(self._audio("candidatesTokensDetails"), output_tokens),
        )

    def _count(self, name: str) -> int | None:
        return counted(self._fields.get(name))

    def _audio(self, name: str) -> int:
        return _of("AUDIO", self._fields.get(name))


def _of(modality: str, details: Any) -> int:
    return sum(counted(entry.get("tokenCount")) or 0 for entry in objects(details) if entry.get("modality") == modality)


def _thoughts_inside(snapshot: dict[str, Any]) -> bool:
    """Thoughts stand beside the candidates, unless the total of the same snapshot says that they are among them."""
    others = ("promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount")
    total = counted(snapshot.get("totalTokenCount"))
    return total is not None and total == sum(counted(snapshot.get(name)) or 0 for name in others)
