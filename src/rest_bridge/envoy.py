"""Renders `envoy.yaml` for the ports, sockets, certificates and number of workers of one gateway.

The file at the root of the repository is the one source: what is rendered differs from it only in what `EnvoyOptions`
names. It is run with `envoy -c`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

import aistats.gateway.v1

_TYPES = "type.googleapis.com/envoy"
_TLS_CONTEXT = f"{_TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_MUTATION = f"{_TYPES}.extensions.filters.http.header_mutation.v3"
_HEADERS_FILTER = "gateway.headers"
_TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
_APP_FILTER = "gateway.app"
_PACKAGE = Path(__file__).parent


class InProcess(msgspec.Struct, frozen=True):
    """The worker inside Envoy's process: `module` is the library of pyvoy, `app` what it runs,
    as `package.module:name`.

    Of each request that does not end well Envoy writes its x-request-id, as a line, to the pipe `ends`.
    """

    module: str
    app: str
    ends: str


class EnvoyOptions(msgspec.Struct, frozen=True):
    """Where Envoy listens, and where its workers do. `tls_cert` and `tls_key` are PEM files, set both or neither.

    `trusted_proxies`: how many stand before it, and tell of clients' addresses in `x-forwarded-for`. With `in_process`
    it carries the one worker itself, and `worker_sockets` is empty; with `endpoints` it follows that file, which
    `render_endpoints` makes. `max_connection_age_s`: after how long a client is told to connect anew.
    """

    admin_socket: str
    worker_sockets: tuple[str, ...] = ()
    in_process: InProcess | None = None
    endpoints: str | None = None
    http_host: str = "127.0.0.1"
    http_port: int = 8080
    tls_cert: str | None = None
    tls_key: str | None = None
    trusted_proxies: int = 0
    max_connection_age_s: float = 600.0


def source_path() -> Path:
    """The file that is rendered: beside the installed package, or at the root of a checkout."""
    installed = _PACKAGE.parent / "server" / "envoy.yaml"
    return installed if installed.exists() else _PACKAGE.parent.parent / "envoy.yaml"


def render(options: EnvoyOptions) -> str:
    """The whole configuration, as YAML."""
    config = yaml.safe_load(source_path().read_text(encoding="utf-8"))
    config["admin"]["address"]["pipe"]["path"] = options.admin_socket
    listener = config["static_resources"]["listeners"][0]
    listener["address"]["socket_address"] = {"address": options.http_host, "port_value": options.http_port}
    chain = listener["filter_chains"][0]
    if options.tls_cert and options.tls_key:
        chain["transport_socket"] = _tls(options.tls_cert, options.tls_key)
    manager = chain["filters"][0]["typed_config"]
    manager["xff_num_trusted_hops"] = options.trusted_proxies
    manager["common_http_protocol_options"]["max_connection_duration"] = f"{options.max_connection_age_s:g}s"
    _named(manager["http_filters"], _TRANSCODER)["proto_descriptor"] = str(descriptors_path())
    if options.in_process is not None:
        del config["static_resources"]["clusters"]
        _take_in(manager, options.in_process)
    else:
        [cluster] = config["static_resources"]["clusters"]
        cluster["load_assignment"] = _assignment(options.worker_sockets)
        if options.endpoints is not None:
            del cluster["load_assignment"]
            source = {"path_config_source": {"path": options.endpoints}, "resource_api_version": "V3"}
            cluster |= {"type": "EDS", "eds_cluster_config": {"eds_config": source}}
    # No aliases: a reader of the rendered file sees every route whole.
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def render_endpoints(sockets: Sequence[str]) -> str:
    """What the file of `EnvoyOptions.endpoints` says of workers that have these sockets. Envoy reads it again when
    another file is given its name.
    """
    resource = {"@type": f"{_TYPES}.config.endpoint.v3.ClusterLoadAssignment", **_assignment(sockets)}
    return yaml.safe_dump({"resources": [resource]})


def _assignment(sockets: Sequence[str]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": {"pipe": {"path": socket}}}} for socket in sockets]
    return {"cluster_name": "workers", "endpoints": [{"lb_endpoints": endpoints}]}


def descriptors_path() -> Path:
    """The descriptor set of the protos, which the transcoder reads."""
    return Path(aistats.gateway.v1.__path__[0]) / "descriptors.binpb"


def _take_in(manager: dict[str, Any], worker: InProcess) -> None:
    """Have a worker of this very process answer what is otherwise forwarded.

    The router, which answers the direct responses as before, no longer sees those requests: what it did to their
    headers is done by a filter in front of the worker.
    """
    *before, router = manager["http_filters"]
    host = manager["route_config"]["virtual_hosts"][0]
    mutations = _mutations(host)
    # The worker ends each answer with trailers, which it may only do where they are asked for.
    mutations["request_mutations"].append(
        {"append": {"header": {"key": "te", "value": "trailers"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
    )
    headers = {"@type": f"{_MUTATION}.HeaderMutation", "mutations": mutations}
    manager["http_filters"] = [
        *before,
        {"name": _HEADERS_FILTER, "typed_config": headers},
        {"name": _APP_FILTER, "typed_config": _app(worker)},
        router,
    ]
    del host["retry_policy"]
    for route in host["routes"]:
        per_filter = route["typed_per_filter_config"] = dict(route.get("typed_per_filter_config", {}))
        if route.pop("route", None) is None:
            for name in (_HEADERS_FILTER, _APP_FILTER):
                per_filter[name] = {"@type": f"{_TYPES}.config.route.v3.FilterConfig", "disabled": True}
            continue
        route["non_forwarding_action"] = {}
        if uploads := route.pop("request_body_buffer_limit", None):
            # A body waits for the worker in as much room as the transcoder asks for, either way.
            limits = {"max_request_body_size": uploads, "max_response_body_size": uploads}
            per_filter[_TRANSCODER] = _named(before, _TRANSCODER) | limits
        per_filter[_HEADERS_FILTER] = {"@type": f"{_MUTATION}.HeaderMutationPerRoute", "mutations": _mutations(route)}
    manager["access_log"].append(_ends(worker.ends))


def _mutations(place: dict[str, Any]) -> dict[str, list[Any]]:
    """The headers that a route, or all of them, adds, for the filter that adds them where no router does."""
    return {
        f"{side}_mutations": [{"append": added} for added in place.get(f"{side}_headers_to_add", ())]
        for side in ("request", "response")
    }


def _app(worker: InProcess) -> dict[str, Any]:
    config = {"app": worker.app, "interface": "asgi", "lifespan": True, "loop": "uvloop"}
    return {
        "@type": f"{_TYPES}.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
        "dynamic_module_config": {"module": {"local": {"filename": worker.module}}},
        "filter_name": "pyvoy",
        "filter_config": {
            "@type": "type.googleapis.com/google.protobuf.StringValue",
            "value": msgspec.json.encode(config).decode(),
        },
    }


def _ends(pipe: str) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.file",
        "filter": {"response_flag_filter": {}},
        "typed_config": {
            "@type": f"{_TYPES}.extensions.access_loggers.file.v3.FileAccessLog",
            "path": pipe,
            "log_format": {"text_format_source": {"inline_string": "%REQ(X-REQUEST-ID)%\n"}},
        },
    }


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _named(filters: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    config: dict[str, Any] = next(one for one in filters if one["name"] == name)["typed_config"]
    return config


def _tls(certificate: str, key: str) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": _TLS_CONTEXT,
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificates": [
                    {"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}
                ],
            },
        },
    }
