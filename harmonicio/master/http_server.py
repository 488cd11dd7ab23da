"""The web server that carries the control plane: cheroot, in this process, with threads of its own.

Rules, beyond what cheroot does by itself:

- A request must be read within ``READ_WITHIN_S`` as a whole, not per packet.
- A connection waits in the selector, and holds no thread, until a request is here (:mod:`.http_arrival`). What a thread
  waits for all the same (TLS, long bodies, who takes no answer) must come within ``HURRIED_S`` when others wait and no
  thread is free; the more wait, the sooner (:mod:`.http_patience`).
- Connections, header bytes and body bytes are bounded, and a body of unsaid length (in chunks) is refused. Where there
  are ``MAX_CONNECTIONS``, who has the most of those that wait loses the oldest of his to who comes.
- Where plain text is spoken on loopback, a request that names another host is refused (:mod:`.http_host`).
- A TLS handshake happens as the first request is read, in its thread and within its time.
- What cheroot answers by itself (a broken request line, a header that is too large) is a problem in JSON as well.
"""

from __future__ import annotations

import http
import logging
import math
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import unquote_to_bytes

from cheroot import server as cheroot_server
from cheroot import ssl as cheroot_ssl
from cheroot import wsgi
from cheroot.makefile import MakeFile

from harmonicio.control import json_codec
from harmonicio.control.messages import Problem
from harmonicio.core.errors import Unavailable
from harmonicio.core.lease import Address, is_loopback
from harmonicio.master import http_arrival
from harmonicio.master.http_host import is_of_this_machine, misdirected, named_host
from harmonicio.master.http_patience import PatientReader, PatientWriter
from harmonicio.transport.credentials import NO_CREDENTIALS, TlsCredentials
from harmonicio.transport.stranger_log import StrangerLog

_log = logging.getLogger(__name__)

READ_WITHIN_S = 10.0
MAX_CONNECTIONS = 2_000
#: How long a thread waits for the rest of a request, or for its answer to be taken, while others wait for a thread: at
#: most, and at least.
HURRIED_S, LEAST_S = 0.5, 0.1
#: The application refuses bodies well below this; here the line is drawn for those that it never sees.
MAX_BODY_BYTES = 2 * 1024 * 1024
#: How often the selector looks for idle connections, and at most how long closing waits for it.
SELECTOR_INTERVAL_S = 0.2
#: In the WSGI environment: the host at which the caller reached this server; empty when that is not known.
REACHED_AT = "harmonicio.reached_at"


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
        self._is_for_this_machine = is_loopback(address.host) and tls.listening() is None
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
            if self._is_for_this_machine and not is_of_this_machine(environ.get("HTTP_HOST", "")):
                return misdirected(start_response)
            host = named_host(environ.get("HTTP_HOST", "")) if bound.is_wildcard else bound.host
            return application({**environ, REACHED_AT: host}, start_response)

        return call


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

    max_request_header_size = http_arrival.MAX_HEAD_BYTES
    max_request_body_size = MAX_BODY_BYTES
    keep_alive_conn_limit = MAX_CONNECTIONS
    expiration_interval = SELECTOR_INTERVAL_S

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ConnectionClass = _Connection
        self.strangers = StrangerLog(_log)

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
        self._connections._expire = self._expire
        self._connections._selector.select = self._select

    def _select(self, timeout: float | None = None) -> Iterator[tuple[int, Any]]:
        """Tell what is ready; not who has been closed since to make room for another that was."""
        selector = self._connections._selector._selector
        for key, _ in selector.select(timeout):
            if selector.get_map().get(key.fd) is key:
                yield key.fd, key.data

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
        """Give a connection with a request to a thread; let others wait until they have one."""
        if conn.last_used is None:
            if not self._connections.can_add_keepalive_connection:
                self._make_room()
            self._connections.put(conn)
        elif conn.rfile.has_data():
            # Of several that were sent at once. One that is here in part would be waited for: nobody of ours sends it.
            self.requests.put(conn) if b"\r\n\r\n" in conn.rfile.peek() else conn.close()
        elif conn.has_request():
            self.requests.put(conn)
        else:
            self._connections._selector.register(conn.socket.fileno(), selectors.EVENT_READ, data=conn)

    def patience_s(self) -> float:
        """How long a thread may wait for a peer, as far as others need it."""
        waiting = self.requests.qsize
        crowd = waiting - self.requests.idle if waiting else 0
        return max(LEAST_S, HURRIED_S / (1 + crowd / self.requests.min)) if crowd > 0 else math.inf

    def _make_room(self) -> None:
        """Close the oldest connections of who has the most, of those on which nothing is asked just now."""
        waiting = [each for each in self._connections._selector.connections if each[1] is not self]
        ((crowd, count),) = Counter(conn.remote_addr for _, conn in waiting).most_common(1)
        theirs = sorted((each for each in waiting if each[1].remote_addr == crowd), key=lambda each: each[1].last_used)
        for descriptor, conn in theirs[: max(1, count // 16)]:
            self._connections._selector.unregister(descriptor)
            conn.close()

    def _expire(self, threshold: float) -> None:
        """End connections on which no request has come in time; who has begun one hears why."""
        for descriptor, conn in list(self._connections._selector.connections):
            if conn is not self and conn.last_used < threshold:
                self._connections._selector.unregister(descriptor)
                if conn.awaited_bytes:
                    conn.is_late = True
                    self.requests.put(conn)
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
    inheaders: dict[bytes, bytes]

    def read_request_headers(self) -> bool:
        """Take a body only when its length is said: else its end would be sought, or be taken for another request."""
        if not super().read_request_headers():  # type: ignore[no-untyped-call]
            return False
        if b"Transfer-Encoding" in self.inheaders:
            self.simple_response("411 Length Required", "Say how long the body is, with Content-Length.")
        elif not self.inheaders.get(b"Content-Length", b"0").isdigit():
            self.simple_response("400 Bad Request", "Content-Length is no number.")
        else:
            return True
        return False

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
        super().__init__(server, sock, self._file)
        self.awaited_bytes = 0
        self.is_late = False

    def _file(self, sock: socket.socket, mode: str, size: int) -> Any:
        return (PatientReader if "r" in mode else PatientWriter)(
            sock, size, self.server.patience_s, self.server.strangers
        )

    def has_request(self) -> bool:
        """Whether a request is here that can be read now."""
        wanted = http_arrival.wanted_bytes(self.socket, self.awaited_bytes)
        if wanted and not self.awaited_bytes:
            self.last_used = time.time()  # It has begun: how long nothing was asked before does not count.
        if wanted != self.awaited_bytes:
            http_arrival.wake_at(self.socket, max(1, wanted))
            self.awaited_bytes = wanted
        return not wanted

    def communicate(self) -> Any:
        if self.is_late:
            self._discard()
        self.rfile.raw.begin(0.0 if self.is_late else READ_WITHIN_S)
        self.wfile.raw.begin(READ_WITHIN_S)
        return super().communicate()  # type: ignore[no-untyped-call]

    def _discard(self) -> None:
        """Forget what is here: to close on that would cut off the answer."""
        size_bytes = http_arrival.MAX_HEAD_BYTES + http_arrival.MAX_AWAITED_BYTES
        with suppress(OSError):  # Of the class, because that of TLS takes no flags.
            socket.socket.recv(self.socket, size_bytes, socket.MSG_DONTWAIT)

    def write_through(self, answer: bytes) -> None:
        """Send an answer: in plain text to who speaks no TLS where that is spoken, and none before its handshake."""
        if self.rfile.raw.is_plain:
            socket.socket.sendall(self.socket, answer)
        elif not isinstance(self.socket, ssl.SSLSocket) or self.socket.version() is not None:
            self.wfile.write(answer)

    def _handle_no_ssl(self, req: Any) -> None:
        req.simple_response("400 Bad Request", "This port speaks HTTPS only. Write the address with https://.")
