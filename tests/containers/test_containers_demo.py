"""The main job in containers, as a user starts it, comes to what it comes to in processes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from harmonicio.worker.containers.docker_host import DockerHost


def test_the_demonstration_runs_in_containers_with_the_same_outcome(
    images: None, docker_host: DockerHost, repository: Path, tmp_path: Path
) -> None:
    shown = {}
    for runtime in ("process", "docker"):
        command = [shutil.which("make") or "make", "demo", f"RUNTIME={runtime}", f"OUTPUT={tmp_path / runtime}"]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "sent = 306, processed = 306, lost = 0" in done.stdout
        shown[runtime] = re.findall(r"^ (?:cryo-em|nuclei) .*$", done.stdout, re.MULTILINE)
        assert (tmp_path / runtime / "report" / "report.html").stat().st_size > 100_000
    assert len(shown["docker"]) == 8
    assert shown["docker"] == shown["process"]
    rows = (tmp_path / "docker" / "report" / "rows.csv").read_text()
    assert rows.count(docker_host.image("harmonicio/image_quality").id) == 306
