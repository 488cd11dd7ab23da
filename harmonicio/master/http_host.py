"""What a request calls the host that it is sent to.

A page may have its own name bound to 127.0.0.1: then what it asks goes to the master of the machine on which it is
looked at, and the browser takes the answer for the page's own. Such a request names the page's host. So a master that
serves its own machine in plain text answers to ``localhost``, to the machine's name and to addresses only. One that
others reach has names that it does not know; with TLS its certificate says them, and a page's name is not among them.
"""

from __future__ import annotations

import http
import ipaddress
import re
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from harmonicio.control import json_codec
from harmonicio.control.messages import Problem
from harmonicio.master import problems

_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")


def named_host(header: str) -> str:
    """Return the host in a header ``Host``, without its port; empty when there is none."""
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
    return host if _HOST.fullmatch(host) else ""


def is_of_this_machine(header: str) -> bool:
    """Whether a header ``Host`` names this machine, or an address: no name can be bound to another one then."""
    if not header:
        return True  # No browser leaves it out.
    host = named_host(header)
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return host in ("localhost", socket.gethostname().lower()) or host.endswith(".localhost")


def misdirected(start_response: Callable[..., Any]) -> list[bytes]:
    """Answer a request that was meant for another host."""
    status = http.HTTPStatus.MISDIRECTED_REQUEST
    text, hint = "This master serves its own machine, under another name.", "Call it localhost, or by its address."
    body = json_codec.dumps(Problem(status.phrase, status, "bad_request", detail=text, hint=hint))
    head = [("Content-Type", problems.CONTENT_TYPE), ("Content-Length", str(len(body))), ("Connection", "close")]
    start_response(f"{status.value} {status.phrase}", head)
    return [body]
