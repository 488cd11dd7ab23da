"""Metadata in a message's header section: written by its source, read when somebody looks at it.

Neither the backlog nor most handlers do, and to read it would cost more than all else of a small message.
"""

from __future__ import annotations

from harmonicio.core.errors import RemoteProtocolError
from harmonicio.core.message import Metadata
from harmonicio.wire.codec import unpack, unpack_flat

#: How nearly every section begins that is not empty: a map of one entry, which is called metadata.
METADATA_ONLY = b"\x81\xa8metadata"


def read_metadata(section: bytes) -> Metadata:
    """Return the metadata in a message's header section, which may be empty; each time in a dict of its own.

    Raises:
        RemoteProtocolError: it does not hold any that can be read.
    """
    if not section:
        return {}
    if section.startswith(METADATA_ONLY) and (flat := unpack_flat(section[len(METADATA_ONLY) :])) is not None:
        return flat
    fields = unpack(section)
    metadata = fields.get("metadata", {}) if isinstance(fields, dict) else None
    if not isinstance(metadata, dict):
        raise RemoteProtocolError("The metadata of a message is not a map.")
    return metadata


def check_unread(section: bytes) -> None:
    """Look at metadata that was left for later when its message was read.

    Raises:
        RemoteProtocolError: it cannot be read.
    """
    if section.startswith(METADATA_ONLY):
        read_metadata(section)
