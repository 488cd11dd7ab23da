"""``harmonicio worker …``: the hosts that run engines."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import typer

from harmonicio.cli import console, foreground, invocation, logs, readiness
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import WorkerView
from harmonicio.control.settings_files import TlsFiles
from harmonicio.core.errors import HarmonicIOError
from harmonicio.core.roles import Role
from harmonicio.core.settings import Settings
from harmonicio.core.sizes import format_size
from harmonicio.transport.credentials import TlsCredentials
from harmonicio.worker.health import check_worker
from harmonicio.worker.options import WorkerOptions
from harmonicio.worker.service import WorkerService

app = typer.Typer(no_args_is_help=True)

NAME = typer.Option(None, help="Name of this worker; by default the host's.")
#: A health check that takes longer is no answer.
CHECK_WITHIN_S = 5.0
UNFINISHED = "Engines were ended before they had finished; what they had goes back to where it came from."


@app.command("ls")
def list_all(context: typer.Context, as_json: bool = console.AS_JSON) -> None:
    """List the workers."""
    with invocation.of(context).master() as master:
        workers = master.workers()
    if as_json:
        console.show_json(workers)
    else:
        show(workers)


@app.command("run")
def run(
    context: typer.Context,
    name: str | None = NAME,
    max_engines: int | None = typer.Option(None, help="Engines on this host; 0 takes one per CPU core."),
    is_insecure: bool | None = typer.Option(
        None, "--insecure", help="Have engines listen beyond loopback without TLS."
    ),
    drain_s: float = typer.Option(
        foreground.DRAIN_S, min=0.0, help="Seconds that engines may take to finish when the worker stops."
    ),
) -> None:
    """Run this host's controller until it is interrupted; it starts and watches engines.

    Interrupted, it lets them finish what they run; interrupted again, it ends them at once. The exit code is 4 when any
    was ended before it had finished.
    """
    flags = {"worker.name": name, "worker.max_engines": max_engines, "worker.insecure": is_insecure}
    settings = invocation.of(context).settings(flags)
    logs.start()
    options = worker_options(settings)
    options = replace(options, max_engines=options.max_engines or os.cpu_count() or 1)
    token = partial(invocation.bearer_token, settings, (Role.WORKER, Role.ADMIN))
    client = MasterClient(settings.master.url, token, tls=options.tls)
    with foreground.until_interrupted() as interrupted:
        service = WorkerService(options, client)
        service.start()
        try:
            console.say(f"Worker {options.name!r} reports to {settings.master.url}.")
            with foreground.ending_when_broken("worker", lambda: service.gone_parts):
                interrupted.wait()
        finally:
            is_drained = service.stop(drain_s, interrupted.forced)
    foreground.end(is_drained, UNFINISHED)


@app.command("check")
def check(context: typer.Context, name: str | None = NAME) -> None:
    """Say in one line whether this host's worker does its work; exit code 0 or 1, for health checks."""
    try:
        settings = invocation.of(context).settings({"worker.name": name})
        console.say(foreground.within(CHECK_WITHIN_S, lambda: _health(settings)))
    except TimeoutError:
        console.say(f"The check has had no answer within {CHECK_WITHIN_S:g} s.")
    except HarmonicIOError as error:
        console.say(str(error))
    else:
        return
    raise typer.Exit(1)


def _health(settings: Settings) -> str:
    options, token = worker_options(settings), invocation.bearer_token(settings, (Role.WORKER, Role.ADMIN))
    with MasterClient(settings.master.url, token, tls=options.tls) as master:
        view = check_worker(options, master)
    places = f"{view.engines} of {console.count(view.max_engines, 'engine')}"
    return f"Worker {view.worker!r} runs {places}; the master heard it {console.duration(view.last_report_age_s)} ago."


def worker_options(settings: Settings) -> WorkerOptions:
    """Return how to run a worker, as the settings say; ``max_engines`` is 0 where they do not say."""
    wanted = settings.worker
    return WorkerOptions(
        name=wanted.name or socket.gethostname() or "worker",
        data_folder=wanted.data_folder,
        scratch_folder=wanted.scratch_folder,
        max_engines=wanted.max_engines,
        runtime=wanted.runtime,
        host=wanted.host,
        payload_budget_bytes=wanted.payload_budget_bytes,
        is_insecure=wanted.insecure,
        tls=TlsCredentials(TlsFiles(settings.tls).read),
        docker=settings.docker,
    )


def show(workers: Sequence[WorkerView]) -> None:
    """Print the workers, and below them why any lacks engines."""
    console.show_table(
        ("worker", "host", "state", "engines", "busy", "cpu", "memory", "disk free", "last report"),
        [_row(each) for each in workers],
        empty="There are no workers. Start one with: harmonicio worker run",
    )
    readiness.show_troubles(workers)


def _row(each: WorkerView) -> tuple[console.Cell, ...]:
    load = each.load
    return (
        each.worker,
        each.host,
        each.state,
        f"{each.engines} of {each.max_engines}",
        each.busy,
        f"{load.cpu_fraction:.0%}" if load else "",
        f"{load.memory_used_bytes / max(load.memory_total_bytes, 1):.0%}" if load else "",
        format_size(load.disk_free_bytes) if load else "",
        f"{console.duration(each.last_report_age_s)} ago",
    )
