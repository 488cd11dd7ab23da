"""A few seeds for every change; ``make simulate`` runs as many as one likes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.lasting import LASTING
from simulation.plants import PLANTS

TESTS = Path(__file__).parent.parent


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulation.run", *arguments],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def test_simulated_clusters_keep_the_promise() -> None:
    done = simulate("--runs=24", "--seed=1", "--jobs=2")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("seed", [3])
def test_a_run_depends_on_its_seed_alone(seed: int) -> None:
    one, other = simulate(f"--seed={seed}"), simulate(f"--seed={seed}")
    assert one.stdout == other.stdout and "violations" in one.stdout


@pytest.mark.interpreted  # Most are planted in its classes; what finds them is the same.
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_found(plant: str) -> None:
    """Else the auditor would see nothing. Which seed finds it changes with the product; one of the first does."""
    done = simulate(f"--plant={plant}", "--runs=40", "--seed=1", "--jobs=2")
    assert done.returncode == 0 and "VIOLATION" in done.stdout, done.stdout + done.stderr


#: Rows of docs/security.md.
ROWS = {"the whole system stands still": "F26"}


@pytest.mark.parametrize(
    "fault", [pytest.param(each, marks=pytest.mark.row(ROWS[each]) if each in ROWS else ()) for each in LASTING]
)
def test_a_fault_that_lasts_for_minutes_or_hours_loses_nothing(fault: str) -> None:
    done = simulate(f"--lasting={fault}", "--runs=4", "--seed=1", "--jobs=2")
    assert done.returncode == 0 and f"fault: {fault}" in done.stdout, done.stdout + done.stderr
