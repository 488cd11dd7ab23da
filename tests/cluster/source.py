"""A source application of its own, which a test runs beside the cluster.

    source.py SETTINGS COUNT BYTES PER_S TAKES_S

It writes a line of JSON about every second, and a last one when all is processed, or why not all is. SIGTERM ends the
sending before COUNT.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from harmonicio.control.settings_files import TlsFiles, load_settings
from harmonicio.core.errors import HarmonicIOError
from harmonicio.stream_connector import Delivery, StreamConnector
from harmonicio.transport.credentials import TlsCredentials

WITHIN_S = 240.0


def main() -> None:
    settings_file, count, size, per_s, takes_s = Path(sys.argv[1]), *map(float, sys.argv[2:])
    os.environ["HARMONICIO_HOME"] = str(settings_file.parent)
    settings = load_settings(settings_file)
    token = (settings_file.parent / "tokens" / "source.token").read_text().strip()
    told_at, sent = time.monotonic(), []
    is_ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_ending.set())
    with StreamConnector(
        "plates", master=settings.master.url, token=token, tls=TlsCredentials(TlsFiles(settings.tls).read)
    ) as connector:
        for number in range(int(count)):
            payload = random.Random(number).randbytes(int(size))
            digest = hashlib.sha256(payload).hexdigest()
            sent.append((digest, connector.send(payload, metadata={"takes_s": takes_s})))
            if is_ending.wait(1 / per_s):
                break
            if time.monotonic() - told_at > 1:
                told_at = time.monotonic()
                tell(sent)
        try:
            connector.flush("processed", timeout_s=WITHIN_S)
        except HarmonicIOError as error:
            tell(sent, error=str(error))
        wrong = [each.message_id for digest, each in sent if each.result(1.0) != digest]
        tell(sent, wrong=wrong, is_finished=True)


def tell(sent: list[tuple[str, Delivery]], **more: object) -> None:
    states = [each.state.value for _, each in sent]
    counts = {state: states.count(state) for state in sorted(set(states))}
    routes = {str(each.route) for _, each in sent if each.is_safe}
    sys.stdout.write(json.dumps({"sent": len(sent), "states": counts, "routes": sorted(routes), **more}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
