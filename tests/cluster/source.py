"""A source application of its own, which a test runs beside the cluster.

    source.py SETTINGS ORDER

ORDER is JSON: ``stream``, ``count``, ``size_bytes``, ``per_s`` and ``metadata``. It writes a line of JSON now and then,
and a last one when all is processed, or why not all is. SIGTERM ends the sending before ``count``.
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
from collections import Counter
from pathlib import Path
from typing import Any

import harmonicio
from harmonicio.control.settings_files import TlsFiles, load_settings
from harmonicio.core.errors import HarmonicIOError
from harmonicio.stream_connector import Delivery, StreamConnector
from harmonicio.transport.credentials import TlsCredentials

WITHIN_S, TELL_EVERY_S = 240.0, 0.25


def main() -> None:
    settings_file, order = Path(sys.argv[1]), json.loads(sys.argv[2])
    os.environ["HARMONICIO_HOME"] = str(settings_file.parent)
    settings = load_settings(settings_file)
    token = (settings_file.parent / "tokens" / "source.token").read_text().strip()
    told_at, sent = time.monotonic(), []
    is_ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_ending.set())
    with StreamConnector(
        order["stream"],
        master=settings.master.url,
        token=token,
        tls=TlsCredentials(TlsFiles(settings.tls).read),
    ) as connector:
        for number in range(order["count"]):
            payload = random.Random(number).randbytes(order["size_bytes"])
            head = int(hashlib.sha256(payload).hexdigest()[:12], 16)
            sent.append((head, connector.send(payload, metadata=order["metadata"])))
            if is_ending.wait(1 / order["per_s"]):
                break
            if time.monotonic() - told_at > TELL_EVERY_S:
                told_at = time.monotonic()
                tell(sent)
        try:
            connector.flush("processed", timeout_s=WITHIN_S)
        except HarmonicIOError as error:
            tell(sent, error=str(error))
        wrong = [each.message_id for head, each in sent if head_of(each) != head]
        tell(sent, wrong=wrong, ids=[each.message_id for _, each in sent], runs=harmonicio.__file__)


def head_of(delivery: Delivery) -> Any:
    """Return what the handler said of a message, whether HASTE has kept it or not."""
    result = delivery.result(1.0)
    return int(result.get("features", result)["head"])


def tell(sent: list[tuple[int, Delivery]], **more: object) -> None:
    states = Counter(each.state.value for _, each in sent)
    routes = Counter(str(each.route) for _, each in sent if each.is_safe)
    sys.stdout.write(json.dumps({"sent": len(sent), "states": states, "routes": routes, **more}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
