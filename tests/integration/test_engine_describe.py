"""``python -m harmonicio.engine --describe``: what an engine is, on standard output, and nothing else there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from harmonicio.control.engine_description import EngineDescription, ParameterDescription, from_labels


def described(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harmonicio.engine", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_an_engine_describes_itself_as_the_labels_of_its_image(tmp_path: Path) -> None:
    file = tmp_path / "engine.py"
    file.write_text(
        dedent(
            '''
            import atexit, os, subprocess
            from harmonicio.engine import Message, handler

            __version__ = "1.4"
            print("printed by Python")
            os.write(1, b"written by C\\n")
            subprocess.run(["echo", "said by a child"])
            atexit.register(print, "printed at the end")

            def prepare(*, weights: str): raise AssertionError("nothing is set up")

            @handler(setup=prepare, takes="a mass spectrum")
            def peaks(message: Message, model, *, most: int = 100) -> list[float]:
                """Find the highest peaks."""
            '''
        )
    )
    run = described("--describe", str(file))
    assert run.returncode == 0
    assert from_labels(json.loads(run.stdout)) == EngineDescription(
        "peaks",
        "1.4",
        "Find the highest peaks.",
        "Message: a mass spectrum",
        "list[float]",
        {"weights": ParameterDescription("str", True), "most": ParameterDescription("int", False, 100)},
    )
    said = ("printed by Python", "written by C", "said by a child", "printed at the end")
    assert all(each in run.stderr for each in said)


def test_what_cannot_be_described_is_told_in_one_line_with_exit_code_3(tmp_path: Path) -> None:
    run = described("--describe", str(tmp_path / "nowhere.py"))
    assert (run.returncode, run.stdout) == (3, "")
    (line,) = run.stderr.splitlines()
    assert line.startswith("harmonicio engine: There is no handler file")


@pytest.mark.parametrize("arguments", [(), ("--describe",), ("--unknown",), ("one.py", "two.py")])
def test_other_arguments_are_answered_with_the_usage(arguments: tuple[str, ...]) -> None:
    run = described(*arguments)
    assert run.returncode == 2
    assert run.stderr.startswith("usage:")
