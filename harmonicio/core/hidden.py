"""What may be secret in texts and options of others, so that it is not shown to everybody who may look.

    postgresql://haste:hunter2@db/features   ──►  postgresql://haste:(hidden)@db/features
    host=db password=hunter2                 ──►  host=db password=(hidden)
    {"bucket": "b", "secret_key": "…"}       ──►  {"bucket": "b", "secret_key": "(hidden)"}

Texts of exceptions hold such things when a store cannot be reached. Names and places are all there is to go by: a
secret that stands alone in a sentence is not known for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "(hidden)"

#: An address with a password; ``name=value`` with a name that says it; and a bearer token, or one of ours.
_IN_TEXT = re.compile(
    r"(?<=://)([^\s/?#:@]*:)[^\s/?#]*(?=@)"
    r"|((?:password|passwd|pwd|secret|token|credential|signature|access_?key)=)[^\s&;,'\")]+"
    r"|(\bbearer )[\w.~+/=:-]{8,}"
    r"|(\bhio_[a-z]{1,20}_)[\w-]{8,}",
    re.IGNORECASE,
)
#: Of an option. ``key`` alone is one in a mapping, ``secret_key`` is not.
_NAME = re.compile(r"pass$|password|passwd|passphrase|pwd|secret|token|credential|signature|.key$|dsn$", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """Return the text without what looks like a password or a token in it."""
    return _IN_TEXT.sub(lambda found: next(filter(None, found.groups()), "") + HIDDEN, text)


def options_without_secrets(options: Any) -> Any:
    """Return options, which may hold others, without the values whose names or texts say that they are secret."""
    if isinstance(options, str):
        return without_secrets(options)
    if isinstance(options, Mapping):
        return {
            name: HIDDEN if _NAME.search(str(name)) else options_without_secrets(value)
            for name, value in options.items()
        }
    if isinstance(options, (list, tuple)):
        return [options_without_secrets(value) for value in options]
    return options
