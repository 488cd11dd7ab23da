"""An engine with HASTE around its handler, as a controller starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harmonicio.control import json_codec
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.bare_peers import BareController, BareMaster, configuration_of

STREAMING = "from harmonicio.engine import handler\n@handler(streaming=True)\ndef f(message): return {'focus': 0.5}\n"


def test_a_handler_that_reads_payloads_while_they_arrive_keeps_the_engine_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(STREAMING)
    haste = {
        "function": {"name": "feature", "feature": "focus"},
        "policy": {"intervals": [[0, 1, "A"]]},
        "tiers": {name: {"folder": str(tmp_path / name)} for name in ("A", "unscored")},
    }
    declaration = StreamDeclaration("plates", handler=str(path), plugins={"haste": haste})
    master, controller = BareMaster(), BareController(tmp_path / "control.sock")
    try:
        configuration = configuration_of(tmp_path, declaration, master_data=master.address)
        engine = subprocess.run(
            [sys.executable, "-m", "harmonicio.engine", str(path)],
            input=json_codec.dumps(configuration) + b"\n",
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        master.close()
        controller.close()
    assert engine.returncode == 3
    assert "without streaming=True" in engine.stderr.decode().splitlines()[-1]
