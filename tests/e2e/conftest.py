"""A gateway, its upstreams, and clients of every kind. One gateway serves the whole session."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from server.probes import unused_port
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.everything import as_all_of_openai

LOCAL_MODEL = "local/smollm2-135m:free"

CONFIG = """
providers:
  - {{id: acme, dialect: openai, base_url: "{acme}", api_key_env: ACME_KEY}}
  - {{id: cinema, dialect: openai, base_url: "{films}", api_key_env: ACME_KEY}}
  - {{id: strange, dialect: openai, base_url: "{acme}", api_key_env: ACME_KEY}}
  - {{id: backup, dialect: openai, base_url: "{backup}"}}
  - {{id: native, dialect: openai, base_url: "{backup}", apis: [chat, responses]}}
  - {{id: dead, dialect: openai, base_url: "http://127.0.0.1:{closed}/v1"}}
models:
  - id: acme/test-1
    offers:
      - {{provider: acme, provider_model: test-1, endpoints: [chat, responses, messages],
          price: {{input_text_tokens: "0.15", output_text_tokens: "0.60"}}}}
  - id: acme/test-1:free
    offers: [{{provider: acme, provider_model: test-1, endpoints: [chat, responses, messages]}}]
  - id: acme/strange:free
    offers: [{{provider: strange, provider_model: test-1, endpoints: [chat, responses, messages]}}]
  - id: acme/native:free
    offers: [{{provider: native, provider_model: test-1, endpoints: [chat, responses, messages]}}]
  - id: acme/two:free
    offers:
      - {{provider: acme, provider_model: test-1, endpoints: [chat, responses, messages]}}
      - {{provider: backup, provider_model: test-2, endpoints: [chat, responses, messages]}}
{pairs}
  - id: acme/dead:free
    offers: [{{provider: dead, provider_model: gone, endpoints: [chat, responses, messages]}}]
  - id: acme/omni:free
    input_types: [text, image]
    offers: [{{provider: acme, provider_model: omni-1, endpoints: [moderations]}}]
  - id: acme/dead-judge:free
    offers: [{{provider: dead, provider_model: gone, endpoints: [moderations]}}]
  - id: acme/embeddings-only:free
    offers: [{{provider: acme, provider_model: embed, endpoints: [embeddings]}}]
  - id: acme/moderate:free
    offers: [{{provider: acme, provider_model: judge, endpoints: [moderations]}}]
  - id: acme/draw:free
    input_types: [text, image]
    output_types: [image]
    offers: [{{provider: acme, provider_model: draw, endpoints: [images]}}]
  - id: acme/draw-1
    input_types: [text, image]
    output_types: [image]
    offers:
      - {{provider: acme, provider_model: draw, endpoints: [images], price: {{output_image: "40000"}}}}
  - id: acme/draw-2
    input_types: [text, image]
    output_types: [image]
    offers:
      - provider: acme
        provider_model: draw
        endpoints: [images]
        price: {{input_text_tokens: "5", input_image_tokens: "10", output_image_tokens: "40"}}
  - id: acme/speaker:free
    output_types: [audio]
    offers: [{{provider: acme, provider_model: speak, endpoints: [audio]}}]
  - id: acme/listener:free
    output_types: [text]
    offers: [{{provider: acme, provider_model: whisper-1, endpoints: [audio]}}]
  - id: acme/listener-in-pieces:free
    output_types: [text]
    offers: [{{provider: acme, provider_model: gpt-4o-transcribe, endpoints: [audio]}}]
  - id: acme/speak-1
    output_types: [audio]
    offers: [{{provider: acme, provider_model: speak, endpoints: [audio], price: {{input_characters: "15"}}}}]
  - id: acme/listen-1
    output_types: [text]
    offers: [{{provider: acme, provider_model: whisper-1, endpoints: [audio], price: {{input_audio_seconds: "100"}}}}]
  - id: acme/film:free
    input_types: [text, image]
    output_types: [video]
    offers: [{{provider: cinema, provider_model: film, endpoints: [video]}}]
  - id: acme/long-film:free
    output_types: [video]
    offers: [{{provider: cinema, provider_model: long-film, endpoints: [video]}}]
  - id: acme/film-1
    input_types: [text, image]
    output_types: [video]
    offers:
      - provider: cinema
        provider_model: film
        endpoints: [video]
        price: {{video_seconds: "100000"}}
        videos: {{seconds: [4, 8], default_seconds: 4}}
  - id: acme/embed-1
    offers:
      - {{provider: acme, provider_model: embed, endpoints: [embeddings], price: {{input_text_tokens: "0.02"}}}}
  - id: acme/judge-1
    offers:
      - {{provider: acme, provider_model: judge, endpoints: [moderations], price: {{input_text_tokens: "0.10"}}}}
routing: {{timeout_s: 120, first_byte_timeout_s: {first_byte}, idle_timeout_s: {idle}, max_attempts: 3}}
"""
PAIR = """
  - id: acme/pair-{number}:free
    offers:
      - {{provider: acme, provider_model: test-1, endpoints: [chat, responses, messages]}}
      - {{provider: backup, provider_model: test-2, endpoints: [chat, responses, messages]}}
"""
PAIRS = 64
_pair_numbers = itertools.count()
ACME_KEY = "sk-acme-canary-0123456789abcdef"


def config(acme: UpstreamThread, backup: UpstreamThread, *, first_byte: float = 60.0, idle: float = 60.0) -> str:
    pairs = "".join(PAIR.format(number=number) for number in range(PAIRS))
    return CONFIG.format(
        pairs=pairs,
        acme=acme.base_url,
        films=acme.films_url,
        backup=backup.base_url,
        closed=unused_port(),
        first_byte=first_byte,
        idle=idle,
    )


@pytest.fixture
def pair() -> dict[str, Any]:
    """Of a request's body: a model of acme, wanted first, and of backup; no test before has touched its health."""
    return {"model": f"acme/pair-{next(_pair_numbers) % PAIRS}:free", "provider": {"order": ["acme"]}}


@pytest.fixture(scope="session")
def acme_upstream() -> Iterator[UpstreamThread]:
    upstream = UpstreamThread(default=as_all_of_openai)
    yield upstream
    upstream.close()


@pytest.fixture(scope="session")
def backup_upstream() -> Iterator[UpstreamThread]:
    upstream = UpstreamThread()
    yield upstream
    upstream.close()


@pytest.fixture
def acme(acme_upstream: UpstreamThread) -> UpstreamThread:
    acme_upstream.reset()
    return acme_upstream


@pytest.fixture
def backup(backup_upstream: UpstreamThread) -> UpstreamThread:
    backup_upstream.reset()
    return backup_upstream


@pytest.fixture(scope="session")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, acme_upstream: UpstreamThread, backup_upstream: UpstreamThread
) -> Iterator[Gateway]:
    """Two workers, the embedded model and scripted upstreams, with limits that a busy machine keeps."""
    gateway = Gateway(
        tmp_path_factory.mktemp("gateway"),
        config(acme_upstream, backup_upstream),
        local_model=True,
        environ={"ACME_KEY": ACME_KEY, "AISTATS_WEBHOOKS_ALLOW_HTTP": "1", "AISTATS_WEBHOOKS_ALLOW_PRIVATE": "1"},
    ).start()
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]


@pytest.fixture(scope="session")
def strict_gateway(
    tmp_path_factory: pytest.TempPathFactory, acme_upstream: UpstreamThread, backup_upstream: UpstreamThread
) -> Iterator[Gateway]:
    """One that waits two seconds for a provider's first byte and for each next, and fetches pictures from here."""
    settings = config(acme_upstream, backup_upstream, first_byte=2.0, idle=2.0)
    fetches = {f"AISTATS_PICTURE_URLS_ALLOW_{what}": "1" for what in ("HTTP", "PRIVATE")}
    gateway = Gateway(tmp_path_factory.mktemp("strict"), settings, environ={"ACME_KEY": ACME_KEY, **fetches}).start()
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]


@pytest.fixture(params=["envoy", "direct"])
def channel(request: pytest.FixtureRequest, gateway: Gateway) -> Iterator[grpc.Channel]:
    """A channel to the same services by both ways in."""
    port = gateway.http_port if request.param == "envoy" else gateway.grpc_port
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


@pytest.fixture
def metadata(gateway: Gateway) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {gateway.key}")]
