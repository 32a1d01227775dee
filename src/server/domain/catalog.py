"""The catalogue: which providers there are, which models they offer, and what each offer can do. Immutable facts.

`server.catalogue` reads it from files and replaces it whole; everything else asks `CatalogSource.current` once a
request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from server.domain.addresses import is_near
from server.domain.pricing import PriceList
from server.domain.request import Endpoint

Dialect = Literal["openai", "anthropic", "gemini", "cohere"]
PriceSource = Literal["file", "default"]
ReasoningField = Literal["reasoning_content", "reasoning", "blocks", "none"]
OutputKind = Literal["json_object", "json_schema"]
ToolChoiceWord = Literal["none", "named", "allowed"]
ImageFormatWord = Literal["b64_json", "base64"]
VideoVariant = Literal["video", "thumbnail", "spritesheet"]
VideoField = Literal["resolution", "aspect_ratio", "seed", "negative_prompt"]


class ProviderProfile(msgspec.Struct, frozen=True):
    """How a provider departs from its dialect, as data.

    `apis`: which of the two OpenAI APIs it speaks itself; a request for the other is translated.
    `max_tokens_field`: how its chat API names the output limit.
    `reasoning_tokens`: `beside` where its output count leaves reasoning out.
    `system_role`: what a system or developer turn must be called; None keeps the client's word.
    `stream_usage`: whether `stream_options.include_usage` must be asked for to get usage at all.
    `tool_call_start`: for a chat API that goes on from a last assistant message and whose tool choice is one word
    (llama.cpp): how its model starts a call, said for it where a call is required; None leaves that to the server.
    `seed_field`: how its chat API names the seed.
    `reasoning_field`: where its chat API takes earlier reasoning back: in a field of the assistant's turn, in `blocks`
    of its content (Mistral, and only from models that reason), or nowhere, so that it is left out.
    `needs_reasoning`: whether it refuses assistant's turns without that field, which is empty where none is known.
    `thinking_switch`: whether its chat API turns thinking off by `thinking`, not by an effort of `none`, and takes
    demands for a call only where it is off (DeepSeek).
    `output_formats`: which of them it takes beside plain text. `format_with_tools`: whether it takes one beside tools.
    `strict_tools`: whether its chat API knows the `strict` of a function.
    `agent_api`: whether its Responses API is Perplexity's Agent API, which is asked for a format in `response_format`,
    takes an assistant's turn as one text, and takes no reasoning back.
    `speaker_names`: whether its turns may say who speaks. `refusals`: `text` where it knows no field for what an
    earlier turn refused. `empty_turns`: whether an assistant's turn may hold nothing; else it is left out.
    `audio`: `bare` where sound is its base64 and nothing else.
    `tool_choices`: which choices its chat API takes beside `auto` and `required`; the others are said by sending it
    the tools that are left, and one of those words.
    `tool_call_id_length`: of how many ASCII letters and digits the id of a tool call must be; None for any id.
    `image_response_format`: how its image API is asked for base64; None where it must not be, since it answers so
    anyway or knows no such field. A picture that comes as an address all the same is fetched.
    `transcript_formats`: whether its transcription API is told a `response_format`. `form_arrays`: how the name of an
    array ends in a form.
    """

    apis: frozenset[Literal["chat", "responses"]] = frozenset({"chat"})
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    reasoning_tokens: Literal["inside", "beside"] = "inside"
    system_role: Literal["system", "developer"] | None = None
    stream_usage: bool = True
    tool_call_start: str | None = None
    seed_field: Literal["seed", "random_seed"] = "seed"
    reasoning_field: ReasoningField = "reasoning_content"
    needs_reasoning: bool = False
    thinking_switch: bool = False
    output_formats: frozenset[OutputKind] = frozenset({"json_object", "json_schema"})
    format_with_tools: bool = True
    strict_tools: bool = True
    agent_api: bool = False
    speaker_names: bool = True
    refusals: Literal["field", "text"] = "field"
    empty_turns: bool = True
    audio: Literal["object", "bare"] = "object"
    tool_choices: frozenset[ToolChoiceWord] = frozenset({"none", "named", "allowed"})
    tool_call_id_length: int | None = None
    image_response_format: ImageFormatWord | None = None
    transcript_formats: bool = True
    form_arrays: Literal["brackets", "plain"] = "brackets"


class EmbeddingFacts(msgspec.Struct, frozen=True):
    """What one call for embeddings may hold, and how it may be asked; None leaves a limit to the dialect.

    `max_inputs` and `max_tokens` bound a call: what is more goes in several. `encoding`: `base64` where vectors may be
    asked for in that. `token_input`: whether ids of tokens are taken as well as text. `dimensions_field`: how the API
    names the length of a vector.
    """

    max_inputs: int | None = None
    max_tokens: int | None = None
    encoding: Literal["float", "base64"] = "float"
    token_input: bool = True
    dimensions_field: Literal["dimensions", "output_dimension"] = "dimensions"


class VideoFacts(msgspec.Struct, frozen=True):
    """What videos may be, and how they are asked for where the dialect leaves that open.

    `seconds` and `sizes` (`1280x720`) are those that are made; empty leaves both to the provider. `default_seconds` and
    `default_size` are made, and asked for, where a request names none. `variants` of a video can be downloaded.
    `api`: `generations` where jobs begin at `/videos/generations` and end with an address (xAI). `fields`: what the
    OpenAI API of videos does not have, and this one takes by these names. `cancel`: whether a job can be cancelled.
    `idempotent`: whether it heeds an `Idempotency-Key`, so that a job may safely be submitted again.
    """

    seconds: tuple[int, ...] = ()
    sizes: tuple[str, ...] = ()
    default_seconds: int | None = None
    default_size: str | None = None
    variants: tuple[VideoVariant, ...] = ("video",)
    api: Literal["videos", "generations"] = "videos"
    fields: frozenset[VideoField] = frozenset()
    cancel: bool = False
    idempotent: bool = False


class Provider(msgspec.Struct, frozen=True):
    """A place that serves models.

    `api_key` is None where none is sent. `missing_key_env` names the unset variable of a provider that cannot be
    called for want of its key; `unavailable_reason` says, as an instruction, what else must be done before it can
    be called. `base_url` has no trailing slash; `allow_link_local`: it may lead to a link-local address, or to one
    where clouds keep their metadata. `on_disconnect`: whether its stream is read to its end, for its own account of
    the usage, when the client has gone. `region` is where it processes what it is sent, None where that is not known.
    `prices_as`: whose default prices are its own, None where those of its id are.
    """

    id: str
    dialect: Dialect
    base_url: str
    api_key: str | None = None
    missing_key_env: str | None = None
    profile: ProviderProfile = ProviderProfile()
    name: str = ""
    unavailable_reason: str | None = None
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    region: str | None = None
    allow_link_local: bool = False
    prices_as: str | None = None

    @property
    def is_configured(self) -> bool:
        return self.missing_key_env is None and self.unavailable_reason is None

    @property
    def remedy(self) -> str | None:
        """What its operator must do before it can be called, as an instruction; None where it can be."""
        if self.missing_key_env is not None:
            return f"set {self.missing_key_env}"
        return self.unavailable_reason

    @property
    def sends_key_in_clear(self) -> bool:
        """Whether its key can be read on the way: sent without TLS, to where its host does not look near by."""
        parts = urlsplit(self.base_url)
        return self.api_key is not None and parts.scheme == "http" and not is_near(parts.hostname or "")

    def __repr__(self) -> str:
        return f"Provider(id={self.id!r})"  # never the key


class Offer(msgspec.Struct, frozen=True):
    """One provider's offer of one model.

    `params`: canonical names of the parameters it honours, None for every parameter of its endpoints.
    `prices` are empty on a `:free` model, and only there. `price_source` says where they were written: in the
    catalogue's files, or among the defaults that come with the gateway; None where there are none.
    `max_output_tokens` is the model's, for a dialect that must always name a limit. `input_types` and `context_length`
    are the offer's own or else the model's, None where the catalogue says nothing of either; `embeddings` and
    `videos` are its own or else its provider's; `output_types` are the model's, None where the catalogue says nothing
    of them.
    """

    provider: Provider
    provider_model: str
    endpoints: frozenset[Endpoint]
    params: frozenset[str] | None = None
    prices: PriceList = PriceList()
    price_source: PriceSource | None = None
    max_output_tokens: int | None = None
    input_types: frozenset[str] | None = None
    context_length: int | None = None
    embeddings: EmbeddingFacts = EmbeddingFacts()
    output_types: frozenset[str] | None = None
    videos: VideoFacts = VideoFacts()


class Model(msgspec.Struct, frozen=True):
    """A model that clients may name. `created` is in seconds since 1970, `release_date` is ISO 8601."""

    id: str
    offers: tuple[Offer, ...]
    name: str = ""
    description: str = ""
    organisation_id: str = ""
    created: int = 0
    release_date: str | None = None
    status: Literal["active", "deprecated", "retired"] = "active"
    aliases: tuple[str, ...] = ()
    input_types: tuple[str, ...] = ("text",)
    output_types: tuple[str, ...] = ("text",)
    context_length: int | None = None
    max_output_tokens: int | None = None

    @property
    def is_free(self) -> bool:
        return self.id.endswith(":free")


class Routing(msgspec.Struct, frozen=True):
    """Limits of one request's attempts, in seconds.

    `timeout_s` bounds a whole answer, or a stream until it shows something, over all attempts. `first_byte_timeout_s`
    bounds one attempt of a stream until it shows something, `idle_timeout_s` any silence after that. `hedge_after_s`: a
    stream that has shown nothing by then is asked of another provider as well; None for never.
    """

    timeout_s: float = 120.0
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 30.0
    idle_timeout_s: float = 60.0
    max_attempts: int = 3
    hedge_after_s: float | None = None


class Catalog(msgspec.Struct, frozen=True):
    """Everything known at one moment. `models` is keyed by id; `aliases` leads from every alias to an id."""

    providers: Mapping[str, Provider]
    models: Mapping[str, Model]
    aliases: Mapping[str, str] = {}
    routing: Routing = Routing()

    def find(self, model_id: str) -> Model | None:
        return self.models.get(self.aliases.get(model_id, model_id))


def split_pin(model_id: str) -> tuple[str | None, str]:
    """Split `<provider>:<author/slug>` into provider and model; `author/slug:free` has no provider."""
    head, colon, tail = model_id.partition(":")
    if colon and tail and "/" not in head:
        return head, tail
    return None, model_id
