"""``harmonicio token …``: bearer tokens."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import typer

from harmonicio.cli import console, invocation
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import TokenView
from harmonicio.control.private_files import new_private_file
from harmonicio.core.errors import ConfigurationError, InvalidInput
from harmonicio.core.roles import Role
from harmonicio.core.settings import nearest

app = typer.Typer(no_args_is_help=True)


@app.command("create")
def create(
    context: typer.Context,
    name: str = typer.Argument(help="What the token is called, for example who holds it."),
    role: str = typer.Option(Role.SOURCE.value, help="admin, source, worker or viewer."),
    file: Path | None = typer.Option(None, help="Write the secret into this file (mode 0600) instead of printing it."),
    as_json: bool = console.AS_JSON,
) -> None:
    """Make a token; its secret is shown this once."""
    roles = {each.value: each for each in Role if each.can_have_token}
    if role not in roles:
        raise InvalidInput(f"{role[:80]!r} is not the role of a token.", hint=nearest(role[:80], roles))
    with invocation.of(context).master(invocation.CHANGING) as master:
        view = master.create_token(name, roles[role]) if file is None else _create_into(file, master, name, roles[role])
    if as_json:
        console.show_json(view)
    else:
        console.say(view.secret or f"The token {view.name!r} is in {file}.")


def _create_into(file: Path, master: MasterClient, name: str, role: Role) -> TokenView:
    """Make a token whose secret goes into a file; none is left whose secret could not be written."""
    made: TokenView | None = None
    try:
        with new_private_file(file) as written:
            made = master.create_token(name, role)
            written.write(made.secret + "\n")
    except ConfigurationError:
        if made is not None:
            master.revoke_token(made.name)
        raise
    return replace(made, secret="")


@app.command("ls")
def list_all(context: typer.Context, as_json: bool = console.AS_JSON) -> None:
    """List the tokens, without their secrets."""
    with invocation.of(context).master(invocation.CHANGING) as master:
        tokens = master.tokens()
    if as_json:
        console.show_json(tokens)
        return
    rows = [
        (each.name, each.role, f"{datetime.fromtimestamp(each.created_at, UTC):%Y-%m-%d %H:%M} UTC") for each in tokens
    ]
    console.show_table(("token", "role", "made at"), rows, empty="There are no tokens.")


@app.command("revoke")
def revoke(
    context: typer.Context, name: str = typer.Argument(help="The token's name.", callback=invocation.token_name)
) -> None:
    """Revoke a token at once."""
    with invocation.of(context).master(invocation.CHANGING) as master:
        master.revoke_token(name)
    console.say(f"The token {name!r} is revoked.")
