"""One request to a master and its answer: the part of the client that knows HTTP.

Rules:

- ``requests`` is imported on first use, so that importing a stream connector stays cheap.
- Every request has time-outs. A request whose connection broke is repeated once, at once, if the second time changes
  nothing: reading, declaring, and what is said to be repeatable.
- A token that is refused is read again, where it can be: so tokens are changed without a restart.

A caller may be used from several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet

from harmonicio.control import json_codec, paths
from harmonicio.control.http_session import cut, is_unsent, new_session, reason
from harmonicio.control.messages import Problem
from harmonicio.core import errors

if TYPE_CHECKING:
    import ssl

    import requests
    from urllib3.connection import HTTPConnection

Record = TypeVar("Record")

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 15.0
_UNAUTHORIZED = 401
_REPEATABLE_METHODS = ("GET", "PUT")
_HINT = "Check that the master runs and that the address is right; connectors and workers keep trying by themselves."


class Credentials(Protocol):
    """How to shake hands over TLS; :class:`harmonicio.transport.credentials.TlsCredentials` is one."""

    def dialling(self) -> ssl.SSLContext | None: ...


class MasterCaller:
    """Sends requests to one master.

    Args:
        url: Where its control plane is, for example ``http://127.0.0.1:8710``.
        token: Bearer token, or what returns it; an engine's is made by
            :func:`harmonicio.control.tickets.engine_bearer`.
        tls: What to show, and whom to believe, over HTTPS; None: nothing, and whom this host believes.

    Raises:
        InvalidInput: the URL cannot be used.
    """

    def __init__(self, url: str, token: str | Callable[[], str] = "", *, tls: Credentials | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise errors.InvalidInput(f"{url!r} is not a master's address.", hint="Write it as http://host:port.")
        self.url = url.rstrip("/")
        self._read_token = token if callable(token) else lambda: token
        self._token = _one_word(self._read_token())
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
            cut(connection)
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

    def _send(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        token = self._token
        response = self._answer(method, path, body, **options)
        if response.status_code == _UNAUTHORIZED and self._has_another_token(token):
            response = self._answer(method, path, body, **options)
        if response.status_code >= 300:
            raise _error_of(response, self.url)
        return response

    def _has_another_token(self, token: str) -> bool:
        """Read the token again; return whether it is another than the one that was refused."""
        self._token = _one_word(self._read_token())
        return self._token != token

    def _answer(
        self, method: str, path: str, body: Any, *, is_repeatable: bool = False, **options: Any
    ) -> requests.Response:
        import requests

        attempts = 2 if is_repeatable or method in _REPEATABLE_METHODS else 1
        while True:
            attempts -= 1
            try:
                return self._request(method, path, body, **options)
            except (requests.RequestException, OSError) as error:
                if self._is_closed:
                    raise self._ended() from error
                if is_unsent(error):
                    attempts += 1  # Certificates were renewed just now, and its connections closed.
                    continue
                if attempts and isinstance(error, requests.ConnectionError) and not isinstance(error, requests.Timeout):
                    continue
                why, hint = reason(error)
                text = f"The master at {self.url} does not answer ({why})."
                raise errors.MasterUnavailable(text, hint=hint or _HINT) from error

    def _request(
        self,
        method: str,
        path: str,
        body: Any,
        *,
        query: Mapping[str, Any] | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> requests.Response:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return self._opened().request(
            method,
            self.url + path,
            params=query,
            data=None if body is None else _body_of(body),
            headers=headers if body is None else {**headers, "Content-Type": "application/json"},
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
                self._session, self._context = new_session(context, self._connected), context
            return self._session

    def _ended(self) -> errors.ConnectionEnded:
        return errors.ConnectionEnded(f"The client of {self.url} is closed.")

    def _connected(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._connections.add(connection)
            is_closed = self._is_closed
        if is_closed:
            cut(connection)


def _body_of(record: Any) -> bytes:
    """Return the record as a request's body; the master would not read a longer one to its end.

    Raises:
        InvalidInput: it is too long.
    """
    body = json_codec.dumps(record)
    if len(body) > paths.MAX_BODY_BYTES:
        raise errors.InvalidInput(f"A {type(record).__name__} of {len(body)} bytes is too long for the master.")
    return body


def _one_word(token: str) -> str:
    """Return the token without the line end of its file.

    Raises:
        InvalidInput: it cannot stand in a header; it is not shown.
    """
    word = token.strip()
    if not word.isascii() or not word.isprintable() or " " in word:
        raise errors.InvalidInput("The token is not one word of ASCII.", hint="Give what is in one token file.")
    return word


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
