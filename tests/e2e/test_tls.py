"""TLS at the front door: every kind of client through one certificate."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import grpc
import httpx
import openai
import pytest
import trustme

from aistats.gateway.v1 import chat_pb2_grpc
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.test_errors import CHAT
from tests.e2e.test_grpc_clients import chat_request
from tests.e2e.test_videos import until_done
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.film_wire import FILM


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory,
    authority: trustme.CA,
    acme_upstream: UpstreamThread,
    backup_upstream: UpstreamThread,
) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("secure")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    issued = authority.issue_cert("127.0.0.1")
    certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    environ = {"ACME_KEY": ACME_KEY, "AISTATS_TLS_CERT": str(certificate), "AISTATS_TLS_KEY": str(key)}
    settings = config(acme_upstream, backup_upstream)
    gateway = Gateway(directory, settings, workers=1, environ=environ, verify=trust).start()
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]


@pytest.mark.parametrize(("http2", "version"), [(False, "HTTP/1.1"), (True, "HTTP/2")])
def test_both_versions_of_http(secure: Gateway, acme: UpstreamThread, http2: bool, version: str) -> None:
    with httpx.Client(http1=not http2, http2=http2, verify=secure.verify, headers=secure.headers) as client:
        for streamed in (False, True):
            reply = client.post(f"{secure.base_url}/chat/completions", json={**CHAT, "stream": streamed})
            assert (reply.status_code, reply.http_version) == (200, version)
            assert reply.text.endswith("data: [DONE]\n\n") is streamed


def test_the_openai_sdk(secure: Gateway, acme: UpstreamThread) -> None:
    with openai.DefaultHttpxClient(verify=secure.verify) as http:
        client = openai.OpenAI(api_key=secure.key, base_url=secure.base_url, http_client=http)
        reply = client.chat.completions.create(model="acme/test-1:free", messages=[{"role": "user", "content": "hi"}])
    assert reply.choices[0].message.content == "Hello there!"


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_signed_addresses_are_what_the_request_was_sent_to(secure: Gateway, acme: UpstreamThread, http2: bool) -> None:
    video = secure.post("/v1/videos", {"model": "acme/film:free", "prompt": "x"}).json()
    until_done(secure, video["id"])
    with httpx.Client(http1=not http2, http2=http2, verify=secure.verify) as client:
        asked = f"{secure.url}/v1/videos/{video['id']}/download_url"
        url = client.post(asked, headers=secure.headers | {"x-forwarded-proto": "http"}).json()["url"]
        assert url.startswith(f"{secure.url}/v1/")
        assert client.get(url).content == FILM


def test_typed_grpc(secure: Gateway, acme: UpstreamThread, authority: trustme.CA) -> None:
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    metadata = (("authorization", f"Bearer {secure.key}"),)
    with grpc.secure_channel(f"127.0.0.1:{secure.http_port}", credentials) as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        assert chat.CreateChatCompletion(chat_request(), metadata=metadata, timeout=20).choices[0].parts
        events = list(chat.StreamChatCompletion(chat_request(), metadata=metadata, timeout=20))
    assert events[-1].WhichOneof("event") == "completed"


def test_who_does_not_trust_the_certificate_sends_nothing(secure: Gateway, acme: UpstreamThread) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        secure.post("/v1/chat/completions", CHAT, verify=True)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://127.0.0.1:{secure.http_port}/healthz")
    assert acme.requests == []


def test_old_versions_of_tls_are_refused(secure: Gateway, authority: trustme.CA) -> None:
    old = ssl.create_default_context()
    authority.configure_trust(old)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        secure.get("/healthz", verify=old)
