"""``harmonicio status``: the whole cluster on one page."""

from __future__ import annotations

import typer

from harmonicio.cli import backlog, console, engine, invocation, stream, worker
from harmonicio.control.messages import Status
from harmonicio.core.sizes import format_size


def run(context: typer.Context, as_json: bool = console.AS_JSON) -> None:
    with invocation.of(context).master() as master:
        status = master.status()
    if as_json:
        console.show_json(status)
    else:
        _show(status)


def _show(status: Status) -> None:
    console.say(
        f"HarmonicIO {status.version}, up for {console.duration(status.uptime_s)}: "
        f"{console.count(len(status.workers), 'worker')}, {console.count(len(status.engines), 'engine')}, "
        f"{console.count(len(status.streams), 'stream')}."
    )
    console.say(
        f"The master took {console.count(status.lease_requests, 'lease request')}, "
        f"{format_size(status.control_received_bytes)} of control requests and "
        f"{format_size(status.data_received_bytes)} over its data port."
    )
    for sentence in status.recovered:
        console.say(sentence)
    worker.show(status.workers)
    stream.show_all(status.streams)
    backlog.show([each.backlog for each in status.streams if each.backlog.stored_total or each.backlog.dead])
    engine.show(status.engines)
