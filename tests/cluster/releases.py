"""An earlier release, as a site has it that has not been upgraded: a wheelhouse, and an environment for sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

#: ``make cluster-test EARLIER=commit`` takes another one.
EARLIER = os.environ.get("CLUSTER_EARLIER", "HEAD~1")
_MAKE_S = 180.0

#: What the earlier release says in every record of the REST API and in every HELLO, and later ones have never heard of.
_RETIRED = {
    "harmonicio/control/json_codec.py": (
        "return {each.name: as_plain(getattr(record, each.name)) for each in fields}",
        'return {"retired": [1], **{each.name: as_plain(getattr(record, each.name)) for each in fields}}',
    ),
    "harmonicio/wire/sections.py": (
        '        "role": str(hello.role),',
        '        "retired": [1], "role": str(hello.role),',
    ),
}


def has_earlier(repository: Path) -> bool:
    """Whether this clone has the earlier commit; a shallow one has not."""
    words = ["git", "-C", str(repository), "rev-parse", "--verify", "--quiet", f"{EARLIER}^{{commit}}"]
    return subprocess.run(words, check=False, capture_output=True, timeout=60).returncode == 0


def earlier_wheelhouse(folder: Path, repository: Path) -> Path:
    """Return a wheelhouse with the earlier release, which says more than later ones know."""
    checkout, wheelhouse = folder / "checkout", folder / "wheelhouse"
    archive = folder / "earlier.tar"
    subprocess.run(["git", "-C", str(repository), "archive", "-o", str(archive), EARLIER], check=True, timeout=60)
    with tarfile.open(archive) as opened:
        opened.extractall(checkout, filter="data")
    for name, (text, more) in _RETIRED.items():
        code = (checkout / name).read_text()
        assert code.count(text) == 1, f"{name} writes its records otherwise: say here how a field is added"
        (checkout / name).write_text(code.replace(text, more))
    shutil.copytree(repository / "build" / "images", wheelhouse, ignore=shutil.ignore_patterns("own"))
    shutil.copy(checkout / "deploy" / "docker" / "requirements.lock", wheelhouse)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, str(checkout), "-w", str(wheelhouse / "own")], check=True, timeout=_MAKE_S)
    return wheelhouse


def environment(folder: Path, wheelhouse: Path) -> str:
    """Make an environment with what a source application needs; return its Python."""
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=_MAKE_S)
    wheels = [f"--find-links={wheelhouse / each}" for each in ("wheels", "own")]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    subprocess.run([*pip, *wheels, "harmonicio"], check=True, timeout=_MAKE_S)
    return str(python)
