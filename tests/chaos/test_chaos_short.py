"""Short runs of chaos with every change: real processes, real faults, and a ledger that must be clean.

One plan is always the same, the other is of the day: its seed is in the test's output, so that it can be repeated.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import pytest

from benches.packages import require
from chaos import ground
from harmonicio.testing.waiting import wait_until

SEED = "20180712"
WITHIN_S = 400


@pytest.fixture
def run(repository: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a run in this folder with these options; its output is a pipe."""
    require(*ground.NEEDED)
    if (reason := ground.why_not()) and os.environ.get("CI") != "true":
        pytest.skip(reason)
    assert not reason

    def start(folder: Path, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "chaos", "--folder", str(folder), *options],
            cwd=repository,
            env={**os.environ, "PYTHONPATH": str(repository / "tests")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.mark.timeout(WITHIN_S + 20)
@pytest.mark.parametrize("seed", [SEED, time.strftime("%Y%m%d")], ids=["the same", "of the day"])
def test_half_a_minute_of_faults_loses_nothing_and_doubles_nothing(
    run: Callable[..., subprocess.Popen[str]], repository: Path, seed: str
) -> None:
    folder = repository / "build" / f"chaos-{seed}"  # It stays, to look into what has failed.
    with run(folder, "--minutes", "0.5", "--every-s", "2", "--seed", seed) as process:
        try:
            said, _ = process.communicate(timeout=WITHIN_S)
        finally:
            process.kill()
    assert process.returncode == 0, f"seed {seed}: {said}"


@pytest.mark.timeout(WITHIN_S + 20)
def test_a_run_that_is_killed_leaves_nothing_behind(run: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    with run(tmp_path, "--minutes", "5") as process:
        try:
            assert process.stdout is not None
            said = list(takewhile(lambda line: "The cluster runs" not in line, process.stdout))
            assert process.poll() is None, said
            own = os.readlink(f"/proc/{process.pid}/ns/pid_for_children")
            assert len(members(own)) > 8
        finally:
            process.kill()
    wait_until(lambda: not members(own), 30)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not {"master", "w1", "w2", "sources"} & {each.name for each in Path("/run/netns").glob("*")}


def members(namespace: str) -> list[int]:
    """Return the processes of a namespace of processes."""
    found = []
    for pid in (int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()):
        with suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                found.append(pid)
    return found
