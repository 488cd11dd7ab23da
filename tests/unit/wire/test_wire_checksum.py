"""Checksums: what is offered can be computed from then on, whatever becomes of the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harmonicio.wire import checksum

PROGRAM = """
import resource
from harmonicio.wire import checksum
checksum.{way}
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
checksum.trailer(checksum.FLAG_OF["xxh3"], b"image")
"""


@pytest.mark.skipif("xxh3" not in checksum.SUPPORTED, reason="xxhash is not installed")
@pytest.mark.parametrize("way", ["offered()", "choose(('xxh3',))"])
def test_what_was_agreed_on_is_computed_without_a_file_descriptor_to_spare(way: str) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM.format(way=way)], check=True, timeout=30)
