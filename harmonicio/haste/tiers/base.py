"""What a tier does, and how its driver is found by name.

A tier keeps payloads under locations of its own choosing, which do not name the tier's own place, so that a tier can
move. Writing is finished when ``write`` returns: the payload survives a crash as far as the driver can promise that at
all. Two things follow from messages being tried again:

- the same bytes under the same id, written again, are at the same location, once, and count as written just now: who
  looks for payloads that a crash has left must not take one that is about to get its row
- other bytes under the same id never replace the first ones: they get a location of their own, because which of them
  counts is not known before the feature row is committed
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

from harmonicio.control.members import Family
from harmonicio.core.errors import ConfigurationError, InvalidInput
from harmonicio.core.names import check_name

#: Each makes a tier of its name and options.
DRIVERS = Family(
    "tier driver",
    "harmonicio.tiers",
    {
        "file": "harmonicio.haste.tiers.file:create",
        "memory": "harmonicio.haste.tiers.memory:create",
        "trash": "harmonicio.haste.tiers.trash:create",
    },
    extra="haste",
)


@dataclass(frozen=True, slots=True)
class Kept:
    """One payload in a tier; ``written_at`` is the wall clock in seconds."""

    location: str
    size_bytes: int
    written_at: float


class Tier(Protocol):
    """One named store; may be used by several threads, and a shared place by several processes."""

    def write(self, stream: str, message_id: str, payload: memoryview | bytes) -> str:
        """Keep a payload and return its location, empty where the tier keeps nothing.

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

    def contents(self, stream: str) -> Iterator[Kept]:
        """Yield everything kept for a stream, in any order.

        Raises:
            StorageError: it cannot be read.
        """
        ...


def create_tiers(declared: Mapping[str, Any]) -> dict[str, Tier]:
    """Return the tiers of a declaration by name.

    Args:
        declared: Tier name to ``driver`` (``file`` when left out) and what that driver takes.

    Raises:
        ConfigurationError: a name or driver cannot be used, or two tiers would share files.
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
        tiers[name] = DRIVERS.load(given.pop("driver", "file"))(name, given)
    _check_apart(declared)
    return tiers


def _check_apart(declared: Mapping[str, Any]) -> None:
    """Refuse folders that are the same or one inside the other: what one tier removes could be what another keeps.

    Every driver that keeps payloads in a folder of the host calls its option ``folder``.
    """
    named = ((name, str(options.get("folder", ""))) for name, options in declared.items())
    folders = {name: Path(os.path.realpath(folder)) for name, folder in named if os.path.isabs(folder)}
    for (one, folder), (other, second) in combinations(folders.items(), 2):
        if folder.is_relative_to(second) or second.is_relative_to(folder):
            raise ConfigurationError(
                f"The tiers {one!r} and {other!r} share files: {folder} and {second}.",
                hint="Give each tier a folder of its own, none inside another.",
            )
