"""One request to a master and its answer: the part of the client that knows HTTP.

Rules:

- ``requests`` is imported on first use, so that importing a stream connector stays cheap.
- Every request has time-outs. A request whose connection broke is repeated once, at once, if the second time changes
  nothing: reading, declaring, and what is said to be repeatable.
- Over HTTPS only TLS 1.3 is spoken where the caller is told whom to believe.
- Neither environment nor ``.netrc`` is looked at: no proxy and no other credentials slip in.

A caller may be used from several threads.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet

from harmonicio.control import json_codec, paths
from harmonicio.control.messages import Problem
from harmonicio.core import errors
from harmonicio.core.certificates import NOT_SHOWN, SHOW_ONE, WHAT_TO_DO

if TYPE_CHECKING:
    import ssl

    import requests
    from urllib3.connection import HTTPConnection

Record = TypeVar("Record")

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 15.0
_REPEATABLE_METHODS = ("GET", "PUT")
#: What OpenSSL says to an answer in plain text.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
_HINT = "Check that the master runs and that the address is right; connectors and workers keep trying by themselves."


class Credentials(Protocol):
    """How to shake hands over TLS; :class:`harmonicio.transport.credentials.TlsCredentials` is one."""

    def dialling(self) -> ssl.SSLContext | None: ...


class MasterCaller:
    """Sends requests to one master.

    Args:
        url: Where its control plane is, for example ``http://127.0.0.1:8710``.
        token: Bearer token; an engine's is made by :func:`harmonicio.control.tickets.engine_bearer`.
        tls: What to show, and whom to believe, over HTTPS; None: nothing, and whom this host believes.

    Raises:
        InvalidInput: the URL cannot be used.
    """

    def __init__(self, url: str, token: str = "", *, tls: Credentials | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise errors.InvalidInput(f"{url!r} is not a master's address.", hint="Write it as http://host:port.")
        self.url = url.rstrip("/")
        self._token = _one_word(token)
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._session: requests.Session | None = None
        self._connections: WeakSet[HTTPConnection] = WeakSet()
        self._is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "connected" if self._session else "new"
        return f"<{type(self).__name__} {self.url} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a request that runs in another thread fails at once."""
        with self._lock:
            self._is_closed = True
            session, self._session = self._session, None
            connections = list(self._connections)
        for connection in connections:
            _cut(connection)
        if session is not None:
            session.close()

    # ── one request ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask(self, kind: type[Record], method: str, path: str, body: Any = None, **options: Any) -> Record:
        """Send a request and return its answer as a record."""
        return json_codec.from_plain(kind, self._ask_plain(method, path, body, **options))

    def _ask_plain(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Send a request and return its answer as plain JSON."""
        response = self._send(method, path, body, **options)
        try:
            return response.json()
        except ValueError as error:
            raise errors.HarmonicIOError(
                f"{self.url} does not answer {method} {path} as a master does.",
                hint="Check that the address is that of a HarmonicIO master.",
            ) from error

    def _tell(self, method: str, path: str, body: Any = None, **options: Any) -> None:
        self._send(method, path, body, **options)

    def _send(self, method: str, path: str, body: Any = None, *, is_repeatable: bool = False, **options: Any) -> Any:
        import requests

        attempts = 2 if is_repeatable or method in _REPEATABLE_METHODS else 1
        for left in reversed(range(attempts)):
            try:
                response = self._request(method, path, body, **options)
            except (requests.RequestException, OSError) as error:
                if self._is_closed:
                    raise self._ended() from error
                if left and isinstance(error, requests.ConnectionError) and not isinstance(error, requests.Timeout):
                    continue
                reason, hint = _reason(error)
                text = f"The master at {self.url} does not answer ({reason})."
                raise errors.MasterUnavailable(text, hint=hint or _HINT) from error
            if response.status_code >= 300:
                raise _error_of(response, self.url)
            return response

    def _request(
        self,
        method: str,
        path: str,
        body: Any,
        *,
        query: Mapping[str, Any] | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> requests.Response:
        return self._opened().request(
            method,
            self.url + path,
            params=query,
            data=None if body is None else _body_of(body),
            headers=None if body is None else {"Content-Type": "application/json"},
            timeout=(CONNECT_TIMEOUT_S, read_timeout_s),
            allow_redirects=False,
        )

    def _opened(self) -> requests.Session:
        with self._lock:
            if self._is_closed:
                raise self._ended()
            context = self._tls.dialling() if self._tls is not None else None
            if self._session is not None and context is not self._context:  # Certificates were renewed.
                self._session.close()
                self._session = None
            if self._session is None:
                self._session, self._context = _new_session(self._token, context, self._connected), context
            return self._session

    def _ended(self) -> errors.ConnectionEnded:
        return errors.ConnectionEnded(f"The client of {self.url} is closed.")

    def _connected(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._connections.add(connection)
            is_closed = self._is_closed
        if is_closed:
            _cut(connection)


def _body_of(record: Any) -> bytes:
    """Return the record as a request's body; the master would not read a longer one to its end.

    Raises:
        InvalidInput: it is too long.
    """
    body = json_codec.dumps(record)
    if len(body) > paths.MAX_BODY_BYTES:
        raise errors.InvalidInput(f"A {type(record).__name__} of {len(body)} bytes is too long for the master.")
    return body


def _cut(connection: HTTPConnection) -> None:
    """Let whoever waits for an answer on this connection see its end."""
    sock = connection.sock
    if sock is not None:
        with suppress(OSError):  # It is closed already.
            sock.shutdown(socket.SHUT_RDWR)


def _new_session(
    token: str, context: ssl.SSLContext | None, on_connected: Callable[[HTTPConnection], None]
) -> requests.Session:
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
    if token:
        session.headers["Authorization"] = f"Bearer {token}"
    return session


def _one_word(token: str) -> str:
    """Return the token without the line end of its file.

    Raises:
        InvalidInput: it cannot stand in a header; it is not shown.
    """
    word = token.strip()
    if not word.isascii() or not word.isprintable() or " " in word:
        raise errors.InvalidInput("The token is not one word of ASCII.", hint="Give what is in one token file.")
    return word


def _reason(error: BaseException) -> tuple[str, str]:
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


def _error_of(response: requests.Response, url: str) -> errors.HarmonicIOError:
    try:
        problem = json_codec.loads(Problem, response.content)
    except errors.InvalidInput:
        problem = Problem("", response.status_code, "", detail=f"{url} answered {response.status_code}.")
    text = problem.detail or problem.title or f"{url} answered {problem.status}."
    kind = errors.PASSED_ON.get(problem.code) or _KIND_OF_STATUS.get(response.status_code, errors.HarmonicIOError)
    more = {"retry_after_s": problem.retry_after_s} if issubclass(kind, errors.Unavailable) else {}
    error = kind(text, hint=problem.hint, **more)
    if problem.code in errors.PASSED_ON:  # Others than a master say nothing about that.
        error.retryable = error.retryable and problem.retryable
    return error


#: What an answer without a code of ours stands for.
_KIND_OF_STATUS: dict[int, type[errors.HarmonicIOError]] = {
    **dict.fromkeys((400, 413, 415, 422), errors.InvalidInput),
    **dict.fromkeys((401, 403), errors.NotAllowed),
    404: errors.NotFound,
    409: errors.Conflict,
    503: errors.Unavailable,
}
