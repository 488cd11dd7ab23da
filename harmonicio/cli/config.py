"""``harmonicio config``: every setting with its value and where it came from; secrets are masked."""

from __future__ import annotations

import typer

from harmonicio.cli import console, invocation
from harmonicio.core.settings import describe


def run(context: typer.Context, as_json: bool = console.AS_JSON) -> None:
    settings = invocation.of(context).settings()
    views = list(describe(settings))
    if as_json:
        console.show_json(views)
        return
    console.show_table(
        ("setting", "value", "origin", "what it is"),
        [(view.name, view.value, view.origin, view.help) for view in views],
    )
    console.say(f"Tokens and data are kept in {settings.home}.")
