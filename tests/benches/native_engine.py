"""The example engine in Node, where node is installed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ENGINE = Path(__file__).parent.parent.parent / "examples" / "native_engine" / "engine.js"


def node() -> str:
    """Return where node is; without it the test is skipped, and fails in CI, which has it."""
    path = shutil.which("node")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("node is not installed")
        pytest.skip("node is not installed")
    return path


def brightness(pixels: bytes, background: float = 0) -> dict[str, float | None]:
    """Return what the example finds in an image."""
    return {"count": len(pixels), "mean": sum(pixels) / len(pixels) - background if pixels else None}
