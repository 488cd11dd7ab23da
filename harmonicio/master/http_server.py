"""The web server that carries the control plane: cheroot, in this process, with threads of its own.

Rules, beyond what cheroot does by itself:

- A request must be read within ``READ_WITHIN_S`` as a whole, not per packet, so that slow senders hold no thread.
- A connection on which nothing has arrived yet waits in the selector and holds no thread either.
- Connections, header bytes and body bytes are bounded.
- A TLS handshake happens as the first request is read, in its thread and within its time.
- What cheroot answers by itself (a broken request line, a header that is too large) is a problem in JSON as well.
"""

from __future__ import annotations

import http
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from cheroot import errors as cheroot_errors
from cheroot import server as cheroot_server
from cheroot import ssl as cheroot_ssl
from cheroot import wsgi
from cheroot.makefile import MakeFile, StreamReader

from harmonicio.control import json_codec
from harmonicio.control.messages import Problem
from harmonicio.core.errors import Unavailable
from harmonicio.core.lease import Address
from harmonicio.transport.credentials import NO_CREDENTIALS, TlsCredentials

_log = logging.getLogger(__name__)

READ_WITHIN_S = 10.0
MAX_CONNECTIONS = 2_000
MAX_HEADER_BYTES = 64 * 1024
#: The application refuses bodies well below this; here the line is drawn for those that it never sees.
MAX_BODY_BYTES = 2 * 1024 * 1024
#: How often the selector looks for idle connections, and at most how long closing waits for it.
SELECTOR_INTERVAL_S = 0.2
#: In the WSGI environment: the host at which the caller reached this server; empty when that is not known.
REACHED_AT = "harmonicio.reached_at"
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")


class HttpServer:
    """Serves one WSGI application until it is closed.

    Args:
        address: Where to listen; port 0 takes a free one.
        application: The WSGI application.
        threads: Requests that are served at the same time.
        device: A network device of this host, when only what comes in over it shall be heard.
        tls: With a certificate, it speaks TLS.

    Raises:
        Unavailable: the address cannot be listened on.
    """

    def __init__(
        self,
        address: Address,
        application: Callable[..., Any],
        *,
        threads: int,
        device: str = "",
        tls: TlsCredentials = NO_CREDENTIALS,
    ) -> None:
        self._server = _Server(
            (address.host, address.port),
            _with_decoded_path(self._saying_where(application)),
            numthreads=threads,
            server_name="harmonicio",
            request_queue_size=128,
            timeout=READ_WITHIN_S,
        )
        self._server.device = device
        if tls.listening() is not None:
            self._server.ssl_adapter = _TlsAdapter(tls)
        try:
            self._server.prepare()
        except OSError as error:
            raise Unavailable(
                f"Cannot listen on {address}: {error}.", hint="Choose another address or port, or stop what uses it."
            ) from error
        bound = self._server.socket.getsockname()
        self.address = Address(bound[0], bound[1])
        self._thread = threading.Thread(target=self._server.serve, name="master-http", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<HttpServer {self.url} {'serving' if self._server.ready else 'closed'}>"

    @property
    def is_intact(self) -> bool:
        """Whether it still serves."""
        return self._thread.is_alive()

    @property
    def url(self) -> str:
        return f"{'http' if self._server.ssl_adapter is None else 'https'}://{self.address}"

    def close(self) -> None:
        """Stop listening, let running requests end and join every thread."""
        self._server.stop()
        self._thread.join()

    def _saying_where(self, application: Callable[..., Any]) -> Callable[..., Any]:
        """Say where the caller reached us: at the bound address or, when that is all of them, at the one he names."""

        def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            bound = self.address
            host = _named_host(environ.get("HTTP_HOST", "")) if bound.is_wildcard else bound.host
            return application({**environ, REACHED_AT: host}, start_response)

        return call


def _named_host(header: str) -> str:
    """Return the host in a header ``Host``, without its port; empty when there is none."""
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
    return host if _HOST.fullmatch(host) else ""


def _with_decoded_path(application: Callable[..., Any]) -> Callable[..., Any]:
    """Decode the whole path, as WSGI has it; cheroot leaves ``%2F`` as it is, and message ids may contain slashes."""

    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if "%2f" in environ["PATH_INFO"].lower():
            raw_path = environ["REQUEST_URI"].partition("?")[0]
            environ["PATH_INFO"] = unquote_to_bytes(raw_path).decode("latin-1")
        return application(environ, start_response)

    return call


class _Server(wsgi.Server):
    _connections: Any
    _accept: Any
    device = ""

    max_request_header_size = MAX_HEADER_BYTES
    max_request_body_size = MAX_BODY_BYTES
    keep_alive_conn_limit = MAX_CONNECTIONS
    expiration_interval = SELECTOR_INTERVAL_S

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ConnectionClass = _Connection

    def bind_socket(self, socket_: socket.socket, bind_addr: Any) -> socket.socket:  # type: ignore[override]
        """Bind, and leave no open socket behind when that fails."""
        try:
            if self.device:
                socket_.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.device.encode())
            socket_.bind(bind_addr)
        except OSError:
            socket_.close()
            raise
        return socket_

    def prepare(self) -> None:
        super().prepare()
        self._accept, self._connections._from_server_socket = self._connections._from_server_socket, self._attempt
        self._can_accept = True

    def _attempt(self, listener: socket.socket) -> Any:
        """Accept a connection; where there is no room for one, serve those that are open, and try again in a moment."""
        try:
            connection = self._accept(listener)
        except OSError as error:
            if self._can_accept:
                _log.warning("A connection cannot be accepted: %s. It waits until it can.", error.strerror or error)
            self._can_accept = False
            time.sleep(SELECTOR_INTERVAL_S)  # It stays ready, so without a rest the selector would spin.
            return None
        self._can_accept = True
        return connection

    def process_conn(self, conn: Any) -> None:
        """Give a connection with something to read to a thread; let a new one wait until it has."""
        if conn.last_used is not None:
            self.requests.put(conn)
        elif self._connections.can_add_keepalive_connection:
            self._connections.put(conn)
        else:
            conn.close()

    def serve(self) -> None:
        """Run the selector until :meth:`stop`; unlike cheroot's own, without a second thread that nobody would join."""
        while self.ready:
            try:
                self._connections.run(self.expiration_interval)
            except (OSError, ValueError, KeyError, RuntimeError):
                _log.exception("The web server's selector failed and goes on.")

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        _log.log(level, "%s", msg, exc_info=traceback)


class _TlsAdapter(cheroot_ssl.Adapter):
    """Has connections shake hands when their first bytes are read: so nobody waits for who does not finish that."""

    def __init__(self, credentials: TlsCredentials) -> None:
        self._credentials = credentials

    def bind(self, sock: socket.socket) -> socket.socket:
        return sock

    def wrap(self, sock: socket.socket) -> tuple[socket.socket, dict[str, Any]]:
        context = self._credentials.listening()
        assert context is not None, "a port does not cease to speak TLS"
        return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), self.get_environ()

    def get_environ(self) -> dict[str, Any]:
        return {"wsgi.url_scheme": "https"}

    def makefile(self, sock: Any, mode: str = "r", bufsize: int = -1) -> Any:
        return MakeFile(sock, mode, bufsize)


class _Request(cheroot_server.HTTPRequest):
    def simple_response(self, status: Any, msg: str = "") -> None:
        """Answer what never reached the application."""
        number = int(str(status)[:3])
        title = http.HTTPStatus(number).phrase
        # 501 and 505 are for codings and versions that only the caller knows.
        problem = Problem(title, number, "internal" if number in (500, 503) else "bad_request", detail=msg)
        body = json_codec.dumps(problem)
        head = (
            f"{self.server.protocol} {number} {title}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.close_connection = True
        try:
            self.conn.write_through(head.encode() + body)
        except OSError as error:
            _log.debug("The answer %s did not reach its client: %s", number, error)


class _Connection(cheroot_server.HTTPConnection):
    RequestHandlerClass = _Request

    def __init__(self, server: Any, sock: socket.socket, makefile: Callable[..., Any] = MakeFile) -> None:
        super().__init__(server, sock, lambda sock, mode, size: _file(makefile, sock, mode, size))

    def communicate(self) -> Any:
        self.rfile.raw.read_by = time.monotonic() + READ_WITHIN_S
        return super().communicate()  # type: ignore[no-untyped-call]

    def write_through(self, answer: bytes) -> None:
        """Send an answer; to who speaks no TLS where that is spoken, in plain text."""
        if self.rfile.raw.is_plain:
            socket.socket.sendall(self.socket, answer)
        else:
            self.wfile.write(answer)

    def _handle_no_ssl(self, req: Any) -> None:
        req.simple_response("400 Bad Request", "This port speaks HTTPS only. Write the address with https://.")


def _file(makefile: Callable[..., Any], sock: socket.socket, mode: str, size: int) -> Any:
    return _TimedReader(sock, mode, size) if "r" in mode else makefile(sock, mode, size)


class _TimedReader(StreamReader):
    def __init__(self, sock: socket.socket, mode: str, size: int) -> None:
        super().__init__(sock, mode, size)
        self._raw = _TimedSocketIO(sock, "rb")


class _TimedSocketIO(socket.SocketIO):
    """Reads from a socket, and times out when the whole request has not been read by ``read_by``."""

    def __init__(self, sock: socket.socket, mode: Any) -> None:
        super().__init__(sock, mode)
        self._timed_socket = sock
        self.read_by = time.monotonic() + READ_WITHIN_S
        self.is_plain = False

    def readinto(self, buffer: Any) -> int | None:
        left_s = self.read_by - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._timed_socket.settimeout(left_s)
        try:
            return super().readinto(buffer)
        except ssl.SSLError as error:
            self.is_plain = error.reason == "HTTP_REQUEST"
            if self.is_plain:
                raise cheroot_errors.NoSSLError from None
            _log.info("A TLS connection from %s failed: %s", _peer_of(self._timed_socket), error.reason or error)
            raise cheroot_errors.FatalSSLAlert from None
        finally:
            self._timed_socket.settimeout(READ_WITHIN_S)


def _peer_of(sock: socket.socket) -> str:
    try:
        return str(Address(*sock.getpeername()[:2]))
    except OSError:
        return "a peer that has gone"
