"""What is sent to the providers that ship, where their APIs differ from OpenAI's: as their own entries have it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from server.catalogue import load_catalog
from server.domain.catalog import Catalog, Offer
from server.domain.embedding import EmbeddingRequest
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import FinishReason
from server.domain.request import (
    Audio,
    Endpoint,
    FunctionTool,
    GenerationRequest,
    OutputFormat,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Role,
    Sampling,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from server.domain.seals import made_by
from server.domain.usage import Usage
from server.providers.openai_apis import api_for, unsupported
from server.providers.openai_chat_encode import encode_chat
from server.providers.openai_embeddings import body as embeddings_body
from server.providers.openai_responses_encode import encode_responses
from server.providers.openai_usage import read_usage
from tests.fakes.chat_wire import completion, delta_chunk, finish_chunk, usage
from tests.fakes.responses_wire import response_object
from tests.unit.openai_cases import ask, chat_stream, chat_whole, responses_whole, turn

SHIPPED: Catalog = load_catalog(None, {})
CALL = ToolCall("call_1", "f", "{}")
REASONS = frozenset({"reasoning_effort"})


def offer_of(provider_id: str, params: frozenset[str] = REASONS) -> Offer:
    return Offer(SHIPPED.providers[provider_id], "some-model", frozenset({Endpoint.CHAT}), params)


def chat(provider_id: str, request: GenerationRequest, params: frozenset[str] = REASONS) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(encode_chat(offer_of(provider_id, params), request))
    return body


def assistant(provider_id: str, *parts: Any, params: frozenset[str] = REASONS) -> dict[str, Any]:
    """How an assistant's earlier turn goes back, but for its role and its calls."""
    message = chat(provider_id, ask(turn(Role.ASSISTANT, *parts)), params)["messages"][0]
    return {name: value for name, value in message.items() if name not in ("role", "tool_calls")}


@pytest.mark.parametrize(
    ("provider_id", "expected"),
    [
        ("together", {"content": "Yes.", "reasoning_content": "Hm."}),
        ("fireworks", {"content": "Yes.", "reasoning_content": "Hm."}),
        ("xai", {"content": "Yes.", "reasoning_content": "Hm."}),
        ("openrouter", {"content": "Yes.", "reasoning_content": "Hm."}),
        ("deepseek", {"content": "Yes.", "reasoning_content": "Hm."}),
        ("cerebras", {"content": "Yes.", "reasoning": "Hm."}),
        ("ollama", {"content": "Yes.", "reasoning": "Hm."}),
        ("vllm", {"content": "Yes.", "reasoning": "Hm."}),
        ("groq", {"content": "Yes."}),
        ("cohere", {"content": "Yes."}),
        ("openai", {"content": "Yes."}),
        (
            "mistral",
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                    {"type": "text", "text": "Yes."},
                ]
            },
        ),
    ],
)
def test_earlier_reasoning_goes_back_where_the_provider_takes_it(provider_id: str, expected: dict[str, Any]) -> None:
    """Groq, Cerebras, Cohere and OpenAI answer 400 to a field that they do not know, Mistral 422."""
    assert assistant(provider_id, Reasoning(text="Hm."), Text("Yes.")) == expected


@pytest.mark.parametrize("parts", [(CALL,), (Text("Yes."),), (Reasoning(), CALL)], ids=["call", "text", "lost"])
def test_deepseek_never_misses_the_reasoning_of_a_turn(parts: tuple[Any, ...]) -> None:
    assert assistant("deepseek", *parts)["reasoning_content"] == ""
    assert "reasoning_content" not in assistant("fireworks", *parts[-1:])


def test_mistrals_own_thoughts_go_back_with_their_signature_and_to_models_that_think() -> None:
    own, foreign = made_by("chat", "mistral", "s1"), made_by("chat", "openrouter", "s2")

    def thinking(signature: str, params: frozenset[str] = REASONS) -> Any:
        return assistant("mistral", Reasoning(text="Hm.", signature=signature), CALL, params=params)["content"]

    block = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    assert thinking(own) == [{**block, "signature": "s1"}]
    assert thinking(foreign) == [block]
    assert thinking(own, frozenset()) is None


@pytest.mark.parametrize(
    ("call_id", "sent"),
    [
        ("D681PevKs", "D681PevKs"),
        ("call_1", "74196fe72"),
        ("call_00_0QkbZ3WcKi0dV8M6dPqJ9w7f", "ad280206d"),
        ("a-b_c-d_e", "3f32f3331"),
        ("é12345678", "acc9e85ef"),
        ("", "e3b0c4429"),
    ],
    ids=["its own", "short", "long", "dashes", "beyond ASCII", "empty"],
)
def test_mistral_gets_ids_of_nine_letters_and_digits_in_call_and_result(call_id: str, sent: str) -> None:
    turns = (turn(Role.ASSISTANT, ToolCall(call_id, "f", "{}")), turn(Role.TOOL, ToolResult(call_id, (Text("1"),))))

    call, result = chat("mistral", ask(*turns))["messages"]

    assert call["tool_calls"][0]["id"] == result["tool_call_id"] == sent
    assert chat("groq", ask(*turns))["messages"][1]["tool_call_id"] == call_id


ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "two"}}]},
}
NAMED = {"type": "function", "function": {"name": "two"}}


@pytest.mark.parametrize(
    ("provider_id", "none", "named", "allowed"),
    [
        ("openai", (["one", "two"], "none"), (["one", "two"], NAMED), (["one", "two"], ALLOWED)),
        ("groq", (["one", "two"], "none"), (["one", "two"], NAMED), (["two"], "required")),
        ("cerebras", (["one", "two"], "none"), (["one", "two"], NAMED), (["two"], "required")),
        ("mistral", ([], None), (["one", "two"], NAMED), (["two"], "required")),
        ("ollama", ([], None), (["two"], "required"), (["two"], "required")),
    ],
)
def test_a_tool_choice_that_a_provider_does_not_take_is_said_by_fewer_tools(
    provider_id: str, none: Any, named: Any, allowed: Any
) -> None:
    """Mistral garbles its answer where tools are there and forbidden, and Ollama heeds no choice at all."""
    raw = msgspec.Raw(json.dumps(ALLOWED).encode())

    def sent(choice: ToolChoice) -> Any:
        body = chat(provider_id, ask(tools=(FunctionTool("one"), FunctionTool("two")), tool_choice=choice))
        return [tool["function"]["name"] for tool in body.get("tools", [])], body.get("tool_choice")

    assert sent(ToolChoice("none")) == none
    assert sent(ToolChoice("named", name="two")) == named
    assert sent(ToolChoice("allowed", raw=raw)) == allowed
    assert sent(ToolChoice("required")) == (["one", "two"], "required")


@pytest.mark.parametrize(("provider_id", "name"), [("mistral", "random_seed"), ("groq", "seed")])
def test_the_seed_goes_by_the_providers_name_of_it(provider_id: str, name: str) -> None:
    sent = chat(provider_id, ask(sampling=Sampling(seed=7)))

    assert {key: sent[key] for key in sent if "seed" in key} == {name: 7}


def test_every_model_of_mistrals_that_generates_takes_a_seed() -> None:
    offers = [offer for model in SHIPPED.models.values() for offer in model.offers if offer.provider.id == "mistral"]

    assert all("seed" in (offer.params or ()) for offer in offers if Endpoint.CHAT in offer.endpoints)


@pytest.mark.parametrize("provider_id", ["cerebras", "cohere", "deepseek", "fireworks", "groq", "mistral", "together"])
def test_an_earlier_refusal_is_a_text_where_there_is_no_field_for_it(provider_id: str) -> None:
    sent = assistant(provider_id, Refusal("No."))

    assert (sent["content"], "refusal" in sent) == ("No.", False)
    assert assistant("openai", Refusal("No.")) == {"content": None, "refusal": "No."}


@pytest.mark.parametrize("parts", [(), (Text(""),), (Reasoning(text="Hm."),)], ids=["nothing", "no text", "thought"])
@pytest.mark.parametrize(("provider_id", "sent"), [("cohere", 2), ("groq", 3)])
def test_an_assistants_turn_that_holds_nothing_is_left_out_where_it_would_be_refused(
    provider_id: str, sent: int, parts: tuple[Any, ...]
) -> None:
    turns = (turn(Role.USER, "Hi"), turn(Role.ASSISTANT, *parts), turn(Role.USER, "Well?"))

    assert len(chat(provider_id, ask(*turns))["messages"]) == sent


def test_mistral_knows_no_names_of_speakers() -> None:
    named = ask(turn(Role.USER, "Hi"), turn(Role.USER, "And I", name="ann"))

    def refused(provider_id: str) -> str | None:
        return unsupported(named, "chat", SHIPPED.providers[provider_id].profile)

    assert refused("mistral") == "messages[1].name"
    assert refused("groq") is None


@pytest.mark.parametrize(
    ("provider_id", "sent"), [("mistral", "UklGRg=="), ("openrouter", {"data": "UklGRg==", "format": "wav"})]
)
def test_mistral_takes_sound_as_its_base64_alone(provider_id: str, sent: Any) -> None:
    heard = Audio("UklGRg==", "wav")

    content = chat(provider_id, ask(turn(Role.USER, heard, Text("What is said?"))))["messages"][0]["content"]

    assert content[0] == {"type": "input_audio", "input_audio": sent}


def test_perplexitys_agent_api_gets_what_it_knows() -> None:
    """It answers 400 to `text`, and its messages have no `output_text`; nor does it take reasoning back."""
    schema = msgspec.Raw(b'{"type":"object"}')
    turns = (
        turn(Role.USER, "Hi"),
        turn(Role.ASSISTANT, Reasoning(text="Hm."), Text("Let me"), Text(" see."), CALL),
        turn(Role.TOOL, ToolResult("call_1", (Text("1"),))),
    )
    request = ask(*turns, output_format=OutputFormat("json_schema", "answer", schema))

    sent = json.loads(encode_responses(offer_of("perplexity"), request))

    assert "text" not in sent
    assert sent["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    }
    assert sent["input"] == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "message", "role": "assistant", "content": "Let me see."},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "1"},
    ]


def test_perplexity_counts_its_cache_in_anthropics_words() -> None:
    details = {"cache_read_input_tokens": 60, "cache_creation_input_tokens": 30}

    assert read_usage({"input_tokens": 100, "output_tokens": 7, "input_tokens_details": details}) == Usage(
        input_tokens=100, output_tokens=7, cached_input_tokens=60, cache_write_tokens=30
    )


def test_a_call_of_perplexitys_is_no_unknown_ending() -> None:
    called = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}

    answer = responses_whole(response_object([called], status="requires_action"))

    assert answer.only.reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize(
    ("model", "name"),
    [("mistralai/codestral-embed-2505", "output_dimension"), ("openai/text-embedding-3-small", "dimensions")],
)
def test_the_length_of_a_vector_goes_by_the_providers_name_of_it(model: str, name: str) -> None:
    (offer,) = SHIPPED.models[model].offers
    request = EmbeddingRequest(endpoint=Endpoint.EMBEDDINGS, model=model, inputs=("Hi",), dimensions=256)

    sent = json.loads(embeddings_body(offer, request))

    assert "dimensions" in (offer.params or ())
    assert {key: sent[key] for key in sent if "dimension" in key} == {name: 256}


THINK, AT_EASE = ReasoningOptions(effort="high"), ReasoningOptions(effort="none")
TOOLS = {"tools": (FunctionTool("one"), FunctionTool("two"))}


@pytest.mark.parametrize(
    ("wanted", "effort", "thinking"),
    [
        ({}, None, None),
        ({"reasoning": THINK}, "high", None),
        ({"reasoning": AT_EASE}, None, {"type": "disabled"}),
        ({**TOOLS, "tool_choice": ToolChoice("auto"), "reasoning": THINK}, "high", None),
        ({**TOOLS, "tool_choice": ToolChoice("required")}, None, {"type": "disabled"}),
        ({**TOOLS, "tool_choice": ToolChoice("named", name="two"), "reasoning": AT_EASE}, None, {"type": "disabled"}),
    ],
    ids=["nothing", "thinking", "no thinking", "free to call", "must call", "must call two"],
)
def test_deepseek_thinks_unless_a_call_is_demanded_or_it_is_told_not_to(
    wanted: Any, effort: Any, thinking: Any
) -> None:
    """It thinks by default, and answers 400 to a demand while it does."""
    sent = chat("deepseek", ask(**wanted))

    assert (sent.get("reasoning_effort"), sent.get("thinking")) == (effort, thinking)
    assert "thinking" not in chat("fireworks", ask(**wanted))


@pytest.mark.parametrize(
    ("provider_id", "wanted", "refused"),
    [
        ("deepseek", {**TOOLS, "tool_choice": ToolChoice("required"), "reasoning": THINK}, "tool_choice"),
        ("deepseek", {"output_format": OutputFormat("json_schema")}, "text.format"),
        ("deepseek", {"output_format": OutputFormat("json_object")}, None),
        ("deepseek", {"output_format": OutputFormat("text")}, None),
        ("perplexity", {"output_format": OutputFormat("json_object")}, "text.format"),
        ("mistral", {"output_format": OutputFormat("json_schema")}, None),
        ("cohere", {"tools": (FunctionTool("one", strict=True),)}, "tools"),
        ("cohere", {"tools": (FunctionTool("one", strict=False),)}, None),
        ("groq", {**TOOLS, "output_format": OutputFormat("json_schema")}, "text.format"),
        ("groq", {"output_format": OutputFormat("json_schema")}, None),
        ("cerebras", {**TOOLS, "output_format": OutputFormat("json_schema")}, None),
    ],
    ids=[
        "think and call",
        "schema",
        "object",
        "text",
        "no object",
        "any",
        "strict",
        "not strict",
        "beside tools",
        "no tools",
        "both",
    ],
)
def test_what_a_provider_would_refuse_is_not_sent_to_it(provider_id: str, wanted: Any, refused: str | None) -> None:
    request = ask(**wanted, parameters={"response_format": "text.format"}, endpoint=Endpoint.RESPONSES)
    profile = SHIPPED.providers[provider_id].profile

    assert unsupported(request, api_for(request.endpoint, profile), profile) == refused


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}


def test_mistrals_thoughts_and_texts_come_apart_in_a_stream_as_in_a_whole_answer() -> None:
    """Its content is now an array and now a string; usage rides on the finishing chunk."""
    told = usage(9, 3)
    pieces = ([THOUGHT], [{"type": "text", "text": "Bon"}], "jour")
    chunks = [*(delta_chunk({"content": piece}) for piece in pieces), finish_chunk("model_length", usage=told)]
    body = completion("", message={"content": [THOUGHT, {"type": "text", "text": "Bonjour"}]}, usage=told)
    body["choices"][0]["finish_reason"] = "model_length"

    for answer in (chat_stream(chunks), chat_whole(body)):
        said = answer.only
        assert (said.reasoning, said.text, said.reason) == ("Hm.", "Bonjour", FinishReason.LENGTH)
        assert answer.usage == Usage(input_tokens=9, output_tokens=3)


def test_a_failure_that_mistral_tells_as_an_ending_is_one() -> None:
    with pytest.raises(ProviderFailure) as failed:
        chat_stream([delta_chunk({"content": "Bon"}), finish_chunk("error")])

    assert failed.value.category is FailureCategory.SERVER_ERROR


def test_xais_reasoning_is_counted_beside_its_output() -> None:
    told = {**usage(9, 3), "completion_tokens_details": {"reasoning_tokens": 40}}
    chunks = [delta_chunk({"reasoning_content": "Hm."}), delta_chunk({"content": "Yes."}), finish_chunk(usage=told)]

    answer = chat_stream(chunks, profile=SHIPPED.providers["xai"].profile)

    assert answer.usage == Usage(input_tokens=9, output_tokens=43, reasoning_tokens=40)


@pytest.mark.parametrize(("provider_id", "sent"), [("cohere", {"name": "f"}), ("groq", {"name": "f", "strict": False})])
def test_cohere_does_not_hear_of_strict(provider_id: str, sent: Any) -> None:
    body = chat(provider_id, ask(tools=(FunctionTool("f", strict=False),)))

    assert body["tools"][0]["function"] == sent
