"""Short runs of chaos with every change: real processes, real faults, and a ledger that must be clean.

One plan is always the same, the other is of the day: its seed is in the test's output, so that it can be repeated.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chaos import ground

SEED = "20180712"
WITHIN_S = 400


@pytest.mark.timeout(WITHIN_S + 20)
@pytest.mark.parametrize("seed", [SEED, time.strftime("%Y%m%d")], ids=["the same", "of the day"])
def test_half_a_minute_of_faults_loses_nothing_and_doubles_nothing(tmp_path: Path, repository: Path, seed: str) -> None:
    if (reason := ground.why_not()) and os.environ.get("CI") != "true":
        pytest.skip(reason)
    options = ("--minutes", "0.5", "--every-s", "2", "--seed", seed, "--folder", str(tmp_path / "run"))
    run = subprocess.run(
        [sys.executable, "-m", "chaos", *options],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository / "tests")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WITHIN_S,
    )
    assert run.returncode == 0, f"seed {seed}: {run.stdout}"
