"""A bridge of this host: the network that its containers share with it, and that nobody else is on.

A master that listens on loopback only cannot be reached from containers. On the address of their bridge it can; and
because its sockets are bound to the bridge's device, what another host sends to that address does not reach them.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from harmonicio.core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Bridge:
    """This host's address on the bridge, and the bridge's network device."""

    host: str
    device: str


def find_bridge(host: str) -> Bridge:
    """Return the bridge on which this host has an address.

    Raises:
        ConfigurationError: no network device of this host has it.
    """
    for device, addresses in psutil.net_if_addrs().items():
        if any(each.address == host for each in addresses):
            return Bridge(host, device)
    raise ConfigurationError(
        f"No network device of this host has the address {host[:80]!r}.",
        hint="master.bridge_host is this host's address on a bridge, like 172.17.0.1 on that of Docker.",
    )
