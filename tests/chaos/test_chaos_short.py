"""A short run of chaos for every change: real processes, real faults, and a ledger that must be clean."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chaos import ground

SEED = 20180712
WITHIN_S = 400


@pytest.mark.timeout(WITHIN_S + 20)
def test_forty_seconds_of_faults_lose_nothing_and_double_nothing(tmp_path: Path, repository: Path) -> None:
    if (reason := ground.why_not()) and os.environ.get("CI") != "true":
        pytest.skip(reason)
    assert not reason
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "chaos",
            "--minutes",
            "0.67",
            "--seed",
            str(SEED),
            "--every-s",
            "2",
            "--folder",
            tmp_path / "run",
        ],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository / "tests")},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    print(run.stdout, run.stderr)
    assert run.returncode == 0, "Repeat it with `make chaos PLAN=…/plan.json`; the folder is named above."
