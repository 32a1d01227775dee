"""What each route reads and writes, as types: the one table that a new route needs a line in to be described."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from rest_bridge import (
    audio_decode,
    audio_encode,
    chat_decode,
    chat_encode,
    messages_decode,
    models,
    moderations,
)
from rest_bridge.api_keys import AuditPageJson, KeyDeletionJson, KeysPageJson, OneKeyJson
from rest_bridge.api_keys_decode import CreateKeyBody, RotateKeyBody, UpdateKeyBody
from rest_bridge.chat_body import ChatBody
from rest_bridge.chat_messages import ImagePart, TextPart
from rest_bridge.credits import ActivityJson, CreditsJson
from rest_bridge.embeddings_decode import EmbeddingsBody
from rest_bridge.embeddings_encode import EmbeddingsJson, EmbeddingsUsage
from rest_bridge.generations import GenerationJson, GenerationsJson
from rest_bridge.health import HealthJson
from rest_bridge.messages import Count
from rest_bridge.messages_body import CountTokensBody, CustomToolBody, MessagesBody
from rest_bridge.messages_encode import MessageJson, MessagesUsage
from rest_bridge.openapi_audio import AUDIO, AUDIO_WORDS, FORMS
from rest_bridge.openapi_errors import ARRIVAL
from rest_bridge.openapi_images import IMAGES, IMAGES_BODIES, IMAGES_WORDS
from rest_bridge.openapi_surface import Surface, Type
from rest_bridge.openapi_types import Schema
from rest_bridge.openapi_videos import VIDEO_WORDS, VIDEOS
from rest_bridge.openapi_webhooks import WEBHOOK_WORDS, WEBHOOKS
from rest_bridge.pricing import CalculationJson, PricingPageJson
from rest_bridge.pricing_decode import PricingBody
from rest_bridge.responses_decode import TOOLS, ResponsesBody
from rest_bridge.responses_input import ITEMS, NATIVE_ITEMS
from rest_bridge.responses_json import EVENTS, OutputItem, OutputOther, ResponseDeletion, ResponseObject, ResponseUsage
from rest_bridge.stream_json import ChatCompletionChunk, MessageBlock, MessageEvent
from server.domain import embedding_limits
from server.domain.limits import MAX_SESSION_ID_CHARS, MAX_TOOLS
from server.domain.moderation import MAX_INPUTS, MAX_PARTS

MODEL: Final = "local/smollm2-135m:free"
MODERATION_MODEL: Final = "local/toxic-comments:free"
EMBEDDING_MODEL: Final = "local/smollm2-135m-embed:free"
"""The models of the examples: they answer wherever the gateway runs, and without credit."""

_MARKED: Final = "\n\nA comment (`: ping`) comes after 15 seconds of silence."


_ASKED: Final = [{"role": "user", "content": "Say hello."}]


def _chunk(delta: str, reason: str = "null") -> str:
    return (
        f'data: {{"id":"chatcmpl-{ARRIVAL.suffix}","object":"chat.completion.chunk","created":{ARRIVAL.created_at},'
        f'"model":"{MODEL}","system_fingerprint":null,'
        f'"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}]}}\n\n'
    )


SURFACES: Final[Mapping[str, Surface]] = {
    "ChatRestService.CreateChatCompletion": Surface(
        body=ChatBody,
        examples={
            "whole": {"model": MODEL, "messages": _ASKED, "max_tokens": 16},
            "streamed": {"model": MODEL, "messages": _ASKED, "max_tokens": 16, "stream": True, "usage": True},
        },
        reply=chat_encode.CompletionJson,
        events=ChatCompletionChunk,
        stream=(
            'Where the request says `"stream": true`: `data: {chunk}` for each event, then, where the request asks for '
            "usage, one chunk with empty `choices` and the usage, then `data: [DONE]`. A failure after the first event "
            'is `data: {"error": {…}}`, and nothing follows.' + _MARKED
        ),
        stream_example=(
            _chunk('{"role":"assistant","content":"","refusal":null}')
            + _chunk('{"content":"Hello"}')
            + _chunk("{}", '"stop"')
            + "data: [DONE]\n\n"
        ),
    ),
    "ResponsesRestService.CreateResponse": Surface(
        body=ResponsesBody,
        examples={
            "whole": {"model": MODEL, "input": "Say hello.", "max_output_tokens": 16},
            "streamed": {"model": MODEL, "input": "Say hello.", "max_output_tokens": 16, "stream": True},
        },
        reply=ResponseObject,
        events=EVENTS,
        stream=(
            'Where the request says `"stream": true`: `event: <type>` and `data: {event}` for each event, from '
            "`response.created` to `response.completed`, `response.incomplete` or `response.failed`, which hold the "
            "whole response; then `data: [DONE]`. A later failure is `event: error`, then `response.failed`." + _MARKED
        ),
        stream_example=(
            'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":4,'
            f'"item_id":"msg_{ARRIVAL.suffix}","output_index":0,"content_index":0,"delta":"Hello","logprobs":[]}}\n\n'
            "data: [DONE]\n\n"
        ),
    ),
    "ResponsesRestService.GetResponse": Surface(reply=ResponseObject),
    "ResponsesRestService.DeleteResponse": Surface(reply=ResponseDeletion),
    "MessagesRestService.CreateMessage": Surface(
        body=MessagesBody,
        examples={
            "whole": {"model": MODEL, "max_tokens": 16, "messages": _ASKED},
            "streamed": {"model": MODEL, "max_tokens": 16, "messages": _ASKED, "stream": True},
        },
        reply=MessageJson,
        events=MessageEvent,
        stream=(
            'Where the request says `"stream": true`, Anthropic\'s named events: `message_start`; for each block '
            "`content_block_start`, `content_block_delta` …, `content_block_stop`; `message_delta` with the usage; "
            "`message_stop`. A later failure is `event: error`, and nothing follows. `event: ping` comes "
            "after 15 seconds of silence."
        ),
        stream_example=(
            'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
            '"delta":{"type":"text_delta","text":"Hello"}}\n\n'
            'event: message_stop\ndata: {"type":"message_stop"}\n\n'
        ),
    ),
    "MessagesRestService.CountTokens": Surface(
        body=CountTokensBody, examples={"prompt": {"model": MODEL, "messages": _ASKED}}, reply=Count
    ),
    "EmbeddingsRestService.CreateEmbeddings": Surface(
        body=EmbeddingsBody,
        required=("input",),
        examples={
            "numbers": {"model": EMBEDDING_MODEL, "input": "A cat sits on the mat."},
            "base64": {"model": EMBEDDING_MODEL, "input": ["A cat.", "A dog."], "encoding_format": "base64"},
        },
        reply=EmbeddingsJson,
    ),
    **IMAGES,
    **AUDIO,
    **VIDEOS,
    "GenerationsRestService.GetGeneration": Surface(reply=GenerationJson),
    "GenerationsRestService.FindGeneration": Surface(reply=GenerationJson),
    "GenerationsRestService.ListGenerations": Surface(reply=(GenerationsJson, GenerationJson)),
    "CreditsRestService.GetCredits": Surface(reply=CreditsJson),
    "CreditsRestService.ListActivity": Surface(reply=ActivityJson),
    "PricingRestService.CalculatePricing": Surface(
        body=PricingBody,
        examples={
            "chat": {"model": MODEL, "usage": {"prompt_tokens": 1200, "completion_tokens": 300}},
            "dimensions": {"model": MODEL, "usage": {"dimensions": {"input_text_tokens": 1200}}},
        },
        reply=CalculationJson,
    ),
    "PricingRestService.ListPricingModels": Surface(reply=PricingPageJson),
    "ModerationRestService.CreateModeration": Surface(
        body=moderations.ModerationBody,
        required=("input",),
        examples={
            "text": {"model": MODERATION_MODEL, "input": "I want to read a book."},
            "several": {"model": MODERATION_MODEL, "input": ["I want to read a book.", "You are kind."]},
        },
        reply=moderations.ModerationReply,
    ),
    "ApiKeysRestService.ListApiKeys": Surface(reply=KeysPageJson),
    "ApiKeysRestService.CreateApiKey": Surface(
        body=CreateKeyBody,
        examples={
            "plain": {"name": "laptop"},
            "held": {
                "name": "demo",
                "expires_at": "2027-01-31T12:00:00Z",
                "limit": 5.0,
                "limit_reset": "monthly",
                "allowed_models": ["*:free"],
                "allowed_cidrs": ["10.0.0.0/8"],
            },
        },
        reply=OneKeyJson,
        status=201,
    ),
    "ApiKeysRestService.GetApiKey": Surface(reply=OneKeyJson),
    "ApiKeysRestService.UpdateApiKey": Surface(
        body=UpdateKeyBody, examples={"limit": {"limit": 7.5}, "lift": {"allowed_cidrs": None}}, reply=OneKeyJson
    ),
    "ApiKeysRestService.DeleteApiKey": Surface(reply=KeyDeletionJson),
    "ApiKeysRestService.RotateApiKey": Surface(
        body=RotateKeyBody, examples={"hour": {"overlap_s": 3600}}, reply=OneKeyJson, status=201
    ),
    "ApiKeysRestService.GetCurrentApiKey": Surface(reply=OneKeyJson),
    "ApiKeysRestService.ListAuditLog": Surface(reply=AuditPageJson),
    **WEBHOOKS,
    "DescriptionRestService.GetOpenApiYaml": Surface(reply=dict[str, Any], media="application/yaml", kept=True),
    "DescriptionRestService.GetOpenApiJson": Surface(reply=dict[str, Any], kept=True),
    "DescriptionRestService.GetDocsPage": Surface(reply=str, media="text/html", kept=True),
    "DescriptionRestService.GetDocsFile": Surface(reply=str, media="text/javascript", kept=True),
    "HealthRestService.GetHealth": Surface(reply=HealthJson),
    "ModelsRestService.ListModels": Surface(reply=models.PageJson, kept=True),
    "ModelsRestService.GetModel": Surface(reply=models.OneJson, kept=True),
    "ModelsRestService.ListModelEndpoints": Surface(reply=models.EndpointsJson, kept=True),
}
"""By service and method. A route whose reply is the mapping of its typed message needs none."""

NATIVE_ITEM: Final[Schema] = {
    "type": "object",
    "description": "An item that only a provider understands that speaks this API itself; it reaches it as it is.",
    "properties": {"type": {"type": "string", "enum": sorted(NATIVE_ITEMS)}},
    "required": ["type"],
}
BUILT_IN_TOOL: Final[Schema] = {
    "type": "object",
    "description": "A tool that the provider runs itself, as the provider names it.",
    "properties": {"type": {"type": "string", "not": {"enum": ["function", "custom"]}}},
    "required": ["type"],
}
FOREIGN_TOOL: Final[Schema] = {"type": "object", "description": "A tool of Anthropic's own, by its `type`."}


def read_later(component: str, field: str, of: Callable[[Type], Schema]) -> Schema | None:
    """The schema of a field that is declared as raw JSON, for it is read, or was made, apart from the rest."""
    match component, field:
        case "ResponsesRequest", "input":
            item = {"anyOf": [*(of(one) for one in ITEMS), NATIVE_ITEM]}
            return {"anyOf": [{"type": "string"}, {"type": "array", "items": item}]}
        case "ResponsesRequest", "tools":
            tool = {"anyOf": [*(of(one) for one in TOOLS), BUILT_IN_TOOL]}
            return {"anyOf": [{"type": "array", "items": tool, "maxItems": MAX_TOOLS}, {"type": "null"}]}
        case "MessagesRequest" | "MessagesRequestCountTokens", "tools":
            tool = {"anyOf": [of(CustomToolBody), FOREIGN_TOOL]}
            return {"anyOf": [{"type": "array", "items": tool, "maxItems": MAX_TOOLS}, {"type": "null"}]}
        case "ResponseObject", "output":
            return {"type": "array", "items": {"anyOf": [of(OutputItem), of(OutputOther)]}}
        case "ResponseItemEvent", "item":
            return {"anyOf": [of(OutputItem), of(OutputOther)]}
        case "Generation", "usage":
            told = (chat_encode.ChatUsage, MessagesUsage, ResponseUsage, EmbeddingsUsage, moderations.ModerationUsage)
            return {"anyOf": [*map(of, told), {"type": "null"}]}
        case "EmbeddingsRequest", "input":
            most = {"minItems": 1, "maxItems": embedding_limits.MAX_INPUTS}
            tokens = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
            texts = {"type": "array", "items": {"type": "string", "minLength": 1}, **most}
            return {
                "anyOf": [{"type": "string", "minLength": 1}, texts, tokens, {"type": "array", "items": tokens, **most}]
            }
        case "AudioRequestSpeech", "voice":
            return {"anyOf": [{"type": "string", "minLength": 1}, of(audio_decode.VoiceBody)]}
        case "AudioVerboseTranscription", "segments":
            return {"type": "array", "items": of(audio_encode.SegmentJson)}
        case "AudioTranscription" | "AudioTranscriptDeltaEvent" | "AudioTranscriptDoneEvent", "logprobs":
            return {"type": "array", "items": {"type": "object"}}
        case "Embedding", "embedding":
            return {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string", "format": "byte"}]}
        case "ModerationRequest", "input":
            texts = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_INPUTS}
            parts = {"type": "array", "items": of(TextPart | ImagePart), "minItems": 1, "maxItems": MAX_PARTS}
            return {"anyOf": [{"type": "string"}, texts, parts]}
        case "Message", "content":
            return of(tuple[MessageBlock, ...])
        case _:
            return None


_PROVIDERS_OWN: Final = "Passed on as it is to a provider that has it."

_ALWAYS_TELL: Final = (
    *FORMS,
    "AudioRequestSpeech",
    "EmbeddingsRequest",
    *IMAGES_BODIES,
    "ModerationRequest",
    "ResponsesRequest",
    "MessagesRequest",
    "VideosRequestVideo",
)

WORDS: Final[Mapping[str, str]] = {
    **AUDIO_WORDS,
    **IMAGES_WORDS,
    **VIDEO_WORDS,
    **WEBHOOK_WORDS,
    "tool_choice": "Whether and which tools are called.",
    "session_id": f"Requests with the same one prefer the same provider; at most {MAX_SESSION_ID_CHARS} characters.",
    "reasoning_effort": "How much a reasoning model thinks.",
    "verbosity": "How much it says.",
    "prompt_cache_options": _PROVIDERS_OWN,
    "prompt_cache_retention": "How long the provider's cache keeps the prompt, such as `24h`.",
    "modalities": _PROVIDERS_OWN,
    "encoding_format": "How vectors are written: `float`, as numbers, or `base64`, as little-endian float32.",
    "prediction": "What much of the output is expected to be.",
    "web_search_options": _PROVIDERS_OWN,
    "thinking": "How much a reasoning model thinks, and whether it shows it.",
    "output_config": "`effort`: how much it thinks; `format`: what the text must look like.",
    "output_format": "What the text must look like; the older name of `output_config.format`.",
    "cache_control": "What goes before and up to the last block may be kept in the provider's prompt cache.",
    "context_management": "What may go from a long conversation; an edit that would clear any of it is refused.",
    "speed": "`standard`; `fast` is refused.",
    "text": "`format`: what the text must look like; `verbosity`: how much it says.",
    "truncation": "`auto`: the provider may drop what does not fit.",
    "background": _PROVIDERS_OWN,
    "background_options": _PROVIDERS_OWN,
    "max_tool_calls": "How many of the provider's own tools may be called in all.",
    "access_programs": _PROVIDERS_OWN,
    "conversation": _PROVIDERS_OWN,
    "prompt": _PROVIDERS_OWN,
    "image": _PROVIDERS_OWN,
    "moderation": "`input`, `output`: `block` or `flag` what a moderation model flags; `model` judges. Or OpenAI's own"
    " parameter (`model`, `policy`), passed on as it is to a provider that has it.",
    "MessagesRequest.moderation": "`input`, `output`: `block` or `flag` what a moderation model flags; `model` judges.",
    "ResponsesRequest.context_management": _PROVIDERS_OWN,
    "ResponsesRequest.stop": "Known and refused: the Responses API has no stop sequences.",
    **{f"ChatRequest.{name}": f"Known and refused: {why}." for name, why in chat_decode.REFUSED.items()},
    **{
        f"{body}.{name}": f"Known and refused: {why}."
        for body in ("MessagesRequest", "MessagesRequestCountTokens")
        for name, why in messages_decode.REFUSED.items()
    },
    "stream": "Whether to be told event by event, as server-sent events.",
    "stream_options": "`include_usage`: whether the last chunk of a stream tells the usage.",
    "usage": "Of a stream: whether its last chunk tells the usage, with what it cost.",
    "meta": "Whether to be told who served it and how fast.",
    "provider": "Wishes about providers.",
    "models": "Models to fall back to, in order, where no provider of the first can serve.",
    "provider_options": "By provider id, fields that are put into the request to that provider as they are.",
    "debug": "`trace`: whether `meta` tells how the provider was chosen.",
    "order": "Provider ids to try first, in order.",
    "only": "Provider ids; no other is called.",
    "ignore": "Provider ids that are not called.",
    "allow_fallbacks": "Whether others may be called where the first fails; true where absent.",
    "require_parameters": "Whether only providers are called that honour every parameter; true where absent.",
    "sort": "What to prefer providers by, in place of the balance of all.",
    "max_price": "USD per million tokens; who asks more is not called.",
    "user": "Your id of the person who asks; reaches providers only as a pseudonym.",
    "safety_identifier": "As `user`, in OpenAI's newer word.",
    "prompt_cache_key": "Requests with the same one prefer the same provider, whose cache has the prompt.",
    "response_format": "What the text must look like.",
    "service_tier": "The tier to be served in, where the provider has several.",
    "max_tokens": "The most to be put out; reasoning counts; at least 1.",
    "metadata": "Labels of yours: at most 16, of at most 64 and 512 characters.",
    "store": "Whether it is kept.",
    "input": "A text, or the items of the conversation so far.",
    "EmbeddingsRequest.input": "A text, several, one text's tokens, or several texts' tokens.",
    "ModerationRequest.input": "A text, several, or the parts of one input.",
    **{f"{body}.usage": "Taken, and changes nothing: replies always tell it." for body in _ALWAYS_TELL},
    "include": "What to be told beside: `message.output_text.logprobs`, `reasoning.encrypted_content`.",
    "system": "The system prompt.",
    "ok": "Always true.",
    "object": "What kind of object it is.",
    "limit": "Of this page.",
    "offset": "Of this page.",
    "total": "How many match.",
    "remaining": "USD that are available.",
    "thirty_day_usage": "USD charged today and on the 29 days before.",
    "total_nanos": "Nano-dollars.",
    "total_usd": "The same in USD.",
    "unit_price_usd": "USD for `unit_size` units.",
    "line_nanos": "Nano-dollars.",
    "line_usd": "The same in USD.",
    "Generation.created_at": "ISO 8601, UTC.",
    "Generation.provider": "Who served it, or was tried last.",
    "ChatCompletion.usage": "What it used, and what it cost.",
    "Message.usage": "What it used, and what it cost.",
    "ResponseObject.usage": "What it used, and what it cost; null until it has ended.",
    "ResponseObject.store": "Whether it is kept.",
    "ChatCompletionChunk.usage": "In the last chunk, where the request asks for it; null in the others.",
    "CreditsActivity.from": "The first day.",
    "CreditsActivity.to": "The last day.",
}
"""What is to be said of a field that no proto has, by its name, or by component and name."""

VARIABLES: Final[Mapping[str, str]] = {
    "model_id": MODEL,
    "generation_id": ARRIVAL.generation_id,
    "response_id": f"resp_{ARRIVAL.suffix}",
    "id": ARRIVAL.generation_id,
    "name": "page.js",
    "video_id": f"video_{ARRIVAL.suffix}",
}
"""Examples of what stands in a path or a query."""

__all__ = ["MODEL", "SURFACES", "VARIABLES", "WORDS", "read_later"]
