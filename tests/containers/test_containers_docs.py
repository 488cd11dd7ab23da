"""What docs/engines.md tells a new user to type works as it stands, line after line, and soon."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harmonicio.control.stream_files import parse_streams
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.containers.docker_host import DockerHost

PAGE = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
#: What was done before the tests, and is taken as it is: the checkout, its environment, and the images.
DONE = ("git clone ", "make ", "source ")
READY = "Stop with Ctrl-C."
#: Without the building of HarmonicIO's own images.
MAX_S = 60.0

pytestmark = pytest.mark.usefixtures("images")


def blocks(language: str, heading: str) -> list[str]:
    """Return the blocks of a language below a heading of the page."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def user(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the checkout in it, whose commands are found."""
    (tmp_path / "harmonicio").symlink_to(repository)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [each.getsockname()[1] for each in (one, other)]
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HARMONICIO_MASTER_PORT", str(ports[0]))
    monkeypatch.setenv("HARMONICIO_MASTER_DATA_PORT", str(ports[1]))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tidy(docker_host: DockerHost) -> Iterator[None]:
    """The images that the page makes are removed in the end."""
    yield
    for name in ("count_cells", "segment", "own_base"):
        docker_host.remove_image(name)


def typed(lines: str, folder: Path) -> str:
    """Let a shell run what is typed into one terminal, and return what it showed."""
    kept = [line for line in lines.splitlines() if not line.startswith(DONE)]
    shell = subprocess.run(
        ["bash", "-e"],
        input="\n".join(kept),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MAX_S,
        check=False,
    )
    assert shell.returncode == 0, shell.stdout
    return shell.stdout


@contextmanager
def terminal(line: str, folder: Path) -> Iterator[Path]:
    """Let a line run in a terminal of its own until the block ends, which begins when the line says so; then Ctrl-C."""
    log = folder / "terminal.log"
    with log.open("w") as shown:
        shell = subprocess.Popen(["bash", "-c", f"exec {line}"], cwd=folder, stdout=shown, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: READY in log.read_text() or shell.poll() is not None, MAX_S, what=line)
            assert shell.poll() is None, log.read_text()
            yield log
        finally:
            shell.send_signal(signal.SIGINT)
            assert shell.wait(MAX_S) == 0, log.read_text()


@pytest.mark.usefixtures("tidy")
def test_from_nothing_to_an_image_that_handles_messages_in_under_a_minute(
    user: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    set_up, make, build, other_terminal = blocks("sh", "From nothing to an image that handles messages")
    *lines, up = build.splitlines()
    assert [line.split("#")[0].strip() for line in set_up.splitlines() if not line.startswith(DONE)] == [
        "cd harmonicio",
        "cd ..",
    ]
    shown = typed("\n".join((set_up, make, *lines)), user)
    assert "4 passed" in shown
    assert "Image count_cells:latest (" in shown
    assert "Image count_cells (" in shown and "starts as an ordinary user on a read-only disk." in shown
    assert "  min_entropy: float = 1.0" in shown
    with terminal(up, user) as log:
        assert "Stream 'count_cells' is ready with 2 engines.\n" in log.read_text()
        shown = typed(other_terminal, user)
    images = list((user / "harmonicio" / "examples" / "images").glob("*.tif"))
    assert shown.count("'has_content': 1.0") == len(images) > 0
    assert "1 worker, 2 engines, 1 stream." in shown
    took_s = time.monotonic() - begun
    with capsys.disabled():
        sys.stdout.write(f"\ndocs/engines.md from `cd harmonicio` to Ctrl-C: {took_s:.1f} s\n")
    assert took_s < MAX_S


@pytest.mark.usefixtures("tidy")
def test_a_base_image_of_ones_own_needs_no_more_than_harmonicio_without_extras(
    user: Path, base_image: str, repository: Path
) -> None:
    (dockerfile,) = blocks("dockerfile", "A base image of your own")
    # An image and packages that are here stand in for those of a registry and of a package index.
    base = f"FROM {base_image}\nRUN python3 -m venv /venv\nENV PATH=/venv/bin:$PATH\nCOPY wheels /wheels\n"
    install = "RUN pip install --no-index --find-links /wheels harmonicio"
    dockerfile, count = re.subn(r"FROM .*\nRUN pip install harmonicio", base + install, dockerfile)
    assert count == 1
    folder = user / "own_base"
    shutil.copytree(repository / "processing_engines" / "echo", folder)
    (folder / "Dockerfile").write_text(dockerfile)
    (folder / "wheels").mkdir()
    for wheel in (repository / "build" / "images").glob("*/*.whl"):
        shutil.copy(wheel, folder / "wheels")
    typed("harmonicio image build own_base --offline\nharmonicio image check own_base", user)
    with terminal("harmonicio up --image own_base", user):
        assert "{'size_bytes': " in typed("harmonicio send own_base own_base/engine.py", user)


@pytest.mark.usefixtures("tidy")
def test_a_program_of_another_language_handles_messages_in_an_image(user: Path) -> None:
    dockerfile, _ = blocks("dockerfile", "A program in another language")
    (toml_text,) = blocks("toml", "A program in another language")
    folder = user / "segment"
    folder.mkdir()
    (folder / "Dockerfile").write_text(dockerfile)
    (folder / "segment").write_text('#!/bin/sh\nprintf \'{"bytes": %d}\' "$(wc -c <"$2")"\n')
    (folder / "segment").chmod(0o755)
    typed("harmonicio image build segment --offline", user)
    (user / "streams.toml").write_text(toml_text)
    (declaration,) = parse_streams(toml_text, user / "streams.toml")
    with terminal("harmonicio up streams.toml", user):
        shown = typed(f"harmonicio send {declaration.name} streams.toml", user)
    assert f"{{'bytes': {len(toml_text)}}}" in shown
