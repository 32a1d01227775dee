"""The field `moderation`: the gateway's own, or OpenAI's parameter of that name. Their keys tell them apart.

`input` and `output` as words (`block`, `flag`) are the gateway's: it has a moderation model judge what goes in and
comes out. OpenAI's has a `model` and may have a `policy`; it passes through to providers that know it.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from rest_bridge.json import check_object, decode_value, invalid, is_set
from server.domain.guardrail import Guardrail
from server.domain.limits import missing_field

FIELD: Final = "moderation"


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    pass


class _PolicyMode(_Strict, frozen=True, kw_only=True):
    mode: str


class _Policy(_Strict, frozen=True, kw_only=True):
    input: _PolicyMode | None = None
    output: _PolicyMode | None = None


class GuardrailBody(_Strict, frozen=True, kw_only=True):
    """The gateway's own: `model` is who judges, one that works here where it is left out."""

    input: Literal["block", "flag"] | None = None
    output: Literal["block", "flag"] | None = None
    model: str | None = None


class ModerationOptions(GuardrailBody, frozen=True, kw_only=True):
    """Either of them; with `policy`, or with nothing but a `model`, it is OpenAI's."""

    policy: _Policy | None = None


_KEYS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_GUARDRAIL: Final = msgspec.json.Decoder(GuardrailBody)


def own_guardrail(asked: GuardrailBody) -> Guardrail:
    """Raises GatewayError where it asks for nothing."""
    if asked.input is None and asked.output is None:
        raise missing_field(f"{FIELD}.input")
    if asked.model == "":
        raise missing_field(f"{FIELD}.model")
    return Guardrail(asked.input, asked.output, asked.model)


def guardrail_of(asked: ModerationOptions | None) -> Guardrail | None:
    """The guardrail; None where it is OpenAI's parameter. Raises GatewayError where it is half of each."""
    if asked is None:
        return None
    if asked.input is None and asked.output is None:
        if asked.model is None:
            raise missing_field(f"{FIELD}.model")
        return None
    if asked.policy is not None:
        raise _ambiguous("input" if asked.input is not None else "output")
    return own_guardrail(asked)


def guardrail_in(raw: msgspec.Raw) -> Guardrail | None:
    """The same of a value that is passed on as it is where it is OpenAI's."""
    if not is_set(raw):
        return None
    keys = {name for name, value in _KEYS.decode(check_object(raw, FIELD)).items() if is_set(value)}
    own = [name for name in ("input", "output") if name in keys]
    if not own:
        return None
    if "policy" in keys:
        raise _ambiguous(own[0])
    return own_guardrail(decode_value(_GUARDRAIL, raw, FIELD))


def _ambiguous(name: str) -> Exception:
    text = f"`{FIELD}.policy` is OpenAI's own moderation and `{FIELD}.{name}` is this gateway's: send one of them."
    return invalid(f"{FIELD}.{name}", text)
