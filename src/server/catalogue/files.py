"""The shape of a catalogue file: which keys there are and what kind of value each takes.

What the values mean together (is this provider known, is that variable set) is for `server.catalogue.build`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from server.catalogue.problems import Problem, suggestion
from server.catalogue.source import Source, YamlPath
from server.domain.catalog import (
    Dialect,
    ImageFormatWord,
    OutputKind,
    ReasoningField,
    ToolChoiceWord,
    VideoField,
    VideoVariant,
)
from server.domain.identity import OnDisconnect
from server.domain.request import Endpoint

REGION: Final = r"^[a-z0-9][a-z0-9-]*$"
MAX_TOKENS: Final = 2**32 - 1
"""Of a context or an answer: typed clients are told of it in 32 bits."""
_Text = Annotated[str, Field(min_length=1, max_length=200)]
_TIER: Final = r"^[a-z0-9][a-z0-9_-]*$"
_ProviderId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
_MODEL_ID: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(:free)?$"
_ALIAS: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?(:free)?$"
_ModelId = Annotated[str, Field(pattern=_MODEL_ID, max_length=128)]
_Alias = Annotated[str, Field(pattern=_ALIAS, max_length=128)]
_Endpoint = Annotated[Endpoint, Field(strict=False)]
_Modality = Literal["text", "image", "audio", "video", "file", "embedding"]
_Region = Annotated[str, Field(pattern=REGION, max_length=32)]
_DATE: Final = r"^(19[7-9]|20[0-9])[0-9]-[0-9]{2}-[0-9]{2}$"
_SIZE: Final = r"^[1-9][0-9]{1,4}x[1-9][0-9]{1,4}$"
_Size = Annotated[str, Field(pattern=_SIZE)]
_Seconds = Annotated[float, Field(gt=0, le=86_400)]
_Tokens = Annotated[int, Field(gt=0, le=MAX_TOKENS)]

_EXPECTED: Final = {
    _MODEL_ID: 'must look like "author/slug" or "author/slug:free"',
    _ALIAS: 'must look like "name" or "author/slug", with ":free" after it where it costs nothing',
    r"^[a-z0-9][a-z0-9._-]*$": "must be lower-case letters, digits, dots, dashes and underscores",
    REGION: "must be lower-case letters, digits and dashes",
    _SIZE: "must be width and height in pixels, such as 1280x720",
    _TIER: "must be the provider's word for it, in lower case",
    r"^[A-Z_][A-Z0-9_]*$": "must be the name of an environment variable in capitals, not the key itself",
    _DATE: "must be a date such as 2026-11-21",
}


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class EmbeddingsEntry(_Entry):
    """How embeddings may be asked for (see `EmbeddingFacts`)."""

    max_inputs: Annotated[int, Field(ge=1, le=2048)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    encoding: Literal["float", "base64"] | None = None
    token_input: bool | None = None
    dimensions_field: Literal["dimensions", "output_dimension"] | None = None


class VideosEntry(_Entry):
    """What videos may be, and how they are asked for (see `VideoFacts`)."""

    seconds: Annotated[list[Annotated[int, Field(ge=1, le=600)]], Field(max_length=64)] | None = None
    sizes: Annotated[list[_Size], Field(max_length=64)] | None = None
    default_seconds: Annotated[int, Field(ge=1, le=600)] | None = None
    default_size: _Size | None = None
    variants: Annotated[list[VideoVariant], Field(min_length=1)] | None = None
    api: Literal["videos", "generations"] | None = None
    fields: list[VideoField] | None = None
    cancel: bool | None = None
    idempotent: bool | None = None


class ProviderEntry(_Entry):
    """A place that serves models, and how it departs from its dialect (see `ProviderProfile`)."""

    id: _ProviderId
    dialect: Dialect
    base_url: _Text
    allow_link_local: bool = False
    api_key_env: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$", max_length=64)] | None = None
    api_key_file: _Text | None = None
    name: _Text | None = None
    setup: _Text | None = None
    apis: list[Literal["chat", "responses"]] | None = None
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    reasoning_tokens: Literal["inside", "beside"] | None = None
    system_role: Literal["system", "developer"] | None = None
    stream_usage: bool | None = None
    on_disconnect: OnDisconnect | None = None
    region: _Region | None = None
    prices_as: _ProviderId | None = None
    tool_call_start: _Text | None = None
    seed_field: Literal["seed", "random_seed"] | None = None
    reasoning_field: ReasoningField | None = None
    needs_reasoning: bool | None = None
    thinking_switch: bool | None = None
    output_formats: list[OutputKind] | None = None
    format_with_tools: bool | None = None
    strict_tools: bool | None = None
    agent_api: bool | None = None
    speaker_names: bool | None = None
    refusals: Literal["field", "text"] | None = None
    empty_turns: bool | None = None
    audio: Literal["object", "bare"] | None = None
    tool_choices: list[ToolChoiceWord] | None = None
    tool_call_id_length: Annotated[int, Field(ge=9, le=64)] | None = None
    image_response_format: ImageFormatWord | None = None
    transcript_formats: bool | None = None
    form_arrays: Literal["brackets", "plain"] | None = None
    embeddings: EmbeddingsEntry | None = None
    videos: VideosEntry | None = None


class ConditionsEntry(_Entry):
    """When the prices of a tier hold: all of these conditions, of which there is at least one."""

    input_tokens_above: Annotated[int, Field(gt=0, le=1_000_000_000)] | None = None
    service_tier: Annotated[str, Field(pattern=_TIER, max_length=64)] | None = None


class PriceTierEntry(_Entry):
    """Prices that replace those of the same dimensions under conditions."""

    when: ConditionsEntry
    price: dict[str, Any]


class OfferEntry(_Entry):
    """One provider's offer of a model. Prices are decimal text, read in `build` so that messages name the offer."""

    provider: _ProviderId
    provider_model: _Text
    endpoints: list[_Endpoint] = Field(default=[Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES], min_length=1)
    params: list[str] | None = None
    price: dict[str, Any] | None = None
    price_tiers: list[PriceTierEntry] | None = None
    input_types: Annotated[list[_Modality], Field(min_length=1)] | None = None
    context_length: _Tokens | None = None
    embeddings: EmbeddingsEntry | None = None
    videos: VideosEntry | None = None


class AddedOfferEntry(OfferEntry):
    """An offer of a model that is written elsewhere; `model` is its id or one of its aliases."""

    model: _Alias


class ModelEntry(_Entry):
    """A model that clients may name. Without `offers` it has those that stand elsewhere."""

    id: _ModelId
    name: _Text | None = None
    description: Annotated[str, Field(max_length=2000)] = ""
    organisation_id: _Text | None = None
    release_date: Annotated[str, Field(pattern=_DATE)] | None = None
    status: Literal["active", "deprecated", "retired"] = "active"
    aliases: list[_Alias] = []
    input_types: list[_Modality] = Field(default=["text"], min_length=1)
    output_types: list[_Modality] = Field(default=["text"], min_length=1)
    context_length: _Tokens | None = None
    max_output_tokens: _Tokens | None = None
    offers: Annotated[list[OfferEntry], Field(min_length=1)] | None = None


class RoutingEntry(_Entry):
    """Limits of one request's attempts; what is left out keeps its default."""

    timeout_s: _Seconds | None = None
    connect_timeout_s: _Seconds | None = None
    first_byte_timeout_s: _Seconds | None = None
    idle_timeout_s: _Seconds | None = None
    max_attempts: Annotated[int, Field(ge=1, le=10)] | None = None
    hedge_after_s: _Seconds | None = None


class CatalogFile(_Entry):
    """A whole file; every key may be absent, or empty."""

    providers: list[ProviderEntry] | None = None
    models: list[ModelEntry] | None = None
    offers: list[AddedOfferEntry] | None = None
    routing: RoutingEntry | None = None
    replace_catalog: bool = False


EntryT = TypeVar("EntryT", ProviderEntry, ModelEntry, OfferEntry, AddedOfferEntry)


class ParsedFile(msgspec.Struct, frozen=True):
    """A file whose shape is right. `shipped` files may name variables that are not set."""

    source: Source
    content: CatalogFile
    shipped: bool


class Located(msgspec.Struct, Generic[EntryT], frozen=True):
    """An entry and where it stands."""

    entry: EntryT
    file: ParsedFile
    path: YamlPath

    def problem(self, path: YamlPath, text: str) -> Problem:
        return self.file.source.problem((*self.path, *path), text)


_ENTRY_AT: Final[dict[tuple[str, ...], type[_Entry]]] = {
    (): CatalogFile,
    ("providers",): ProviderEntry,
    ("providers", "embeddings"): EmbeddingsEntry,
    ("providers", "videos"): VideosEntry,
    ("models",): ModelEntry,
    ("models", "offers"): OfferEntry,
    ("models", "offers", "embeddings"): EmbeddingsEntry,
    ("models", "offers", "videos"): VideosEntry,
    ("models", "offers", "price_tiers"): PriceTierEntry,
    ("models", "offers", "price_tiers", "when"): ConditionsEntry,
    ("offers",): AddedOfferEntry,
    ("offers", "embeddings"): EmbeddingsEntry,
    ("offers", "videos"): VideosEntry,
    ("offers", "price_tiers"): PriceTierEntry,
    ("offers", "price_tiers", "when"): ConditionsEntry,
    ("routing",): RoutingEntry,
}


def check_shape(source: Source) -> tuple[CatalogFile | None, list[Problem]]:
    """The file's content, or everything that is wrong with its keys and kinds of values."""
    try:
        return CatalogFile.model_validate(source.data), []
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        return None, [source.problem(details["loc"], _explain(details["loc"], details)) for details in found]


def _explain(path: YamlPath, details: ErrorDetails) -> str:
    names = tuple(step for step in path[:-1] if isinstance(step, str))
    match details["type"]:
        case "extra_forbidden":
            known = list(_ENTRY_AT[names].model_fields) if names in _ENTRY_AT else []
            return f"unknown key; {suggestion(str(path[-1]), known)}"
        case "missing":
            return "is missing; add it"
        case "string_pattern_mismatch":
            return _EXPECTED[details["ctx"]["pattern"]]
        case "model_type" | "dict_type":
            return "must be a mapping (key: value)"
        case "list_type":
            return "must be a list"
        case "enum" | "literal_error":
            return f"must be {details['ctx']['expected']}"
        case "string_type":
            return "must be text; put it in quotes"
        case _:
            text = details["msg"].removeprefix("Input ").removeprefix("Value ")
            return text[:1].lower() + text[1:]
