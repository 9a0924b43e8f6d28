"""Requests of the hub to other servers: bounded in time and size, and without redirects."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Mapping
from typing import Any

TIMEOUT_S = 10.0

ANSWER_MAX_BYTES = 1 << 20


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        """Follows none: a redirected POST becomes a GET without its body, and a secret may go to another server."""


def send(
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    ca: str = "",
    timeout_s: float = TIMEOUT_S,
) -> bytes:
    """Sends a GET, or a POST if there is a body; returns the answer's body, cut at `ANSWER_MAX_BYTES`.

    Args:
        ca: File with the certificates to trust; the system's if empty.

    Raises:
        OSError: The server cannot be reached or trusted, or answers with an error (``urllib.error.HTTPError``).
        ValueError: The URL cannot be used.
    """
    request = urllib.request.Request(url, body, {"User-Agent": "lineside", **(headers or {})})
    handlers = (_NoRedirect, urllib.request.HTTPSHandler(context=trust(ca)))
    with urllib.request.build_opener(*handlers).open(request, timeout=timeout_s) as answer:
        received: bytes = answer.read(ANSWER_MAX_BYTES)
        return received


def trust(ca: str) -> ssl.SSLContext:
    """Returns the trust in a file's certificates, or in the system's if it is empty."""
    return ssl.create_default_context(cafile=ca or None)
