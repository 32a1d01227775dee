"""What schemathesis loads: generation goes to the stand-in, which answers at once."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis import Case, HookContext
from schemathesis.generation import GenerationMode

OF_THE_STANDIN, EMBEDDED = "acme/test-1:free", "local/toxic-comments:free"
MODELS = {
    **dict.fromkeys(("/v1/chat/completions", "/v1/responses", "/v1/messages"), OF_THE_STANDIN),
    **dict.fromkeys(("/v1/moderations", "/v1/moderation"), EMBEDDED),
}


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """A good body asks for a model that is there; what should be refused stays as it is."""
    is_good = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if is_good and isinstance(case.body, dict) and case.path in MODELS:
        case.body["model"] = MODELS[case.path]
    if case.method == "QUERY":
        # Without a content type it is malformed, whatever it is for.
        case.headers["content-type"] = "application/json"
