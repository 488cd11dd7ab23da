"""The README's code works when it is pasted as it stands."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harmonicio.testing.waiting import wait_until

README = Path(__file__).parents[2] / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture
def environ(tmp_path: Path, free_ports: tuple[int, int]) -> dict[str, str]:
    port, data_port = free_ports
    return {
        **os.environ,
        "HARMONICIO_HOME": str(tmp_path / "home"),
        "HARMONICIO_MASTER_PORT": str(port),
        "HARMONICIO_MASTER_DATA_PORT": str(data_port),
    }


@contextmanager
def up(environ: dict[str, str], folder: Path, *arguments: str) -> Iterator[None]:
    """Run ``harmonicio up`` until the block ends."""
    log = folder / "up.log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "harmonicio.cli", "up", *arguments]
        process = subprocess.Popen(command, env=environ, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: "Stop with Ctrl-C" in log.read_text() or process.poll() is not None, 60)
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0, log.read_text()


def start(environ: dict[str, str], folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments."""
    return subprocess.run(
        [sys.executable, *command], env=environ, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def run(environ: dict[str, str], folder: Path, *command: str) -> str:
    """Run Python with these arguments, which must succeed; return what it printed."""
    finished = start(environ, folder, *command)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def cli_lines(heading: str) -> list[list[str]]:
    """Return the words of each ``harmonicio`` line in the shell blocks below a heading of the README."""
    section = README.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in found if words[0].endswith("harmonicio")]


def test_the_five_lines_of_a_source_application_print_a_result(environ: dict[str, str], tmp_path: Path) -> None:
    source, *_ = python_blocks()
    with up(environ, tmp_path):
        assert run(environ, tmp_path, "-c", source) == "{'size_bytes': 15, 'metadata': {'well': 'B03'}}\n"
        for name in ("plate1.tif", "plate2.tif"):
            (tmp_path / name).write_bytes(b"pixels")
        (sending,) = re.findall(r"harmonicio (send .*?)`", README.read_text())
        assert run(environ, tmp_path, "-m", "harmonicio.cli", *sending.split()).count("'size_bytes': 6") == 2


def test_the_ten_lines_of_an_engine_handle_an_image_and_the_commands_show_it(
    environ: dict[str, str], tmp_path: Path
) -> None:
    _, engine, source, _ = python_blocks()
    (tmp_path / "brightness.py").write_text(engine)
    ((command, *arguments),) = cli_lines("Ten lines for an engine")
    assert command == "up"
    with up(environ, tmp_path, *arguments):
        assert run(environ, tmp_path, "-c", source) == "{'mean': 0.0}\n"
        shown = {
            " ".join(words): start(environ, tmp_path, "-m", "harmonicio.cli", *words)
            for words in cli_lines("What goes on")
        }
    # HASTE does not sort this stream.
    assert shown.pop("report").stderr.startswith("error: HASTE sorts no stream yet.")
    assert {name: each.returncode for name, each in shown.items() if each.returncode} == {}
    assert "brightness" in shown["status"].stdout
    assert "shall have 4 engines" in shown["stream scale brightness 4"].stdout
    assert shown["stream rm brightness"].stdout == "Stream 'brightness' is removed.\n"


def test_the_next_up_says_which_streams_were_declared_earlier(environ: dict[str, str], tmp_path: Path) -> None:
    with up(environ, tmp_path, "--stream", "first"):
        pass
    with up(environ, tmp_path):
        assert "Remove it: harmonicio stream rm first" in (tmp_path / "up.log").read_text()


def test_the_ten_lines_for_the_storage_client_sort_files_without_a_cluster(
    environ: dict[str, str], tmp_path: Path
) -> None:
    *_, script = python_blocks()
    assert len([line for line in script.splitlines() if line]) == 10
    (tmp_path / "examples").symlink_to(README.parent / "examples")
    printed = run(environ, tmp_path, "-c", script)
    assert "nuclei_cells3d.tif: score 1.00, kept in fast\n" in printed
    assert printed.count("kept in archive") == len(list((tmp_path / "examples" / "images").iterdir())) - 1
    assert len(list((tmp_path / "kept" / "fast" / "local").iterdir())) == 1
    assert run(environ, tmp_path, "-c", script) == printed


def test_every_page_that_the_readme_names_is_there() -> None:
    pages = re.findall(r"\]\(([^)#:]+)\)", README.read_text())
    assert [page for page in pages if not (README.parent / page).exists()] == []
