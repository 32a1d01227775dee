"""Everything that can go wrong between us and an upstream, as one table of fixed texts.

What drivers say holds hosts, ports and class names; nothing of it may reach a client.
"""

from __future__ import annotations

import errno
import ssl
from enum import StrEnum
from socket import gaierror
from typing import Final

from server.domain.errors import FailureCategory, ProviderFailure, UpstreamError


class Fault(StrEnum):
    REFUSED = "connection_refused"
    UNREACHABLE = "unreachable"
    NAME_NOT_FOUND = "name_not_found"
    FORBIDDEN = "forbidden_address"
    TLS = "tls_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    NO_CAPACITY = "no_capacity"
    DROPPED = "connection_dropped"
    CUT = "reply_cut"
    MALFORMED = "malformed_reply"
    UNKNOWN_CODING = "unknown_content_coding"
    TOO_LARGE = "reply_too_large"
    BAD_URL = "bad_url"
    BAD_HEADER = "bad_header"
    CLOSED = "client_closed"


_TABLE: Final[dict[Fault, tuple[FailureCategory, str]]] = {
    Fault.REFUSED: (FailureCategory.CONNECTION, "The provider refused the connection."),
    Fault.UNREACHABLE: (FailureCategory.CONNECTION, "The provider could not be reached."),
    Fault.NAME_NOT_FOUND: (FailureCategory.CONNECTION, "The provider's name did not resolve."),
    Fault.FORBIDDEN: (FailureCategory.CONNECTION, "The provider's address is one that the gateway does not call."),
    Fault.TLS: (FailureCategory.CONNECTION, "No trusted connection to the provider could be made."),
    Fault.CONNECT_TIMEOUT: (FailureCategory.TIMEOUT, "The provider did not accept the connection in time."),
    Fault.NO_CAPACITY: (FailureCategory.NO_CAPACITY, "The gateway has no connection left for the provider."),
    Fault.DROPPED: (FailureCategory.CONNECTION, "The provider dropped the connection without a reply."),
    Fault.CUT: (FailureCategory.CONNECTION, "The provider's reply was cut."),
    Fault.MALFORMED: (FailureCategory.PROTOCOL, "The provider's reply was not proper HTTP."),
    Fault.UNKNOWN_CODING: (FailureCategory.PROTOCOL, "The provider's reply was encoded in an unknown way."),
    Fault.TOO_LARGE: (FailureCategory.PROTOCOL, "The provider's reply was larger than the gateway's limit."),
    Fault.BAD_URL: (FailureCategory.CONNECTION, "The provider's configured address is not an HTTP address."),
    Fault.BAD_HEADER: (
        FailureCategory.CREDENTIALS,
        "The provider's configured key, or another of its headers, holds a character that no header may hold.",
    ),
    Fault.CLOSED: (FailureCategory.CONNECTION, "The gateway has closed its connections."),
}


_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS})


def failure(fault: Fault) -> ProviderFailure:
    category, text = _TABLE[fault]
    return ProviderFailure(category, upstream=UpstreamError(code=fault.value, message=text))


def is_out_of_descriptors(error: OSError) -> bool:
    """Whether this process, or this machine, can open no further socket for now."""
    return error.errno in _OUT_OF_DESCRIPTORS


def connect_failure(error: OSError | UnicodeError) -> ProviderFailure:
    """What a failed connect was, by the kind of its error (UnicodeError: a host that cannot be a name)."""
    match error:
        case UnicodeError():
            return failure(Fault.BAD_URL)
        case ssl.SSLError():
            return failure(Fault.TLS)
        case TimeoutError():
            return failure(Fault.CONNECT_TIMEOUT)
        case gaierror():
            return failure(Fault.NAME_NOT_FOUND)
        case ConnectionRefusedError():
            return failure(Fault.REFUSED)
        case OSError() if is_out_of_descriptors(error):
            return failure(Fault.NO_CAPACITY)
        case _:
            return failure(Fault.UNREACHABLE)
