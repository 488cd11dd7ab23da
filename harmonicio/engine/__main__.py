"""``python -m harmonicio.engine FILE.py``: an engine, which finds its configuration in its container or on stdin.

With ``--describe`` it runs nothing and prints what the handler is, as the labels of an image in one JSON object.
"""

from __future__ import annotations

import sys

from harmonicio.engine.run import EXIT_NO_CONFIGURATION, print_description, run_as_configured

USAGE = """\
usage: python -m harmonicio.engine FILE.py|package.module < configuration.json
       python -m harmonicio.engine FILE.py|package.module --describe
"""


def main() -> int:
    """Run or describe one engine and return the process's exit code."""
    match sys.argv[1:]:
        case ["--describe", file_or_module] | [file_or_module, "--describe"]:
            return print_description(file_or_module)
        case [file_or_module] if not file_or_module.startswith("-"):
            return run_as_configured(file_or_module)
    sys.stderr.write(USAGE)
    return EXIT_NO_CONFIGURATION


if __name__ == "__main__":
    sys.exit(main())
