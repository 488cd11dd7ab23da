"""``python -m harmonicio.engine FILE.py``: an engine that gets its configuration on standard input."""

from __future__ import annotations

import sys

from harmonicio.engine.run import run_from_stdin


def main() -> int:
    """Run one engine and return its exit code."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m harmonicio.engine FILE.py|package.module < configuration.json\n")
        return 2
    return run_from_stdin(sys.argv[1])


if __name__ == "__main__":
    sys.exit(main())
