"""What moderation APIs answer, wire-exact: OpenAI's `omni-moderation` and Mistral's two models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from server.domain.moderation import CATEGORIES
from tests.fakes.replies import whole
from tests.fakes.wire import Reply, Request

OF_IMAGES = ("self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "violence", "violence/graphic")
"""Where OpenAI's model looks in pictures; elsewhere it answers 0 and no type."""
MISTRAL_2411 = (
    "sexual",
    "hate_and_discrimination",
    "violence_and_threats",
    "dangerous_and_criminal_content",
    "selfharm",
    "health",
    "financial",
    "law",
    "pii",
)
MISTRAL_2603 = (*MISTRAL_2411[:3], "dangerous", "criminal", *MISTRAL_2411[4:], "jailbreaking")


def openai_result(found: Mapping[str, float] = {}, types: Sequence[str] = ("text",)) -> dict[str, Any]:
    """One result; `found` says by category how surely, and above 0.5 it is flagged."""
    applied = {name: [kind for kind in types if kind == "text" or name in OF_IMAGES] for name in CATEGORIES}
    scores = {name: found.get(name, 0.0001 if applied[name] else 0.0) for name in CATEGORIES}
    return {
        "flagged": any(score > 0.5 for score in scores.values()),
        "categories": {name: score > 0.5 for name, score in scores.items()},
        "category_scores": scores,
        "category_applied_input_types": applied,
    }


def openai_moderation(*results: Mapping[str, Any]) -> bytes:
    told = {"id": "modr-0d9740456c391e43c445bf0f010940c7", "model": "omni-moderation-latest", "results": results}
    return json.dumps(told).encode()


def mistral_moderation(names: Sequence[str], *found: Mapping[str, float], tokens: int = 9) -> bytes:
    """A result for each of `found`; Mistral says nothing of `flagged` or of types of input."""
    results = [
        {
            "categories": {name: one.get(name, 0.0) > 0.5 for name in names},
            "category_scores": {name: one.get(name, 1.2e-05) for name in names},
        }
        for one in found
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "request_count": 1}
    told = {
        "id": "4d71ae510af942108ef7344f903e2b88",
        "usage": usage,
        "model": "mistral-moderation-2603",
        "results": results,
    }
    return json.dumps(told).encode()


def judging(found_in: Callable[[str], Mapping[str, float]]) -> Callable[[Request], Reply]:
    """Answers as OpenAI does: one result a text, or one for parts; `found_in` judges a text."""

    def reply(request: Request) -> Reply:
        given = request.json["input"]
        given = [given] if isinstance(given, str) else given
        if given and isinstance(given[0], dict):
            kinds = tuple(dict.fromkeys(part["type"].removesuffix("_url") for part in given))
            texts = " ".join(part.get("text", "") for part in given)
            return whole(openai_moderation(openai_result(found_in(texts), kinds)))
        return whole(openai_moderation(*(openai_result(found_in(text)) for text in given)))

    return reply


def saying(word: str, category: str = "harassment") -> Callable[[Request], Reply]:
    """Flags whatever has the word in it."""
    return judging(lambda text: {category: 0.97} if word in text else {})
