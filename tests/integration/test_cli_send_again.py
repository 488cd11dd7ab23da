"""The same ``harmonicio send --spool`` once more: after a crash, and long after, with an engine that processes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonicio.cli.__main__ import main
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog import base, past, sqlite_batch
from harmonicio.testing.waiting import wait_until

FILES = [f"plate-{number}.tif" for number in range(20)]
COMMAND = ["send", "plates", *FILES, "--spool", "spool", "--json"]


@pytest.fixture
def absent() -> Iterator[str]:
    """An address where nobody is."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def plates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path / "home"))
    for name in FILES:
        Path(name).write_bytes(name.encode())


def _rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


@pytest.mark.usefixtures("plates")
def test_what_is_left_in_the_spool_is_processed_by_the_same_command_and_its_outcomes_are_told(
    absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with LocalCluster(tmp_path / "home", max_engines=1) as cluster:
        assert main(["--master", absent, *COMMAND, "--timeout-s", "1"]) == 1
        assert {row["state"] for row in _rows(capsys)} == {"waiting"}
        monkeypatch.setenv("HARMONICIO_MASTER_URL", cluster.url)
        cluster.declare(StreamDeclaration("plates", handler="harmonicio.engine.echo", engines=1))
        cluster.wait_for_engines("plates", 1)
        assert main(COMMAND) == 0
        assert {row["state"] for row in _rows(capsys)} == {"done"}
        assert not list(Path("spool").rglob("*.segment"))


@pytest.mark.usefixtures("plates")
def test_files_whose_outcome_nobody_keeps_any_more_are_recognised_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (base, sqlite_batch):
        monkeypatch.setattr(module, "OUTCOMES_KEPT_S", 0.5)
    monkeypatch.setattr(past, "PRUNE_INTERVAL_S", 0.1)
    with LocalCluster(tmp_path / "home", max_engines=1) as cluster:
        monkeypatch.setenv("HARMONICIO_MASTER_URL", cluster.url)
        cluster.declare(StreamDeclaration("plates", handler="harmonicio.engine.echo", engines=1, ordered=True))
        states: list[set[object]] = []

        def send_again() -> bool:
            assert main(COMMAND) == 0
            states.append({row["state"] for row in _rows(capsys)})
            return states[-1] == {"recognised"}

        wait_until(send_again, 60)
        assert set().union(*states) <= {"done", "recognised"}
        assert cluster.client.stream("plates").backlog.stored_total == len(FILES)
