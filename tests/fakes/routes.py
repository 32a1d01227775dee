"""Every REST route and every typed method that there is, read from the descriptors that Envoy goes by.

What tests ask of "every route" they ask of these, so that a new one is asked as well. They are what is served: services
that Envoy hands on (tests/unit/test_envoy_config.py sees that none is missing), and methods that have scopes
(tests/unit/test_rpc_guard.py does).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

import msgspec
import yaml
from google.api.annotations_pb2 import http  # type: ignore[import-untyped]  # the package has no stubs
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from rest_bridge.envoy import descriptors_path, source_path
from server.rpc.registry import SCOPES

PACKAGE: Final = "aistats.gateway.v1"
VERBS: Final = ("get", "put", "post", "delete", "patch")


class TypedMethod(msgspec.Struct, frozen=True):
    """A method of a service; the classes are those of its messages."""

    service: str
    name: str
    input: type[Message]
    output: type[Message]
    streams: bool
    takes_stream: bool

    @property
    def path(self) -> str:
        return f"/{PACKAGE}.{self.service}/{self.name}"

    def __str__(self) -> str:
        return f"{self.service}/{self.name}"


class RestRoute(msgspec.Struct, frozen=True):
    """One way to call a method by HTTP. `body` is as in `google.api.HttpRule`: a field, `*`, or empty for none.

    `is_alias`: another path of the same method leads to the same.
    """

    method: str
    path: str
    body: str
    target: TypedMethod
    is_alias: bool = False

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(re.findall(r"\{(\w+)[^}]*\}", self.path))

    def at(self, *values: str) -> str:
        """Its path with the variables replaced."""
        left = iter(values)
        return re.sub(r"\{[^}]*\}", lambda _: next(left), self.path)

    @property
    def is_bridged(self) -> bool:
        """Whether its method takes and gives HTTP bodies, as the REST faces do."""
        return self.target.output.DESCRIPTOR.full_name == "google.api.HttpBody"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@cache
def _described() -> tuple[FileDescriptorSet, DescriptorPool]:
    files = FileDescriptorSet.FromString(descriptors_path().read_bytes())
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return files, pool


@cache
def _methods() -> tuple[tuple[TypedMethod, Any], ...]:
    """Every method of our package, with its options."""
    files, pool = _described()

    def message(name: str) -> type[Message]:
        return GetMessageClass(pool.FindMessageTypeByName(name.removeprefix(".")))

    return tuple(
        (
            TypedMethod(
                service.name, method.name, message(method.input_type), message(method.output_type),
                method.server_streaming, method.client_streaming,
            ),
            method.options,
        )
        for file in files.file
        if file.package == PACKAGE
        for service in file.service
        for method in service.method
    )  # fmt: skip


@cache
def rest_routes() -> tuple[RestRoute, ...]:
    """Every route, the additional bindings of methods included, by path and method.

    All but a HEAD, whose replies have nothing to look at; it is asked where the GET of its path is (test_videos.py).
    """
    found: list[RestRoute] = []
    for method, options in _methods():
        if not options.HasExtension(http) or method.service not in _handed_on():
            continue
        rule = options.Extensions[http]
        for binding in (rule, *rule.additional_bindings):
            verb = binding.WhichOneof("pattern")
            assert verb in (*VERBS, "custom"), f"{method} has a rule that no test can read"
            kind, path = (verb, getattr(binding, verb)) if verb in VERBS else (binding.custom.kind, binding.custom.path)
            if kind == "HEAD":
                continue
            found.append(RestRoute(kind.upper(), path, binding.body, method, binding is not rule))
    return tuple(sorted(found, key=lambda route: (route.path, route.method)))


@cache
def typed_methods() -> tuple[TypedMethod, ...]:
    """Every method that typed clients call; the REST faces are none of theirs."""
    return tuple(
        method for method, _ in _methods() if method.path in SCOPES and not method.service.endswith("RestService")
    )


@cache
def _handed_on() -> frozenset[str]:
    """The services whose methods Envoy makes routes of."""
    [listener] = yaml.safe_load(source_path().read_text())["static_resources"]["listeners"]
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    transcoder = next(one["typed_config"] for one in filters if one["name"].endswith("grpc_json_transcoder"))
    return frozenset(name.removeprefix(f"{PACKAGE}.") for name in transcoder["services"])
