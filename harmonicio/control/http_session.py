"""How requests travel: what a master's caller needs of ``requests`` and ``urllib3``, which are imported on first use.

- Neither environment nor ``.netrc`` is looked at: no proxy and no other credentials slip in.
- Whom to believe over TLS is what the caller says; the authorities that requests brings along count for nothing.
- Each connection is told of, so that it can be cut while somebody waits for its answer.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from harmonicio.core.certificates import NOT_SHOWN, SHOW_ONE, WHAT_TO_DO

if TYPE_CHECKING:
    import ssl

    import requests
    from urllib3.connection import HTTPConnection

#: What OpenSSL says to an answer in plain text.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")


def cut(connection: HTTPConnection) -> None:
    """Let whoever waits for an answer on this connection see its end."""
    sock = connection.sock
    if sock is not None:
        with suppress(OSError):  # It is closed already.
            sock.shutdown(socket.SHUT_RDWR)


def new_session(context: ssl.SSLContext | None, on_connected: Callable[[HTTPConnection], None]) -> requests.Session:
    """Return a session that tells of each of its connections, and closes them all when it is closed."""
    import requests
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Telling(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            on_connected(self)

    class TellingSecure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            on_connected(self)

    class Pool(HTTPConnectionPool):
        ConnectionCls = Telling

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = TellingSecure

    class Adapter(requests.adapters.HTTPAdapter):
        """Believes whom ``context`` says, where requests would add the authorities that it brings along."""

        def get_connection_with_tls_context(self, request: Any, *_: Any, **__: Any) -> HTTPConnectionPool:
            pool: HTTPConnectionPool = self.poolmanager.connection_from_url(request.url)
            return pool

        def cert_verify(self, *_: Any, **__: Any) -> None:
            """The context does."""

    session = requests.Session()
    session.trust_env = False
    adapter = Adapter(pool_maxsize=16)
    adapter.poolmanager.connection_pool_kw["ssl_context"] = context
    adapter.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}
    # By itself a pool would keep its idle connections for as long as anybody has an error that went through it.
    adapter.poolmanager.pools.dispose_func = HTTPConnectionPool.close
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.headers["Accept"] = "application/json, application/problem+json"
    return session


def is_unsent(error: BaseException) -> bool:
    """Whether nothing of a request was sent, because its session had been closed by then."""
    from urllib3.exceptions import ClosedPoolError

    return isinstance(error, ClosedPoolError) or isinstance((error.args or ("",))[0], ClosedPoolError)


def reason(error: BaseException) -> tuple[str, str]:
    """Return the innermost cause that says something, without object addresses, and what to do, where that is known."""
    cause: BaseException = error
    while True:
        inner = getattr(cause, "reason", None) or (cause.args[0] if cause.args else None)
        if not isinstance(inner, BaseException):
            break
        cause = inner
    if why := _reason_of_tls(cause):
        return why
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror, ""
    return str(cause).rsplit(": ", 1)[-1].rsplit("] ", 1)[-1].strip("()'\" ") or type(cause).__name__, ""


def _reason_of_tls(cause: BaseException) -> tuple[str, str] | None:
    said = getattr(cause, "verify_message", "")
    if said:
        what_to_do = WHAT_TO_DO.get(getattr(cause, "verify_code", 0), "Use another certificate.")
        return f"its certificate is not believed: {said.rstrip('.')}", what_to_do
    why = getattr(cause, "reason", "")
    if why in _NOT_TLS:
        return "it does not speak TLS", "Write its address with http://, or set tls.certificate and tls.key there."
    if type(cause).__name__ == "SSLEOFError" or why in NOT_SHOWN:  # It may be gone before it can be heard.
        return "it ended the TLS connection", SHOW_ONE
    return None
