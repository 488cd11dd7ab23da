"""Our own processes may have many files open; programs that they start have the usual limit."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from harmonicio.control import open_file_limit

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


def test_where_the_host_forbids_to_raise_it_the_process_goes_on_with_what_it_has(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbid(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")  # So it is with a hard limit above fs.nr_open.

    caplog.set_level("DEBUG")
    monkeypatch.setattr(open_file_limit, "_usual", None)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 10**9))
    monkeypatch.setattr(resource, "setrlimit", forbid)
    open_file_limit.raise_own()
    assert "stays at 1024: not allowed" in caplog.text
    with subprocess.Popen(["true"]) as child:
        open_file_limit.give_usual(child.pid)  # There is none to give.


def test_who_has_not_raised_its_limit_changes_none() -> None:
    *found, hard = limits_of("not raised")
    assert found == ["False", "True", "b'200'", f"b'{hard}'"]
