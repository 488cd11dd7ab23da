"""``harmonicio certs …``: certificates for the hosts of a cluster, signed by a small authority of its own."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import typer

from harmonicio.cli import console, invocation
from harmonicio.control.authority import AUTHORITY_DAYS, HOST_DAYS, Authority

app = typer.Typer(no_args_is_help=True)

FOLDER = typer.Option(None, help="Where they are; by default the folder certs in HARMONICIO_HOME.")
DAY_S = 86_400


@app.command("init")
def init(
    context: typer.Context,
    folder: Path | None = FOLDER,
    days: int = typer.Option(AUTHORITY_DAYS, min=1, help="Days until it expires."),
) -> None:
    """Make the authority of a cluster. Its key signs certificates, and stays on this host."""
    place = _folder(context, folder)
    Authority.make(place, days=days)
    console.say(f"All hosts shall believe {place / 'authority.pem'} (tls.authority). Keep authority.key to yourself.")


@app.command("issue")
def issue(
    context: typer.Context,
    hosts: list[str] = typer.Argument(help="Names and addresses of one host, as others dial it; the first names it."),
    folder: Path | None = FOLDER,
    days: int = typer.Option(HOST_DAYS, min=1, help="Days until it expires."),
    unless_it_lasts: int | None = typer.Option(
        None, min=0, help="Keep the one that it has, if that is for these names and lasts so many days more."
    ),
) -> None:
    """Make a certificate for a host, or a new one in place of the one it has."""
    place = _folder(context, folder)
    authority = Authority(place)
    if unless_it_lasts is not None and (kept := authority.find(hosts, lasting_days=unless_it_lasts)) is not None:
        console.say(
            f"{place / kept.name}.pem is kept: it is for {', '.join(kept.hosts)}, until {_date(kept.not_after)}."
        )
        return
    made = authority.issue(hosts, days=days)
    console.say(
        f"{place / made.name}.pem (tls.certificate) and .key (tls.key) are for {', '.join(made.hosts)}, "
        f"until {_date(made.not_after)}."
    )


@app.command("ls")
def list_all(context: typer.Context, folder: Path | None = FOLDER, as_json: bool = console.AS_JSON) -> None:
    """List the authority and the certificates that it has signed."""
    views = list(Authority(_folder(context, folder)).views())
    if as_json:
        console.show_json(views)
        return
    rows = [(each.name, ", ".join(each.hosts), _date(each.not_after), _days_left(each.not_after)) for each in views]
    console.show_table(("certificate", "hosts", "expires", "days left"), rows)


def _folder(context: typer.Context, given: Path | None) -> Path:
    return given or invocation.of(context).settings().home / "certs"


def _date(wall_s: float) -> str:
    return f"{datetime.fromtimestamp(wall_s, UTC):%Y-%m-%d}"


def _days_left(wall_s: float) -> str | int:
    left = int((wall_s - time.time()) // DAY_S)
    return left if left >= 0 else "expired"
