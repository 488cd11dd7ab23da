"""What is installed is what was chosen: every package is pinned by its digest, and installed by nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

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


@pytest.mark.timeout(300)
def test_what_hosts_install_is_written_down_with_its_digests(repository: Path) -> None:
    run = subprocess.run(["make", "sbom"], cwd=repository, capture_output=True, text=True, check=False, timeout=280)
    if "No matching distribution" in run.stderr and os.environ.get("CI") != "true":
        pytest.skip("what writes it can be installed from no index here")
    assert run.returncode == 0, run.stderr
    bill = json.loads((repository / "build" / "harmonicio.cdx.json").read_text())
    lock = (repository / "deploy" / "docker" / "requirements.lock").read_text()
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==(\S+)", lock, re.MULTILINE))
    assert bill["bomFormat"] == "CycloneDX"
    assert {each["name"]: each["version"] for each in bill["components"]} == pinned
    written = {digest["content"] for each in bill["components"] for digest in digests_of(each)}
    assert written == set(re.findall(r"--hash=sha256:([0-9a-f]{64})", lock))


def digests_of(component: dict[str, Any]) -> list[dict[str, str]]:
    """Return the digests of the files by which a component may be installed."""
    return [digest for place in component["externalReferences"] for digest in place.get("hashes", ())]
