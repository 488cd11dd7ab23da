"""``harmonicio send`` says what became of each file, however it ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harmonicio.cli import send
from harmonicio.cli.__main__ import main
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control.settings_files import write_token_file
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector.spool.disk import SegmentFile, SpoolDisk
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


def test_what_has_failed_is_not_called_arrived_when_the_time_is_up(
    cluster: LocalCluster, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    stream = StreamDeclaration("small", handler="harmonicio.engine.echo", engines=0, max_message_bytes=5)
    cluster.declare(stream)
    assert main(["send", "small", *files, "--timeout-s", "2"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: The time of 2 s is up. Of 2 files, 1 failed, as listed above; the rest arrived.")


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


# ── an absent master, and signals ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def absent(files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where nobody listens, as the environment's master."""
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path / "home"))
    write_token_file(tmp_path / "home" / "tokens" / "source.token", "secret")
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        monkeypatch.setenv("HARMONICIO_MASTER_URL", url)
        yield url


@pytest.mark.usefixtures("absent")
def test_without_a_time_limit_the_waiting_for_somebody_who_answers_ends_all_the_same(
    files: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "ABSENT_WITHIN_S", 0.3)
    assert main(["send", "plates", *files, "--json"]) == 3
    written = capsys.readouterr()
    assert [row["is_safe"] for row in json.loads(written.out)] == [False, False]
    said = written.err.splitlines()[-1]
    assert said.startswith("error: Neither the master nor an engine has answered for 0.3 s. Of 2 files, 2 are not safe")
    assert said.endswith("Start the master; --timeout-s waits longer for it.")


def spooling(files: list[str]) -> list[str]:
    return [sys.executable, "-m", "harmonicio.cli", "send", "plates", *files, "--json", "--spool", "spool"]


@pytest.mark.usefixtures("absent")
def test_sigterm_leaves_in_the_spool_what_is_not_safe_and_a_later_send_delivers_it(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with subprocess.Popen(spooling(files), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sending:
        wait_until(lambda: b"b.tif" in b"".join(each.read_bytes() for each in Path("spool").rglob("*.segment")), 30)
        sending.terminate()
        out, err = sending.communicate(timeout=30)
    assert sending.returncode == 143, err
    assert [row["state"] for row in json.loads(out)] == ["waiting", "waiting"]
    assert err.splitlines()[-1].startswith("Terminated. Of 2 files, 2 are not safe: a.tif, b.tif. What was sent stays")
    with LocalCluster(tmp_path / "second") as cluster:
        monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path / "second"))
        monkeypatch.setenv("HARMONICIO_MASTER_URL", cluster.url)
        cluster.declare(StreamDeclaration("plates", handler="harmonicio.engine.echo", engines=0))
        assert main(["send", "plates", "--spool", "spool"]) == 0
        assert cluster.client.stream("plates").backlog.stored_total == 2
        assert main(["send", "plates"]) == 2
        assert "There is nothing to send. Name files" in capsys.readouterr().err


def test_sigterm_does_not_wait_for_a_master_that_has_taken_the_question_and_does_not_answer(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path / "home"))
    write_token_file(tmp_path / "home" / "tokens" / "source.token", "secret")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HARMONICIO_MASTER_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with subprocess.Popen(spooling(files), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sending:
            silent.settimeout(30)
            connection, _ = silent.accept()
            with connection:
                connection.recv(1)
                sending.terminate()
                out, err = sending.communicate(timeout=10)  # The master has 15 s to answer.
    assert sending.returncode == 143, err
    assert [row["state"] for row in json.loads(out)] == ["not_sent", "not_sent"]


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize("options", [[], ["--no-result"]])
def test_what_was_given_up_is_not_counted_as_done(
    files: list[str], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["send", "plates", *files, *options, "--timeout-s", "0.3"]) == 1
    assert f"0 of 2 {'safe' if options else 'processed'}" in capsys.readouterr().err.splitlines()


@pytest.mark.usefixtures("absent")
def test_what_stays_in_the_spool_is_not_called_arrived(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", "plates", *files, "--spool", "spool", "--timeout-s", "0.3"]) == 1
    assert main(["send", "plates", "--spool", "spool", "--timeout-s", "0.3"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: The time of 0.3 s is up. Of earlier ones, 2 messages stay in the spool spool; the")


def test_a_second_run_with_the_spool_sends_only_what_is_new_or_has_changed(
    cluster: LocalCluster, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["send", "plates", *files, "--no-result", "--json", "--spool", "spool"]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(command) == 0
    second = json.loads(capsys.readouterr().out)
    assert [row["message"] for row in second] == [row["message"] for row in first]
    assert [row["is_safe"] for row in second] == [True, True]
    assert cluster.client.stream("plates").backlog.ready == 2
    Path("b.tif").write_bytes(b"second, taken again")
    assert main(command) == 0
    assert cluster.client.stream("plates").backlog.ready == 3


def damage(spool: Path, what: bytes) -> None:
    """Flip a bit of a payload that a source has left in its spool."""
    (segment,) = spool.rglob("*.segment")
    content = segment.read_bytes()
    segment.write_bytes(content.replace(what, bytes([what[0] ^ 1]) + what[1:]))


@pytest.fixture
def left_behind(absent: str, files: list[str]) -> Path:
    """A spool with two files that could not be sent."""
    assert main(["--master", absent, "send", "plates", *files, "--spool", "spool", "--timeout-s", "0.3"]) == 1
    return Path("spool")


def test_what_of_the_spool_cannot_be_sent_is_named_and_ends_with_an_error(
    left_behind: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(left_behind, b"first")
    with LocalCluster(tmp_path / "second") as cluster:
        monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path / "second"))
        monkeypatch.setenv("HARMONICIO_MASTER_URL", cluster.url)
        cluster.declare(StreamDeclaration("plates", handler="harmonicio.engine.echo", engines=0))
        capsys.readouterr()
        assert main(["send", "plates", "--spool", "spool"]) == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert "error: 1 message of the spool cannot be sent and is put aside: " in said
        assert "is damaged" in said
        assert "See the texts in spool/plates/aside" in said
        assert cluster.client.stream("plates").backlog.stored_total == 1
        assert main(["send", "plates", "--spool", "spool"]) == 0, "it was said once"


def test_what_of_the_spool_is_refused_is_named_with_what_to_do(
    left_behind: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert left_behind.is_dir()
    with LocalCluster(tmp_path / "second") as cluster:
        monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path / "second"))
        monkeypatch.setenv("HARMONICIO_MASTER_URL", cluster.url)
        cluster.declare(StreamDeclaration("plates", handler="harmonicio.engine.echo", engines=0, max_message_bytes=5))
        capsys.readouterr()
        assert main(["send", "plates", "a.tif", "--no-result", "--spool", "spool"]) == 1
        written = capsys.readouterr()
        assert "stored" in written.out
        assert "1 message of the spool cannot be sent and is put aside: " in written.err
        assert "at most 5" in written.err
        assert "See the texts in spool/plates/aside" in written.err


def test_the_waiting_for_files_that_nobody_brings_back_ends_with_what_to_do(
    absent: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    Path("large.tif").write_bytes(bytes(2_000_000))
    assert main(["--master", absent, "send", "plates", "large.tif", "--spool", "spool", "--timeout-s", "0.3"]) == 1
    Path("large.tif").unlink()
    monkeypatch.setattr(send, "ABSENT_WITHIN_S", 1.0)
    with LocalCluster(tmp_path / "second") as cluster:
        monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path / "second"))
        monkeypatch.setenv("HARMONICIO_MASTER_URL", cluster.url)
        cluster.declare(StreamDeclaration("plates", handler="harmonicio.engine.echo", engines=0))
        capsys.readouterr()
        assert main(["send", "plates", "--spool", "spool"]) == 1
    said = capsys.readouterr().err
    assert "large.tif cannot be sent: No such file or directory" in caplog.text
    assert "error: What is left has not been readable for 1 s. Of earlier ones, 1 message stays" in said
    assert "Bring back the files that the log names" in said


@pytest.mark.usefixtures("absent")
def test_a_full_disk_is_named_also_when_the_time_is_up_after_that(
    files: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = SpoolDisk.write

    def refuse(self: SpoolDisk, file: SegmentFile, offset: int, buffers: Sequence[bytes | memoryview]) -> None:
        if offset:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, file, offset, buffers)

    monkeypatch.setattr(SpoolDisk, "write", refuse)
    assert main(["send", "plates", *files, "--spool", "spool", "--timeout-s", "1"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "The time of 1 s is up. The spool spool/plates cannot be written: No space left on device." in said
    assert "Of 2 files, 2 are not safe: a.tif, b.tif." in said


@pytest.mark.usefixtures("absent")
def test_a_second_signal_ends_it_at_once(files: list[str]) -> None:
    with subprocess.Popen(spooling(files), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sending:
        wait_until(lambda: b"b.tif" in b"".join(each.read_bytes() for each in Path("spool").rglob("*.segment")), 30)
        sending.terminate()
        wait_until(lambda: not _catches_sigterm(sending.pid))
        sending.terminate()
        assert sending.wait(5) == -signal.SIGTERM


def _catches_sigterm(pid: int) -> bool:
    (line,) = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("SigCgt")]
    return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


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
