"""The README's code works when it is pasted as it stands."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from harmonicio.stream_connector import StreamConnector
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


def test_the_five_lines_of_a_source_application_print_a_result(environ: dict[str, str], tmp_path: Path) -> None:
    (source, _) = python_blocks()
    with up(environ, tmp_path):
        run = subprocess.run(
            [sys.executable, "-c", source], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "{'size_bytes': 15, 'metadata': {'well': 'B03'}}\n"


def test_the_ten_lines_of_an_engine_handle_an_image(environ: dict[str, str], tmp_path: Path) -> None:
    (_, engine) = python_blocks()
    (tmp_path / "brightness.py").write_text(engine)
    image = np.arange(12, dtype=np.uint16).reshape(3, 4)
    with up(environ, tmp_path, "brightness.py", "--engines", "2"):
        token = (tmp_path / "home" / "tokens" / "source.token").read_text().strip()
        master = f"http://127.0.0.1:{environ['HARMONICIO_MASTER_PORT']}"
        with StreamConnector("brightness", master=master, token=token) as connector:
            delivery = connector.send(image, metadata={"shape": [3, 4], "dtype": "uint16"})
            assert delivery.result(timeout_s=30) == {"mean": 5.5}
