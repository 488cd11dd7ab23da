"""``harmonicio worker …``: the hosts that run engines."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from harmonicio.cli import console, invocation
from harmonicio.control.messages import WorkerView
from harmonicio.core.sizes import format_size

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _noun() -> None:
    """Keep the verbs apart, however few they are."""


@app.command("ls")
def list_all(context: typer.Context, as_json: bool = console.AS_JSON) -> None:
    """List the workers."""
    with invocation.of(context).master() as master:
        workers = master.workers()
    if as_json:
        console.show_json(workers)
    else:
        show(workers)


def show(workers: Sequence[WorkerView]) -> None:
    """Print the workers, and below them why any lacks engines."""
    console.show_table(
        ("worker", "host", "state", "engines", "busy", "cpu", "memory", "disk free", "last report"),
        [_row(each) for each in workers],
        empty="There are no workers. Start one with: harmonicio worker run",
    )
    for each in workers:
        for trouble in each.troubles:
            console.say(
                f"{each.worker}, stream {trouble.stream}: {trouble.text} Next try in {trouble.retry_in_s:.0f} s."
            )


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
