"""A video that begins with a picture at an address: of a gateway that is strict, and of one that may look here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.test_videos import until_done
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.contract import check_error, told
from tests.fakes.image_wire import png
from tests.fakes.replies import whole

MODEL = "acme/film:free"
FIELDS = {
    "input_reference": lambda url: {"input_reference": url},
    "input_reference.image_url": lambda url: {"input_reference": {"image_url": url}},
    "input_references[0].image_url.url": lambda url: {"input_references": [{"image_url": {"url": url}}]},
}
HOSTILE = (
    "http://169.254.169.254/latest/meta-data", "https://169.254.169.254/", "https://localhost/", "https://[::1]:8080/",
    "https://0x7f000001/", "https://10.0.0.1/", "file:///etc/passwd", "https://me:pw@example.com/", "gopher://x/",
    "//x",
)  # fmt: skip


@pytest.mark.parametrize("param", FIELDS)
def test_clients_do_not_get_inside(gateway: Gateway, acme: UpstreamThread, param: str) -> None:
    here = acme.base_url.replace("http:", "https:")
    for url in (*HOSTILE, acme.base_url, here, here.replace("127.0.0.1", "localhost.localdomain.lan")):
        reply = gateway.post("/v1/videos", {"model": MODEL, "prompt": "x", **FIELDS[param](url)})
        error = check_error(told(reply))
        assert (reply.status_code, error["param"]) == (400, param), url
    assert acme.requests == []


def test_where_the_operator_says_so_they_do(strict_gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(whole(png(3), content_type="image/png"), whole(b"secret of this machine", content_type="image/png"))
    body: dict[str, Any] = {"model": MODEL, "prompt": "x", "input_reference": f"{acme.base_url}/a.png"}
    made = strict_gateway.post("/v1/videos", body)
    assert made.status_code == 202, made.text
    assert until_done(strict_gateway, made.json()["id"])["status"] == "completed"
    refused = strict_gateway.post("/v1/videos", body)
    assert (refused.status_code, refused.json()["param"]) == (400, "input_reference")
    assert "secret" not in refused.text
    body["input_reference"] = "http://169.254.169.254/latest/meta-data"
    assert strict_gateway.post("/v1/videos", body).status_code == 400
