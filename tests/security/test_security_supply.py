"""What is installed is what was chosen: every package is pinned by its digest, and installed by nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.row("S26")


@pytest.mark.parametrize("lock", ["requirements.lock", "deploy/docker/requirements.lock"])
def test_every_package_is_pinned_by_version_and_digest(repository: Path, lock: str) -> None:
    text = (repository / lock).read_text().replace("\\\n", " ")
    packages = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(packages) > 20
    for line in packages:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line


def test_locks_are_installed_with_their_digests(repository: Path) -> None:
    places = ("Makefile", "deploy/docker/Dockerfile", "deploy/ansible/roles/common/tasks/release.yaml")
    for name in places:
        text = (repository / name).read_text()
        assert "--require-hashes" in text, name
