"""What needs no key: the OpenAPI description, and the page that shows it.

The description is made when it is first asked for, once a worker and off its loop; from then on all is constant.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, Final

import msgspec
import yaml

from rest_bridge.conditional import Kept, conditional, kept
from rest_bridge.errors import error_response
from rest_bridge.http import JSON, Headers, RestRequest, RestResponse, Route
from rest_bridge.openapi import describe
from server.domain.errors import GatewayError, Reason
from server.domain.etags import etag_of

__all__ = ["PAGE_FILES", "Documents"]

JSON_PATH: Final = "/openapi.json"
YAML_PATH: Final = "/openapi.yaml"
PAGE_PATH: Final = "/docs"
YAML: Final = "application/yaml"

PAGE_FILES: Final[Mapping[str, str]] = {
    "index.html": "text/html; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
    "swagger-ui-bundle.js.LICENSE.txt": "text/plain; charset=utf-8",
    "LICENSE": "text/plain; charset=utf-8",
    "NOTICE": "text/plain; charset=utf-8",
}
"""What the page consists of, and what each file is; those of a library are kept compressed."""

_KEEP: Final = "public, no-cache"
_KEEP_AN_HOUR: Final = "public, max-age=3600"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFETY: Final[Headers] = (("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"))


class Document(msgspec.Struct, frozen=True):
    content: Kept
    headers: Headers


class Documents:
    """Answers the GETs of `aistats.gateway.v1.DescriptionRestService`."""

    def __init__(self, routes: Iterable[Route], version: str) -> None:
        """`routes` are those that need a key, `version` is the gateway's."""
        self._routes = tuple(routes)
        self._version = version
        self._page: Mapping[str, Document] = {}
        self._description: asyncio.Task[Mapping[str, Document]] | None = None

    async def __call__(self, request: RestRequest) -> RestResponse:
        """Never raises GatewayError: what there is not is answered with 404."""
        found = (await self._documents()).get(request.path)
        if found is None:
            error = GatewayError(Reason.UNKNOWN_ROUTE, "There is no such file. GET /docs is the page.")
            return error_response(error, request.arrival.generation_id)
        return conditional(request, found.content, found.headers)

    async def _documents(self) -> Mapping[str, Document]:
        if self._description is None:
            self._description = asyncio.create_task(asyncio.to_thread(self._make))
        return await asyncio.shield(self._description)

    def _make(self) -> Mapping[str, Document]:
        description = describe(self._routes, self._version)
        described = {
            JSON_PATH: Document(kept(msgspec.json.encode(description)), _headers(JSON)),
            YAML_PATH: Document(kept(as_yaml(description)), _headers(YAML)),
        }
        return described | _page()


def as_yaml(description: Mapping[str, Any]) -> bytes:
    text: str = yaml.dump(description, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text.encode()


class _Dumper(yaml.CSafeDumper):
    """Texts of several lines stand as they are, and nothing is said by reference to another place."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _page() -> dict[str, Document]:
    folder = files("rest_bridge") / "docs_page"
    page: dict[str, Document] = {}
    for name, kind in PAGE_FILES.items():
        zipped = folder / f"{name}.gz"
        if zipped.is_file():
            small = zipped.read_bytes()
            body = gzip.decompress(small)
            page[f"{PAGE_PATH}/{name}"] = Document(Kept(body, etag_of(body), small), _headers(kind, _KEEP_AN_HOUR))
        else:
            page[f"{PAGE_PATH}/{name}"] = Document(kept((folder / name).read_bytes()), _headers(kind))
    index = page.pop(f"{PAGE_PATH}/index.html")
    page[PAGE_PATH] = Document(index.content, (*index.headers, ("content-security-policy", _POLICY)))
    return page


def _headers(kind: str, cache: str = _KEEP) -> Headers:
    return (("content-type", kind), ("cache-control", cache), *_SAFETY)
