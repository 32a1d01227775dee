"""What holds for every test."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import certifi
import httpx
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's affair, which may be busy with the rest of the suite.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Every client of HTTP reads whom it trusts: 140 authorities, in 28 ms. Where all servers are local one will do.
_end = "-----END CERTIFICATE-----\n"
_authority = tempfile.NamedTemporaryFile("w", suffix=".pem")  # noqa: SIM115 - open as long as this process
_authority.write(Path(certifi.where()).read_text().partition(_end)[0] + _end)
_authority.flush()
os.environ["SSL_CERT_FILE"] = _authority.name

# What a client of HTTP waits for where a test says nothing of it: by itself five seconds.
_patience = httpx._config.DEFAULT_TIMEOUT_CONFIG
_patience.connect = _patience.read = _patience.write = _patience.pool = 60.0
