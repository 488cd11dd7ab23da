"""The way of a connector's data connections through fault proxies."""

from __future__ import annotations

from dataclasses import replace

from benches.fault_proxy import FaultProxy
from harmonicio.control.messages import LeaseGrant, LeaseList, LeaseRenewal, LeaseRequest
from harmonicio.core.lease import Address
from harmonicio.stream_connector.leasing import LeaseClient


class Detour:
    """The master's client for a connector whose data connections shall go through proxies, and no other way.

    Args:
        client: Asks the master, perhaps through a proxy of its own.
        proxies: By the address that they stand before; others are made as the master names them.
    """

    def __init__(self, client: LeaseClient, proxies: dict[Address, FaultProxy] | None = None) -> None:
        self._client = client
        self.url = client.url
        self.proxies = {} if proxies is None else proxies

    def __repr__(self) -> str:
        return f"<Detour to {self.url} over {len(self.proxies)} proxies>"

    def proxy(self, address: Address) -> FaultProxy:
        """Return the proxy before this address."""
        if address not in self.proxies:
            self.proxies[address] = FaultProxy(address)
        return self.proxies[address]

    def request_leases(self, request: LeaseRequest) -> LeaseGrant:
        grant = self._client.request_leases(request)
        leases = tuple(replace(each, address=self.proxy(each.address).address, socket="") for each in grant.leases)
        backlog = replace(grant.backlog, address=self.proxy(grant.backlog.address).address)
        return replace(grant, leases=leases, backlog=backlog)

    def renew_leases(self, held: LeaseList) -> LeaseRenewal:
        return self._client.renew_leases(held)

    def release_leases(self, held: LeaseList) -> None:
        self._client.release_leases(held)

    def close(self) -> None:
        """Close the client; the proxies are the test's."""
        self._client.close()
