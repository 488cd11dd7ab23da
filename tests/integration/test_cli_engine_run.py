"""``harmonicio engine run --exec``: a program of any language in a whole cluster, with HASTE and alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonicio.cli.__main__ import main
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control.stream_files import parse_streams
from harmonicio.testing.waiting import wait_until

#: Answers with the size of the file as a feature, so large files are interesting.
MEASURE = """#!/bin/sh
printf '{"kilobytes": %d}' "$(($(wc -c <"$2") / 1000))"
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """A cluster whose tokens commands find, and a program in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path / "home"))
    Path("measure").write_text(MEASURE)
    Path("measure").chmod(0o755)
    Path("plate.tif").write_bytes(bytes(300_000))
    with LocalCluster(tmp_path / "home") as running:
        monkeypatch.setenv("HARMONICIO_MASTER_URL", running.url)
        yield running


def sent(stream: str, capsys: pytest.CaptureFixture[str]) -> object:
    """Send the file and return what was answered."""
    capsys.readouterr()
    assert main(["send", stream, "plate.tif", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    return row["result"]


def test_a_program_runs_as_the_engines_of_a_stream_until_it_is_interrupted(
    cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "harmonicio.cli", "engine", "run", "--exec", "./measure --in {input}"]
    with subprocess.Popen([*command, "--stream", "plates"], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "Stream 'plates' shall run ./measure --in {input} with 1 engine.\n"
        cluster.wait_for_engines("plates", 1)
        assert sent("plates", capsys) == {"kilobytes": 300}
        run.send_signal(signal.SIGINT)
        assert "has no engines now" in run.stdout.read()
    assert run.returncode == 0
    wait_until(lambda: cluster.client.stream("plates").running == 0)


def test_what_a_program_answers_is_a_feature_for_haste(
    cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = f"""
        [streams.plates]
        handler = "harmonicio.engine.command"
        parameters = {{ command = ["{tmp_path}/measure", "--in", "{{input}}"] }}
        [streams.plates.plugins.haste]
        function = {{ name = "feature", feature = "kilobytes", highest = 600 }}
        policy = {{ intervals = [[0, 0.5, "archive"], [0.5, 1, "fast"]] }}
        [streams.plates.plugins.haste.tiers]
        fast = {{ folder = "{tmp_path}/fast" }}
        archive = {{ folder = "{tmp_path}/archive" }}
        unscored = {{ folder = "{tmp_path}/unscored" }}
    """
    for declaration in parse_streams(toml, tmp_path / "streams.toml"):
        cluster.declare(declaration)
    answer = sent("plates", capsys)
    assert answer == {"score": 0.5, "tier": "fast", "features": {"kilobytes": 300.0}, "reason": ""}
