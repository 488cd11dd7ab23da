"""Our own processes may have many files open; programs that they start have the usual limit."""

from __future__ import annotations

import subprocess
import sys

_CHILD = """
import resource, sys
from harmonicio.control import open_file_limit
from harmonicio.engine import program

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
if sys.argv[1] == "raised":
    open_file_limit.raise_own()
asked = program.run(["sh", "-c", "cat; ulimit -Sn; ulimit -Hn"], memoryview(b""), {})
print(*(each == hard for each in resource.getrlimit(resource.RLIMIT_NOFILE)), *(asked.output.split()), hard)
"""


def limits_of(kind: str) -> list[str]:
    """Return whether a process's own limits are the hard one, then both limits of its program, and the hard one."""
    return subprocess.run(
        [sys.executable, "-c", _CHILD, kind], capture_output=True, text=True, check=True
    ).stdout.split()


def test_a_process_raises_its_own_limit_and_its_programs_keep_the_usual_one() -> None:
    *found, hard = limits_of("raised")
    assert found == ["True", "True", "b'200'", f"b'{hard}'"]


def test_who_has_not_raised_its_limit_changes_none() -> None:
    *found, hard = limits_of("not raised")
    assert found == ["False", "True", "b'200'", f"b'{hard}'"]
