"""Bearer tokens: for administrators only."""

from __future__ import annotations

from harmonicio.control import paths
from harmonicio.control.messages import TokenRequest, TokenView
from harmonicio.master.endpoint import ADMIN_ONLY, Call, Routes
from harmonicio.master.master import Master

routes = Routes("tokens")


@routes.get(paths.TOKENS, ADMIN_ONLY, answer=tuple[TokenView, ...])
def list_all(master: Master, call: Call) -> tuple[TokenView, ...]:
    """List all tokens, without their secrets."""
    return master.tokens.views()


def _asked_for(request: TokenRequest) -> dict[str, str]:
    return {"name": request.name, "role": request.role}


@routes.post(paths.TOKENS, ADMIN_ONLY, body=TokenRequest, answer=TokenView, note=_asked_for)
def create(master: Master, call: Call) -> TokenView:
    """Make a token; its secret is shown in this answer only."""
    return master.tokens.create(call.body)


@routes.delete(paths.TOKEN, ADMIN_ONLY)
def revoke(master: Master, call: Call) -> None:
    """Revoke a token, and end the connections to the backlog that were opened with it."""
    master.revoke_token(call.names["token"])
