"""Leases: a source's right to send to an engine."""

from __future__ import annotations

from dataclasses import replace

from harmonicio.control import paths
from harmonicio.control.messages import LeaseGrant, LeaseList, LeaseRenewal, LeaseRequest
from harmonicio.master.endpoint import ADMIN_ONLY, SENDING, Call, Routes
from harmonicio.master.master import Master

routes = Routes("leases")


@routes.post(paths.LEASES, SENDING, body=LeaseRequest, answer=LeaseGrant)
def request(master: Master, call: Call) -> LeaseGrant:
    """Ask for leases on engines that the source does not hold yet, and for access to the backlog."""
    grant = master.request_leases(call.body, call.identity.token if call.identity else "")
    return replace(grant, backlog=replace(grant.backlog, address=call.reaches(grant.backlog.address)))


@routes.post(paths.LEASES_RENEW, SENDING, body=LeaseList, answer=LeaseRenewal)
def renew(master: Master, call: Call) -> LeaseRenewal:
    """Let leases go on for another term."""
    return master.renew(call.body)


@routes.post(paths.LEASES_RELEASE, SENDING, body=LeaseList)
def release(master: Master, call: Call) -> None:
    """Give leases back."""
    master.release(call.body)


@routes.delete(paths.LEASES, ADMIN_ONLY)
def revoke_all(master: Master, call: Call) -> None:
    """End every lease, refuse all tickets made so far, and end the sources' connections to the backlog."""
    master.revoke_leases()
