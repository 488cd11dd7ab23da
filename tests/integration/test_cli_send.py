"""``harmonicio send`` says what became of each file, however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonicio.cli.__main__ import main
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control.settings_files import write_token_file
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.waiting import wait_until

PICKY = """
from harmonicio.engine import handler

@handler
def picky(message):
    raise ValueError("No such plate")
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two files in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tif").write_bytes(b"first")
    (tmp_path / "b.tif").write_bytes(b"second")
    return ["a.tif", "b.tif"]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str]) -> Iterator[LocalCluster]:
    """A cluster with a stream that no engine serves, so that its messages stay in the backlog."""
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path / "home"))
    with LocalCluster(tmp_path / "home") as running:
        monkeypatch.setenv("HARMONICIO_MASTER_URL", running.url)
        running.declare(StreamDeclaration("plates", handler="harmonicio.engine.echo", engines=0))
        yield running


@pytest.mark.usefixtures("cluster")
def test_without_results_the_rows_say_what_is_true_after_all_is_safe(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["send", "plates", *files, "--no-result", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["file"], row["state"], row["is_safe"], row["route"]) for row in rows] == [
        ("a.tif", "stored", True, "backlog"),
        ("b.tif", "stored", True, "backlog"),
    ]


@pytest.mark.usefixtures("cluster")
def test_a_time_limit_ends_the_waiting_and_says_that_nothing_is_lost(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["send", "plates", *files, "--no-result"]) == 0
    assert main(["send", "plates", *files, "--timeout-s", "2"]) == 1
    written = capsys.readouterr()
    assert "stored" in written.out
    assert written.err.splitlines()[-1].startswith("error: The time of 2 s is up. Nothing is lost: 2 files arrived.")


@pytest.mark.usefixtures("cluster")
def test_a_stream_with_messages_is_removed_by_force_only_which_says_how_many_are_lost(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["send", "plates", *files, "--no-result"]) == 0
    capsys.readouterr()
    assert main(["stream", "rm", "plates"]) == 1
    assert "or delete them all with --force." in capsys.readouterr().err
    assert main(["stream", "rm", "plates", "--force"]) == 0
    lost = "Stream 'plates' is removed; 2 waiting messages (11 B) and 0 dead letters of it are deleted and lost."
    assert capsys.readouterr().out.strip() == lost


def test_a_stream_with_dead_letters_is_removed_by_force_only(
    cluster: LocalCluster, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "picky.py").write_text(PICKY)
    cluster.declare(StreamDeclaration("picky", handler=str(tmp_path / "picky.py"), max_attempts=1))
    assert main(["send", "picky", "a.tif"]) == 1
    assert "No such plate" in capsys.readouterr().out
    wait_until(lambda: cluster.client.stream("picky").backlog.dead == 1, 30)
    assert main(["stream", "rm", "picky"]) == 1
    said = capsys.readouterr().err
    assert "dead letters: 1. " in said
    assert "--force" in said
    assert main(["stream", "rm", "picky", "--force"]) == 0


def test_files_that_are_not_safe_in_time_are_named(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path))
    write_token_file(tmp_path / "tokens" / "source.token", "secret")
    with socket.socket() as bound_but_not_listening:
        bound_but_not_listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound_but_not_listening.getsockname()[1]}"
        assert main(["--master", url, "send", "plates", *files, "--json", "--timeout-s", "0.2"]) == 1
    written = capsys.readouterr()
    assert [row["is_safe"] for row in json.loads(written.out)] == [False, False]
    assert "Of 2 files, 2 are not safe: a.tif, b.tif. Send again what" in written.err


def test_an_interrupt_says_what_is_safe_and_ends_with_130(cluster: LocalCluster, files: list[str]) -> None:
    command = [sys.executable, "-m", "harmonicio.cli", "send", "plates", *files, "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as sending:
        wait_until(lambda: cluster.client.stream("plates").backlog.stored_total == 2, 30)
        sending.send_signal(signal.SIGINT)
        out, err = sending.communicate(timeout=30)
    assert sending.returncode == 130, err
    assert len(json.loads(out)) == 2
    assert err.splitlines()[-1].startswith("Interrupted. ")


def test_a_rejected_file_does_not_hide_the_others(
    cluster: LocalCluster, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.declare(StreamDeclaration("small", handler="harmonicio.engine.echo", engines=0, max_message_bytes=5))
    assert main(["send", "small", *files, "--no-result", "--json"]) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert (first["state"], second["state"]) == ("stored", "rejected")
    assert "at most 5" in second["result"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".", "error: . is a folder. Name its files, for example: *"),
        ("none.tif", "error: There is no file none.tif."),
        ("*.png", "error: No file is called like *.png."),
        ("", "error: . is a folder. Name its files, for example: *"),
    ],
)
def test_what_cannot_be_sent_is_said_before_anything_is(
    name: str, text: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["send", "plates", *files, name]) == 2
    assert capsys.readouterr().err.strip() == text
