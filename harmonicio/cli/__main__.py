"""The entry point of ``harmonicio`` and of ``python -m harmonicio.cli``.

Exit codes: 0 done, 1 failed, 2 the command or its input cannot be used, 3 the other side cannot be reached now, 4
stopped before everything was handed over, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper

from harmonicio.core.errors import HarmonicIOError, InvalidInput, Unavailable
from harmonicio.core.printable import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code of the process."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal may know fewer characters than we write; who reads a file or a pipe wants each line at once.
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        from harmonicio.cli import app

        app.build(given)(given, prog_name="harmonicio")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "harmonicio":
            raise  # a bug of ours, not a missing extra
        return _complain(f"error: this command needs {error.name}. Run: pip install 'harmonicio[all]'", 1)
    except HarmonicIOError as error:
        return _complain(f"error: {error}", exit_code_of(error))
    except KeyboardInterrupt:  # Before the command has begun; it hears of later ones itself.
        return _complain("Interrupted.", 130)
    return 0


def exit_code_of(error: HarmonicIOError) -> int:
    """Return the exit code that tells a script what kind of error it was."""
    if isinstance(error, InvalidInput):
        return 2
    return 3 if isinstance(error, Unavailable) else 1


def _complain(text: str, exit_code: int) -> int:
    # What the other side sent may hold line breaks or terminal codes: one line, nothing but text.
    print(printable(text), file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
