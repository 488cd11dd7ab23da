"""What a connector is given, completed from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harmonicio.core.certificates import TlsIdentity
from harmonicio.core.settings import ConnectorSettings
from harmonicio.stream_connector.leasing import LeaseClient


def resolved(
    flags: Mapping[str, Any], token: str | None, client: LeaseClient | None, tls: TlsIdentity | None
) -> tuple[ConnectorSettings, LeaseClient, TlsIdentity]:
    """Return the settings, and the client and whom to believe, as they say unless these were given."""
    from harmonicio.control.client import MasterClient
    from harmonicio.control.settings_files import load_settings, read_tls, read_token
    from harmonicio.core.roles import Role

    settings = load_settings(flags=flags)
    if client is None:
        bearer = token if token is not None else read_token(settings, (Role.SOURCE, Role.ADMIN))
        client = MasterClient(settings.master.url, bearer)
    return settings.connector, client, tls or read_tls(settings)
