"""``harmonicio version``."""

from __future__ import annotations

import platform

import harmonicio
from harmonicio.cli import console


def run(as_json: bool = console.AS_JSON) -> None:
    versions = {"harmonicio": harmonicio.__version__, "python": platform.python_version()}
    if as_json:
        console.show_json(versions)
    else:
        console.say(f"harmonicio {versions['harmonicio']} (Python {versions['python']})")
