"""Which names are allowed, checked in one place.

A name (stream, worker, engine, tier, token) becomes a file name, a URL part and a label, so it is short and plain.
A message id is freer, because sources bring their own, but it is one printable line of bounded length.
"""

from __future__ import annotations

import re
import reprlib

from harmonicio.core.errors import InvalidInput

MAX_NAME_LENGTH = 100
MAX_MESSAGE_ID_BYTES = 200

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(kind: str, name: object) -> str:
    """Return ``name`` when it may be used for a thing of this ``kind`` ("stream", "tier" …).

    Raises:
        InvalidInput: it is not 1 to 100 ASCII letters, digits, ``.``, ``_`` or ``-`` that start with a letter or digit.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{_shown(name)} is not a {kind} name.",
            hint=f"Use 1 to {MAX_NAME_LENGTH} letters, digits, '.', '_' or '-', starting with a letter or digit.",
        )
    return name


def check_message_id(message_id: object) -> str:
    """Return ``message_id`` when it may identify a message.

    Raises:
        InvalidInput: it is not a printable text of 1 to 200 bytes in UTF-8.
    """
    if not isinstance(message_id, str) or not message_id.isprintable() or not message_id.strip():
        raise InvalidInput(f"{_shown(message_id)} is not a message id.", hint="Use one line of printable text.")
    if len(message_id.encode("utf-8", "surrogatepass")) > MAX_MESSAGE_ID_BYTES:
        raise InvalidInput(
            f"The message id that starts with {message_id[:40]!r} is too long.",
            hint=f"Use at most {MAX_MESSAGE_ID_BYTES} bytes of UTF-8.",
        )
    return message_id


def _shown(value: object) -> str:
    """Show what was given in an error, however large or deeply nested it is."""
    return repr(value[:80])[:100] if isinstance(value, str) else reprlib.repr(value)[:100]
