"""``harmonicio master …``: the master of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import typer

from harmonicio.cli import console, foreground, invocation, logs
from harmonicio.control import open_file_limit
from harmonicio.control.settings_files import TlsFiles
from harmonicio.core.errors import Conflict, Unavailable
from harmonicio.core.settings import Settings
from harmonicio.master.service import BacklogOptions, MasterOptions, MasterService
from harmonicio.transport.credentials import TlsCredentials

app = typer.Typer(no_args_is_help=True)

UNANSWERED = (
    "Engines had not answered all that they had of the backlog, or it could not be written what became of it; it is "
    "there again, and may run twice."
)


@app.callback()
def _noun() -> None:
    """The master of a cluster."""


@app.command("run")
def run(
    context: typer.Context,
    host: str | None = typer.Option(None, help="Address to bind."),
    port: int | None = typer.Option(None, help="Port of the REST API; 0 takes a free one."),
    data_port: int | None = typer.Option(None, help="Port for the backlog's messages; 0 takes a free one."),
    is_insecure: bool | None = typer.Option(None, "--insecure", help="Bind beyond loopback without TLS."),
    drain_s: float = typer.Option(
        foreground.DRAIN_S, min=0.0, help="Seconds that engines may take to answer what they have of the backlog."
    ),
) -> None:
    """Run a master until it is interrupted.

    Interrupted, it takes and gives out no message more and waits until engines have answered what they have of the
    backlog; interrupted again, it waits no longer. The exit code is 4 when any had not answered, or
    what became of their messages could not be written: those are in the backlog, and may run twice.
    """
    flags = {
        "master.host": host,
        "master.port": port,
        "master.data_port": data_port,
        "master.insecure": is_insecure,
    }
    settings = invocation.of(context).settings(flags)
    logs.start()
    open_file_limit.raise_own()
    with (
        foreground.until_interrupted() as interrupted,
        opened_master(master_options(settings), backlog_options(settings)) as service,
    ):
        console.say(f"The master listens on {service.url}, and on {service.data_address} for messages.")
        with foreground.ending_when_broken("master", lambda: service.gone_parts):
            interrupted.wait()
        is_drained = service.drain(drain_s, interrupted.forced)
    foreground.end(is_drained, UNANSWERED)


def master_options(settings: Settings) -> MasterOptions:
    """Return how to run a master, as the settings say."""
    wanted = settings.master
    return MasterOptions(
        data_folder=wanted.data_folder,
        host=wanted.host,
        port=wanted.port,
        data_port=wanted.data_port,
        bridge_host=wanted.bridge_host,
        is_insecure=wanted.insecure,
        tls=TlsCredentials(TlsFiles(settings.tls).read),
    )


def backlog_options(settings: Settings) -> BacklogOptions:
    """Return what a master's backlog may use, as the settings say."""
    wanted = settings.master
    return BacklogOptions(
        max_disk_bytes=wanted.backlog_max_disk_bytes,
        hot_cache_bytes=wanted.backlog_hot_cache_bytes,
        dead_letter_max_bytes=wanted.dead_letter_max_bytes,
    )


@contextmanager
def opened_master(options: MasterOptions, backlog: BacklogOptions) -> Iterator[MasterService]:
    """Run a master for as long as the block lasts; where it cannot start, the hint names flags and variables."""
    try:
        service = MasterService(options, backlog)
        service.start()
    except Conflict as error:
        hint = "Stop it, or give this one a folder of its own with HARMONICIO_HOME."
        raise Conflict(error.text, hint=hint) from error
    except Unavailable as error:
        hint = "Stop what uses it, or choose other ports with --port and --data-port (0 takes a free one)."
        raise Unavailable(error.text, hint=hint) from error
    with closing(service):
        yield service
