"""What a connector is given, completed from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from harmonicio.core.certificates import TlsIdentity
from harmonicio.core.settings import ConnectorSettings
from harmonicio.stream_connector.leasing import LeaseClient
from harmonicio.transport.credentials import TlsCredentials

#: What is shown and believed, for good or until it is renewed.
Tls = TlsIdentity | TlsCredentials


def resolved(
    file: Path | str | None,
    flags: Mapping[str, Any],
    token: str | None,
    client: LeaseClient | None,
    tls: Tls | None,
) -> tuple[ConnectorSettings, LeaseClient, TlsCredentials]:
    """Return what a settings file and flags say, and the client and whom to believe, unless these were given."""
    from harmonicio.control.client import MasterClient
    from harmonicio.control.settings_files import TlsFiles, load_settings, read_token
    from harmonicio.core.roles import Role

    settings = load_settings(file, flags=flags)
    if isinstance(tls, TlsCredentials):
        credentials = tls
    else:
        credentials = TlsCredentials(TlsFiles(settings.tls).read) if tls is None else TlsCredentials.of(tls)
    if client is None:
        bearer = partial(read_token, settings, (Role.SOURCE, Role.ADMIN)) if token is None else token
        client = MasterClient(settings.master.url, bearer, tls=credentials)
    return settings.connector, client, credentials
