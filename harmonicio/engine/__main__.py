"""``python -m harmonicio.engine FILE.py``: an engine that finds its configuration in its container or on stdin."""

from __future__ import annotations

import sys

from harmonicio.engine.run import run_as_configured


def main() -> int:
    """Run one engine and return its exit code."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m harmonicio.engine FILE.py|package.module < configuration.json\n")
        return 2
    return run_as_configured(sys.argv[1])


if __name__ == "__main__":
    sys.exit(main())
