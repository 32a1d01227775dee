"""Renders `envoy.yaml` for the ports, sockets, certificates and number of workers of one gateway.

The file at the root of the repository is the one source: what is rendered differs from it only in what `EnvoyOptions`
names. It is run with `envoy -c`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

import aistats.gateway.v1

_TLS_CONTEXT = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_PACKAGE = Path(__file__).parent


class EnvoyOptions(msgspec.Struct, frozen=True):
    """Where Envoy listens, and where its workers do. `tls_cert` and `tls_key` are PEM files, set both or neither.

    `trusted_proxies`: how many stand before it, and tell of clients' addresses in `x-forwarded-for`.
    """

    worker_sockets: tuple[str, ...]
    admin_socket: str
    http_host: str = "127.0.0.1"
    http_port: int = 8080
    tls_cert: str | None = None
    tls_key: str | None = None
    trusted_proxies: int = 0


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
    chain["filters"][0]["typed_config"]["xff_num_trusted_hops"] = options.trusted_proxies
    _transcoder(chain)["proto_descriptor"] = str(descriptors_path())
    cluster = config["static_resources"]["clusters"][0]
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"pipe": {"path": socket}}}} for socket in options.worker_sockets
    ]
    # No aliases: a reader of the rendered file sees every route whole.
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def descriptors_path() -> Path:
    """The descriptor set of the protos, which the transcoder reads."""
    return Path(aistats.gateway.v1.__path__[0]) / "descriptors.binpb"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _transcoder(chain: dict[str, Any]) -> dict[str, Any]:
    filters = chain["filters"][0]["typed_config"]["http_filters"]
    config: dict[str, Any] = next(f for f in filters if f["name"].endswith("grpc_json_transcoder"))["typed_config"]
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
