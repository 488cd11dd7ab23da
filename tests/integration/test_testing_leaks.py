"""The check for leaks at work in a run of pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LEAKY_TEST = """
import threading
import pytest

may_end = threading.Event()

def test_that_leaves_a_thread(): threading.Thread(target=may_end.wait, daemon=True).start()

@pytest.mark.allow_leaks(reason="to show that it works")
def test_that_may_leave_a_thread(): threading.Thread(target=may_end.wait, daemon=True).start()

@pytest.mark.allow_leaks
def test_that_does_not_say_why(): pass
"""


def test_a_leaking_test_fails_unless_it_gives_a_reason(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_leaky.py").write_text(LEAKY_TEST)
    options = ["-p", "harmonicio.testing.leaks", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "3 passed, 2 errors" in run.stdout
    assert "The test left behind: thread 'Thread-1 (wait)'" in run.stdout
    assert "allow_leaks needs a reason" in run.stdout
