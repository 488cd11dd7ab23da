"""Whether a request is here, without a thread that waits for it.

    bytes arrive ──► the selector wakes ──► wanted_bytes: the head is looked at, and left where it is
                          ▲                       │
                          └── so many must be here┴──► 0: a thread reads it, and need not wait

So who sends slowly, or begins and sends no more, costs a file descriptor and what the kernel keeps, and no thread.
Bodies are waited for up to ``MAX_AWAITED_BYTES``; the rest of a longer one is the thread's to wait for. Of TLS the next
record is waited for: what is in it can be seen by nobody before.
"""

from __future__ import annotations

import array
import fcntl
import re
import socket
import ssl
import termios

from harmonicio.control import paths

#: A head that is longer is refused: nobody needs to wait for its end.
MAX_HEAD_BYTES = 16 * 1024
MAX_AWAITED_BYTES = 48 * 1024

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})[ \t]*\r\n", re.IGNORECASE)
_EXPECTATION = re.compile(rb"\r\nexpect:", re.IGNORECASE)
_END = b"\r\n\r\n"
#: The kinds of records of TLS: change of cipher, alert, handshake, data; two bytes of version and two of size follow.
_RECORDS, _RECORD_HEAD_BYTES = (20, 21, 22, 23), 5
#: A line that does not end like one of HTTP: that is refused, so nobody needs to wait for more.
_BROKEN_LINE = re.compile(rb"(?<!\r)\n")


def wanted_bytes(sock: socket.socket, awaited: int) -> int:
    """Return how many bytes must be here before a request is worth reading; 0 when it is now.

    Args:
        sock: On which something has come; nothing is taken from it.
        awaited: What was returned for this request before, or 0.
    """
    is_sealed = isinstance(sock, ssl.SSLSocket)
    try:
        here = _bytes_here(sock)
        if here < awaited:
            return 0  # It woke all the same: nothing more will come.
        # Of the class, because that of TLS would read what is sealed.
        first = socket.socket.recv(sock, MAX_HEAD_BYTES + 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        wanted = _wanted_of_record(first, here) if is_sealed else _wanted_of(first, here)
        return wanted if wanted > here else 0
    except BlockingIOError:
        return 1
    except OSError:
        return 0  # Whoever reads will see the same.


def wake_at(sock: socket.socket, size_bytes: int) -> None:
    """Have the selector wake when so many bytes are here, or no more will come."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size_bytes)


def _wanted_of(head: bytes, here: int) -> int:
    end = head.find(_END)
    if end < 0:
        is_refused = not head or len(head) > MAX_HEAD_BYTES or _BROKEN_LINE.search(head)
        return 0 if is_refused else here + 1
    fields = head[: end + 2]
    length = _LENGTH.search(fields)
    if length is None or _EXPECTATION.search(fields):
        return 0
    size_bytes = int(length[1])
    return 0 if size_bytes > paths.MAX_BODY_BYTES else end + len(_END) + min(size_bytes, MAX_AWAITED_BYTES)


def _wanted_of_record(record: bytes, here: int) -> int:
    """Return the size of the record of TLS that begins here: none is opened in part."""
    if not record or record[0] not in _RECORDS:
        return 0
    return _RECORD_HEAD_BYTES + int.from_bytes(record[3:5], "big") if here >= _RECORD_HEAD_BYTES else here + 1


def _bytes_here(sock: socket.socket) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)
    return count[0]
