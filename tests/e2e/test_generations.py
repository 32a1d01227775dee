"""The record of every request, through the front door: read back by any id, listed, kept apart, replayed."""

from __future__ import annotations

import json
from typing import Any

import grpc
import httpx
import pytest
from phaseo import Phaseo

from aistats.gateway.v1 import chat_pb2_grpc, generations_pb2, generations_pb2_grpc
from tests.e2e.gateway import Gateway
from tests.e2e.test_errors import CHAT, FREE, assert_contract
from tests.e2e.test_grpc_clients import chat_request, error_info
from tests.e2e.test_isolation import bearer
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import error

PAID = "acme/test-1"


class Team:
    """A team of its own, so that nobody else's requests are in its records."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self.gateway, self.name = gateway, name
        gateway.create_team(name)
        self.key = gateway.create_key(team=name)
        self.headers = bearer(self.key)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.gateway.post(path, body, headers=self.headers)

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.gateway.get(path, params=query, headers=self.headers)

    def record(self, reply: httpx.Response) -> dict[str, Any]:
        """The record of the request that was answered so."""
        told = self.get(f"/v1/generation/{reply.headers['x-generation-id']}")
        assert told.status_code == httpx.codes.OK, told.text
        assert told.headers["content-type"] == "application/json"
        found: dict[str, Any] = told.json()
        assert found["id"] == reply.headers["x-generation-id"]
        assert found["request_id"] == reply.headers["x-request-id"]
        return found

    def set_up(self, *options: str) -> None:
        done = self.gateway.run("teams", "set", self.name, *options)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def team(gateway: Gateway) -> Team:
    return Team(gateway, "recorded")


@pytest.fixture(scope="module")
def keeper(gateway: Gateway) -> Team:
    team = Team(gateway, "keeper")
    team.set_up("--store-content", "on", "--content-days", "7")
    return team


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "prefix", "names"),
    [
        ("/v1/chat/completions", CHAT, "chatcmpl-", ("prompt_tokens", "completion_tokens")),
        ("/v1/responses", {"model": FREE, "input": "hi"}, "resp_", ("input_tokens", "output_tokens")),
        ("/v1/messages", {**CHAT, "model": FREE, "max_tokens": 9}, "msg_", ("input_tokens", "output_tokens")),
    ],
)
def test_a_request_is_read_back_by_any_of_its_ids(
    team: Team,
    acme: UpstreamThread,
    path: str,
    body: dict[str, Any],
    prefix: str,
    names: tuple[str, str],
    streamed: bool,
) -> None:
    reply = team.post(path, body | {"stream": streamed})
    assert reply.status_code == httpx.codes.OK
    told = team.record(reply)
    assert (told["endpoint"], told["model_id"], told["stream"]) == (path.split("/")[2], FREE, streamed)
    assert (told["status_code"], told["success"], told["error_code"]) == (200, True, None)
    assert (told["provider"], told["cost_nanos"], told["usage_source"]) == ("acme", 0, "provider")
    assert names[0] in told["usage"]
    assert names[1] in told["usage"]
    assert told["latency_ms"] <= told["generation_ms"]
    (attempt,) = told["attempts"]
    assert (attempt["provider"], attempt["provider_model"], attempt["status"]) == ("acme", "test-1", 200)
    assert (told["replay_supported"], told["replay_request"]) == (False, None)
    assert "reply" not in told
    suffix = told["id"].removeprefix("gen_")
    for found in (
        team.get(f"/v1/generation/{prefix}{suffix}"),
        team.get(f"/v1/generation/{suffix}"),
        team.get("/v1/generation", id=prefix + suffix),
        team.get("/v1/generations", id=suffix),
    ):
        assert found.json() == told


def test_the_products_sdk_reads_a_record(team: Team, acme: UpstreamThread) -> None:
    reply = team.post("/v1/chat/completions", CHAT)
    client = Phaseo(api_key=team.key, base_url=team.gateway.base_url, timeout=60)
    assert client.get_generation(reply.json()["id"]) == team.record(reply)


@pytest.mark.parametrize(
    ("body", "status", "reason", "model"),
    [
        (CHAT | {"nonsense": 1}, 400, "unknown_parameter", FREE),
        (CHAT | {"model": "nobody/nothing"}, 404, "unknown_model", "nobody/nothing"),
        (CHAT | {"model": "acme/embeddings-only:free"}, 400, "unsupported_endpoint", "acme/embeddings-only:free"),
        (CHAT | {"model": PAID}, 402, "insufficient_funds", PAID),
        (CHAT | {"model": PAID, "stream": True}, 402, "insufficient_funds", PAID),
        (CHAT | {"model": "acme/dead:free"}, 502, "all_candidates_failed", "acme/dead:free"),
        ({}, 400, "missing_field", ""),
    ],
)
def test_what_failed_is_recorded_too(
    team: Team, acme: UpstreamThread, body: dict[str, Any], status: int, reason: str, model: str
) -> None:
    reply = team.post("/v1/chat/completions", body)
    told = team.record(reply)
    assert (reply.status_code, told["status_code"], told["error_code"]) == (status, status, reason)
    assert (told["error_message"], told["success"]) == (reply.json()["description"], False)
    assert (told["model_id"], told["stream"], told["cost_nanos"]) == (model, body.get("stream", False), 0)


def test_what_is_not_json_is_recorded_and_what_has_no_key_is_not(team: Team) -> None:
    url = f"{team.gateway.url}/v1/responses"
    told = team.record(httpx.post(url, content=b"{", headers=team.headers))
    assert (told["endpoint"], told["status_code"], told["error_code"]) == ("responses", 400, "malformed_json")
    stranger = httpx.post(url, json={"model": FREE, "input": "hi"})
    assert_contract(stranger, 401, "authentication_error")
    assert_contract(team.get(f"/v1/generation/{stranger.headers['x-generation-id']}"), 404, "not_found_error")


def test_a_refusal_with_an_idempotency_key_is_recorded_once(team: Team) -> None:
    headers = team.headers | {"idempotency-key": "refused-once"}
    replies = [
        team.gateway.post("/v1/chat/completions", CHAT | {"model": "nobody/nothing"}, headers=headers) for _ in range(2)
    ]
    assert [reply.status_code for reply in replies] == [404, 404]
    assert replies[0].content == replies[1].content
    first = replies[0].json()["generation_id"]
    told = team.get(f"/v1/generation/{first}").json()
    assert (told["error_code"], told["model_id"]) == ("unknown_model", "nobody/nothing")
    reused = team.gateway.post("/v1/chat/completions", CHAT, headers=headers)
    told = team.record(reused)
    assert (told["status_code"], told["error_code"]) == (409, "idempotency_key_reused")


def test_a_providers_failure_is_on_the_record(team: Team, acme: UpstreamThread) -> None:
    acme.script(error(429, "Slow down."))
    told = team.record(team.post("/v1/chat/completions", CHAT))
    assert (told["status_code"], told["error_code"]) == (429, "upstream_rate_limited")
    assert [(one["provider"], one["status"], one["error_code"], one["billed"]) for one in told["attempts"]] == [
        ("acme", 429, "rate_limited", False)
    ]


def test_typed_clients_read_the_same(gateway: Gateway, acme: UpstreamThread, channel: grpc.Channel) -> None:
    metadata = (("authorization", f"Bearer {gateway.key}"),)
    records = generations_pb2_grpc.GenerationsServiceStub(channel)
    chat = chat_pb2_grpc.ChatServiceStub(channel)
    reply = chat.CreateChatCompletion(chat_request(), metadata=metadata, timeout=30)
    request = generations_pb2.GetGenerationRequest(generation_id=reply.id)
    told = records.GetGeneration(request, metadata=metadata, timeout=30).generation
    assert (told.endpoint, told.model_id, told.success, told.status_code) == ("chat", FREE, True, 200)
    assert told.usage.input_tokens == reply.usage.input_tokens
    with pytest.raises(grpc.RpcError) as failed:
        chat.CreateChatCompletion(chat_request("nobody/nothing"), metadata=metadata, timeout=30)
    generation_id = error_info(failed.value).metadata["generation_id"]
    request = generations_pb2.GetGenerationRequest(generation_id=generation_id)
    told = records.GetGeneration(request, metadata=metadata, timeout=30).generation
    assert (told.model_id, told.status_code, told.error_code) == ("nobody/nothing", 404, "unknown_model")
    newest = records.ListGenerations(generations_pb2.ListGenerationsRequest(limit=1), metadata=metadata, timeout=30)
    assert newest.generations[0].id == generation_id


def test_lists_page_by_page(gateway: Gateway, acme: UpstreamThread) -> None:
    team = Team(gateway, "lister")
    made = [team.post("/v1/chat/completions", CHAT).headers["x-generation-id"] for _ in range(4)]
    made.append(team.post("/v1/responses", {"model": "nobody/nothing"}).headers["x-generation-id"])
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = team.get("/v1/generations", **query).json()
        assert (page["object"], page["ok"], page["limit"]) == ("list", True, 2)
        seen += [one["id"] for one in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = page["next_cursor"]
    assert seen == sorted(made, reverse=True)
    assert [one["id"] for one in team.get("/v1/generations", success="false").json()["data"]] == made[-1:]
    assert len(team.get("/v1/generations", endpoint="chat", model=FREE, provider="acme").json()["data"]) == 4
    assert team.get("/v1/generations", status_code=500).json()["data"] == []
    assert len(team.get("/v1/generations", **{"from": "2020-01-01", "to": "2100-01-01T00:00:00Z"}).json()["data"]) == 5
    assert team.get("/v1/generations", to="2020-01-01").json()["data"] == []


@pytest.mark.parametrize(
    ("path", "query", "param", "reason"),
    [
        ("/v1/generations", {"offset": "1"}, "offset", "unknown_parameter"),
        ("/v1/generations", {"limit": "0"}, "limit", "invalid_value"),
        ("/v1/generations", {"limit": "many"}, "limit", "invalid_value"),
        ("/v1/generations", {"from": "yesterday"}, "from", "invalid_value"),
        ("/v1/generations", {"limit": ["1", "2"]}, "limit", "invalid_value"),
        ("/v1/generation", {}, "id", "missing_field"),
        ("/v1/generation/x", {"id": "x"}, "id", "unknown_parameter"),
    ],
)
def test_queries_are_read_strictly(team: Team, path: str, query: dict[str, Any], param: str, reason: str) -> None:
    assert_contract(team.get(path, **query), 400, "validation_error", param=param, reason=reason)


def test_another_teams_record_does_not_exist(gateway: Gateway, team: Team, acme: UpstreamThread) -> None:
    generation_id = team.post("/v1/chat/completions", CHAT).headers["x-generation-id"]
    unknown = f"gen_{'0' * 32}"
    told = []
    for path, query in ((f"/v1/generation/{generation_id}", {}), (f"/v1/generation/{unknown}", {}),
                        ("/v1/generations", {"id": generation_id}), ("/v1/generation", {"id": unknown})):  # fmt: skip
        body = assert_contract(gateway.get(path, params=query), 404, "not_found_error", reason="resource_not_found")
        told.append({name: value for name, value in body.items() if name != "generation_id"})
    assert all(one == told[0] for one in told)
    listed = gateway.get("/v1/generations", params={"limit": 250}).json()["data"]
    assert generation_id not in [one["id"] for one in listed]
    assert len({one["team_id"] for one in listed}) <= 1
    manager = bearer(gateway.create_key(team=team.name, scopes=("management",)))
    assert gateway.get(f"/v1/generation/{generation_id}", headers=manager).json()["id"] == generation_id


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_kept_can_be_replayed(keeper: Team, acme: UpstreamThread, streamed: bool) -> None:
    sent = json.dumps(CHAT | {"stream": streamed, "user": "你好🙂"}, ensure_ascii=False).encode() + b"\n "
    reply = httpx.post(f"{keeper.gateway.url}/v1/chat/completions", content=sent, headers=keeper.headers)
    told = keeper.record(reply)
    assert told["replay_supported"] is True
    assert told["replay_request"] == json.loads(sent)
    assert "Hello" in json.dumps(told["reply"])
    run = keeper.gateway.run
    arguments = ("generations", "replay", told["id"], "--team", keeper.name, "--key", keeper.key)
    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    if streamed:
        assert again.stdout.startswith("data: {")
        assert again.stdout.endswith("data: [DONE]\n\n")
    else:
        assert json.loads(again.stdout)["choices"][0]["message"]["content"]
    newest = keeper.get("/v1/generations", limit=1).json()["data"][0]
    assert newest["id"] != told["id"]
    assert newest["replay_supported"] is True
    listed = run("generations", "list", "--team", keeper.name, "--json", "--limit", "2")
    assert [one["id"] for one in json.loads(listed.stdout)] == [newest["id"], told["id"]]
    shown = run("generations", "show", told["id"], "--team", keeper.name, "--json")
    assert json.loads(shown.stdout) == told
    refused = run(*arguments[:-1], "aistats_v1_sk_nobody_secret", "--url", f"{keeper.gateway.base_url}/")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["error"] == "authentication_error"


def test_responses_and_typed_calls_keep_content_too(keeper: Team, acme: UpstreamThread) -> None:
    sent = {"model": FREE, "input": "你好", "store": False}
    told = keeper.record(keeper.post("/v1/responses", sent))
    assert told["replay_request"] == sent
    assert told["reply"]
    with grpc.insecure_channel(f"127.0.0.1:{keeper.gateway.http_port}") as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        metadata = (("authorization", f"Bearer {keeper.key}"),)
        reply = chat.CreateChatCompletion(chat_request(), metadata=metadata, timeout=30)
    told = keeper.get(f"/v1/generation/{reply.id}").json()
    assert (told["replay_supported"], told["replay_request"]) == (False, None)
    assert "Hello" in json.dumps(told["reply"])


def test_nothing_is_kept_once_a_team_says_so(gateway: Gateway, acme: UpstreamThread) -> None:
    team = Team(gateway, "wavering")
    team.set_up("--store-content", "on")
    assert team.record(team.post("/v1/chat/completions", CHAT))["replay_supported"] is True
    team.set_up("--store-content", "off")
    while (told := team.record(reply := team.post("/v1/chat/completions", CHAT)))["replay_supported"]:
        """A worker may go by what it knew for a second."""
    assert "reply" not in told
    refused = gateway.run("generations", "replay", reply.json()["id"], "--team", team.name, "--key", team.key)
    assert refused.returncode == 1
    assert "is not kept" in refused.stderr
