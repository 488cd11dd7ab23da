"""Commands as a user starts them, in processes of their own, where it matters that they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harmonicio.cli.__main__ import main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without settings, who stands in an empty folder."""
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_shows_every_line(encoding: str, home: Path) -> None:
    command = [sys.executable, "-m", "harmonicio.cli", "demo", "--images", "☃", "--handler", "h.py"]
    (home / "h.py").touch()
    environ = {**os.environ, "PYTHONIOENCODING": encoding}
    run = subprocess.run(command, env=environ, cwd=home, capture_output=True, timeout=60, check=False)
    assert run.returncode == 2
    assert run.stdout.decode(encoding).startswith("Reading the images ")
    assert run.stderr.decode(encoding).startswith("error: There is no folder ")


def test_the_test_of_a_new_engine_passes_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "new", "count_cells"]) == 0
    (command,) = (line.split("test it")[0].split() for line in capsys.readouterr().out.splitlines() if "pytest" in line)
    run = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, timeout=100, check=False)
    assert (run.returncode, " passed" in run.stdout) == (0, True), run.stdout + run.stderr
