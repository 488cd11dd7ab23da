"""``harmonicio worker …``: the hosts that run engines."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import replace

import typer

from harmonicio.cli import console, foreground, invocation, logs, readiness
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import WorkerView
from harmonicio.core.roles import Role
from harmonicio.core.settings import Settings
from harmonicio.core.sizes import format_size
from harmonicio.worker.service import WorkerOptions, WorkerService

app = typer.Typer(no_args_is_help=True)


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
    name: str | None = typer.Option(None, help="Name of this worker; by default the host's."),
    max_engines: int | None = typer.Option(None, help="Engines on this host; 0 takes one per CPU core."),
    drain_s: float = typer.Option(30.0, help="Seconds that engines may take to finish when the worker stops."),
) -> None:
    """Run this host's controller until it is interrupted; it starts and watches engines."""
    settings = invocation.of(context).settings({"worker.name": name, "worker.max_engines": max_engines})
    logs.start()
    options = worker_options(settings)
    options = replace(options, max_engines=options.max_engines or os.cpu_count() or 1)
    client = MasterClient(settings.master.url, invocation.bearer_token(settings, (Role.WORKER, Role.ADMIN)))
    with foreground.until_interrupted() as interrupted:
        service = WorkerService(options, client)
        service.start()
        try:
            console.say(f"Worker {options.name!r} reports to {settings.master.url}.")
            interrupted.wait()
        finally:
            service.stop(drain_s)


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
