"""What a tier does, and how its driver is found by name.

A tier keeps payloads under locations of its own choosing. Writing is finished when ``write`` returns: the payload
survives a crash as far as the driver can promise that at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from harmonicio.core.errors import ConfigurationError, InvalidInput
from harmonicio.core.names import check_name
from harmonicio.haste.registry import load

ENTRY_POINT_GROUP = "harmonicio.tiers"

#: Each makes a tier of its name and options.
_TABLE = {
    "file": "harmonicio.haste.tiers.file:create",
    "memory": "harmonicio.haste.tiers.memory:create",
    "trash": "harmonicio.haste.tiers.trash:create",
}


class Tier(Protocol):
    """One named store; may be used by several threads."""

    def write(self, stream: str, message_id: str, payload: memoryview | bytes) -> str:
        """Keep a payload and return its location; one that was there under the same name is replaced as a whole.

        Raises:
            StorageError: it cannot be written; nothing of it is left.
        """
        ...

    def read(self, location: str) -> bytes:
        """Return a payload.

        Raises:
            StorageError: it is not there or cannot be read.
        """
        ...

    def remove(self, location: str) -> None:
        """Let go of a payload; one that is not there is no error.

        Raises:
            StorageError: it cannot be removed.
        """
        ...

    def contents(self, stream: str) -> Iterator[tuple[str, str]]:
        """Yield message id and location of everything kept for a stream."""
        ...


def create_tiers(declared: Mapping[str, Any]) -> dict[str, Tier]:
    """Return the tiers of a declaration by name.

    Args:
        declared: Tier name to ``driver`` (``file`` when left out) and what that driver takes.

    Raises:
        ConfigurationError: a name or driver cannot be used.
    """
    tiers = {}
    for name, options in declared.items():
        try:
            check_name("tier", name)
        except InvalidInput as error:
            raise ConfigurationError(error.text, hint=error.hint) from None
        if not isinstance(options, Mapping):
            raise ConfigurationError(f"The tier {name!r} is not a table.", hint='For example { folder = "…" }.')
        given = dict(options)
        tiers[name] = load("tier driver", ENTRY_POINT_GROUP, _TABLE, given.pop("driver", "file"))(name, given)
    return tiers
