"""A bridge of this host: the network that its containers share with it, and that nobody else is on.

A master that listens on loopback only cannot be reached from containers. On the address of their bridge it can; and
because its sockets are bound to the bridge's device, what another host sends to that address does not reach them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from harmonicio.core.errors import ConfigurationError

_DEVICES = Path("/sys/class/net")


@dataclass(frozen=True, slots=True)
class Bridge:
    """This host's address on the bridge, and the bridge's network device.

    ``is_inner``: only what runs on this host is on it; no cable, radio or tunnel leads out of it.
    """

    host: str
    device: str
    is_inner: bool


def find_bridge(host: str) -> Bridge:
    """Return the bridge on which this host has an address.

    Raises:
        ConfigurationError: no network device of this host has it.
    """
    for device, addresses in psutil.net_if_addrs().items():
        if any(each.address == host for each in addresses):
            return Bridge(host, device, _is_inner(_DEVICES / device))
    raise ConfigurationError(
        f"No network device of this host has the address {host[:80]!r}.",
        hint="master.bridge_host is this host's address on a bridge, like 172.17.0.1 on that of Docker.",
    )


def _is_inner(device: Path) -> bool:
    """Whether a device is a bridge of which no member leads out of this host, as far as the kernel tells."""
    if not (device / "bridge").is_dir():
        return False
    return not any(_leads_out(_DEVICES / each.name) for each in (device / "brif").iterdir())


def _leads_out(member: Path) -> bool:
    """Whether a member has hardware, stands on another device, like a VLAN, or is the mouth of a tunnel.

    A TAP device may be that of a virtual machine of this host, or of a private network: nobody can tell. Those of
    containers are of no type that has a name.
    """
    if any((member / each).exists() for each in ("device", "tun_flags")) or any(member.glob("lower_*")):
        return True
    about = member / "uevent"
    return about.exists() and "DEVTYPE=" in about.read_text()
