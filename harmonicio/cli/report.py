"""``harmonicio report``: what was found interesting, as CSV and one HTML page."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from harmonicio.cli import console, invocation
from harmonicio.core.errors import NotFound
from harmonicio.haste.feature_db.base import RowFilter
from harmonicio.haste.feature_db.master import MasterFeatureDatabase
from harmonicio.haste.reports.declared import hierarchy_of, payload_reader
from harmonicio.haste.reports.report import ReportOptions, write_report
from harmonicio.haste.reports.summary import Traffic


def run(
    context: typer.Context,
    streams: list[str] = typer.Argument(None, help="The streams; by default all that HASTE sorts."),
    output: Path = typer.Option(Path("report"), help="Folder for report.html, rows.csv and tiers.csv."),
    as_json: bool = console.AS_JSON,
) -> None:
    """Write the report of streams: tiers, histograms, examples, routes and throughput."""
    with invocation.of(context).master() as master:
        views = {view.declaration.name: view for view in master.streams() if "haste" in view.declaration.plugins}
        missing = [name for name in streams or () if name not in views]
        if missing:
            raise NotFound(f"HASTE sorts no stream {missing[0]!r}.", hint="See: harmonicio stream ls")
        chosen = {name: views[name] for name in (streams or views)}
        if not chosen:
            raise NotFound("HASTE sorts no stream yet.", hint="Declare one with a table plugins.haste.")
        rows = [row for name in chosen for row in MasterFeatureDatabase(master).rows(RowFilter(name))]
    options = ReportOptions(
        written_at=time.time(),
        hierarchies={name: hierarchy_of(view.declaration) for name, view in chosen.items()},
        traffic=Traffic.of(rows),
        read_payload=payload_reader(view.declaration for view in chosen.values()),
    )
    files = write_report(rows, output, options)
    if as_json:
        console.show_json({"page": str(files.page), "rows": str(files.rows), "tiers": str(files.tiers)})
    else:
        console.say(f"{console.count(len(rows), 'row')}; open {files.page.resolve()}")
