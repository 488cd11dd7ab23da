"""The commands of somebody who makes an image of an engine and runs it, and what they say when that cannot be."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harmonicio.cli.__main__ import main
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.containers.docker_host import DockerHost

pytestmark = pytest.mark.usefixtures("images")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with an empty folder, and ports that nobody has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HARMONICIO_MASTER_PORT", "0")
    monkeypatch.setenv("HARMONICIO_MASTER_DATA_PORT", "0")
    return tmp_path


def complaint(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """Return what a command that fails says."""
    capsys.readouterr()
    assert main(command) != 0
    return capsys.readouterr().err


@contextmanager
def running(*command: str, until: str) -> Iterator[Path]:
    """Run a command until the block ends, which begins when it has said something; give the file with what it says."""
    log = Path("said.log")
    with log.open("w") as said:
        process = subprocess.Popen([sys.executable, "-m", "harmonicio.cli", *command], stdout=said, stderr=said)
        try:
            wait_until(lambda: until in log.read_text() or process.poll() is not None, 60, what=until)
            assert process.poll() is None, log.read_text()
            yield log
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, log.read_text()


def test_an_image_that_is_not_here_is_named_at_once_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, "up", "--image", "cells")
    assert said == (
        "error: There is no image cells on this machine. Build it: harmonicio image build FOLDER --tag cells\n"
    )
    Path("streams.toml").write_text("[streams.a]\nimage = 'cells:1'")
    assert "There is no image cells:1 on this machine." in complaint(capsys, "up", "streams.toml")
    assert "There is no image cells:latest on this host." in complaint(capsys, "image", "check", "cells")


def test_an_image_that_cannot_be_pulled_is_an_error_before_anything_starts(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", "--image", "127.0.0.1:1/lab/cells"]) == 1
    written = capsys.readouterr()
    assert written.out == "Image 127.0.0.1:1/lab/cells:latest is not on this machine; it is being pulled …\n"
    assert "Image 127.0.0.1:1/lab/cells:latest cannot be pulled: " in written.err
    assert "Build it: harmonicio image build FOLDER" in written.err
    assert not (home / "home").exists()


def test_streams_of_a_file_run_in_containers_and_an_earlier_handler_is_named_and_waits(home: Path) -> None:
    with running("up", until="Stop with Ctrl-C."):
        pass
    Path("streams.toml").write_text("[streams.cells]\nimage = 'harmonicio/echo'")
    with running("up", "streams.toml", until="Stop with Ctrl-C.") as log:
        lines = log.read_text().splitlines()
    assert "Stream 'cells' is ready with 1 engine." in lines
    (earlier,) = (line for line in lines if line.startswith("Declared earlier"))
    assert earlier == (
        "Declared earlier: 'echo' with 1 engine, which cannot start now: it has a handler, and this cluster starts "
        "containers. Remove it: harmonicio stream rm echo"
    )
    assert not [line for line in lines if "WARNING" in line]


def test_an_image_runs_as_the_engines_of_a_stream_until_it_is_interrupted(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARMONICIO_MASTER_URL", cluster.url)
    monkeypatch.setenv("HARMONICIO_MASTER_DATA_FOLDER", str(Path("cluster", "master").absolute()))
    ready = "Stream 'plates' is ready with 2 engines."
    with running(
        "engine", "run", "--image", "harmonicio/echo", "--stream", "plates", "--engines", "2", until=ready
    ) as log:
        assert log.read_text().startswith("Stream 'plates' shall run harmonicio/echo with 2 engines.\n")
        assert {each.image for each in cluster.client.engines()} != {""}
    wait_until(lambda: cluster.client.stream("plates").running == 0)


def test_a_build_that_fails_says_what_the_failing_command_said_last(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "new", "count_cells"]) == 0
    with Path("count_cells/requirements.txt").open("a") as file:
        file.write("--no-index\nno-such-package\n")
    said = complaint(capsys, "image", "build", "count_cells")
    assert said.startswith("error: The image count_cells cannot be built: ")
    assert "It said: ERROR: No matching distribution found for no-such-package." in said
    assert said.endswith("To see all that the build says, add --verbose.\n")


def test_a_base_image_that_is_not_here_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "new", "count_cells"]) == 0
    said = complaint(capsys, "image", "build", "count_cells", "--from", "127.0.0.1:1/base")
    assert said.endswith("There is no image 127.0.0.1:1/base on this machine. Name another with --from.\n")


def test_an_image_is_listed_with_the_name_by_which_exactly_it_is_declared(
    docker_host: DockerHost, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["image", "ls"]) == 0
    by_digest = f"harmonicio/gfp_sum@{docker_host.image('harmonicio/gfp_sum').id}"
    shown = capsys.readouterr().out.splitlines()
    assert by_digest in shown
    assert any(line.split()[:2] == ["harmonicio/gfp_sum:latest", "gfp_sum"] for line in shown)
    assert main(["image", "check", by_digest]) == 0


def test_an_engine_that_cannot_be_imported_makes_no_image(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "new", "broken_cells"]) == 0
    with Path("broken_cells/engine.py").open("a") as file:
        file.write("import no_such_module\n")
    said = complaint(capsys, "image", "build", "broken_cells", "--offline")
    assert "ModuleNotFoundError: No module named 'no_such_module'" in said
    assert "There is no image broken_cells" in complaint(capsys, "image", "check", "broken_cells")
